"""Logits adjusted by the prior, of labels and of classes."""

import torch
from torch import Tensor

from .arguments import PerLabel, Reduction, per_class, per_label, wide_enough
from .training import ClassLoss, EntryLoss
from .weighted import weighted_bce, weighted_ce


def logit_adjusted(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    prior: PerLabel = 0.5,
    tau: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary cross-entropy of z + tau logit(prior), the sigmoid form of Menon 2021, equation 10.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        prior: share of positives, between 0 and 1, a number or [label].
        tau: 1 for what is learnt at even odds, 0 for plain cross-entropy.
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z = wide_enough(logits)
    return weighted_bce(z + tau * torch.logit(per_label("prior", prior, z)), targets, labelled, reduction=reduction)


def balanced_softmax(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    prior: PerLabel = (0.5, 0.5),
    tau: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of z + tau log(prior) over classes (Ren 2020; Menon 2021, equation 10).

    Args:
        logits: [batch, class] or [batch, class, window].
        targets: [batch] or [batch, window], class numbers.
        labelled: the shape of the targets.
        prior: [class], shares or counts above 0.
        tau: 1 is balanced softmax.
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z = wide_enough(logits)
    shift = tau * torch.log(per_class("prior", prior, z))
    return weighted_ce(z + shift.view(-1, *[1] * (z.ndim - 2)), targets, labelled, reduction=reduction)


class LogitAdjusted(EntryLoss):
    """`logit_adjusted` with a fixed prior."""

    def __init__(self, prior: PerLabel, tau: float = 1.0) -> None:
        super().__init__(logit_adjusted, prior=prior, tau=tau)


class BalancedSoftmax(ClassLoss):
    """`balanced_softmax` with a fixed prior, [2]."""

    def __init__(self, prior: PerLabel, tau: float = 1.0) -> None:
        super().__init__(balanced_softmax, prior=prior, tau=tau)
