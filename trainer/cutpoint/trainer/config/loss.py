"""Settings of the losses."""

import math
from typing import Annotated, Any, Literal

from cutpoint.validation import Record
from pydantic import BeforeValidator, Field


def _pos_weight(value: Any) -> Any:
    # One message for the four forms, where a union would give four.
    if value in ("auto", "sqrt"):
        return value
    listed = value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(float(number) for number in listed)
    except (TypeError, ValueError):
        numbers = ()
    if numbers and all(0 < number < math.inf for number in numbers):
        return numbers if listed is value else numbers[0]
    raise ValueError("expected auto, sqrt, a positive number, or a list of positive numbers, one per label")


Positive = Annotated[float, Field(gt=0)]
PosWeight = Annotated[Literal["auto", "sqrt"] | float | tuple[float, ...], BeforeValidator(_pos_weight)]


class WeightedBCELoss(Record):
    """Binary cross-entropy whose positives weigh `pos_weight`.

    auto is negatives over positives per label, as the sampler presents them; sqrt its square root.
    """

    name: Literal["weighted_bce"]
    pos_weight: PosWeight = "auto"


class WeightedCELoss(Record):
    """Cross-entropy of two classes, for one label; `class_weight` is that of negatives, then of positives."""

    name: Literal["weighted_ce"]
    class_weight: Literal["auto"] | tuple[Positive, Positive] = "auto"


class FocalLoss(Record):
    """Focal loss (Lin 2017); `alpha` weighs positives and 1 - alpha negatives, `gamma` 0 is plain cross-entropy."""

    name: Literal["focal"]
    alpha: float = Field(default=0.25, gt=0, lt=1)
    gamma: float = Field(default=2.0, ge=0, le=10)


Loss = Annotated[WeightedBCELoss | WeightedCELoss | FocalLoss, Field(discriminator="name")]
