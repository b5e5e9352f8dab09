"""Smooth-AP, a surrogate of average precision over a whole batch."""

import torch
from torch import Tensor

from .arguments import Reduction, checked
from .training import BatchLoss
from .tversky import over_labels


def smooth_ap(
    logits: Tensor, targets: Tensor, labelled: Tensor | None = None, temperature: float = 1.0, reduction: Reduction = "mean"
) -> Tensor:
    """1 - AP per label, the ranks in it counted by sigmoids (Brown 2020).

    AP is the mean over positives of their rank among positives over their rank among all; a rank is 1 plus the sum over the
    others j of s((z_j - z_i) / temperature), which for temperature to 0 is the number of those above. It needs positives in
    its batch, and memory for positives times entries. It ranks only: logits have no level of their own.

    Args:
        logits: as above.
        targets: as above.
        labelled: as above.
        temperature: above 0, in logits. The paper's 0.01 is for cosines.
        reduction: "none" gives [label], 0 where there is no positive; the mean is over labels with positives.

    Raises:
        BadConfig: shapes differ.
    """
    z, y, on = checked(logits, targets, labelled)
    z, y, on = (each.reshape(-1, each.shape[-1]) for each in (z, y, on))
    positive = on & (y == 1)
    row, label = positive.nonzero(as_tuple=True)  # [positive]
    above = torch.sigmoid((z.T[label] - z[row, label].unsqueeze(1)) / temperature)  # [positive, entry]
    others = on.T[label].scatter(1, row.unsqueeze(1), False)
    among_all = 1 + (above * others).sum(1)
    among_positives = 1 + (above * (others & positive.T[label])).sum(1)
    count = positive.sum(0)
    missing = torch.zeros_like(z[0]).index_add(0, label, 1 - among_positives / among_all)
    return over_labels(missing / count.clamp(min=1), count > 0, reduction)


class SmoothAP(BatchLoss):
    """`smooth_ap` with a fixed temperature."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(smooth_ap, temperature=temperature)
