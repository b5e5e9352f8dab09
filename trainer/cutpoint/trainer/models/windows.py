"""The model of windows, which may look at their neighbours."""

import torch
from torch import Tensor, nn

from ..config import WindowEncoderModel
from .events import EventEncoder, find_events
from .spectral import Spectrum
from .statistics import WindowStatistics

LARGEST = 40.0  # of a logit, either way, before events are added


class WindowEncoder(nn.Module):
    """[batch, window, sample] or [batch, window, channel, sample] to [batch, window, output], or [batch, 2, window].

    Any number of windows and of samples from 1. Each window is encoded alone, its features pooled by mean and by maximum (a
    short event in a long window moves the maximum, not the mean), then residual layers look at the neighbouring windows.
    Salient events of the joined signal are judged one by one (events.py), and add to the odds of the window that holds them.

    Args:
        channels_in: channels of a window; 1 for [batch, window, sample].
        outputs: labels, or 2 with `two_class`.
        settings: widths and depths.
        two_class: put the two classes on axis 1.
    """

    def __init__(self, channels_in: int, outputs: int, settings: WindowEncoderModel, two_class: bool = False) -> None:
        super().__init__()
        self.window_norm, self.sequence_norm, self.two_class = settings.window_norm, settings.sequence_norm, two_class
        self.with_statistics = settings.statistics > 0
        self.spectrum = Spectrum(settings.spectrum) if settings.spectrum else None
        layers: list[nn.Module] = []
        width = channels_in * (self.spectrum.bins if self.spectrum else 1)
        for channels, kernel, stride in zip(settings.channels, settings.kernels, settings.strides, strict=True):
            layers += [
                nn.Conv1d(width, channels, kernel, stride, padding=kernel // 2),
                _norm(settings.norm, channels),
                nn.ReLU(),
            ]
            width = channels
        self.encoder = nn.Sequential(*layers)
        features = 2 * width + (channels_in if settings.window_norm else 0) + settings.statistics
        if settings.statistics:
            self.statistics = WindowStatistics(channels_in, settings.statistics, settings.dropout)
        self.project = nn.Linear(features, settings.context) if settings.context else nn.Identity()
        layers_across = settings.context_layers if settings.context else 0
        self.across = nn.ModuleList(Neighbours(settings.context, 2**i, settings.dropout) for i in range(layers_across))
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.context or features, outputs)
        self.isolated, self.events = not settings.context, settings.events
        if settings.events:
            width = settings.event_width
            self.event_encoder = EventEncoder(channels_in, width, settings.event_layers, settings.event_span, settings.dropout)
            self.event_head = nn.Linear(width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, window, (channel,) sample] to [batch, window, output], or [batch, 2, window] with `two_class`."""
        if x.ndim == 3:
            x = x.unsqueeze(2)
        z = self.head(self.dropout(self.encode(x)))  # [batch, window, output]
        if self.two_class:  # what counts is the difference, which is 0 for class 0
            z = z[..., 1:] - z[..., :1]
        if self.events:
            z = self.add_events(z, x)
        return torch.cat([torch.zeros_like(z), z], -1).transpose(1, 2) if self.two_class else z

    def add_events(self, z: Tensor, x: Tensor) -> Tensor:
        """log(e^z + the sum of e^logit over the events in the window): one event that is odd makes the window odd."""
        shape = z.shape
        if self.isolated:
            z, x = z.flatten(0, 1).unsqueeze(1), x.flatten(0, 1).unsqueeze(1)
        with torch.no_grad():
            events = find_events(x, self.events)
        # The bias, where the prior is, serves windows and events; a window has several of these.
        logits = self.event_head(self.event_encoder(events).transpose(1, 2)) + self.head.bias
        if self.two_class:
            logits = logits[..., 1:] - logits[..., :1]
        likely = torch.exp(logits.float().clamp(-LARGEST, LARGEST)) * events.present.transpose(1, 2) / self.events
        window = events.window.unsqueeze(-1).expand(-1, -1, z.shape[-1])
        total = torch.exp(z.float().clamp(-LARGEST, LARGEST)).scatter_add(1, window, likely)
        return torch.log(total).reshape(shape)

    @staticmethod
    def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training rows with another gain and a little noise, about their mean; the labels stay.

        `x` is float32 [batch, window, (channel,) sample] as read; gain and noise are drawn by sequence and channel.
        """
        axes = (1, 3) if x.ndim == 4 else (1, 2)
        centre = x.mean(axes, keepdim=True)
        deviation = x.std(axes, keepdim=True, correction=0)
        gain = torch.exp(0.2 * torch.randn(centre.shape, generator=generator))
        noise = torch.randn(x.shape, generator=generator) * (0.05 * deviation)
        return centre + (x - centre) * gain + noise, y

    def encode(self, x: Tensor) -> Tensor:
        """Features of each window [batch, window, feature], from itself and its neighbours."""
        batch, windows = x.shape[:2]
        x = x.flatten(0, 1)  # [batch * window, channel, sample]
        features = []
        if self.window_norm:
            centred = x - x.mean(-1, keepdim=True)
            deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-8)
            x = centred / deviation
            features.append(torch.log(deviation).squeeze(-1))
        if self.with_statistics:
            features.append(self.statistics(x))
        x = self.encoder(self.spectrum(x) if self.spectrum else x)
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
        return z  # type: ignore[no-any-return]


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
