"""What every loss does to its arguments first and to its values last."""

from collections.abc import Sequence
from typing import Literal

import torch
from cutpoint.errors import BadConfig
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
PerLabel = float | Sequence[float] | Tensor


def checked(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 or float64 logits, targets and mask, neutral where not labelled; BadConfig where shapes differ."""
    check_shapes(logits, targets, labelled)
    on = torch.ones_like(targets, dtype=torch.bool) if labelled is None else labelled
    # Filled before the loss, not multiplied after it: 0 times an infinite loss would be NaN.
    return wide_enough(logits).masked_fill(~on, 0), targets.masked_fill(~on, 0), on


def check_shapes(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> None:
    """BadConfig where shapes differ."""
    if logits.shape != targets.shape or (labelled is not None and labelled.shape != targets.shape):
        shapes = f"{list(logits.shape)} and {list(targets.shape)}"
        raise BadConfig.of("shapes of logits and targets", shapes, "the same, [batch, label] or [batch, window, label]")


def checked_classes(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same for classes: logits [batch, class] or [batch, class, window], int64 targets [batch] or [batch, window]."""
    fits = logits.ndim in (2, 3) and targets.shape == logits.shape[:1] + logits.shape[2:]
    if not fits or (labelled is not None and labelled.shape != targets.shape):
        shapes = f"{list(logits.shape)} and {list(targets.shape)}"
        raise BadConfig.of("shapes of logits and targets", shapes, "[batch, class, ...] and [batch, ...]")
    on = torch.ones_like(targets, dtype=torch.bool) if labelled is None else labelled
    return wide_enough(logits).masked_fill(~on.unsqueeze(1), 0), targets.long().masked_fill(~on, 0), on


def wide_enough(logits: Tensor) -> Tensor:
    """At least float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


def per_label(name: str, value: PerLabel, logits: Tensor) -> Tensor:
    """A number, [], or one for each label, [label], of the dtype of `logits`; BadConfig for any other shape.

    torch would broadcast along the last axis whatever had its length.
    """
    found = torch.as_tensor(value, dtype=logits.dtype, device=logits.device)
    if found.shape not in (torch.Size([]), logits.shape[-1:]):
        raise BadConfig.of(name, list(found.shape), f"a number or shape [{logits.shape[-1]}], one per label, the last axis")
    return found


def per_class(name: str, value: PerLabel, logits: Tensor) -> Tensor:
    """One for each class, [class], of the dtype of `logits` [batch, class, ...]; BadConfig for any other shape."""
    found = torch.as_tensor(value, dtype=logits.dtype, device=logits.device)
    if found.shape != logits.shape[1:2]:
        raise BadConfig.of(name, list(found.shape), f"shape [{logits.shape[1]}], one per class, the second axis")
    return found


def reduce(each: Tensor, on: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    """As `reduction` says; the mean divides by `weight`."""
    each = each.masked_fill(~on, 0)
    if reduction == "none":
        return each
    total = each.sum()
    return total if reduction == "sum" else total / torch.where(weight > 0, weight, 1)
