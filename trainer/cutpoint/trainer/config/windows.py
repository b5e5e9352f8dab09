"""Settings of the window encoder."""

from typing import Annotated, Literal, Self

from cutpoint.errors import BadConfig
from pydantic import Field, model_validator

from .model import Preprocessing


class WindowEncoderModel(Preprocessing):
    """Convolutions in each window, pooled, then convolutions across windows; for [batch, window, (channel,) sample].

    Attributes:
        channels: width of each convolution in a window; `kernels` (odd) and `strides` have as many entries.
        norm: normalisation after each of them.
        window_norm: give each window zero mean and unit deviation first; its log deviation is kept as a feature.
        sequence_norm: take from each window's features their mean over the sequence: a window is held against what is usual
            for its sequence (a patient, a machine), and its score then depends on the whole sequence.
        context: width across windows; 0 pools straight into the head, so that windows do not see each other.
        context_layers: residual layers across windows, dilated 1, 2, 4, ...: a window sees 2^layers - 1 on either side.
        dropout: share of features dropped before the head, in the context and in events.
        spectrum: samples of a frame: the convolutions see log power by frequency over time, half a frame a step; 0: the signal.
        statistics: features made of the level, spread, extremes, trend and steps of each channel of a window; 0: none.
        events: how many salient events (heart beats, strokes) a window can hold at most, which sets how close two can be; each
            is judged by its timing and its shape against the events around it, across windows unless `context` is 0. 0: none.
        event_width: features of an event.
        event_layers: residual layers along the events, dilated 1, 2, 4, ...
        event_span: how many events around one make what is usual.
    """

    kind: Literal["window_encoder"]
    channels: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(16, 32, 64), min_length=1)
    kernels: tuple[Annotated[int, Field(gt=0)], ...] = (9, 9, 9)
    strides: tuple[Annotated[int, Field(gt=0)], ...] = (4, 4, 4)
    norm: Literal["batch", "group", "none"] = "batch"
    window_norm: bool = False
    sequence_norm: bool = False
    context: int = Field(default=64, ge=0)
    context_layers: int = Field(default=2, ge=0, le=10)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    spectrum: int = Field(default=0, ge=0)
    statistics: int = Field(default=32, ge=0)
    events: int = Field(default=12, ge=0)
    event_width: int = Field(default=32, gt=0)
    event_layers: int = Field(default=0, ge=0, le=10)
    event_span: int = Field(default=201, gt=0)

    @model_validator(mode="after")
    def _layers_agree(self) -> Self:
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            found = f"{len(self.channels)}, {len(self.kernels)} and {len(self.strides)}"
            raise BadConfig.of("model: lengths of channels, kernels and strides", found, "the same length, one per layer")
        if self.spectrum == 1:
            raise BadConfig.of("model.spectrum", 1, "0, or at least 2 samples a frame")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise BadConfig.of("model.kernels", list(self.kernels), "odd numbers")
        return self
