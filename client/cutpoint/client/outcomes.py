"""What became of decisions, to the messages that report it, and what a server answers; for the sync and the async client."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from cutpoint.calibration.policy import Rate
from cutpoint.dataset import UNLABELLED, target_codes
from cutpoint.errors import BadInput, CutpointError
from cutpoint.v1 import calibration_pb2
from cutpoint.v1 import outcome_pb2 as v1
from numpy.typing import ArrayLike, NDArray

from .arrays import array_of

Sampling = Literal["unknown", "all", "alerted", "random", "alerted_and_random"]
_SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
# Outcomes of a message, and bytes of their labels and logits: an answer waits for its message to be on disk.
_MESSAGE_OUTCOMES, _MESSAGE_BYTES = 1000, 4 << 20
_PLACE = re.compile(r"^outcomes\[(\d+)\]")  # how an error names an outcome


@dataclass(frozen=True)
class Outcomes:
    """What became of some decisions: a row of `targets` for each of them.

    The decisions are either those of requests that were made with an id (`request_id`, `rows`, `windows`), which the server
    keeps, or given with the logits that were answered and a key each (`keys`, `logits`), by which they are counted once.

    Attributes:
        targets: [outcome] for one label, or [outcome, label]: 0, 1, and -1, 255 or NaN for not known. Of whole rows of windows
            [row, window, label].
        request_id: of all of them, or one for each.
        rows: [outcome] row of what was scored, from 0; None for 0, 1, 2 ... of one request, or the only row of each of several.
        windows: [outcome] window of the row, from 0, of models of windows.
        keys: one for each, the caller's own.
        logits: [outcome, label], or [outcome] for one label, as they were answered; NaN where one is not kept.
        labels: whose targets they are; empty for all of the model's, in its order.
        policy_version: that decided, with `logits`; 0 for the one that is active now.
        times_s: when it was decided, seconds since 1970, with `logits`: one for all, or [outcome]; None for now.
    """

    targets: ArrayLike
    request_id: str | Sequence[str] | None = None
    rows: ArrayLike | None = None
    windows: ArrayLike | None = None
    keys: Sequence[str] | None = None
    logits: ArrayLike | None = None
    labels: Sequence[str] = ()
    policy_version: int = 0
    times_s: ArrayLike | None = None


@dataclass(frozen=True)
class UnmatchedOutcome:
    """An outcome that fits no decision: its row among the targets, a stable word, and a sentence."""

    row: int
    reason: str
    text: str


@dataclass
class Reported:
    """What became of outcomes.

    Attributes:
        taken: with a label that was not known before.
        repeated: with nothing new; counted before.
        corrected: with a label that was known otherwise, and is replaced.
        unmatched: those that fit no decision, the first 1000 of each message.
        unmatched_reasons: how many there are, by reason.
    """

    taken: int = 0
    repeated: int = 0
    corrected: int = 0
    unmatched: list[UnmatchedOutcome] = field(default_factory=list)
    unmatched_reasons: Counter[str] = field(default_factory=Counter)

    def add(self, response: v1.ReportOutcomesResponse, rows: Sequence[int]) -> None:
        """Add the answer to a message; `rows` are those of its outcomes."""
        self.taken += response.taken
        self.repeated += response.repeated
        self.corrected += response.corrected
        self.unmatched += [UnmatchedOutcome(rows[each.outcome], each.reason, each.text) for each in response.unmatched]
        self.unmatched_reasons.update(response.unmatched_reasons)


@dataclass(frozen=True)
class LabelOutcomes:
    """What outcomes say of a label.

    Attributes:
        undecided_positives, undecided_negatives: nothing was decided: there was no policy, or the label had no threshold.
        precision: of the alerts with an outcome, those that were right, with its interval at 95 %; None where there are none.
        recall: of what was there, that which alerted, from outcomes whose sampling allows it; None where there are none.
        recall_reason: why there is no recall.
    """

    label: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    undecided_positives: int
    undecided_negatives: int
    precision: Rate | None
    recall: Rate | None
    recall_reason: str


@dataclass(frozen=True)
class OutcomeSummary:
    """What the outcomes say that a server keeps of a model version: of `rows` rows or windows, by label."""

    model: str
    model_version: int
    rows: int
    labels: tuple[LabelOutcomes, ...]


@dataclass(frozen=True)
class FromOutcomes:
    """What to calibrate from: the outcomes that the server keeps, with the scores that they are of.

    Attributes:
        since_s: of decisions from this time on, seconds since 1970; None for all.
        until_s: and before this one.
        any_sampling: take those too of which nobody knows how they came to be looked at, each as one row. A cut chosen from
            alerts alone takes every miss for nothing.
    """

    since_s: float | None = None
    until_s: float | None = None
    any_sampling: bool = False

    def message(self) -> calibration_pb2.KeptOutcomes:
        """As the header of a calibration has it."""
        return calibration_pb2.KeptOutcomes(since_s=self.since_s, until_s=self.until_s, any_sampling=self.any_sampling)


@dataclass(frozen=True)
class Asked:
    """What is the same for all messages of a report, checked."""

    model: str
    version: str
    sampling: Sampling
    probability: float | None
    replace: bool

    def __post_init__(self) -> None:
        if self.sampling not in _SAMPLINGS:
            raise BadInput.of("sampling", repr(self.sampling), "one of " + ", ".join(_SAMPLINGS))
        if self.sampling.endswith("random"):
            if self.probability is None or not 1e-6 <= self.probability <= 1:
                found = "not given" if self.probability is None else self.probability
                raise BadInput.of("probability", found, f"1e-06 to 1, with sampling {self.sampling}")
        elif self.probability is not None:
            raise BadInput.of("probability", self.probability, f"none, with sampling {self.sampling}")

    def messages(self, outcomes: Outcomes) -> Iterator[tuple[v1.ReportOutcomesRequest, list[int]]]:
        """The messages that report these, and the rows of their outcomes; all is checked before the first one is made."""
        made, width = _outcomes(outcomes)

        def messages() -> Iterator[tuple[v1.ReportOutcomesRequest, list[int]]]:
            each = min(_MESSAGE_OUTCOMES, max(1, _MESSAGE_BYTES // width))
            some: list[v1.Outcome] = []
            rows: list[int] = []
            for row, outcome in made:
                some.append(outcome)
                rows.append(row)
                if len(some) == each:
                    yield self._message(some), rows
                    some, rows = [], []
            if some:
                yield self._message(some), rows

        return messages()

    def _message(self, some: list[v1.Outcome]) -> v1.ReportOutcomesRequest:
        return v1.ReportOutcomesRequest(
            model=self.model, model_version=self.version, outcomes=some, replace=self.replace,
            sampling=f"SAMPLING_{self.sampling.upper()}", probability=self.probability or 0.0,
        )  # fmt: skip


@contextmanager
def naming(rows: Sequence[int], reported: Reported) -> Iterator[None]:
    """Have an error about a message say which of the targets it is about, and that those in earlier messages were taken.

    Args:
        rows: of the message's outcomes among the targets; the server counts from 0 in each message.
        reported: what became of the messages before this one.
    """
    try:
        yield
    except CutpointError as error:
        text = _PLACE.sub(lambda found: f"outcomes[{rows[int(found[1])]}]", str(error), count=1)
        before = reported.taken + reported.repeated + reported.corrected
        if before:
            text += f"; {before} before it are kept, and may be reported again"
        if text == str(error):
            raise
        raise type(error)(text) from error


def summary_of(response: v1.GetOutcomeSummaryResponse) -> OutcomeSummary:
    """A summary from its message."""
    return OutcomeSummary(
        response.model,
        int(response.model_version),
        response.rows,
        tuple(
            LabelOutcomes(
                each.label, each.true_positives, each.false_positives, each.false_negatives, each.true_negatives,
                each.undecided_positives, each.undecided_negatives,
                _rate(each.precision) if each.HasField("precision") else None,
                _rate(each.recall) if each.HasField("recall") else None, each.recall_reason,
            )
            for each in response.labels
        ),
    )  # fmt: skip


def _rate(found: v1.ConfirmedRate) -> Rate:
    return Rate(value=found.value, low=found.low, high=found.high)


def _outcomes(given: Outcomes) -> tuple[Iterator[tuple[int, v1.Outcome]], int]:
    """The outcomes with a known label, each with its row among the targets, and the bytes that one takes, about."""
    targets, rows, windows = _flat(given)
    labels = [str(label) for label in ([given.labels] if isinstance(given.labels, str) else given.labels)]
    if labels and targets.shape[1] != len(labels):
        raise BadInput.of("targets", list(targets.shape), f"[outcome, {len(labels)}], as many as there are labels")
    if len(targets) == 0:
        raise BadInput.of("targets", "empty", "at least one outcome")
    if (given.request_id is None) == (given.keys is None):
        found = "both given" if given.keys is not None else "not given"
        raise BadInput.of("request_id and keys", found, "one of them: of decisions that the server keeps, or of your own")
    if given.keys is not None:
        decisions, width = _scored(given, len(targets)), targets.shape[1] * 5
    else:
        decisions, width = _requested(given, len(targets), rows, windows), targets.shape[1]

    def outcomes() -> Iterator[tuple[int, v1.Outcome]]:
        for row, (decision, codes) in enumerate(zip(decisions, targets, strict=True)):
            if (codes == UNLABELLED).all():
                continue  # not known yet
            if labels:
                decision.positive.extend(labels[i] for i in np.flatnonzero(codes == 1))
                decision.negative.extend(labels[i] for i in np.flatnonzero(codes == 0))
            else:
                decision.targets = codes.tobytes()
            yield row, decision

    return outcomes(), width + 100


def _flat(given: Outcomes) -> tuple[NDArray[np.uint8], NDArray[Any] | None, NDArray[Any] | None]:
    """Targets [outcome, label], and rows and windows [outcome] where they are known."""
    targets = target_codes("targets", array_of("targets", given.targets))
    rows = None if given.rows is None else _whole("rows", given.rows)
    windows = None if given.windows is None else _whole("windows", given.windows)
    if targets.ndim == 3 and given.keys is None and windows is None:
        many, per_row = targets.shape[:2]
        if rows is not None and len(rows) != many:
            raise BadInput.of("rows", f"{len(rows)} of them", f"{many}, one for each row of the targets")
        rows = np.repeat(np.arange(many) if rows is None else rows, per_row)
        return targets.reshape(many * per_row, -1), rows, np.tile(np.arange(per_row), many)
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2:
        expected = "[outcome], [outcome, label], or [row, window, label] of whole rows of a request"
        raise BadInput.of("targets", list(targets.shape), expected)
    return targets, rows, windows


def _requested(given: Outcomes, count: int, rows: NDArray[Any] | None, windows: NDArray[Any] | None) -> Iterator[v1.Outcome]:
    for name, beside in (
        ("logits", given.logits),
        ("policy_version", given.policy_version or None),
        ("times_s", given.times_s),
    ):
        if beside is not None:
            raise BadInput.of(name, "given", "none beside request_id: the server keeps it")
    assert given.request_id is not None
    one = isinstance(given.request_id, str)
    ids = [str(given.request_id)] * count if one else [str(each) for each in given.request_id]
    if not all(ids):
        raise BadInput.of("request_id", "empty", "the id that the rows were scored with")
    only_row = rows is None and not (one and windows is None)
    if rows is None:
        rows = np.zeros(count, np.int64) if only_row else np.arange(count)
    for name, part in (("request_id", ids), ("rows", rows), ("windows", windows)):
        if part is not None and len(part) != count:
            raise BadInput.of(name, f"{len(part)} of them", f"{count}, one for each outcome")
    of = [None] * count if windows is None else windows.tolist()
    return (
        v1.Outcome(requested=v1.Requested(request_id=request_id, row=row, window=window, only_row=only_row))
        for request_id, row, window in zip(ids, rows.tolist(), of, strict=True)
    )


def _scored(given: Outcomes, count: int) -> Iterator[v1.Outcome]:
    for name, beside in (("rows", given.rows), ("windows", given.windows)):
        if beside is not None:
            raise BadInput.of(name, "given", "none beside keys: a key names one row, or one window")
    if given.logits is None or given.keys is None:
        raise BadInput.of("logits", "not given", "those that were answered, with keys")
    keys = [given.keys] if isinstance(given.keys, str) else [str(key) for key in given.keys]
    logits = np.asarray(array_of("logits", given.logits), np.float32)
    logits = logits[:, None] if logits.ndim == 1 else logits
    if len(keys) != count or logits.ndim != 2 or len(logits) != count:
        found = f"{len(keys)} keys and logits {list(logits.shape)}"
        raise BadInput.of("keys and logits", found, f"{count} of each, as the targets: [outcome, label]")
    if not all(keys):
        raise BadInput.of("keys", "empty", "text by which each outcome is known")
    if not 0 <= given.policy_version < 1 << 32:
        raise BadInput.of("policy_version", given.policy_version, "0 for the one that is active now, or a version, of 32 bits")
    times = np.zeros(1) if given.times_s is None else np.atleast_1d(np.asarray(given.times_s, np.float64))
    if times.shape not in ((1,), (count,)):
        raise BadInput.of("times_s", list(times.shape), f"one time, or {count}, one for each outcome")
    return (
        v1.Outcome(scored=v1.Scored(key=key, logits=row, policy_version=given.policy_version, time_s=time_s))
        for key, row, time_s in zip(keys, logits, np.broadcast_to(times, count).tolist(), strict=True)
    )


def _whole(name: str, given: ArrayLike) -> NDArray[Any]:
    found = np.atleast_1d(np.asarray(given))
    if found.ndim != 1 or found.dtype.kind not in "iu" or (len(found) and not 0 <= found.min() <= found.max() < 1 << 32):
        raise BadInput.of(name, f"{found.dtype} {list(found.shape)}", "[outcome] whole numbers from 0")
    return found
