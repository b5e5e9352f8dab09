"""What every loss does to its arguments first and to its values last."""

from typing import Literal

import torch
from cutpoint.errors import BadConfig
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def checked(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 or float64 logits, targets and mask, neutral where not labelled; BadConfig where shapes differ."""
    if logits.shape != targets.shape or (labelled is not None and labelled.shape != targets.shape):
        shapes = f"{list(logits.shape)} and {list(targets.shape)}"
        raise BadConfig.of("shapes of logits and targets", shapes, "the same, [batch, label] or [batch, window, label]")
    on = torch.ones_like(targets, dtype=torch.bool) if labelled is None else labelled
    # Filled before the loss, not multiplied after it: 0 times an infinite loss would be NaN.
    return wide_enough(logits).masked_fill(~on, 0), targets.masked_fill(~on, 0), on


def wide_enough(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def reduce(each: Tensor, on: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """As `reduction` says; the mean divides by `weight`."""
    each = each.masked_fill(~on, 0)
    if reduction == "none":
        return each
    total = each.sum()
    return total if reduction == "sum" else total / torch.where(weight > 0, weight, 1)
