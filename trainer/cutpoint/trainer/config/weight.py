"""How much a positive weighs in a loss."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

WORDS = ("auto", "sqrt", "effective")
BETA = 0.9999  # of the effective number: a class of more than about 1 / (1 - 0.9999) = 10,000 entries counts as no more
_FORMS = "auto, sqrt, effective, effective=BETA with 0 < BETA < 1, a positive number, a list of them, or one per label name"


def effective_beta(setting: str) -> float:
    """The beta of `effective` or `effective=BETA`; ValueError for what is not a number between 0 and 1."""
    _, equals, value = setting.partition("=")
    beta = float(value) if equals else BETA
    if not 0 < beta < 1:
        raise ValueError(f"beta {beta:g}")
    return beta


def _pos_weight(value: Any) -> Any:
    # One message for all the forms, where a union would give one for each.
    try:
        if isinstance(value, str) and (value in WORDS or (value.startswith("effective=") and effective_beta(value))):
            return value
        if isinstance(value, Mapping) and value:
            return {str(label): _positive(number) for label, number in value.items()}
        if isinstance(value, list | tuple) and value:
            return tuple(_positive(number) for number in value)
        return _positive(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected {_FORMS}") from None


def _positive(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise ValueError
    return number


PosWeight = Annotated[str | float | tuple[float, ...] | dict[str, float], BeforeValidator(_pos_weight)]
