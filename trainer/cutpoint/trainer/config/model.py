"""Settings of the models, and of what the graph does to its input first."""

from typing import Annotated, Any, Literal

from cutpoint.validation import Record
from pydantic import Field


class Preprocessing(Record):
    """What the graph does to its input first, with figures measured on the training split.

    Attributes:
        log_input: x becomes log(|x| + floor), the floor a thousandth of the root mean square; for amplitudes and spectra.
        normalize: "standard" subtracts the mean and divides by the standard deviation, per feature or per channel.
    """

    log_input: bool = False
    normalize: Literal["standard", "none"] = "standard"


class MLPModel(Preprocessing):
    """A multi-layer perceptron for [batch, feature]; `hidden` may be empty, which is logistic regression."""

    kind: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class ImportModel(Preprocessing):
    """Anybody's `torch.nn.Module`: preprocessed x in, logits [batch, ..., label] out ([batch, 2, ...] for weighted_ce).

    Attributes:
        path: `package.module:Class`; the current folder is searched too.
        arguments: of its constructor.
        any_windows: whether it takes any number of windows.
    """

    kind: Literal["import"]
    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    any_windows: bool = False
