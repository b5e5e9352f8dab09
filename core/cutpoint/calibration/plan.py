"""A plan: everything that is asked of a calibration, in one record, whoever asks: command, wire, configuration or code."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError

from ..errors import BadInput
from ..validation import Record, first_problem
from .calibrator import Kind
from .guarantee import Guarantee
from .notation import parse_objective, split_label
from .objective import Objective

_CALIBRATORS = ("auto", *get_args(Kind))
_Fallback = Literal["none", "pooled", "previous"]


class Plan(Record):
    """What to choose the labels' cuts for, and how.

    Attributes:
        objective: `name=value`, of every label that has none of its own.
        objectives: by label, in place of `objective`. Labels that share a joint objective share its budget.
        guarantee: keep the objectives' bounds for new data with probability 1 - delta; None to fit the labelled data.
        calibrator: of probabilities; "auto" by the number of positives.
        min_positives: labels with fewer labelled positives (or 1, where the objective needs labels) get no cut of their own.
        shrink: cuts of labels with n positives are moved towards the pooled cut, by shrink / (n + shrink) of the way: 4 is a
            good choice for max_fbeta with few positives. It moves only cuts that maximise something, none that keeps a bound.
        fallback: what a label with too little data gets: no cut, the pooled cut, or that of the previous policy.
    """

    objective: str
    objectives: dict[str, str] = Field(default_factory=dict)
    guarantee: Guarantee | None = None
    calibrator: Kind | Literal["auto"] = "auto"
    min_positives: Annotated[int, Field(ge=0)] = 0
    shrink: Annotated[float, Field(ge=0)] = 0.0
    fallback: _Fallback = "none"

    @classmethod
    def of(
        cls,
        objective: str | Objective | Sequence[str],
        *,
        objectives: Mapping[str, str] | None = None,
        delta: float | None = None,
        simultaneous: bool = False,
        by_group: bool = False,
        **settings: Any,
    ) -> Self:
        """A plan from what a person gives.

        Args:
            objective: `name=value`, or several, of which those written `label:name=value` are for one label.
            objectives: by label.
            delta: asks for a guarantee, which may be broken with this probability.
            simultaneous: delta is for all labels at once.
            by_group: the guarantee counts groups of rows.
            settings: the other attributes; None for "not given".

        Raises:
            BadInput: an unknown or unreadable setting, or a guarantee of an objective that has none; the message names it.
        """
        texts = [str(objective)] if isinstance(objective, str | Objective) else [str(text) for text in objective]
        whole: list[str] = []
        each = dict(objectives or {})
        for text in texts:
            label, wanted = split_label(text)
            if label is None:
                whole.append(wanted)
            elif label in each:
                raise BadInput.of(f"objective of label {label!r}", "given twice", "each label once")
            else:
                each[label] = wanted
        if len(whole) != 1:
            raise BadInput.of("objective", whole or "not given", "one for all labels, and others as LABEL:NAME=VALUE")
        if delta is None and (simultaneous or by_group):
            raise BadInput.of("delta", "not given", "a probability, with simultaneous or by_group: they are of a guarantee")
        for name, known in (("calibrator", _CALIBRATORS), ("fallback", get_args(_Fallback))):
            value = settings.get(name)
            if value is not None and value not in known:
                raise BadInput.of(f"calibration: {name}", repr(value), "one of " + ", ".join(known))
        try:
            guarantee = None
            if delta is not None:
                family, unit = "simultaneous" if simultaneous else "per_label", "group" if by_group else "row"
                guarantee = Guarantee.model_validate({"delta": delta, "family": family, "unit": unit})
            given = {name: value for name, value in settings.items() if value is not None}
            made = cls.model_validate(
                {
                    "objective": str(parse_objective(whole[0])),
                    "objectives": {label: str(_objective_of(label, text)) for label, text in each.items()},
                    "guarantee": guarantee,
                    **given,
                }
            )
        except ValidationError as error:
            raise BadInput(f"calibration: {first_problem(error)}") from None
        if made.guarantee is not None:
            parse_objective(made.objective).check_guarantee()
            for label, wanted in made.objectives.items():
                with _naming(label):
                    parse_objective(wanted).check_guarantee()
        return made

    def for_labels(self, labels: Sequence[str]) -> list[Objective]:
        """The objective of each label; BadInput where one is for a label that is not there."""
        unknown = sorted(set(self.objectives) - set(labels))
        if unknown:
            raise BadInput.of("objectives for labels", unknown[:5], f"labels among {list(labels[:20])}")
        return [parse_objective(self.objectives.get(label, self.objective)) for label in labels]

    def __str__(self) -> str:
        texts = sorted({self.objective, *self.objectives.values()})
        sure = f" at delta {self.guarantee.delta:g}" if self.guarantee is not None else ""
        return ", ".join(texts) + sure


def _objective_of(label: str, text: str) -> Objective:
    with _naming(label):
        return parse_objective(text)


@contextmanager
def _naming(label: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"label {label!r}: {error}") from None
