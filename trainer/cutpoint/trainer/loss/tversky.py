"""Tversky and Dice losses, over a whole batch."""

import torch
from torch import Tensor

from .arguments import PerLabel, Reduction, checked, per_label
from .training import BatchLoss


def tversky(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    alpha: PerLabel = 0.3,
    beta: PerLabel = 0.7,
    gamma: PerLabel = 1.0,
    smooth: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """(1 - (TP + s) / (TP + alpha FP + beta FN + s))^gamma per label, counted in probabilities (Salehi 2017; Abraham 2019).

    A label without positives in the batch still lowers its false positives, by `smooth`. As always with these losses, an entry
    that is wrong and sure of it has next to no gradient, p (1 - p).

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        alpha: weight of false positives, above 0, a number or [label].
        beta: weight of false negatives, above 0, a number or [label]; above `alpha` for recall.
        gamma: above 0, a number or [label]; Abraham's 1 / gamma.
        smooth: s above 0, in entries.
        reduction: "none" gives [label], 0 where nothing is labelled; the mean is over labels with something labelled.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked(logits, targets, labelled)
    axes = tuple(range(z.ndim - 1))
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    true, false = (on & (y == 1)).to(z.dtype), (on & (y != 1)).to(z.dtype)
    missed = per_label("alpha", alpha, z) * (p * false).sum(axes) + per_label("beta", beta, z) * (q * true).sum(axes)
    share = missed / ((p * true).sum(axes) + missed + smooth)
    # A power below 1 has no slope at 0.
    each = share.clamp(min=torch.finfo(z.dtype).tiny) ** per_label("gamma", gamma, z)
    return over_labels(each, on.any(0) if z.ndim == 2 else on.flatten(0, 1).any(0), reduction)


def dice(
    logits: Tensor, targets: Tensor, labelled: Tensor | None = None, smooth: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """1 - (2 TP + 2 s) / (2 TP + FP + FN + 2 s): `tversky` with 0.5 and 0.5 (Milletari 2016, without its squares)."""
    return tversky(logits, targets, labelled, 0.5, 0.5, 1.0, smooth, reduction)


def over_labels(each: Tensor, counts: Tensor, reduction: Reduction) -> Tensor:
    """Reduce losses [label], of those labels only that `counts`, bool [label]; 0 where there are none."""
    each = torch.where(counts, each, 0)
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.sum() / counts.sum().clamp(min=1)


class Tversky(BatchLoss):
    """`tversky` with fixed parameters."""

    def __init__(self, alpha: PerLabel = 0.3, beta: PerLabel = 0.7, gamma: PerLabel = 1.0, smooth: float = 1.0) -> None:
        super().__init__(tversky, alpha=alpha, beta=beta, gamma=gamma, smooth=smooth)


class Dice(BatchLoss):
    """`dice` with a fixed smoothing."""

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__(dice, smooth=smooth)
