"""Focal loss, of labels and of classes."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import PerLabel, Reduction, check_shapes, checked_classes, per_class, per_label, reduce, wide_enough
from .training import ClassLoss, EntryLoss


def focal(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    alpha: PerLabel | None = 0.25,
    gamma: PerLabel = 2.0,
    pos_weight: PerLabel = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """-a_t (1 - p_t)^gamma log p_t (Lin 2017), a_t = w alpha on positives and 1 - alpha on negatives.

    p_t is the probability of the true class, whatever the weights. The gradient is the analytic one, taken in the forward
    pass: finite for gamma < 1 and large |z|, where that of (1 - p_t)^gamma has 0 * infinity. It cannot be differentiated again.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        alpha: weight of positives, 0 to 1, a number or [label]; None for 1 on both.
        gamma: >= 0, a number or [label]; 0 is cross-entropy weighted by alpha.
        pos_weight: w > 0, a number or [label].
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    check_shapes(logits, targets, labelled)
    z = wide_enough(logits)
    negative: PerLabel = 1.0
    positive: PerLabel = pos_weight if isinstance(pos_weight, int | float) else per_label("pos_weight", pos_weight, z)
    if alpha is not None:
        share = alpha if isinstance(alpha, int | float) else per_label("alpha", alpha, z)
        negative, positive = 1 - share, share * positive  # type: ignore[operator]
    power = gamma if isinstance(gamma, int | float) else per_label("gamma", gamma, z)
    if torch.compiler.is_compiling():  # which fuses and recomputes by itself, and does not look into _Focal
        each: Tensor = _plain(z, targets, labelled, negative, positive, power)
    else:
        each = _Focal.apply(z, targets, labelled, negative, positive, power)  # type: ignore[no-untyped-call]
    if reduction == "none":
        return each
    total = each.sum()
    if reduction == "sum":
        return total
    return total / (max(each.numel(), 1) if labelled is None else labelled.sum().clamp(min=1))


def _plain(z: Tensor, targets: Tensor, labelled: Tensor | None, *parameters: Any) -> Tensor:
    """The formula for a compiler, the gradient held to be the analytic one by a term that is 0."""
    negative, positive, gamma = parameters
    true = (targets == 1).to(z.dtype)
    if labelled is not None:
        z = z.masked_fill(~labelled, 0)
    with torch.no_grad():
        sign = 1 - 2 * true
        u = z * sign
        e = torch.exp(-u.abs())
        wrong = torch.where(u >= 0, 1.0, e) / (1 + e)
        surprise = u.clamp(min=0) + torch.log1p(e)
        focus = (negative + (positive - negative) * true) * wrong**gamma
        slope = sign * focus * (gamma * (1 - wrong) * surprise + wrong)
        each = focus * surprise
    held: Tensor = each + slope * (z - z.detach())
    return held if labelled is None else held.masked_fill(~labelled, 0)


class _Focal(torch.autograd.Function):
    """Loss and gradient of every entry in one go; of the buffers only the gradient outlives the forward pass.

    With u = z on negatives and -z on positives, the loss is a_t s(u)^gamma softplus(u), and its derivative by u
    a_t s(u)^gamma (gamma (1 - s(u)) softplus(u) + s(u)).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, targets: Tensor, labelled: Tensor | None, *parameters: Any) -> Tensor:
        negative, positive, gamma = parameters
        true = targets == 1
        w0, w1 = (torch.as_tensor(weight, dtype=z.dtype, device=z.device) for weight in (negative, positive))
        signed = torch.where(true, -w1, w0)
        u = true.to(z.dtype).mul_(-2).add_(1).mul_(z)  # where(true, -z, z), which takes several times as long
        if labelled is not None:
            u = u.masked_fill_(~labelled, -math.inf)  # where loss and gradient are 0, whatever z was
        wrong, surprise = torch.sigmoid(u), F.softplus(u)
        del u, true  # memory is what this loss is short of: at most five buffers of logits at once
        each = wrong**gamma
        if ctx.needs_input_grad[0]:
            slope = (1 - wrong).mul_(surprise).mul_(gamma).add_(wrong).mul_(each).mul_(signed)
            ctx.save_for_backward(slope)
        return cast(Tensor, each.mul_(surprise).mul_(signed.abs_()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph: the slope would pass for a constant
            raise RuntimeError("focal has no second derivative: it keeps its slope, not how the slope depends on the logits")
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None, None


def focal_ce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    alpha: PerLabel | None = None,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """-a_y (1 - p_y)^gamma log p_y over classes, p = softmax(z); of two classes, `focal` of z1 - z0.

    1 - p_y is the sum of the other classes' probabilities, taken in log space: finite for gamma < 1 and large |z|.

    Args:
        logits: [batch, class] or [batch, class, window].
        targets: [batch] or [batch, window], class numbers.
        labelled: the shape of the targets.
        alpha: [class], weights; None for 1.
        gamma: >= 0.
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked_classes(logits, targets, labelled)
    log_p = F.log_softmax(z, 1)
    log_right = log_p.gather(1, y.unsqueeze(1))
    log_wrong = log_p.scatter(1, y.unsqueeze(1), -math.inf).logsumexp(1)
    each = -torch.exp(gamma * log_wrong) * log_right.squeeze(1)
    if alpha is not None:
        each = per_class("alpha", alpha, z)[y] * each
    return reduce(each, on, on.sum(), reduction)


class Focal(EntryLoss):
    """`focal` with fixed parameters."""

    def __init__(self, alpha: PerLabel | None = 0.25, gamma: PerLabel = 2.0, pos_weight: PerLabel = 1.0) -> None:
        super().__init__(focal, alpha=alpha, gamma=gamma, pos_weight=pos_weight)


class FocalCE(ClassLoss):
    """`focal_ce` with fixed parameters; `alpha` [2] weighs negatives, then positives."""

    def __init__(self, alpha: PerLabel | None = None, gamma: float = 2.0) -> None:
        super().__init__(focal_ce, alpha=alpha, gamma=gamma)
