import numpy as np
import pytest
import torch
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle, BadConfig, BadData
from cutpoint.trainer import MLP, WindowEncoder, parse_config
from cutpoint.trainer.config import MLPModel, WindowEncoderModel
from cutpoint.trainer.export import export_graph, measure_parity
from cutpoint.trainer.models import build_network
from cutpoint.trainer.preprocess import Preprocess, blank_preprocess, measure_preprocess


def encoder(**settings: object) -> WindowEncoderModel:
    small = {"channels": (4, 6), "kernels": (5, 3), "strides": (3, 2), "context": 5}
    return WindowEncoderModel(kind="window_encoder", **{**small, **settings})


@pytest.mark.parametrize("windows", [1, 2, 140])
@pytest.mark.parametrize("samples", [1, 7, 1000])
@pytest.mark.parametrize("channels", [None, 3])
def test_any_number_of_windows_samples_and_channels(windows, samples, channels):
    shape = (2, windows, samples) if channels is None else (2, windows, channels, samples)
    for settings in (encoder(), encoder(window_norm=True, norm="group"), encoder(context=0, norm="none")):
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
        model = WindowEncoder(1, 1, encoder(context_layers=layers)).eval()
        changed = (model(x) != model(y)).flatten().nonzero().flatten().tolist()
        assert changed == list(range(10 - reach, 10 + reach + 1))


def test_window_norm_ignores_gain_but_for_one_feature():
    model = WindowEncoder(1, 1, encoder(window_norm=True, context=0)).eval()
    with torch.no_grad():
        model.head.weight[:, 0] = 0  # the log deviation
    x = torch.randn(2, 3, 200)
    torch.testing.assert_close(model(x), model(30 * x + 7), rtol=1e-4, atol=1e-5)


def test_mlp_without_hidden_layers_is_logistic_regression():
    assert sum(p.numel() for p in MLP(7, 3, (), 0).parameters()) == 7 * 3 + 3
    assert MLP(7, 3, (5, 4), 0.1)(torch.zeros(2, 7)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(50, 6), (20, 5, 30), (20, 5, 3, 30)])
@pytest.mark.parametrize("log", [False, True])
def test_preprocessing_is_measured_per_feature_or_channel(tmp_path, shape, log, monkeypatch):
    monkeypatch.setattr("cutpoint.trainer.preprocess.CHUNK_BYTES", 5000)
    windows = len(shape) > 2
    scale = np.arange(1, 4)[:, None] if len(shape) == 4 else np.arange(1, 7) if len(shape) == 2 else 2
    x = (np.random.default_rng(0).normal(size=shape) * scale + 100 * scale).astype(np.float32)
    rows = np.arange(0, len(x), 2)
    settings = MLPModel(kind="mlp", log_input=log)
    preprocess = measure_preprocess(settings, Dataset(tmp_path, x), rows, windows)
    out = preprocess(torch.from_numpy(x[rows])).double()
    axes = {2: (0,), 3: (0, 1, 2), 4: (0, 1, 3)}[len(shape)]
    torch.testing.assert_close(out.mean(axes), torch.zeros_like(out.mean(axes)), rtol=0, atol=2e-3)
    torch.testing.assert_close(out.std(axes, correction=0), torch.ones_like(out.mean(axes)), rtol=2e-3, atol=0)


def test_constant_and_zero_input_stays_finite(tmp_path):
    x = np.zeros((10, 3), np.float32)
    x[:, 1] = 1e6
    for log in (False, True):
        preprocess = measure_preprocess(MLPModel(kind="mlp", log_input=log), Dataset(tmp_path, x), np.arange(10), False)
        out = preprocess(torch.from_numpy(x))
        assert torch.isfinite(out).all()
        assert out.abs().max() < 1e-3


class Scale(torch.nn.Module):
    """Somebody's own model."""

    def __init__(self, outputs: int = 1, bad: bool = False) -> None:
        super().__init__()
        self.linear, self.bad = torch.nn.Linear(4, outputs), bad

    def forward(self, x):
        if self.bad and x.sum() > 0:  # a branch on data cannot be exported
            return self.linear(x) + 1
        return self.linear(x)


def own(tmp_path, monkeypatch, text: str, **arguments: object):
    (tmp_path / "own_model.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    return parse_config(
        {
            "name": "own",
            "task": "binary",
            "data": {"path": "d"},
            "split": {"by": "random"},
            "model": {"kind": "import", "path": "own_model:Own", "arguments": arguments},
            "loss": {"name": "focal"},
        }
    )


OWN = "import torch\nclass Own(torch.nn.Linear):\n    def __init__(self, width, out=1): super().__init__(width, out)\n"


def test_an_imported_model(tmp_path, monkeypatch):
    config = own(tmp_path, monkeypatch, OWN, width=4)
    blank = blank_preprocess(config.model, (4,), False)
    network = build_network(config, (4,), 1, blank)
    assert network(torch.zeros(3, 4)).shape == (3, 1)
    assert network.training


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "model.path is own_model:Own; expected an importable class .*AttributeError"),
        ("import nowhere_to_be_found", {}, "ModuleNotFoundError"),
        (OWN, {}, "TypeError.*width"),
        ("class Own: pass", {}, "a torch.nn.Module; it makes a Own"),
        (OWN, {"width": 4, "out": 2}, r"output of import model is \(2, 2\); expected logits of shape \[2, 1\]"),
        (OWN, {"width": 5}, "output of import model is RuntimeError"),
    ],
)
def test_an_imported_model_that_does_not_fit(tmp_path, monkeypatch, text, arguments, message):
    config = own(tmp_path, monkeypatch, text, **arguments)
    with pytest.raises(BadConfig, match=message):
        build_network(config, (4,), 1, blank_preprocess(config.model, (4,), False))


def test_data_with_the_wrong_axes():
    config = parse_config(
        {
            "name": "m",
            "task": "binary",
            "data": {"path": "d"},
            "split": {"by": "random"},
            "model": {"kind": "mlp"},
            "loss": {"name": "focal"},
        }
    )
    with pytest.raises(BadData, match=r"x is of shape \[row, 3, 4\]; expected \[row, feature\]"):
        build_network(config, (3, 4), 1, Preprocess(False, torch.zeros(()), torch.zeros(()), torch.ones(())))


def test_what_cannot_be_exported_or_differs_is_refused(tmp_path):
    with pytest.raises(BadBundle, match="cannot be exported to ONNX"):
        export_graph(Scale(bad=True).eval(), (4,), False, tmp_path / "a.onnx")
    model = Scale().eval()
    export_graph(model, (4,), False, tmp_path / "b.onnx")
    x = np.ones((5, 4), np.float32)
    assert measure_parity(model, tmp_path / "b.onnx", [x]).max_abs_difference < 1e-6
    with torch.no_grad():
        model.linear.bias += 0.01
    with pytest.raises(BadBundle, match=r"parity of torch and onnxruntime is 0\.01 apart"):
        measure_parity(model, tmp_path / "b.onnx", [x])
    (tmp_path / "b.onnx").write_bytes(b"not a graph")
    with pytest.raises(BadBundle, match="cannot be loaded"):
        measure_parity(model, tmp_path / "b.onnx", [x])
