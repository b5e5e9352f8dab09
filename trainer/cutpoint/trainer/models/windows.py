"""The model of windows, which may look at their neighbours."""

import torch
from torch import Tensor, nn

from ..config import WindowEncoderModel


class WindowEncoder(nn.Module):
    """[batch, window, sample] or [batch, window, channel, sample] to [batch, window, output], or [batch, 2, window].

    Any number of windows and of samples from 1. Each window is encoded alone, its features pooled by mean and by maximum (a
    short event in a long window moves the maximum, not the mean), then residual layers look at the neighbouring windows.

    Args:
        channels_in: channels of a window; 1 for [batch, window, sample].
        outputs: labels, or 2 with `two_class`.
        settings: widths and depths.
        two_class: put the two classes on axis 1.
    """

    def __init__(self, channels_in: int, outputs: int, settings: WindowEncoderModel, two_class: bool = False) -> None:
        super().__init__()
        self.window_norm, self.sequence_norm, self.two_class = settings.window_norm, settings.sequence_norm, two_class
        layers: list[nn.Module] = []
        width = channels_in
        for channels, kernel, stride in zip(settings.channels, settings.kernels, settings.strides, strict=True):
            layers += [
                nn.Conv1d(width, channels, kernel, stride, padding=kernel // 2),
                _norm(settings.norm, channels),
                nn.ReLU(),
            ]
            width = channels
        self.encoder = nn.Sequential(*layers)
        features = 2 * width + (channels_in if settings.window_norm else 0)
        self.project = nn.Linear(features, settings.context) if settings.context else nn.Identity()
        layers_across = settings.context_layers if settings.context else 0
        self.across = nn.ModuleList(Neighbours(settings.context, 2**i, settings.dropout) for i in range(layers_across))
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.context or features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, window, (channel,) sample] to [batch, window, output], or [batch, 2, window] with `two_class`."""
        batch, windows = x.shape[:2]
        x = x.flatten(0, 1)  # [batch * window, (channel,) sample]
        if x.ndim == 2:
            x = x.unsqueeze(1)
        features = []
        if self.window_norm:
            centred = x - x.mean(-1, keepdim=True)
            deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-8)
            x = centred / deviation
            features.append(torch.log(deviation).squeeze(-1))
        x = self.encoder(x)
        features += [x.mean(-1), x.amax(-1)]
        z = torch.cat(features, -1).reshape(batch, windows, -1)  # [batch, window, feature]
        if self.sequence_norm:
            z = z - z.mean(1, keepdim=True)
        z = self.project(z)
        if len(self.across):
            z = z.transpose(1, 2)
            for layer in self.across:
                z = layer(z)
            z = z.transpose(1, 2)
        z = self.head(self.dropout(z))
        return z.transpose(1, 2) if self.two_class else z  # type: ignore[no-any-return]


class Neighbours(nn.Module):
    """One residual layer across windows, [batch, feature, window] to the same, that looks `dilation` windows either way."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.look = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, z: Tensor) -> Tensor:
        """[batch, feature, window] to the same."""
        return z + self.mix(self.dropout(torch.relu(self.look(torch.relu(z)))))  # type: ignore[no-any-return]


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if kind == "group" else nn.Identity()
