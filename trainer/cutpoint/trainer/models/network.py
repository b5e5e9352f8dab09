"""From a configuration to the network that is trained, saved and rebuilt.

A network takes float32 x [batch, ...] and gives training logits: [batch, ..., label], or [batch, 2, ...] for two classes.
"""

import numpy as np
import torch
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import Config, ImportModel, MLPModel
from ..preprocess import Preprocess, bins_of
from .imported import import_model
from .mlp import MLP
from .windows import WindowEncoder


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
    settings, two_class = config.model, config.loss.two_class
    outputs = 2 if two_class else labels
    if isinstance(settings, ImportModel):
        network = Network(preprocess, import_model(settings))
        _check_output(network, config, x_shape, labels)
        return network
    axes = (1,) if isinstance(settings, MLPModel) else (2, 3)
    if len(x_shape) not in axes:
        wanted = "[row, feature]" if isinstance(settings, MLPModel) else "[sequence, window, (channel,) sample]"
        raise BadData.of("x", f"of shape [row, {', '.join(map(str, x_shape))}]", f"{wanted} for model.kind {settings.kind}")
    model: MLP | WindowEncoder
    if isinstance(settings, MLPModel):
        features = x_shape[0] * (1 + bins_of(settings, x_shape))
        model = MLP(features, outputs, settings.hidden, settings.dropout, settings.input_dropout)
    else:
        model = WindowEncoder(x_shape[1] if len(x_shape) == 3 else 1, outputs, settings, two_class)
    if start is not None:
        bias = torch.from_numpy(np.concatenate([[0.0], start]) if two_class else start)
        with torch.no_grad():
            model.head.bias.copy_(bias)
    return Network(preprocess, model)


def _check_output(network: Network, config: Config, x_shape: tuple[int, ...], labels: int) -> None:
    axes = x_shape[:1] if config.task == "windows" else ()
    wanted = (2, 2, *axes) if config.loss.two_class else (2, *axes, labels)
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
