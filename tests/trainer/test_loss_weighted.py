"""Weighted cross-entropy against torch's, and known values."""

import pytest
import torch
import torch.nn.functional as F
from cutpoint.trainer.loss import WeightedCE, weighted_bce, weighted_ce
from losses import draw, gradient

KNOWN = torch.tensor([[[-0.4514, 0.7823, 0.5210], [-0.0082, -0.3569, -0.2626]]])
TARGETS = torch.tensor([[0, 1, 1]])


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
@pytest.mark.parametrize("classes", [2, 5])
def test_weighted_ce_is_torchs_with_ignored_targets(shape, classes, reduction):
    _, y, labelled = draw(*shape)
    y = y + (torch.arange(shape[0]) % (classes - 1)).view(-1, *[1] * (len(shape) - 1)).to(torch.uint8)
    z = draw(shape[0], classes, *shape[1:], seed=1)[0]
    weight = torch.tensor([0.7, 20, 1, 2, 3][:classes], dtype=torch.float64)
    ignored = y.long().masked_fill(~labelled, -100)
    for class_weight in (None, weight):
        torchs = F.cross_entropy(z, ignored, weight=class_weight, reduction=reduction)
        ours = weighted_ce(z, y.masked_fill(~labelled, 255), labelled, class_weight, reduction)
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-13)


def test_two_classes_are_one_logit():
    """The sums agree; the means do not, for cross-entropy divides by the weights picked and BCE by the entries."""
    z, y, _ = draw(40, 1)
    both = torch.stack([torch.zeros(40, dtype=torch.float64), z[:, 0]], 1)
    weight = torch.tensor([1.0, 6.0], dtype=torch.float64)
    bce = weighted_bce(z, y, pos_weight=weight[1:], reduction="sum")
    torch.testing.assert_close(weighted_ce(both, y[:, 0], class_weight=weight, reduction="sum"), bce)
    picked = 40 + 5 * int(y.sum())
    assert weighted_ce(both, y[:, 0], class_weight=weight).item() == pytest.approx(bce.item() / picked)


def test_trap_7_batches_do_not_change_the_gradient():
    """8 micro-batches of 8 against one batch of 64, weight 50 and one positive; torch's own mean is 0.6 apart."""
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(64, 1, dtype=torch.uint8)
    y[17] = 1
    weight = torch.tensor([1.0, 50.0], dtype=torch.float64)
    loss = WeightedCE(weight, (63 + 50) / 64)

    def parts(mean):
        return lambda logits: torch.stack([mean(a, b) for a, b in zip(logits.split(8), y.split(8), strict=True)]).mean()

    def torchs(logits, targets):
        return F.cross_entropy(logits, targets[:, 0].long(), weight=weight)

    whole = gradient(lambda logits: torchs(logits, y), z)
    torch.testing.assert_close(gradient(lambda logits: loss(logits, y), z), whole)
    torch.testing.assert_close(gradient(parts(loss), z), whole, rtol=1e-12, atol=1e-15)
    assert (gradient(parts(torchs), z) - whole).norm() > 0.5 * whole.norm()


def test_zero_weights_are_zero():
    z = draw(3, 2, 4)[0]
    assert weighted_ce(z, torch.zeros(3, 4), class_weight=torch.tensor([0.0, 1.0])).item() == 0  # NaN in torch
