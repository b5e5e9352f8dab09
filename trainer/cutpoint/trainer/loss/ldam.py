"""Label-distribution-aware margins, of labels and of classes, with deferred re-weighting."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import PerLabel, Reduction, checked, checked_classes, per_class, per_label, reduce
from .training import ClassLoss, EntryLoss, TrainingLoss


def ldam_margins(shares: Tensor, max_margin: float) -> Tensor:
    """Margins of classes, proportional to n^(-1/4), the rarest class's being `max_margin` (Cao 2019, equation 13).

    Args:
        shares: [class, ...], shares or counts above 0; margins are relative to the rarest along the first axis.
        max_margin: above 0.
    """
    return max_margin * (shares.amin(0) / shares) ** 0.25


def ldam(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    rate: PerLabel = 0.5,
    max_margin: float = 0.5,
    scale: float = 30.0,
    ratio: PerLabel = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of s (z - m_1) on positives and of s (z + m_0) on negatives, times weights that sum to 2.

    The sigmoid form of Cao 2019: z stands for the difference of two classes' logits.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        rate: share of positives in the training data, a number or [label].
        max_margin: the margin of the rarer class.
        scale: s > 0.
        ratio: weight of positives over that of negatives, a number or [label].
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked(logits, targets, labelled)
    share = per_label("rate", rate, z)
    m0, m1 = ldam_margins(torch.stack([1 - share, share]), max_margin)
    odds = per_label("ratio", ratio, z)
    true = y == 1
    each = -F.logsigmoid(scale * torch.where(true, z - m1, -z - m0))
    return reduce(each * torch.where(true, 2 * odds / (1 + odds), 2 / (1 + odds)), on, on.sum(), reduction)


def ldam_ce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    share: PerLabel = (0.5, 0.5),
    max_margin: float = 0.5,
    scale: float = 30.0,
    class_weight: PerLabel | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy over classes of s (z_c - m_c [c = y]) (Cao 2019, equation 13).

    Args:
        logits: [batch, class] or [batch, class, window].
        targets: [batch] or [batch, window], class numbers.
        labelled: the shape of the targets.
        share: [class], shares or counts above 0 in the training data.
        max_margin: the margin of the rarest class.
        scale: s > 0.
        class_weight: [class]; None for 1.
        reduction: as above; the mean divides by the number of labelled entries, not by their weights as the paper's code does.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked_classes(logits, targets, labelled)
    margins = ldam_margins(per_class("share", share, z), max_margin)[y]
    moved = z - torch.zeros_like(z).scatter(1, y.unsqueeze(1), margins.unsqueeze(1))
    weight = None if class_weight is None else per_class("class_weight", class_weight, z)
    return reduce(F.cross_entropy(scale * moved, y, weight, reduction="none"), on, on.sum(), reduction)


class Deferred(TrainingLoss):
    """One loss for the share `defer` of the epochs, another from there on; the second where no epoch was announced.

    With `defer` 1 the second never comes, and the first is settled from the start.
    """

    def __init__(self, first: TrainingLoss, then: TrainingLoss, defer: float) -> None:
        super().__init__()
        self.first, self.then, self.defer = first, then, defer

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Take the loss of this epoch."""
        self.settled = self.defer == 1 or epoch > self.defer * epochs

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the loss of this epoch."""
        return (self.then if self.settled else self.first).total(logits, targets)


class LDAM(EntryLoss):
    """`ldam` with fixed parameters."""

    def __init__(self, rate: PerLabel, max_margin: float = 0.5, scale: float = 30.0, ratio: PerLabel = 1.0) -> None:
        super().__init__(ldam, rate=rate, max_margin=max_margin, scale=scale, ratio=ratio)


class LDAMCE(ClassLoss):
    """`ldam_ce` with fixed parameters, those of classes [2]."""

    def __init__(
        self, share: PerLabel, max_margin: float = 0.5, scale: float = 30.0, class_weight: PerLabel | None = None
    ) -> None:
        super().__init__(ldam_ce, share=share, max_margin=max_margin, scale=scale, class_weight=class_weight)
