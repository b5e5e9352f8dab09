"""The models that ship with the trainer, and the one door for anybody's own.

A network takes float32 x [batch, ...] and gives training logits: [batch, ..., label], or [batch, 2, ...] for two classes.
"""

import importlib
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray
from torch import Tensor, nn

from .config import Config, ImportModel, MLPModel, WindowEncoderModel
from .preprocess import Preprocess


class MLP(nn.Module):
    """[batch, feature] to [batch, output]: linear layers with ReLU between them."""

    def __init__(self, features: int, outputs: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((features, *hidden)):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear((features, *hidden)[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, feature] to [batch, output]."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


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


class Network(nn.Module):
    """Preprocessing, then a model: what is trained, saved and rebuilt."""

    def __init__(self, preprocess: Preprocess, model: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.model = preprocess, model

    def forward(self, x: Tensor) -> Tensor:
        """Float32 x [batch, ...] to training logits."""
        return self.model(self.preprocess(x))  # type: ignore[no-any-return]


def build_network(
    config: Config, x_shape: tuple[int, ...], labels: int, preprocess: Preprocess, start: NDArray[np.float64] | None = None
) -> Network:
    """Build the model of a configuration.

    Args:
        config: its `model`, `task` and `loss`.
        x_shape: of one row of x: [feature], [window, sample], [window, channel, sample] or what an imported model takes.
        labels: how many.
        preprocess: goes first.
        start: [label], where the head's bias starts; None when weights are loaded afterwards.

    Raises:
        BadData: x has another number of axes than the model takes.
        BadConfig: an imported model cannot be imported or built, or gives another shape.
    """
    settings, two_class = config.model, config.loss.name == "weighted_ce"
    outputs = 2 if two_class else labels
    if isinstance(settings, ImportModel):
        network = Network(preprocess, _import_model(settings))
        _check_output(network, config, x_shape, labels)
        return network
    axes = (1,) if isinstance(settings, MLPModel) else (2, 3)
    if len(x_shape) not in axes:
        wanted = "[row, feature]" if isinstance(settings, MLPModel) else "[sequence, window, (channel,) sample]"
        raise BadData.of("x", f"of shape [row, {', '.join(map(str, x_shape))}]", f"{wanted} for model.kind {settings.kind}")
    model: MLP | WindowEncoder
    if isinstance(settings, MLPModel):
        model = MLP(x_shape[0], outputs, settings.hidden, settings.dropout)
    else:
        model = WindowEncoder(x_shape[1] if len(x_shape) == 3 else 1, outputs, settings, two_class)
    if start is not None:
        bias = torch.from_numpy(np.concatenate([[0.0], start]) if two_class else start)
        with torch.no_grad():
            model.head.bias.copy_(bias)
    return Network(preprocess, model)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    return nn.GroupNorm(1, channels) if kind == "group" else nn.Identity()


def _import_model(settings: ImportModel) -> nn.Module:
    module, _, name = settings.path.partition(":")
    # A console script does not search the current folder, as `python -m` does; last, so that it hides nothing.
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        model = getattr(importlib.import_module(module), name)(**settings.arguments)
    except Exception as error:  # whatever somebody else's module raises
        problem = f"{type(error).__name__}: {error}"
        raise BadConfig.of(
            "model.path", settings.path, f"an importable class that takes model.arguments ({problem})"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise BadConfig.of("model.path", settings.path, f"a torch.nn.Module; it makes a {type(model).__name__}")
    return model


def _check_output(network: Network, config: Config, x_shape: tuple[int, ...], labels: int) -> None:
    axes = x_shape[:1] if config.task == "windows" else ()
    wanted = (2, 2, *axes) if config.loss.name == "weighted_ce" else (2, *axes, labels)
    try:
        with torch.no_grad():
            out = network.eval()(torch.zeros(2, *x_shape))
    except Exception as error:  # whatever somebody else's forward raises
        problem = f"{type(error).__name__}: {error}"
        raise BadConfig.of(
            f"output of {config.model.kind} model", problem, f"logits of shape {list(wanted)} for 2 rows"
        ) from error
    finally:
        network.train()
    found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if found != wanted:
        raise BadConfig.of(f"output of {config.model.kind} model", found, f"logits of shape {list(wanted)} for 2 rows")
