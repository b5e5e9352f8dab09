"""Losses against torch in float64, known values, and the traps of notes/calibration.md A3."""

import math

import pytest
import torch
import torch.nn.functional as F
from cutpoint.errors import BadConfig
from cutpoint.trainer import Focal, WeightedBCE, WeightedCE, focal, weighted_bce, weighted_ce
from torch.autograd import gradcheck

KNOWN = torch.tensor([[[-0.4514, 0.7823, 0.5210], [-0.0082, -0.3569, -0.2626]]])
TARGETS = torch.tensor([[0, 1, 1]])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, targets with about a third positive, and a mask with about a fifth off."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=dtype)
    targets = (torch.rand(*shape, generator=generator) < 0.35).to(torch.uint8)
    labelled = torch.rand(*shape, generator=generator) < 0.8
    return logits, targets, labelled


def textbook_focal(z: float, y: int, alpha: float, gamma: float) -> float:
    """Lin 2017, equation 5, written with probabilities."""
    s = z if y else -z
    at = alpha if y else 1 - alpha
    return at * (1 / (1 + math.exp(s))) ** gamma * math.log1p(math.exp(-s))  # 1 - pt and -log pt without their rounding


def test_known_values():
    assert weighted_ce(KNOWN, TARGETS).item() == pytest.approx(1.17193, abs=1e-5)
    assert weighted_ce(KNOWN, TARGETS, reduction="sum").item() == pytest.approx(3.51580, abs=1e-5)
    each = weighted_ce(KNOWN, TARGETS, reduction="none")
    assert each.tolist()[0] == pytest.approx([0.939102, 1.416889, 1.159814], abs=1e-6)
    weight = torch.tensor([1.0, 5.0])
    assert weighted_ce(KNOWN, TARGETS, class_weight=weight).item() == pytest.approx(1.25660, abs=1e-5)
    assert weighted_ce(KNOWN, TARGETS, class_weight=weight, reduction="sum").item() == pytest.approx(13.82261, abs=1e-5)
    assert weighted_bce(torch.tensor([[0.999]]), torch.tensor([[1]])).item() == pytest.approx(0.3135, abs=5e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(7, 5), (4, 6, 5)])
def test_weighted_bce_is_torchs(shape, reduction):
    z, y, _ = draw(*shape)
    weight = torch.tensor([0.5, 1, 2, 10, 137], dtype=torch.float64)
    for pos_weight in (None, weight, torch.tensor(9.0, dtype=torch.float64)):
        torchs = F.binary_cross_entropy_with_logits(z, y.double(), pos_weight=pos_weight, reduction=reduction)
        torch.testing.assert_close(weighted_bce(z, y, pos_weight=pos_weight, reduction=reduction), torchs, rtol=0, atol=1e-13)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(9,), (4, 7)])
def test_weighted_ce_is_torchs_with_ignored_targets(shape, reduction):
    _, y, labelled = draw(*shape)
    z = draw(shape[0], 2, *shape[1:], seed=1)[0]
    weight = torch.tensor([0.7, 20], dtype=torch.float64)
    ignored = y.long().masked_fill(~labelled, -100)
    for class_weight in (None, weight):
        torchs = F.cross_entropy(z, ignored, weight=class_weight, reduction=reduction)
        ours = weighted_ce(z, y.masked_fill(~labelled, 255), labelled, class_weight, reduction)
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 0.5), (0.1, 3.0)])
def test_focal_is_the_textbooks(alpha, gamma):
    z, y, _ = draw(6, 3, 2)
    wanted = [textbook_focal(float(a), int(b), alpha, gamma) for a, b in zip(z.flatten(), y.flatten(), strict=True)]
    ours = focal(z, y, alpha=alpha, gamma=gamma, reduction="none")
    assert ours.flatten().tolist() == pytest.approx(wanted, rel=1e-10)
    assert focal(z, y, alpha=alpha, gamma=gamma).item() == pytest.approx(sum(wanted) / len(wanted), rel=1e-10)


def test_focal_without_focus_is_cross_entropy_weighted_by_alpha():
    z, y, _ = draw(50, 2)
    torchs = F.binary_cross_entropy_with_logits(z, y.double(), pos_weight=torch.tensor(0.2 / 0.8, dtype=torch.float64)) * 0.8
    torch.testing.assert_close(focal(z, y, alpha=0.2, gamma=0), torchs)


