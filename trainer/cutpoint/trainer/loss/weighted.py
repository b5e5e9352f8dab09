"""Cross-entropy with weights, binary and of classes."""

import torch
import torch.nn.functional as F
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig
from torch import Tensor, nn

from .arguments import Reduction, checked, reduce, wide_enough


def weighted_bce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-[w y log s(z) + (1 - y) log s(-z)], s the sigmoid; the mean divides by the number of labelled entries.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        pos_weight: [label] or [], weights w > 0 of positives; None for 1.
        reduction: as above.

    Raises:
        BadConfig: shapes differ. torch would broadcast `pos_weight` along the last axis, whatever that is.
    """
    z, y, on = checked(logits, targets, labelled)
    if pos_weight is not None:
        if pos_weight.shape not in (torch.Size([]), z.shape[-1:]):
            raise BadConfig.of("pos_weight", list(pos_weight.shape), f"shape [{z.shape[-1]}], one per label, the last axis")
        pos_weight = pos_weight.to(z.dtype)
    each = F.binary_cross_entropy_with_logits(z, y.to(z.dtype), pos_weight=pos_weight, reduction="none")
    return reduce(each, on, on.sum(), reduction)


def weighted_ce(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    class_weight: Tensor | None = None,
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
    wide = logits.ndim in (2, 3) and targets.shape == logits.shape[:1] + logits.shape[2:]
    if not wide or (class_weight is not None and class_weight.shape != logits.shape[1:2]):
        shapes = [list(logits.shape), list(targets.shape), None if class_weight is None else list(class_weight.shape)]
        raise BadConfig.of(
            "shapes of logits, targets and class_weight", shapes, "[batch, class, ...], [batch, ...] and [class]"
        )
    on = torch.ones_like(targets, dtype=torch.bool) if labelled is None else labelled
    z = wide_enough(logits).masked_fill(~on.unsqueeze(1), 0)
    y = targets.long().masked_fill(~on, 0)
    weight = None if class_weight is None else class_weight.to(z.dtype)
    each = F.cross_entropy(z, y, weight=weight, reduction="none")
    picked = on.to(z.dtype) if weight is None else weight[y] * on
    return reduce(each, on, picked.sum(), reduction)


class WeightedBCE(nn.Module):
    """`weighted_bce` with fixed weights, [label]; targets are uint8 with `UNLABELLED` (255) where not labelled."""

    def __init__(self, pos_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        self.pos_weight: Tensor

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, []."""
        return weighted_bce(logits, targets, targets != UNLABELLED, self.pos_weight)


class WeightedCE(nn.Module):
    """`weighted_ce` with fixed weights, for logits [batch, 2, ...] and uint8 targets [batch, ..., 1].

    Its mean divides by labelled entries times `mean_weight`, the weight that training data pick on average. Dividing by the sum
    of the weights that one batch picks, as torch's mean does, would weigh a positive in a batch with few of them less than
    `class_weight` says: gradients would depend on how rows fall into batches, and the graph would undo the wrong shift.
    """

    def __init__(self, class_weight: Tensor, mean_weight: float) -> None:
        super().__init__()
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.class_weight: Tensor
        self.mean_weight = mean_weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, []."""
        if targets.shape[-1] != 1:
            raise BadConfig.of("loss.name", "weighted_ce", f"weighted_bce or focal for {targets.shape[-1]} labels")
        on = (targets != UNLABELLED).squeeze(-1)
        total = weighted_ce(logits, targets.squeeze(-1), on, self.class_weight, "sum")
        return total / (on.sum().clamp(min=1) * self.mean_weight)
