"""The one notation of objectives: `name=value` in commands, configuration and policies, and on the wire."""

import re

from ..errors import BadInput
from .bounds import AlertRateAtMost, FprAtMost, PrecisionAtLeast, RecallAtLeast
from .joint import AlertBudget, MaxMicroFBeta
from .objective import MaxFBeta, MinCost, Objective

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (
        MaxFBeta, PrecisionAtLeast, RecallAtLeast, FprAtMost, AlertRateAtMost, MinCost, MaxMicroFBeta, AlertBudget,
    )
}  # fmt: skip
_FOR_LABEL = re.compile(rf"(?:(?P<label>.+):)?(?P<objective>\s*(?:{'|'.join(OBJECTIVES)})\s*=.*)", re.DOTALL)


def parse_objective(text: str) -> Objective:
    """Read the notation `name=value`, as in `recall_at_least=0.9`.

    Raises:
        BadInput: an unknown name, or a value out of range; the message lists what is known.
    """
    name, _, value = text.strip().partition("=")
    kind = OBJECTIVES.get(name.strip())
    if kind is None:
        raise BadInput.of("objective", repr(text), "one of " + ", ".join(f"{known}=VALUE" for known in OBJECTIVES))
    return kind.read(value)


def split_label(text: str) -> tuple[str | None, str]:
    """The label and the objective in `label:name=value`; None for the label where there is none. Labels may hold any sign."""
    found = _FOR_LABEL.fullmatch(text)
    return (None, text) if found is None else (found["label"], found["objective"])
