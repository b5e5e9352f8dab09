"""Losses for rare events: pure functions of (logits, targets, labelled), and modules that hold their weights.

Everywhere: `logits` float [batch, label] or [batch, window, label]; `targets` of the same shape, 0 or 1 where `labelled`
(bool, the same shape, None for everywhere) is True, anything where it is False. An entry that is not labelled has no loss and
no gradient; with none labelled the mean is 0 and so is its gradient. `reduction` is "mean", "sum" or "none" (the shape of the
targets, 0 where not labelled). Losses are computed and returned in float32, or in float64 for float64 logits, whatever
autocast is on: half precision cannot hold them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig
from torch import Tensor, nn

Reduction = Literal["mean", "sum", "none"]


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
    z, y, on = _checked(logits, targets, labelled)
    if pos_weight is not None:
        if pos_weight.shape not in (torch.Size([]), z.shape[-1:]):
            raise BadConfig.of("pos_weight", list(pos_weight.shape), f"shape [{z.shape[-1]}], one per label, the last axis")
        pos_weight = pos_weight.to(z.dtype)
    each = F.binary_cross_entropy_with_logits(z, y.to(z.dtype), pos_weight=pos_weight, reduction="none")
    return _reduce(each, on, on.sum(), reduction)


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
    z = _wide_enough(logits).masked_fill(~on.unsqueeze(1), 0)
    y = targets.long().masked_fill(~on, 0)
    weight = None if class_weight is None else class_weight.to(z.dtype)
    each = F.cross_entropy(z, y, weight=weight, reduction="none")
    picked = on.to(z.dtype) if weight is None else weight[y] * on
    return _reduce(each, on, picked.sum(), reduction)


def focal(
    logits: Tensor,
    targets: Tensor,
    labelled: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """-a_t (1 - p_t)^gamma log p_t (Lin 2017), a_t = alpha on positives and 1 - alpha on negatives.

    p_t is the probability of the true class. The power is taken in log space, exp(gamma log s(-t z)) with t = 2 y - 1, whose
    gradient is finite for gamma < 1 and large |z|, where (1 - p_t)^gamma has 0 * infinity.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        alpha: weight of positives, 0 to 1.
        gamma: >= 0; 0 is cross-entropy weighted by alpha.
        reduction: as above; the mean divides by the number of labelled entries.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = _checked(logits, targets, labelled)
    t = 2 * y.to(z.dtype) - 1
    weight = torch.where(y == 1, z.new_tensor(alpha), z.new_tensor(1 - alpha))
    each = -weight * torch.exp(gamma * F.logsigmoid(-t * z)) * F.logsigmoid(t * z)
    return _reduce(each, on, on.sum(), reduction)


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


class Focal(nn.Module):
    """`focal` with fixed parameters; targets are uint8 with `UNLABELLED` (255) where not labelled."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, []."""
        return focal(logits, targets, targets != UNLABELLED, self.alpha, self.gamma)


def _checked(logits: Tensor, targets: Tensor, labelled: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if logits.shape != targets.shape or (labelled is not None and labelled.shape != targets.shape):
        shapes = f"{list(logits.shape)} and {list(targets.shape)}"
        raise BadConfig.of("shapes of logits and targets", shapes, "the same, [batch, label] or [batch, window, label]")
    on = torch.ones_like(targets, dtype=torch.bool) if labelled is None else labelled
    # Filled before the loss, not multiplied after it: 0 times an infinite loss would be NaN.
    return _wide_enough(logits).masked_fill(~on, 0), targets.masked_fill(~on, 0), on


def _wide_enough(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _reduce(each: Tensor, on: Tensor, weight: Tensor, reduction: Reduction) -> Tensor:
    each = each.masked_fill(~on, 0)
    if reduction == "none":
        return each
    total = each.sum()
    return total if reduction == "sum" else total / torch.where(weight > 0, weight, 1)
