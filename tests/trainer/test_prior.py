"""What training does to the prior is recorded right and undone: against known posteriors and brute force."""

import numpy as np
import pytest
import torch
from cutpoint.errors import BadConfig, BadData
from cutpoint.trainer import UndoPrior, invert_focal, label_priors, parse_config, train
from cutpoint.trainer.config import FocalLoss, WeightedBCELoss, WeightedCELoss
from cutpoint.trainer.export import export_graph, load_served, measure_parity
from cutpoint.trainer.loss import focal
from cutpoint.trainer.prior import start_logits
from cutpoint.trainer.sampler import balanced_weights
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

BCE = WeightedBCELoss(name="weighted_bce")


@pytest.mark.parametrize(("gamma", "alpha"), [(2, 0.25), (2, 0.5), (1, 0.5), (0, 0.25), (3, 0.75), (0.5, 0.25)])
@pytest.mark.parametrize("eta", [1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9])
def test_focal_inverse_recovers_the_probability(gamma, alpha, eta):
    """Minimise the expected focal loss by brute force; the inverse of the minimiser is the true log-odds."""

    def risk(z: float) -> float:
        logits = torch.tensor([[z]], dtype=torch.float64)
        one, zero = (focal(logits, torch.tensor([[y]]), alpha=alpha, gamma=gamma).item() for y in (1, 0))
        return eta * one + (1 - eta) * zero

    z = minimize_scalar(risk, bounds=(-40, 40), method="bounded", options={"xatol": 1e-10}).x
    found = invert_focal(torch.tensor([z], dtype=torch.float64), alpha, gamma).item()
    assert found == pytest.approx(logit(eta), abs=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_inverse_is_finite_and_increasing_in_float32(gamma):
    z = torch.linspace(-200, 200, 20001)
    found = invert_focal(z, 0.25, gamma)
    assert torch.isfinite(found).all()
    assert (found.diff() > 0).all()
    z64 = z.double()
    exact = invert_focal(z64, 0.25, gamma)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=3e-6)
    # The definition, with arbitrary precision where floats allow it.
    mid = z64[z64.abs() < 30]
    soft, e = torch.logaddexp(mid, torch.zeros(())), torch.exp(mid)
    down = torch.log(gamma * torch.logaddexp(-mid, torch.zeros(())) + 1 / e)
    wanted = np.log(3) + (gamma - 1) * mid + torch.log(gamma * soft + e) - down
    torch.testing.assert_close(invert_focal(mid, 0.25, gamma), wanted, rtol=1e-7, atol=1e-7)


def test_priors_count_only_what_is_labelled():
    y = np.array([[1, 0], [0, 0], [0, 1], [255, 0]], np.uint8)
    first, second = label_priors(y, None, BCE, "ab")
    assert (first.rate, second.rate) == pytest.approx((1 / 3, 1 / 4))
    assert (first.pos_weight, second.pos_weight) == pytest.approx((2, 3))
    assert first.shift == pytest.approx(np.log(2))
    weights = np.array([3.0, 1, 1, 1])
    first, second = label_priors(y, weights, BCE, "ab")
    assert (first.sampled_rate, second.sampled_rate) == pytest.approx((3 / 5, 1 / 6))
    # `auto` balances what the sampler presents: trap 9, correcting twice, cannot happen by default.
    assert (first.pos_weight, second.pos_weight) == pytest.approx((2 / 3, 5))
    assert first.shift == pytest.approx(-logit(1 / 3))
    # A weight that is asked for comes on top, and both are undone: 2 log((1 - r) / r) here.
    rare = np.zeros((1000, 1), np.uint8)
    rare[:20] = 1
    (prior,) = label_priors(rare, balanced_weights(rare), WeightedBCELoss(name="weighted_bce", pos_weight=49.0), "a")
    assert prior.shift == pytest.approx(2 * np.log(49))


