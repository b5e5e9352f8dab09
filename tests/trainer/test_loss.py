"""What all losses have in common: shapes, masks, precision, gradients, and means that do not depend on micro-batches."""

import math

import pytest
import torch
from cutpoint.errors import BadConfig
from cutpoint.trainer import loss as losses
from losses import BATCH, CLASS, ENTRY, draw, draw_for, gradient
from torch import nn
from torch.autograd import gradcheck

ALL = {**ENTRY, **CLASS, **BATCH}
every = pytest.mark.parametrize("name", ALL)


@every
@pytest.mark.parametrize("windows", [None, 5])
def test_reductions(name, windows):
    loss, (z, y, labelled) = ALL[name], draw_for(name, windows)
    each, total, mean = (loss(z, y, labelled, reduction=reduction) for reduction in ("none", "sum", "mean"))
    torch.testing.assert_close(each.sum(), total)
    assert each.shape == (y.shape[-1:] if name in BATCH else y.shape)
    if name in BATCH:
        assert mean.item() == pytest.approx(total.item() / y.shape[-1])
    elif name != "weighted_ce":  # whose mean, torch's, is over weights
        assert mean.item() == pytest.approx(total.item() / int(labelled.sum()))
        assert (each[~labelled] == 0).all()
    if windows and name not in CLASS:  # windows are more rows
        flat = [tensor.flatten(0, 1) for tensor in (z, y, labelled)]
        torch.testing.assert_close(loss(*flat), mean)


@every
def test_gradients_by_finite_differences(name):
    z, y, labelled = draw_for(name, 2)
    assert gradcheck(lambda logits: ALL[name](logits, y, labelled), z.requires_grad_())
    if name in ENTRY or name in CLASS:
        assert gradcheck(lambda logits: ALL[name](logits, y, labelled, reduction="none"), z)


