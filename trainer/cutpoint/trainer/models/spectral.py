"""The spectrum of a signal over time, as convolutions, so that it is part of the exported graph."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-6  # of a power


class Spectrum(nn.Module):
    """[batch, channel, sample] to log power [batch, channel x (length // 2 + 1), frame].

    Frames of `length` samples under a Hann window, half a frame apart, the signal padded with zeros to whole frames. The power
    is |DFT|^2 over the sum of the squared window, so that white noise of variance 1 has 1 in every bin; log(power + 1e-6).

    Args:
        length: samples of a frame, from 2.
    """

    kernels: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.hop = length, length // 2
        hann = torch.hann_window(length, dtype=torch.float64)
        angle = 2 * math.pi * torch.outer(torch.arange(length // 2 + 1), torch.arange(length)).double() / length
        kernels = torch.cat([angle.cos(), angle.sin()]) * hann / hann.square().sum().sqrt()
        self.register_buffer("kernels", kernels.float().unsqueeze(1), persistent=False)

    @property
    def bins(self) -> int:
        """Frequencies, from 0 to half the sample rate."""
        return self.length // 2 + 1

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channel, sample] to [batch, channel x bin, frame]."""
        batch, channels, samples = x.shape
        frames = max(1, -(-(samples - self.length) // self.hop) + 1)
        padded = F.pad(x, (0, (frames - 1) * self.hop + self.length - samples))
        parts = F.conv1d(padded.reshape(batch * channels, 1, -1), self.kernels, stride=self.hop)
        power = parts[:, : self.bins].square() + parts[:, self.bins :].square()
        return torch.log(power + FLOOR).reshape(batch, channels * self.bins, -1)
