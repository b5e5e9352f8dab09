"""Class-balanced loss, by the effective number of examples."""

import torch
from torch import Tensor

from .arguments import PerLabel, Reduction
from .focal import focal
from .training import EntryLoss


def class_balanced(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    ratio: PerLabel = 1.0,
    gamma: PerLabel = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """w_y (1 - p_t)^gamma (-log p_t), weights that sum to 2 (Cui 2019): twice `focal` with alpha w_1 / 2.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        ratio: w_1 / w_0, a number or [label], as `effective_ratio` gives it.
        gamma: >= 0, a number or [label]; 0 is cross-entropy.
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    odds = torch.as_tensor(ratio)
    return 2 * focal(logits, targets, labelled, odds / (1 + odds), gamma, reduction=reduction)


def effective_ratio(positives: Tensor, negatives: Tensor, beta: float) -> Tensor:
    """Weight of positives over that of negatives, w_c = (1 - beta) / (1 - beta^n_c) of a class of n_c (Cui 2019).

    Args:
        positives: [label], how many, above 0; not necessarily whole, where a sampler presents them.
        negatives: [label].
        beta: 0, all weigh the same, to below 1.
    """
    log_beta = torch.as_tensor(beta, dtype=torch.float64).log()
    return torch.expm1(negatives.double() * log_beta) / torch.expm1(positives.double() * log_beta)


class ClassBalanced(EntryLoss):
    """`class_balanced` with fixed weights."""

    def __init__(self, ratio: PerLabel, gamma: PerLabel = 0.0) -> None:
        super().__init__(class_balanced, ratio=ratio, gamma=gamma)