def test_weights_of_every_form():
    y = (np.arange(200).reshape(100, 2) % 25 == 0).astype(np.uint8)
    n = (y == 0).sum(axis=0) / (y == 1).sum(axis=0)
    for setting, wanted in (("auto", n), ("sqrt", np.sqrt(n)), (7.0, [7, 7]), ((2.0, 3.0), [2, 3])):
        found = label_priors(y, None, WeightedBCELoss(name="weighted_bce", pos_weight=setting), "ab")
        assert [prior.pos_weight for prior in found] == pytest.approx(list(wanted))
    with pytest.raises(BadConfig, match="2 weights, one per label"):
        label_priors(y, None, WeightedBCELoss(name="weighted_bce", pos_weight=[1, 2, 3]), "ab")
    (ce,) = label_priors(y[:, :1], None, WeightedCELoss(name="weighted_ce", class_weight=(2, 10)), "a")
    assert ce.pos_weight == 5
    for only in (0, 1):
        with pytest.raises(BadData, match="'a'"):
            label_priors(np.full((5, 1), only, np.uint8), None, BCE, "a")


@pytest.mark.parametrize("loss", [BCE, FocalLoss(name="focal"), FocalLoss(name="focal", alpha=0.9, gamma=0.5)])
def test_a_head_starts_at_the_prior(loss):
    """The start undoes to the log-odds of the training rate: the served model begins honest."""
    y = (np.random.default_rng(0).random((4000, 2)) < [0.02, 0.3]).astype(np.uint8)
    priors = label_priors(y, None, loss, "ab")
    start = torch.from_numpy(start_logits(priors, loss)).float()
    undo = UndoPrior(priors, getattr(loss, "alpha", None), getattr(loss, "gamma", None))
    assert undo(start).tolist() == pytest.approx(list(logit(y.mean(axis=0))), abs=1e-5)


def test_plain_training_is_left_alone():
    y = (np.arange(50)[:, None] % 5 == 0).astype(np.uint8)
    undo = UndoPrior(label_priors(y, None, WeightedBCELoss(name="weighted_bce", pos_weight=1.0), "a"))
    z = torch.randn(4, 1)
    assert undo(z) is z


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """40000 rows whose true log-odds are 1.5 a + b - 4.6: about 2.5 % positive."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(40000, 2)).astype(np.float32)
    true = 1.5 * x[:, 0] + x[:, 1] - 4.6
    path = tmp_path_factory.mktemp("known") / "known.npz"
    np.savez(path, x=x, y=(rng.random(len(x)) < expit(true)).astype(np.uint8))
    return path, x, true


@pytest.mark.parametrize(
    ("loss", "sampler", "hidden", "least_shift"),
    [
        ({"name": "weighted_bce", "pos_weight": "auto"}, "none", [], 3),
        ({"name": "weighted_ce", "class_weight": [1, 10]}, "none", [], 2),
        ({"name": "focal"}, "none", [32], 0),
        ({"name": "weighted_bce", "pos_weight": 1}, "weighted", [], 3),
        ({"name": "weighted_ce", "class_weight": [1, 10]}, "weighted", [], 5),
        ({"name": "focal", "alpha": 0.75, "gamma": 1}, "weighted", [32], 3),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_the_graph_undoes_what_training_did(known, tmp_path, loss, sampler, hidden, least_shift):
    path, x, true = known
    config = parse_config(
        {
            "name": "known",
            "task": "binary",
            "data": {"path": str(path)},
            "split": {"by": "random", "train": 0.9, "valid": 0.05, "test": 0.05},
            "model": {"kind": "mlp", "hidden": hidden},
            "loss": loss,
            "sampler": sampler,
            "fit": {"epochs": 8, "batch_size": 256, "learning_rate": 0.02, "weight_decay": 0},
            "out": str(tmp_path / "run"),
        }
    )
    run = train(config, quiet=True)
    served = load_served(run)
    with torch.no_grad():
        found = served(torch.from_numpy(x[:4000])).numpy()[:, 0]
    gap = found - true[:4000]
    assert abs(gap.mean()) < 0.2, gap.mean()
    assert expit(found).mean() == pytest.approx(expit(true[:4000]).mean(), rel=0.12)
    (prior,) = run.record.priors
    assert prior.shift >= least_shift
    if loss["name"] == "focal" and sampler == "weighted":
        export_graph(served, (2,), False, tmp_path / "model.onnx")
        measure_parity(served, tmp_path / "model.onnx", [x[:5], x[:1000]])
