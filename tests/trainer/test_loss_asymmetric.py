"""Asymmetric loss against timm's formula, and where that one is wrong."""

import pytest
import torch
from cutpoint.errors import BadConfig
from cutpoint.trainer.loss import asymmetric, focal
from losses import draw, gradient


def timms(x, y, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, eps=1e-8):
    """timm.loss.AsymmetricLossMultiLabel, with its default of gradients through the focus, before the sum."""
    xs_pos = torch.sigmoid(x)
    xs_neg = 1 - xs_pos
    if clip:
        xs_neg = (xs_neg + clip).clamp(max=1)
    loss = y * torch.log(xs_pos.clamp(min=eps)) + (1 - y) * torch.log(xs_neg.clamp(min=eps))
    pt = xs_pos * y + xs_neg * (1 - y)
    return -loss * torch.pow(1 - pt, gamma_pos * y + gamma_neg * (1 - y))


@pytest.mark.parametrize(("gamma_pos", "gamma_neg", "margin"), [(0, 4, 0.05), (1, 4, 0.05), (2, 1, 0), (0, 0, 0.2)])
def test_it_is_timms(gamma_pos, gamma_neg, margin):
    z, y, _ = draw(20, 3, 2)
    ours = asymmetric(z, y, None, gamma_pos, gamma_neg, margin, "none")
    torch.testing.assert_close(ours, timms(z, y.double(), gamma_neg, gamma_pos, margin))
    pair = (
        lambda x: asymmetric(x, y, None, gamma_pos, gamma_neg, margin, "sum"),
        lambda x: timms(x, y.double(), gamma_neg, gamma_pos, margin).sum(),
    )
    torch.testing.assert_close(*(gradient(loss, z) for loss in pair))


def test_equal_focus_without_margin_is_focal_loss():
    z, y, _ = draw(20, 3)
    for gamma in (0.5, 2.0):
        torch.testing.assert_close(asymmetric(z, y, None, gamma, gamma, 0.0), focal(z, y, alpha=None, gamma=gamma))


def test_trap_6_half_precision_and_dead_positives_of_timms():
    one = torch.tensor([[1.0]])
    for z in (-12.0, -25.0):
        half = torch.tensor([[z]], dtype=torch.float16)
        assert not torch.isfinite(gradient(lambda x: timms(x, one.half()).sum(), half)).all()
        assert gradient(lambda x: asymmetric(x, one), half).item() == pytest.approx(-1, abs=1e-3)
    single = torch.tensor([[-25.0]])
    assert abs(gradient(lambda x: timms(x, one).sum(), single).item()) < 1e-8  # wrong by 25 and not corrected
    assert gradient(lambda x: asymmetric(x, one, gamma_pos=1.0), single).item() == pytest.approx(-1, abs=1e-5)


def test_trap_6_the_mean_does_not_grow_with_the_batch():
    z, y, _ = draw(10, 4)
    torch.testing.assert_close(asymmetric(z.repeat(2, 1), y.repeat(2, 1)), asymmetric(z, y))
    torch.testing.assert_close(timms(z.repeat(2, 1), y.repeat(2, 1)).sum(), 2 * timms(z, y).sum())


def test_negatives_below_the_margin_are_left_alone():
    below, above = torch.tensor([[-3.0]]), torch.tensor([[-2.9]])  # 0.047 and 0.052
    none = torch.zeros(1, 1)
    assert gradient(lambda x: asymmetric(x, none), below).item() == 0
    assert gradient(lambda x: asymmetric(x, none), above).item() > 0
    with pytest.raises(BadConfig, match="margin is 1"):
        asymmetric(below, none, margin=1)
