"""Settings of the models, and of what the graph does to its input first."""

from typing import Annotated, Any, Literal

from cutpoint.validation import Record
from pydantic import Field


class Preprocessing(Record):
    """What the graph does to its input first, with figures measured on the training split.

    Attributes:
        log_input: x becomes log(|x| + floor), the floor a thousandth of the root mean square; for amplitudes and spectra.
        normalize: "standard" subtracts the mean and divides by the standard deviation, per feature or per channel; "scale"
            only divides, by the root mean square of what is not 0, so that 0 stays 0: one figure for all features of a row, or
            one per channel; "auto" is "scale" where x is sparse, else "standard".
    """

    log_input: bool = False
    normalize: Literal["auto", "standard", "scale", "none"] = "auto"


class MLPModel(Preprocessing):
    """A multi-layer perceptron for [batch, feature].

    Attributes:
        bins: each feature is also encoded piecewise-linearly, in this many bins between quantiles of the training split: what
            lets a network follow a threshold as trees do. 0 is none; "auto" is 16 for up to 256 features, else 0.
        hidden: widths of the layers; with none and without bins it is logistic regression.
        dropout: share of hidden units that a training step leaves out; 0.5 suits many features, as of text.
        input_dropout: the same of what comes into the first layer.
    """

    kind: Literal["mlp"]
    bins: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (128, 128)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    input_dropout: float = Field(default=0.0, ge=0, lt=1)


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
