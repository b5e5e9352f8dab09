"""Focal loss."""

import torch
import torch.nn.functional as F
from cutpoint.dataset import UNLABELLED
from torch import Tensor, nn

from .arguments import Reduction, checked, reduce


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
    z, y, on = checked(logits, targets, labelled)
    t = 2 * y.to(z.dtype) - 1
    weight = torch.where(y == 1, z.new_tensor(alpha), z.new_tensor(1 - alpha))
    each = -weight * torch.exp(gamma * F.logsigmoid(-t * z)) * F.logsigmoid(t * z)
    return reduce(each, on, on.sum(), reduction)


class Focal(nn.Module):
    """`focal` with fixed parameters; targets are uint8 with `UNLABELLED` (255) where not labelled."""

    def __init__(self, alpha: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss, []."""
        return focal(logits, targets, targets != UNLABELLED, self.alpha, self.gamma)
