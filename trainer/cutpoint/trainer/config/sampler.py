"""Which training rows an epoch sees, and how often."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from cutpoint.validation import Record
from pydantic import BeforeValidator, Field


class NoSampler(Record):
    """Every row once."""

    kind: Literal["none"] = "none"


class WeightedSampler(Record):
    """As many rows as there are, a `share` of which hold a positive."""

    kind: Literal["weighted"] = "weighted"
    share: float = Field(default=0.5, gt=0, lt=1)


class LabelSetSampler(Record):
    """As many rows as there are, the sets of labels that rows hold equally often; `power` below 1 goes part of the way."""

    kind: Literal["label_set"] = "label_set"
    power: float = Field(default=1.0, gt=0, le=1)


class RepeatFactorSampler(Record):
    """Rows that hold a label rarer than `threshold` are repeated (Gupta 2019)."""

    kind: Literal["repeat_factor"] = "repeat_factor"
    threshold: float = Field(default=0.01, gt=0, le=1)


class OverSampler(Record):
    """Every row, and those that hold a positive repeated until there are `ratio` of them to one that holds none."""

    kind: Literal["over"] = "over"
    ratio: float = Field(default=1.0, gt=0)


class UnderSampler(Record):
    """Every row that holds a positive, and so many of the others, anew each epoch, that there are `ratio` to one."""

    kind: Literal["under"] = "under"
    ratio: float = Field(default=1.0, gt=0)


_Kind = NoSampler | WeightedSampler | LabelSetSampler | RepeatFactorSampler | OverSampler | UnderSampler
SAMPLERS = tuple(str(kind.model_fields["kind"].default) for kind in get_args(_Kind))


def _chosen(value: Any) -> Any:
    # A word alone is a kind with its defaults; one message for whatever names none.
    settings = {"kind": value} if isinstance(value, str) else value
    kind = settings.get("kind") if isinstance(settings, Mapping) else getattr(settings, "kind", None)
    if kind not in SAMPLERS:
        raise ValueError(f"expected {', '.join(SAMPLERS)}, or a mapping with one of them as its kind")
    return settings


Sampler = Annotated[_Kind, Field(discriminator="kind"), BeforeValidator(_chosen)]
