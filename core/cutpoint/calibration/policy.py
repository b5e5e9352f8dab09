"""A policy: for every label of a model the cut, what it was chosen for, the rates expected at it, and from what data.

The trainer ships the first one, the server applies the active one, the calibration calls replace it, and the metrics compare
live traffic with it. JSON; the same document on disk, in the store and on the wire.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from ..validation import Record
from .calibrator import Calibrator, ProbabilityMap
from .guarantee import Guarantee, Guaranteed
from .notation import parse_objective
from .objective import Units
from .surprise import smallest_factors

# Raised as cutpoint.bundle.manifest says for its own. Format 1, of version 0.1.0, is read too: see `_upgraded`.
FORMAT: Literal[2] = 2

Share = Annotated[float, Field(ge=0, le=1)]
# A whole number where rows are counted; a sum of weights where they are weighted.
Count = Annotated[int | float, Field(ge=0)]
ObjectiveText = Annotated[str, AfterValidator(lambda text: str(parse_objective(text)))]
_Z = 1.959964  # of an interval at 95 %
Status = Literal["OK", "FALLBACK", "INSUFFICIENT", "INFEASIBLE"]


class Rate(Record):
    """A share, 0 to 1, with its Clopper-Pearson interval at 95 %.

    The interval takes rows as independent; of weighted rows, or rows in groups, it takes the effective number of them (Kish
    1965; Korn and Graubard 1998).
    """

    value: Share
    low: Share
    high: Share

    @property
    def rse(self) -> float:
        """The relative standard error that the interval says, which knows of weights and groups; NaN where the rate is 0."""
        return (self.high - self.low) / (2 * _Z * self.value) if self.value > 0 else math.nan


class Counts(Record):
    """Rows of the calibration data, and those of each class that alert at the cut.

    Attributes:
        positives, negatives: labelled rows.
        tp, fp: those of them that alert.
        unlabelled: rows without a known class, where the data have none.
        unlabelled_alerts: those of them that alert.
    """

    positives: Count
    negatives: Count
    tp: Count
    fp: Count
    unlabelled: Count = 0
    unlabelled_alerts: Count = 0

    @property
    def rows(self) -> int | float:
        """All rows."""
        return self.positives + self.negatives + self.unlabelled

    @property
    def alerts(self) -> int | float:
        """All rows that alert."""
        return self.tp + self.fp + self.unlabelled_alerts


class Expected(Record):
    """The rates expected at the cut, from the counts; None where the denominator is 0 or the classes are unknown."""

    precision: Rate | None
    recall: Rate | None
    fpr: Rate | None
    alert_rate: Rate


class Needs(Record):
    """How much it would take at least: `count` of what `of` says."""

    count: int = Field(ge=0)
    of: Units


class LabelPolicy(Record):
    """One label's cut.

    Attributes:
        objective: what the cut was chosen for.
        status: OK; FALLBACK where the cut comes from elsewhere, since the label's own data are too few; INSUFFICIENT where they
            are too few and there is no cut; INFEASIBLE where they say that no cut will do.
        threshold: float32 logit; a row alerts when its logit >= threshold. None for INSUFFICIENT and INFEASIBLE.
        reason: for a person: why the status is not OK, or what was done to the cut.
        needs: how much labelled data the objective would take at least, where that can be said.
        guarantee: the bound that the cut was chosen to keep for new data; None where it was chosen to fit these.
        expected: None exactly where there is no threshold.
        calibrator: from the logit to the probability.
    """

    label: str
    objective: ObjectiveText
    status: Status
    threshold: float | None
    reason: str = ""
    needs: Needs | None = None
    guarantee: Guaranteed | None = None
    counts: Counts
    expected: Expected | None
    calibrator: Calibrator = Calibrator()

    @property
    def watched_from(self) -> float:
        """How many times the expected alert rate the live one has to be before CutpointPositiveRateHigh can fire; from 1.

        It is infinite where that never is: nothing is expected, so many alerts there cannot be, or there is no threshold.
        """
        if self.expected is None:
            return math.inf
        rate = self.expected.alert_rate
        factor = float(smallest_factors(rate.rse)[0])
        return factor if factor * rate.value <= 1 else math.inf

    @model_validator(mode="after")
    def _decided_means_a_threshold(self) -> Self:
        decided = self.status in ("OK", "FALLBACK")
        if decided != (self.threshold is not None) or decided != (self.expected is not None):
            raise ValueError("threshold and expected must be given exactly when status is OK or FALLBACK")
        if self.threshold is not None and float(np.float32(self.threshold)) != self.threshold:
            raise ValueError("threshold must be a float32 value")
        return self


class DataSummary(Record):
    """What a policy was made from.

    Attributes:
        source: scores in memory, a histogram of them, or outcomes that a server kept with the scores that they are of.
        rows: rows in all (for windows, windows), labelled or not; of a histogram the most that any label has.
        groups: how many groups of rows were drawn independently; None where rows were.
        step: width of the histogram's bins, logits; None for scores.
    """

    source: Literal["scores", "histogram", "outcomes"]
    rows: int = Field(ge=0)
    labelled: bool = True
    weighted: bool = False
    groups: int | None = None
    step: float | None = None


class Policy(Record):
    """One calibration of one graph.

    Attributes:
        version: number of the policy among those of its model, from 1; a store gives it.
        parent: the policy version that was active when this one was made.
        model_digest: SHA-256 of the ONNX file whose logits were calibrated; the policy fits no other.
        data_digest: SHA-256 of the labelled scores.
        data: what they were; None in policies of format 1.
        guarantee: what was asked of the labels that have one.
        created: UTC time, ISO 8601.
        author: who or what made it.
    """

    format: Literal[2] = FORMAT
    model: str
    model_version: int = Field(ge=1)
    model_digest: str
    version: int = Field(default=1, ge=1)
    parent: int | None = None
    created: str
    author: str
    data_digest: str
    data: DataSummary | None = None
    guarantee: Guarantee | None = None
    labels: tuple[LabelPolicy, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, document: Any) -> Any:
        """A document of format 1 as one of format 2, which has more fields and says `needs` of more than positives."""
        if not isinstance(document, dict) or document.get("format") != 1:
            return document
        labels = document.get("labels")
        if isinstance(labels, list | tuple):
            labels = [_upgraded_label(label) for label in labels]
        return {**document, "format": FORMAT, "labels": labels}

    @property
    def undecided(self) -> tuple[LabelPolicy, ...]:
        """The labels without a threshold."""
        return tuple(label for label in self.labels if label.threshold is None)

    @property
    def delta_spent(self) -> float:
        """Probability with which any label's guarantee may be broken, at most (by the union bound), 0 to 1."""
        return min(1.0, sum(label.guarantee.delta for label in self.labels if label.guarantee is not None))

    def thresholds(self) -> NDArray[np.float32]:
        """Float32 [label]; NaN, which no logit reaches, where a label has none."""
        return np.array([np.nan if c.threshold is None else c.threshold for c in self.labels], np.float32)

    def expected_rates(self) -> NDArray[np.float64]:
        """Expected alert rate, float64 [label], 0 to 1; NaN where a label has no threshold."""
        return np.array([np.nan if c.expected is None else c.expected.alert_rate.value for c in self.labels])

    def probability_map(self) -> ProbabilityMap:
        """From logits [..., label] to calibrated probabilities, by the labels' calibrators."""
        return ProbabilityMap([label.calibrator for label in self.labels])

    def to_json(self) -> str:
        """The document, indented, ending in a newline; `from_json` gives an equal policy."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document; pydantic's ValidationError (a ValueError) where it is none."""
        return cls.model_validate_json(text)


def _upgraded_label(label: Any) -> Any:
    if not isinstance(label, dict):
        return label
    renamed = dict(label)
    needs = renamed.pop("needs_positives", None)
    return renamed if needs is None else {**renamed, "needs": {"count": needs, "of": "positives"}}


def reasons_of(labels: Sequence[LabelPolicy]) -> str:
    """In one line why labels have no threshold: the first five of them, and how many more there are."""
    shown = "; ".join(f"{label.label}: {label.status}, {label.reason}" for label in labels[:5])
    return shown + (f"; and {len(labels) - 5} more" if len(labels) > 5 else "")
