"""The end of the served graph, where the prior is undone, and the head's start."""

from collections.abc import Sequence

import numpy as np
import torch
from cutpoint.bundle import LabelPrior
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import loss as configured
from .inverse import inverse_of
from .rates import logit


class UndoPrior(nn.Module):
    """Training logits [batch, ..., label] to logits of the label's own probability: slope * inverse(z) - shift.

    The identity, and no node in the graph, where training changed nothing.
    """

    def __init__(self, priors: Sequence[LabelPrior], inverse: nn.Module | None = None) -> None:
        super().__init__()
        self.inverse = inverse
        self.register_buffer("shift", torch.tensor([prior.shift for prior in priors], dtype=torch.float32))
        self.register_buffer("slope", torch.tensor([prior.slope for prior in priors], dtype=torch.float32))
        self.shift: Tensor
        self.slope: Tensor
        self.shifts = any(prior.shift != 0 for prior in priors)
        self.stretches = any(prior.slope != 1 for prior in priors)

    def forward(self, logits: Tensor) -> Tensor:
        """[batch, ..., label] to the same shape."""
        if self.inverse is not None:
            logits = self.inverse(logits)
        if self.stretches:
            logits = logits * self.slope.to(logits.dtype)
        return logits - self.shift.to(logits.dtype) if self.shifts else logits


class Margin(nn.Module):
    """Training logits to one logit per label: z1 - z0, [batch, 2, ...] to [batch, ..., 1], when there are two classes."""

    def __init__(self, two_class: bool) -> None:
        super().__init__()
        self.two_class = two_class

    def forward(self, logits: Tensor) -> Tensor:
        """[batch, ..., label]."""
        return (logits[:, 1] - logits[:, 0]).unsqueeze(-1) if self.two_class else logits


def honest_head(settings: configured.LossSettings, priors: Sequence[LabelPrior]) -> nn.Sequential:
    """Training logits to honest logits [batch, ..., label]: the margin, then the prior undone; the end of the served graph."""
    return nn.Sequential(Margin(settings.two_class), UndoPrior(priors, inverse_of(settings, priors)))


def start_logits(priors: Sequence[LabelPrior], settings: configured.LossSettings) -> NDArray[np.float64]:
    """The constant logit, [label], that minimises the loss: where a head's bias starts.

    Starting at 0 would spend the first epochs on learning that events are rare (Lin 2017, 4.1). Where the loss has no inverse,
    the log-odds of the rate that the sampler presents.
    """
    target = np.array([float(logit(prior.sampled_rate)) + np.log(prior.pos_weight) for prior in priors])
    inverse = inverse_of(settings, priors)
    if inverse is None:
        return target
    # The inverse is increasing, so its own inverse is found by halving.
    low, high = np.full(len(target), -60.0), np.full(len(target), 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = inverse(torch.from_numpy(middle)).numpy() > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray((low + high) / 2)