@every
@pytest.mark.parametrize("size", [120.0, 30.0, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_logits_are_finite_and_wrong_ones_alive(name, size, dtype):
    z, y, _ = draw_for(name)
    sign = torch.where(z > 0, size, -size).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = ALL[name](sign, y)
        grad = gradient(lambda logits: ALL[name](logits, y, reduction="sum"), sign)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()
    assert grad.dtype == dtype
    if name in ENTRY and size:  # a wrong answer, however sure, is pushed back; by its weight
        wrong = (sign > 0) != (y == 1)
        if name in ("asymmetric", "asymmetric 0.5"):
            wrong &= y == 1  # the margin bounds the loss of negatives, by design
        assert (grad[wrong].sign() == sign[wrong].sign()).all()
        assert (grad[wrong].abs() > 5e-3).all()


@every
def test_half_precision_logits_are_judged_in_float32(name):
    z, y, labelled = draw_for(name)
    for half in (torch.float16, torch.bfloat16):
        exact = ALL[name](z.to(half).double(), y, labelled)
        with torch.autocast("cpu", half):
            torch.testing.assert_close(ALL[name](z.to(half), y, labelled), exact.float(), rtol=2e-6, atol=1e-7)
            torch.testing.assert_close(ALL[name](z.to(half).float(), y, labelled), exact.float(), rtol=2e-6, atol=1e-7)


@every
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_unlabelled_entries_take_no_part(name, poison):
    z, y, labelled = draw_for(name, 4)
    on = labelled.unsqueeze(1).expand_as(z) if name in CLASS else labelled
    value, grad = ALL[name](z, y, labelled), gradient(lambda logits: ALL[name](logits, y, labelled), z)
    assert (grad[~on] == 0).all()
    assert (grad[on] != 0).sum() > 0.5 * on.sum()
    spoilt, odd = z.masked_fill(~on, poison), y.masked_fill(~labelled, 255)
    torch.testing.assert_close(ALL[name](spoilt, odd, labelled), value, rtol=0, atol=0)
    torch.testing.assert_close(gradient(lambda logits: ALL[name](logits, odd, labelled), spoilt), grad, rtol=0, atol=0)
    nothing = torch.zeros_like(labelled)
    assert ALL[name](spoilt, y, nothing).item() == 0
    assert (gradient(lambda logits: ALL[name](logits, y, nothing), z) == 0).all()


MODULES = {
    "weighted_bce": losses.WeightedBCE(torch.tensor([2.0, 50, 1])),
    "focal": losses.Focal([0.2, 0.3, 0.4], [0.5, 2, 1], 3.0),
    "asymmetric": losses.Asymmetric(),
    "class_balanced": losses.ClassBalanced([3.0, 9, 2]),
    "logit_adjusted": losses.LogitAdjusted([0.1, 0.2, 0.3]),
    "ldam": losses.LDAM([0.1, 0.2, 0.3]),
    "deferred": losses.Deferred(losses.LDAM([0.1, 0.2, 0.3]), losses.LDAM([0.1, 0.2, 0.3], ratio=[9.0, 4, 2]), 0.8),
    "poly1": losses.Poly1(),
    "weighted_ce": losses.WeightedCE((1.0, 50.0), 1.9),
    "focal_ce": losses.FocalCE((0.2, 0.8)),
    "balanced_softmax": losses.BalancedSoftmax((0.9, 0.1)),
    "ldam_ce": losses.LDAMCE((0.9, 0.1), class_weight=(0.2, 1.8)),
}
BATCH_MODULES = {"tversky": losses.Tversky(), "dice": losses.Dice(), "smooth_ap": losses.SmoothAP()}


def module_draw(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    z, y, labelled = draw_for(name, 2)
    y = y.masked_fill(~labelled, 255)
    return z, y.unsqueeze(-1) if name in CLASS else y


@pytest.mark.parametrize("name", MODULES)
def test_a_step_does_not_depend_on_its_micro_batches(name):
    """The sums over the sum of the weights: whatever rows are together, one big batch's gradient."""
    loss, (z, y) = MODULES[name], module_draw(name)
    whole = gradient(lambda logits: loss(logits, y), z)

    def accumulated(logits: torch.Tensor) -> torch.Tensor:
        parts = [loss.total(a, b) for a, b in zip(logits.split([1, 2, 5]), y.split([1, 2, 5]), strict=True)]
        return sum(total for total, _ in parts) / sum(weight for _, weight in parts)

    torch.testing.assert_close(gradient(accumulated, z), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", BATCH_MODULES)
def test_losses_of_a_batch_average_their_parts(name):
    loss, (z, y) = BATCH_MODULES[name], module_draw(name)
    on = (y != 255).sum()
    total, weight = loss.total(z, y)
    assert weight == on
    assert (total / weight).item() == pytest.approx(loss(z, y).item())


@pytest.mark.parametrize("name", {**MODULES, **BATCH_MODULES})
def test_modules_hold_no_weights_and_nothing_labelled_is_nothing(name):
    loss, (z, y) = {**MODULES, **BATCH_MODULES}[name], module_draw(name)
    assert isinstance(loss, losses.TrainingLoss)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    nothing = torch.full_like(y, 255)
    assert loss(z, nothing).item() == 0
    assert (gradient(lambda logits: loss(logits, nothing), z) == 0).all()
    total, weight = loss.total(z, nothing)
    assert (total.item(), float(weight)) == (0, 0)
    assert nn.Sequential(loss).double()[0](z, y).item() == pytest.approx(loss(z, y).item())


def test_two_class_modules_take_one_label():
    z, y, _ = draw(4, 2)
    with pytest.raises(BadConfig, match="2 labels; expected 1 label"):
        losses.FocalCE()(z, y)


@pytest.mark.parametrize("name", {**ENTRY, **BATCH})
def test_shapes_that_differ_are_refused(name):
    """Trap 10 among them: torch would put [label] weights on whatever axis came last."""
    z, y, labelled = draw(8, 3, 3)
    for bad in (y[:, :1], y[:, 0], y.transpose(0, 1)):
        with pytest.raises(BadConfig, match="shapes of logits and targets"):
            ALL[name](z, bad)
    with pytest.raises(BadConfig, match="shapes of logits and targets"):
        ALL[name](z, y, labelled[:, 0])


@pytest.mark.parametrize("name", CLASS)
def test_shapes_of_classes_that_differ_are_refused(name):
    z, y, labelled = draw_for(name, 7)
    for bad in (y[:, :1], y[:, None], y.transpose(0, 1)):
        with pytest.raises(BadConfig, match="shapes of logits and targets"):
            ALL[name](z, bad)
    with pytest.raises(BadConfig, match="shapes of logits and targets"):
        ALL[name](z, y, labelled[:, 0])


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        (losses.weighted_bce, "pos_weight"),
        (losses.focal, "alpha"),
        (losses.focal, "gamma"),
        (losses.focal, "pos_weight"),
        (losses.asymmetric, "gamma_neg"),
        (losses.logit_adjusted, "prior"),
        (losses.ldam, "rate"),
        (losses.poly1, "epsilon"),
        (losses.tversky, "beta"),
    ],
)
@pytest.mark.parametrize("shape", [(7,), (4, 7, 3), (1,), (3, 1), (7, 1)])
def test_parameters_are_one_or_one_per_label(loss, field, shape):
    z, y, _ = draw(4, 7, 3)
    with pytest.raises(BadConfig, match=field):
        loss(z, y, **{field: torch.full(shape, 0.5)})


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        (losses.weighted_ce, "class_weight"),
        (losses.focal_ce, "alpha"),
        (losses.balanced_softmax, "prior"),
        (losses.ldam_ce, "share"),
    ],
)
def test_parameters_are_one_per_class(loss, field):
    with pytest.raises(BadConfig, match=field):
        loss(draw(4, 2, 7)[0], draw(4, 7)[1], **{field: torch.ones(3)})
