"""Asymmetric loss."""

import math

import torch
import torch.nn.functional as F
from cutpoint.errors import BadConfig
from torch import Tensor

from .arguments import PerLabel, Reduction, checked, per_label, reduce
from .training import EntryLoss


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    gamma_pos: PerLabel = 0.0,
    gamma_neg: PerLabel = 4.0,
    margin: float = 0.05,
    reduction: Reduction = "mean",
) -> Tensor:
    """-(1 - p)^gamma_pos log p on positives, -p_m^gamma_neg log(1 - p_m) on negatives (Ridnik 2021).

    p_m is max(p - margin, 0). Computed from log p, which half precision and large |z| leave finite and alive. A margin does two
    things by design: negatives with p below it have no loss and no gradient, so that probabilities down there mean nothing, and
    the loss of a negative is at most -log(margin), so that those that look most like positives are hardly pushed back.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        gamma_pos: >= 0, a number or [label].
        gamma_neg: >= 0, a number or [label].
        margin: 0 to below 1.
        reduction: as above; the mean divides by the number of labelled entries, where the paper's code takes the sum.

    Raises:
        BadConfig: shapes differ, or a margin out of range.
    """
    if not 0 <= margin < 1:
        raise BadConfig.of("margin", margin, "0 to below 1")
    z, y, on = checked(logits, targets, labelled)
    log_p, log_q = F.logsigmoid(z), F.logsigmoid(-z)
    positive = -torch.exp(per_label("gamma_pos", gamma_pos, z) * log_q) * log_p
    if margin:
        beyond = torch.sigmoid(z) - margin
        above = beyond > 0
        # Where there is no loss, anything whose logarithm has a gradient: NaN * 0 would be NaN.
        log_p = torch.log(torch.where(above, beyond, 1))
        log_q = torch.where(above, torch.logaddexp(log_q, log_q.new_tensor(math.log(margin))), 0)
    negative = -torch.exp(per_label("gamma_neg", gamma_neg, z) * log_p) * log_q
    return reduce(torch.where(y == 1, positive, negative), on, on.sum(), reduction)


class Asymmetric(EntryLoss):
    """`asymmetric` with fixed parameters."""

    def __init__(self, gamma_pos: PerLabel = 0.0, gamma_neg: PerLabel = 4.0, margin: float = 0.05) -> None:
        super().__init__(asymmetric, gamma_pos=gamma_pos, gamma_neg=gamma_neg, margin=margin)
