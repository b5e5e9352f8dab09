"""Cross-entropy with weights, binary and of classes."""

import torch.nn.functional as F
from torch import Tensor

from .arguments import PerLabel, Reduction, checked, checked_classes, per_class, per_label, reduce
from .training import ClassLoss, EntryLoss


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    pos_weight: PerLabel | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-[w y log s(z) + (1 - y) log s(-z)], s the sigmoid; the mean divides by the number of labelled entries.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        pos_weight: weights w > 0 of positives, a number or [label]; None for 1.
        reduction: as above.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked(logits, targets, labelled)
    weight = None if pos_weight is None else per_label("pos_weight", pos_weight, z)
    each = F.binary_cross_entropy_with_logits(z, y.to(z.dtype), pos_weight=weight, reduction="none")
    return reduce(each, on, on.sum(), reduction)


def weighted_ce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    class_weight: PerLabel | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy over classes, -w_y log softmax(z)_y, as torch's: the mean divides by the sum of the weights picked.

    Args:
        logits: [batch, class] or [batch, class, window]; two classes here, any number works.
        targets: [batch] or [batch, window], class numbers.
        labelled: the shape of the targets.
        class_weight: [class], weights > 0; None for 1.
        reduction: as above.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked_classes(logits, targets, labelled)
    weight = None if class_weight is None else per_class("class_weight", class_weight, z)
    each = F.cross_entropy(z, y, weight=weight, reduction="none")
    picked = on.to(z.dtype) if weight is None else weight[y] * on
    return reduce(each, on, picked.sum(), reduction)


class WeightedBCE(EntryLoss):
    """`weighted_bce` with fixed weights."""

    def __init__(self, pos_weight: PerLabel = 1.0) -> None:
        super().__init__(weighted_bce, pos_weight=pos_weight)


class WeightedCE(ClassLoss):
    """`weighted_ce` with fixed weights of negatives and positives, [2].

    Its mean divides by labelled entries times `mean_weight`, the weight that training data pick on average. Dividing by the sum
    of the weights that one batch picks, as torch's mean does, would weigh a positive in a batch with few of them less than
    `class_weight` says: gradients would depend on how rows fall into batches, and the graph would undo the wrong shift.
    """

    def __init__(self, class_weight: PerLabel, mean_weight: float) -> None:
        super().__init__(weighted_ce, class_weight=class_weight)
        self.mean_weight = mean_weight

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the weighted losses over `mean_weight`, and the number of labelled entries."""
        total, entries = super().total(logits, targets)
        return total / self.mean_weight, entries
