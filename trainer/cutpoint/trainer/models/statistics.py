"""What a window looks like in figures: level, spread, extremes, trend and steps of each channel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIGURES = 9  # of a channel
BINS = 12  # of a figure
WIDEST = 2.0  # usual deviations from the usual value, either way, between the outermost steps
TINY = 1e-3


class WindowStatistics(nn.Module):
    """Windows [row, channel, sample] to features [row, `width`] of FIGURES figures a channel.

    Averages over a window hide a single step or spike, and maxima of filtered signals know no threshold. Figures are
    standardised over the training batches, then cut at fixed places: steps let a linear layer make sharp cuts, as a tree does.

    Args:
        channels: of a window.
        width: features.
        dropout: share of features dropped.
    """

    edges: Tensor

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels * FIGURES, affine=False)
        self.register_buffer("edges", torch.linspace(-WIDEST, WIDEST, BINS + 1)[:-1], persistent=False)
        self.mix = nn.Sequential(nn.Linear(channels * FIGURES * BINS, width), nn.GELU(), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """[row, channel, sample] to [row, feature]."""
        with torch.no_grad():
            figures = describe(x).flatten(1)
            if self.training and len(figures) == 1:  # there is no deviation of one
                self.norm.eval()
            standard = self.norm(figures)
            self.norm.train(self.training)
            bins = ((standard.unsqueeze(-1) - self.edges) * (BINS / (2 * WIDEST))).clamp(0, 1)
        return self.mix(bins.flatten(1))  # type: ignore[no-any-return]


def describe(x: Tensor) -> Tensor:
    """Mean, least, largest, last less first; logs of deviation, of deviation and largest of steps, and of both peaks.

    Windows [row, channel, sample] to [row, channel, FIGURES]; finite for constant windows and for windows of one sample.
    """
    mean, least, largest = x.mean(-1), x.amin(-1), x.amax(-1)
    deviation = x.std(-1, correction=0) + TINY
    step = (x - F.pad(x, (1, 0), mode="replicate")[..., :-1]).abs()
    figures = [mean, least, largest, x[..., -1] - x[..., 0], torch.log(deviation)]
    figures += [torch.log(step.square().mean(-1).sqrt() + TINY / 10), torch.log(step.amax(-1) + TINY)]
    figures += [torch.log((largest - mean) / deviation + 0.1), torch.log((mean - least) / deviation + 0.1)]
    return torch.stack(figures, -1)
