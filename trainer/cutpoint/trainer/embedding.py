"""Numbers to vectors: what a network of rows makes of a feature before its first layer."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NARROWEST = 1e-4  # of a bin, as a share of its larger edge: float32 tells about a thousand places apart in it


class PiecewiseLinear(nn.Module):
    """Piecewise-linear encoding, x [batch, feature] to [batch, feature * bin], each from 0 to 1 (arXiv 2203.05556, 3.2).

    A bin is 0 below its left edge, 1 above its right one, and rises along a line between them, so that a linear layer on
    top is any function that is linear from edge to edge.

    Args:
        left: [feature, bin] left edges.
        slope: [feature, bin] one over the widths; 0 for a bin that is not used, which is always 0.
    """

    def __init__(self, left: Tensor, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("left", left.float())
        self.register_buffer("slope", slope.float())
        self.left: Tensor
        self.slope: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [batch, feature * bin]."""
        return ((x.unsqueeze(-1) - self.left) * self.slope).clamp(0, 1).flatten(1)


def quantile_bins(x: NDArray[np.float32], bins: int) -> PiecewiseLinear:
    """Bins that hold as many of the values each; fewer of a feature where values repeat, none of a constant one.

    Args:
        x: [row, feature] values of the training split.
        bins: of each feature, at most.
    """
    left, slope = np.zeros((2, x.shape[1], bins))
    # Edges are values that occur: between 0 and 1 of a flag there is nothing to tell apart.
    quantiles = np.quantile(x, np.linspace(0, 1, bins + 1), axis=0, method="inverted_cdf").astype(np.float64)
    for i, edges in enumerate(quantiles.T):
        kept = [edges[0]]
        for edge in edges[1:]:
            if edge - kept[-1] > max(NARROWEST * max(abs(edge), abs(kept[-1])), np.finfo(np.float32).tiny):
                kept.append(edge)
        left[i, : len(kept) - 1] = kept[:-1]
        slope[i, : len(kept) - 1] = 1 / np.diff(kept)
    return PiecewiseLinear(torch.from_numpy(left), torch.from_numpy(slope))