def test_two_classes_are_one_logit():
    """The sums agree; the means do not, for cross-entropy divides by the weights picked and BCE by the entries."""
    z, y, _ = draw(40, 1)
    both = torch.stack([torch.zeros(40, dtype=torch.float64), z[:, 0]], 1)
    weight = torch.tensor([1.0, 6.0], dtype=torch.float64)
    bce = weighted_bce(z, y, pos_weight=weight[1:], reduction="sum")
    torch.testing.assert_close(weighted_ce(both, y[:, 0], class_weight=weight, reduction="sum"), bce)
    picked = 40 + 5 * int(y.sum())
    assert weighted_ce(both, y[:, 0], class_weight=weight).item() == pytest.approx(bce.item() / picked)


def test_trap_1_hard_negatives_keep_their_loss():
    p = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    z, y = torch.logit(p)[:, None], torch.zeros(5, 1)
    right = -0.75 * p**2 * torch.log(1 - p)
    torch.testing.assert_close(focal(z, y, reduction="none")[:, 0], right)
    wrong = -0.75 * (1 - p) ** 2 * torch.log(1 - p)
    assert (wrong / right)[0] > 3000


@pytest.mark.parametrize("z", [-120.0, -30.0, -20.0, 0.0, 20.0, 30.0, 120.0])
@pytest.mark.parametrize("y", [0, 1])
def test_traps_2_and_3_finite_and_never_dead(z, y):
    """Values and gradients at large logits, in float32, for every loss and for gamma below 1."""
    targets = torch.tensor([[y]], dtype=torch.uint8)
    wrong = z < -10 if y else z > 10
    losses = {
        "bce": lambda logit: weighted_bce(logit, targets, pos_weight=torch.tensor([50.0])),
        "ce": lambda logit: weighted_ce(
            torch.cat([-logit / 2, logit / 2], 1), targets[:, 0], class_weight=torch.tensor([1.0, 50])
        ),
        **{f"focal {g}": lambda logit, g=g: focal(logit, targets, gamma=g) for g in (0.0, 0.5, 1.0, 2.0, 5.0)},
    }
    for name, loss in losses.items():
        logit = torch.tensor([[z]], requires_grad=True)
        value = loss(logit)
        value.backward()
        assert torch.isfinite(value), name
        assert torch.isfinite(logit.grad).all(), name
        if wrong:  # a wrong answer, however sure, is pushed back by at least its weight
            assert abs(logit.grad.item()) > 0.2, name


def test_trap_4_alpha_is_of_positives():
    zero = torch.zeros(1, 1)
    negative, positive = (focal(zero, torch.tensor([[y]]), alpha=0.25, gamma=2).item() for y in (0, 1))
    assert (negative, positive) == pytest.approx((0.1300, 0.0433), abs=1e-4)


def test_trap_5_the_focus_does_not_depend_on_the_weight():
    z, y, _ = draw(20, 1)
    ratio = focal(z, y, alpha=0.9, reduction="none") / focal(z, y, alpha=0.5, reduction="none")
    torch.testing.assert_close(ratio, torch.where(y == 1, 1.8, 0.2).double())


def test_trap_7_batches_do_not_change_the_gradient():
    """8 micro-batches of 8 against one batch of 64, weight 50 and one positive; torch's own mean is 0.6 apart."""
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(64, 1, dtype=torch.uint8)
    y[17] = 1
    loss = WeightedCE(torch.tensor([1.0, 50.0], dtype=torch.float64), (63 + 50) / 64)

    def gradient(size: int) -> torch.Tensor:
        logits = z.clone().requires_grad_()
        parts = [loss(a, b) for a, b in zip(logits.split(size), y.split(size), strict=True)]
        torch.stack(parts).mean().backward()
        return logits.grad

    whole = gradient(64)
    torch.testing.assert_close(gradient(8), whole, rtol=1e-12, atol=1e-15)
    torchs = z.clone().requires_grad_()
    F.cross_entropy(torchs, y[:, 0].long(), weight=torch.tensor([1.0, 50.0], dtype=torch.float64)).backward()
    torch.testing.assert_close(whole, torchs.grad)


