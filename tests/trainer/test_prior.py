"""What training does to the prior is recorded right and undone: against known posteriors and brute force."""

import numpy as np
import pytest
import torch
from cutpoint.errors import BadConfig, BadData
from cutpoint.trainer import config, label_priors, parse_config, train
from cutpoint.trainer.config import FocalLoss, WeightedBCELoss, WeightedCELoss, WeightedSampler
from cutpoint.trainer.export import export_graph, load_served, measure_parity
from cutpoint.trainer.loss import build_loss, focal
from cutpoint.trainer.prior import honest_head, start_logits
from cutpoint.trainer.sampler import build_order
from losses import draw, gradient
from scipy.special import expit, logit

BCE = WeightedBCELoss(name="weighted_bce", pos_weight="auto")


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
    (prior,) = label_priors(
        rare, build_order(WeightedSampler(), rare, 0).draws, WeightedBCELoss(name="weighted_bce", pos_weight=49.0), "a"
    )
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


EVERY = [
    BCE,
    WeightedCELoss(name="weighted_ce", class_weight=(2, 10)),
    FocalLoss(name="focal"),
    FocalLoss(name="focal", alpha=0.9, gamma=0.5, pos_weight="sqrt"),
    FocalLoss(name="focal", alpha=None, gamma=0),
    config.FocalCELoss(name="focal_ce"),
    config.AsymmetricLoss(name="asymmetric", margin=0),
    config.ClassBalancedLoss(name="class_balanced", beta=0.999, gamma=1),
    config.LogitAdjustedLoss(name="logit_adjusted"),
    config.BalancedSoftmaxLoss(name="balanced_softmax", tau=0.5),
    config.LDAMLoss(name="ldam"),
    config.LDAMCELoss(name="ldam_ce", scale=5),
    config.Poly1Loss(name="poly1", pos_weight=9.0),
]


@pytest.mark.parametrize("loss", EVERY, ids=str)
@pytest.mark.parametrize("sampled", [False, True])
def test_a_head_starts_at_the_optimum(loss, sampled):
    """The start is the constant that minimises the training loss, and undoes to the log-odds of the training rate."""
    y = (np.random.default_rng(0).random((4000, 1)) < 0.05).astype(np.uint8)
    draws = np.where(y[:, 0] == 1, 3.0, 0.5) if sampled else None
    priors = label_priors(y, draws, loss, "a")
    start = torch.from_numpy(start_logits(priors, loss))
    z = torch.stack([torch.zeros_like(start), start], 1) if loss.two_class else start[None]
    honest = honest_head(loss, priors)(z)
    assert honest.item() == pytest.approx(float(logit(y.mean())), abs=1e-5)
    module = build_loss(loss, priors)
    of_one, of_none = torch.tensor([[1]], dtype=torch.uint8), torch.tensor([[0]], dtype=torch.uint8)
    share = priors[0].sampled_rate

    def risk(at: torch.Tensor) -> torch.Tensor:
        return share * module(at, of_one) + (1 - share) * module(at, of_none)

    assert gradient(risk, z).abs().max() < 1e-6
    assert risk(z) < min(risk(z * 1.01), risk(z * 0.99)) or start.item() == pytest.approx(0, abs=1e-6)


def test_a_head_starts_at_the_rate_where_there_is_no_inverse():
    y = (np.arange(400)[:, None] % 20 == 0).astype(np.uint8)
    loss = config.DiceLoss(name="dice")
    (prior,) = label_priors(y, None, loss, "a")
    assert (prior.undone, prior.shift, prior.slope, prior.pos_weight) == ("fitted", 0, 1, 1)
    assert start_logits([prior], loss)[0] == pytest.approx(float(logit(0.05)))


def test_alpha_is_a_weight_on_record():
    y = (np.arange(200).reshape(100, 2) % 25 == 0).astype(np.uint8)
    loss = FocalLoss(name="focal", alpha=(0.25, 0.5), pos_weight={"b": 6})
    first, second = label_priors(y, None, loss, "ab")
    assert (first.pos_weight, second.pos_weight) == pytest.approx((1 / 3, 6))
    assert (first.shift, second.shift) == pytest.approx((np.log(1 / 3), np.log(6)))
    module = build_loss(loss, (first, second))
    z, _, _ = draw(5, 2)
    ones = torch.ones(5, 2, dtype=torch.uint8)
    torch.testing.assert_close(module(z, ones), focal(z, ones, None, [0.25, 0.5], 2.0, [1.0, 6.0]))


def test_effective_numbers_are_of_what_the_sampler_presents():
    y = (np.arange(1000)[:, None] % 50 == 0).astype(np.uint8)
    loss = config.ClassBalancedLoss(name="class_balanced", beta=0.99)
    (plain,) = label_priors(y, None, loss, "a")
    assert plain.pos_weight == pytest.approx((1 - 0.99**980) / (1 - 0.99**20))
    (even,) = label_priors(y, np.where(y[:, 0] == 1, 25.0, 0.5), loss, "a")
    assert even.pos_weight == pytest.approx((1 - 0.99**490) / (1 - 0.99**500))


@pytest.mark.parametrize("field", ["alpha", "gamma"])
def test_lists_have_one_number_a_label(field):
    loss = FocalLoss(name="focal", **{field: (0.5, 0.5, 0.5)})
    with pytest.raises(BadConfig, match=f"loss.{field} is a list of 3; expected 2 numbers, one per label"):
        label_priors(np.eye(2, dtype=np.uint8), None, loss, "ab")


def test_plain_training_is_left_alone():
    y = (np.arange(50)[:, None] % 5 == 0).astype(np.uint8)
    z = torch.randn(4, 1)
    for loss in (
        WeightedBCELoss(name="weighted_bce", pos_weight=1.0),
        FocalLoss(name="focal", alpha=None, gamma=(0.0,)),
        config.LogitAdjustedLoss(name="logit_adjusted", tau=0),
    ):
        assert honest_head(loss, label_priors(y, None, loss, "a"))(z) is z


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
        ({"name": "focal"}, "none", [32], -1.2),
        ({"name": "weighted_bce", "pos_weight": 1}, "weighted", [], 3),
        ({"name": "weighted_ce", "class_weight": [1, 10]}, "weighted", [], 5),
        ({"name": "focal", "alpha": 0.75, "gamma": 1}, "weighted", [32], 4),
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
            "model": {"kind": "mlp", "hidden": hidden, "bins": 0, "dropout": 0},
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
