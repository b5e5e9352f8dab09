import numpy as np
import pytest
import torch
from cutpoint.trainer import WindowEncoder
from cutpoint.trainer.config import WindowEncoderModel
from cutpoint.trainer.export import export_graph, measure_parity
from cutpoint.trainer.models.statistics import describe


def encoder(**settings: object) -> WindowEncoderModel:
    small = {"channels": (4, 6), "kernels": (5, 3), "strides": (3, 2), "context": 5, "event_width": 4}
    return WindowEncoderModel(kind="window_encoder", **{**small, **settings})


@pytest.mark.parametrize("windows", [1, 2, 140])
@pytest.mark.parametrize("samples", [1, 7, 1000])
@pytest.mark.parametrize("channels", [None, 3])
def test_any_number_of_windows_samples_and_channels(windows, samples, channels):
    shape = (2, windows, samples) if channels is None else (2, windows, channels, samples)
    for settings in (encoder(), encoder(window_norm=True, norm="group", events=0), encoder(context=0, norm="none")):
        model = WindowEncoder(channels or 1, 3, settings).eval()
        out = model(torch.randn(shape))
        assert out.shape == (2, windows, 3)
        assert torch.isfinite(out).all()
    two = WindowEncoder(channels or 1, 2, encoder(), two_class=True).eval()
    assert two(torch.randn(shape)).shape == (2, 2, windows)


def test_a_window_sees_its_neighbours_and_no_further():
    torch.manual_seed(0)
    x = torch.randn(1, 20, 50)
    y = x.clone()
    y[0, 10] += 5
    for layers, reach in ((0, 0), (1, 1), (2, 3), (3, 7)):
        model = WindowEncoder(1, 1, encoder(context_layers=layers, events=0)).eval()
        changed = (model(x) != model(y)).flatten().nonzero().flatten().tolist()
        assert changed == list(range(10 - reach, 10 + reach + 1))


def test_without_context_a_window_stands_alone():
    torch.manual_seed(0)
    model = WindowEncoder(2, 3, encoder(context=0)).eval()
    x = torch.randn(2, 6, 2, 100).cumsum(-1)
    alone = torch.cat([model(x[:, i : i + 1]) for i in range(6)], 1)
    torch.testing.assert_close(model(x), alone)
    joined = WindowEncoder(2, 3, encoder(context_layers=0)).eval()
    changed = x.clone()
    changed[:, 3] = changed[:, 3].flip(-1) * 2
    assert (joined(x)[:, 2] != joined(changed)[:, 2]).any()


def test_window_norm_ignores_gain_but_for_one_feature():
    model = WindowEncoder(1, 1, encoder(window_norm=True, context=0, events=0, statistics=0)).eval()
    with torch.no_grad():
        model.head.weight[:, 0] = 0  # the log deviation
    x = torch.randn(2, 3, 200)
    torch.testing.assert_close(model(x), model(30 * x + 7), rtol=1e-4, atol=1e-5)


def test_two_classes_differ_by_the_logit_of_one_label():
    torch.manual_seed(0)
    two = WindowEncoder(1, 2, encoder(), two_class=True).eval()
    one = WindowEncoder(1, 1, encoder()).eval()
    weights = two.state_dict()
    for name in ("head.weight", "head.bias", "event_head.weight"):
        weights[name] = weights[name][1:] - weights[name][:1]
    one.load_state_dict(weights)
    x = torch.randn(2, 5, 200).cumsum(-1)
    logits = two(x)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], one(x)[..., 0])


def test_an_untrained_model_starts_near_its_bias():
    torch.manual_seed(0)
    model = WindowEncoder(1, 2, encoder()).eval()
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-6.0, -2.0]))
    mean = model(torch.randn(3, 40, 200).cumsum(-1)).mean((0, 1))
    torch.testing.assert_close(mean, torch.tensor([-6.0, -2.0]), rtol=0, atol=1.0)


def test_logits_and_gradients_are_finite_for_huge_and_flat_signals():
    torch.manual_seed(0)
    model = WindowEncoder(1, 2, encoder())
    x = torch.zeros(4, 6, 300)
    x[1] = 1e6 * torch.randn(6, 300)
    x[2, 3, 100] = 1e4
    x[3] = 5.0
    out = model(x)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("channels", [None, 2])
def test_augmented_rows_keep_labels_level_and_shape(channels):
    generator = torch.Generator().manual_seed(3)
    shape = (3, 5, 400) if channels is None else (3, 5, channels, 400)
    x = 50 + 4 * torch.randn(shape)
    y = torch.randint(0, 2, (3, 5, 2), dtype=torch.uint8)
    out, labels = WindowEncoder.augment(x, y, generator)
    assert out.shape == x.shape
    assert torch.equal(labels, y)
    axes = (1, -1)
    torch.testing.assert_close(out.mean(axes), x.mean(axes), rtol=0, atol=0.1)
    gain = (out.std(axes) / x.std(axes)).log()
    assert 0 < gain.abs().max() < 1
    again, _ = WindowEncoder.augment(x, y, torch.Generator().manual_seed(3))
    assert torch.equal(out, again)


@pytest.mark.parametrize("channels", [None, 2])
def test_the_exported_graph_takes_other_batches_and_window_counts(tmp_path, channels):
    torch.manual_seed(0)
    model = WindowEncoder(channels or 1, 2, encoder()).eval()
    shape = (9, 240) if channels is None else (9, channels, 240)
    export_graph(model, shape, True, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    batches = [
        rng.normal(size=(rows, windows, *shape[1:])).cumsum(-1).astype(np.float32)
        for rows, windows in ((1, 1), (1, 30), (4, 9), (2, 2))
    ]
    assert measure_parity(model, tmp_path / "model.onnx", batches).max_abs_difference < 1e-5


def test_statistics_are_those_of_numpy():
    x = np.random.default_rng(0).normal(size=(6, 2, 50)).astype(np.float32)
    found = describe(torch.from_numpy(x)).numpy()
    step = np.abs(np.diff(x.astype(np.float64), axis=-1))
    mean, deviation = x.mean(-1), x.std(-1) + 1e-3
    wanted = [mean, x.min(-1), x.max(-1), x[..., -1] - x[..., 0], np.log(deviation)]
    wanted += [np.log(np.sqrt((step**2).sum(-1) / 50) + 1e-4), np.log(step.max(-1) + 1e-3)]
    wanted += [np.log((x.max(-1) - mean) / deviation + 0.1), np.log((mean - x.min(-1)) / deviation + 0.1)]
    np.testing.assert_allclose(found, np.stack(wanted, -1), rtol=1e-4, atol=1e-4)


def test_statistics_of_one_window_are_taken_in_training():
    model = WindowEncoder(1, 1, encoder(norm="none", events=0)).train()
    assert torch.isfinite(model(torch.randn(1, 1, 30))).all()
    assert model.statistics.norm.training


def test_everything_is_made_on_the_device_of_x():
    """Tensors on the meta device, which every machine has, refuse to be combined with those of another."""
    model = WindowEncoder(2, 1, encoder(spectrum=16)).to("meta").train()
    assert model(torch.empty(2, 5, 2, 100, device="meta")).device.type == "meta"
