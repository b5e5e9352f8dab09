"""Poly-1 loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import PerLabel, Reduction, checked, per_label, reduce
from .training import EntryLoss


def poly1(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    epsilon: PerLabel = 1.0,
    pos_weight: PerLabel = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """w_t (-log p_t + epsilon (1 - p_t)) (Leng 2022), p_t of the true class, w_t `pos_weight` on positives, or 1.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        epsilon: above -1, where the loss stops falling in p_t; a number or [label].
        pos_weight: above 0, a number or [label].
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked(logits, targets, labelled)
    true = y == 1
    u = torch.where(true, -z, z)
    each = per_label("epsilon", epsilon, z) * torch.sigmoid(u) - F.logsigmoid(-u)
    return reduce(torch.where(true, per_label("pos_weight", pos_weight, z), 1) * each, on, on.sum(), reduction)


class Poly1(EntryLoss):
    """`poly1` with fixed parameters."""

    def __init__(self, epsilon: PerLabel = 1.0, pos_weight: PerLabel = 1.0) -> None:
        super().__init__(poly1, epsilon=epsilon, pos_weight=pos_weight)
