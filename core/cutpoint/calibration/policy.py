"""A policy: for every label of a model the cut, what it was chosen for, the rates expected at it, and from what data.

The trainer ships the first one, the server applies the active one, the calibration calls replace it, and the metrics compare
live traffic with it. JSON; the same document on disk, in the store and on the wire.
"""

from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from ..validation import Record
from .objective import parse_objective

FORMAT: Literal[1] = 1  # raised as cutpoint.bundle.manifest says for its own

Share = Annotated[float, Field(ge=0, le=1)]
ObjectiveText = Annotated[str, AfterValidator(lambda text: str(parse_objective(text)))]
Status = Literal["OK", "INSUFFICIENT", "INFEASIBLE"]


class Rate(Record):
    """A share of rows, 0 to 1, with its Clopper-Pearson interval at 95 % (rows taken as independent)."""

    value: Share
    low: Share
    high: Share


class Counts(Record):
    """Labelled rows of the calibration data, and those of each class that alert at the cut."""

    positives: int = Field(ge=0)
    negatives: int = Field(ge=0)
    tp: int = Field(ge=0)
    fp: int = Field(ge=0)

    @property
    def rows(self) -> int:
        """Labelled rows."""
        return self.positives + self.negatives


class Expected(Record):
    """The rates expected at the cut, from the counts; None where the denominator is 0."""

    precision: Rate | None
    recall: Rate | None
    fpr: Rate | None
    alert_rate: Rate


class Calibrator(Record):
    """The map from logit to probability; "none" is the plain sigmoid, since exported graphs have the prior undone."""

    kind: Literal["none"] = "none"


class LabelPolicy(Record):
    """One label's cut.

    Attributes:
        threshold: float32 logit; a row alerts when its logit >= threshold. None unless status is OK.
        reason: for a person, why status is not OK.
        needs_positives: how many labelled positives the objective would take, where that can be said.
        expected: None unless status is OK.
    """

    label: str
    objective: ObjectiveText
    status: Status
    threshold: float | None
    reason: str = ""
    needs_positives: int | None = None
    counts: Counts
    expected: Expected | None
    calibrator: Calibrator = Calibrator()

    @model_validator(mode="after")
    def _ok_means_a_threshold(self) -> Self:
        if (self.status == "OK") != (self.threshold is not None) or (self.status == "OK") != (self.expected is not None):
            raise ValueError("threshold and expected must be given exactly when status is OK")
        if self.threshold is not None and float(np.float32(self.threshold)) != self.threshold:
            raise ValueError("threshold must be a float32 value")
        return self


class Policy(Record):
    """One calibration of one graph.

    Attributes:
        version: number of the policy among those of its model, from 1; a store gives it.
        parent: the policy version that was active when this one was made.
        model_digest: SHA-256 of the ONNX file whose logits were calibrated; the policy fits no other.
        data_digest: SHA-256 of the labelled scores.
        created: UTC time, ISO 8601.
        author: who or what made it.
    """

    format: Literal[1] = FORMAT
    model: str
    model_version: int = Field(ge=1)
    model_digest: str
    version: int = Field(default=1, ge=1)
    parent: int | None = None
    created: str
    author: str
    data_digest: str
    labels: tuple[LabelPolicy, ...] = Field(min_length=1)

    @property
    def undecided(self) -> tuple[LabelPolicy, ...]:
        """The labels without a threshold."""
        return tuple(label for label in self.labels if label.threshold is None)

    def thresholds(self) -> NDArray[np.float32]:
        """Float32 [label]; NaN, which no logit reaches, where a label has none."""
        return np.array([np.nan if c.threshold is None else c.threshold for c in self.labels], np.float32)

    def expected_rates(self) -> NDArray[np.float64]:
        """Expected alert rate, float64 [label], 0 to 1; NaN where a label has no threshold."""
        return np.array([np.nan if c.expected is None else c.expected.alert_rate.value for c in self.labels])

    def to_json(self) -> str:
        """The document, indented, ending in a newline; `from_json` gives an equal policy."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a document; pydantic's ValidationError (a ValueError) where it is none."""
        return cls.model_validate_json(text)


def probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Calibrated probabilities, float32 0 to 1, of logits of any shape: their sigmoid."""
    z = np.asarray(logits, np.float32)
    # The form that never overflows: exp of a non-positive number only.
    e = np.exp(-np.abs(z))
    result: NDArray[np.float32] = np.where(z >= 0, np.float32(1), e) / (1 + e)
    return result