def test_trap_10_weights_on_the_wrong_axis_are_refused():
    z, y, _ = draw(4, 7, 3)
    for shape in ((7,), (4, 7, 3), (1,), (3, 1), (7, 1)):
        with pytest.raises(BadConfig, match="pos_weight"):
            weighted_bce(z, y, pos_weight=torch.ones(shape))
    for bad in (y[:, :, :1], y[:, 0], y.transpose(0, 1)):
        for loss in (weighted_bce, focal):
            with pytest.raises(BadConfig, match="shapes of logits and targets"):
                loss(z, bad)
    with pytest.raises(BadConfig, match="class_weight"):
        weighted_ce(draw(4, 2, 7)[0], draw(4, 7)[1], class_weight=torch.ones(3))
    with pytest.raises(BadConfig, match="shapes"):
        weighted_ce(draw(4, 7, 2)[0], draw(4, 7)[1])


@pytest.mark.parametrize("loss", [WeightedBCE(torch.tensor([3.0])), WeightedCE(torch.tensor([1.0, 3.0]), 1.5), Focal(0.25, 2)])
def test_unlabelled_entries_take_no_part(loss):
    z, y, labelled = draw(6, 9, 1, dtype=torch.float32)
    logits = torch.stack([-z[..., 0], z[..., 0]], 1) if isinstance(loss, WeightedCE) else z
    logits = logits.clone().requires_grad_()
    targets = y.masked_fill(~labelled, 255)
    value = loss(logits, targets)
    value.backward()
    on = labelled[..., 0].unsqueeze(1).expand_as(logits) if isinstance(loss, WeightedCE) else labelled
    assert (logits.grad[~on] == 0).all()
    assert (logits.grad[on] != 0).all()
    # The same entries alone give the same loss.
    if isinstance(loss, WeightedCE):
        alone = loss(logits.detach().transpose(1, 2)[labelled[..., 0]], y[labelled][:, None])
    else:
        alone = loss(logits.detach()[labelled][:, None], y[labelled][:, None])
    torch.testing.assert_close(value.detach(), alone)
    # Infinite or NaN logits where nothing is labelled do no harm either.
    poisoned = logits.detach().masked_fill(~on, math.nan).requires_grad_()
    spoilt = loss(poisoned, targets)
    spoilt.backward()
    torch.testing.assert_close(spoilt, value)
    assert torch.isfinite(poisoned.grad).all()
    # Nothing labelled at all: zero, not 0/0.
    logits.grad = None
    nothing = loss(logits, torch.full_like(y, 255))
    nothing.backward()
    assert nothing.item() == 0
    assert (logits.grad == 0).all()


def test_nothing_labelled_and_zero_weights_are_zero():
    z, y, _ = draw(3, 2, 4)
    none = torch.zeros(3, 4, dtype=torch.bool)
    assert weighted_ce(z, y[:, 0], none).item() == 0
    assert weighted_ce(z, torch.zeros(3, 4), class_weight=torch.tensor([0.0, 1.0])).item() == 0  # NaN in torch


def test_gradients_by_finite_differences():
    z, y, labelled = draw(5, 3)
    z.requires_grad_()
    weight = torch.tensor([2.0, 7, 1], dtype=torch.float64)
    assert gradcheck(lambda logits: weighted_bce(logits, y, labelled, weight), z)
    for gamma in (0.5, 2.0):
        assert gradcheck(lambda logits, g=gamma: focal(logits, y, labelled, 0.3, g), z)
    two = draw(4, 2, 5, seed=2)[0].requires_grad_()
    assert gradcheck(lambda logits: weighted_ce(logits, draw(4, 5)[1], draw(4, 5)[2], weight[:2]), two)


def test_half_precision_logits_are_judged_in_float32():
    z, y, _ = draw(8, 3, dtype=torch.float32)
    exact = weighted_bce(z.half(), y)
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (weighted_bce, focal):
            torch.testing.assert_close(loss(z, y), loss(z.double(), y).float())
        both = torch.stack([-z, z], 1)
        torch.testing.assert_close(weighted_ce(both, y), weighted_ce(both.double(), y).float())
    saturated = torch.tensor([[-25.0]], dtype=torch.half, requires_grad=True)
    focal(saturated, torch.tensor([[1]]), gamma=2).backward()
    assert saturated.grad.item() == pytest.approx(-0.25, rel=1e-3)
