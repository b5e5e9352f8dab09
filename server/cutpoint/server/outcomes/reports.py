"""From a message to what it says of decisions that are known: checked, matched, weighed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadRequest, ModelNotFound, PolicyNotFound
from cutpoint.v1 import outcome_pb2 as v1
from numpy.typing import NDArray

from ..policy.policies import PolicyStore
from ..serving.models import Models
from .database import Graph
from .decisions import Decision, DecisionLog
from .form import check_form
from .store import LABEL, REQUESTED, SCORED, Entry, OutcomeStore

T = TypeVar("T", Decision, Entry)
# How far a caller's clock may be ahead of this one.
_AHEAD_S = 86_400.0


@dataclass(frozen=True)
class Miss:
    """An outcome that fits no decision: its place in the message, a stable word, and a sentence."""

    place: int
    reason: str
    text: str


@dataclass
class Matched:
    """What a message says: entries for the store, each with its outcome's place, and what fits nothing."""

    places: list[int] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)


class _Miss(Exception):
    """Raised while one outcome is looked at."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason, self.text = reason, text


def _ambiguous(request_id: str) -> _Miss:
    return _Miss("ambiguous_request", f"several requests with different answers had the id {request_id!r}")


class Reports:
    """Reads messages. Safe to call from any thread."""

    def __init__(
        self,
        models: Models,
        policies: PolicyStore,
        store: OutcomeStore,
        decisions: DecisionLog | None,
        *,
        patience_s: float = 0.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Match outcomes with what is known.

        Args:
            models: in service.
            policies: that decided.
            store: outcomes that are kept, whose decisions may be kept no more.
            decisions: by request; None where they are not kept.
            patience_s: how long a decision may take to be found that another process made, in seconds.
            now_s: seconds since 1970.
        """
        self._models, self._policies, self._store, self._decisions = models, policies, store, decisions
        self._patience_s, self._now_s = patience_s, now_s

    def match(self, request: v1.ReportOutcomesRequest) -> Matched:
        """What a message says.

        Raises:
            BadRequest: it is wrong, whatever is known; the message names the field.
            ModelNotFound: there is no such model.
        """
        check_form(request)
        message = _Message(request, self._models, self._policies, keeps_decisions=self._decisions is not None)
        found = self._requested(request)
        matched = Matched()
        for place, outcome in enumerate(request.outcomes):
            name = f"outcomes[{place}]"
            try:
                if outcome.WhichOneof("decision") == "scored":
                    entry = message.scored(name, outcome, self._now_s())
                else:
                    of = outcome.requested
                    decisions = found[of.request_id]
                    # Kept no more, but for an outcome of the same row: this one is again of it, or of more of its labels.
                    is_known = any(each.has(of.row) for each in decisions)
                    kept = [] if is_known else self._store.find(request.model, of.request_id.encode(), of.row, _window(of))
                    entry = message.again(name, outcome, kept) if kept else message.requested(name, outcome, decisions)
            except _Miss as miss:
                matched.misses.append(Miss(place, miss.reason, f"{name}: {miss.text}"))
            else:
                matched.places.append(place)
                matched.entries.append(entry)
        return matched

    def _requested(self, request: v1.ReportOutcomesRequest) -> dict[str, list[Decision]]:
        """The decisions of all requests that a message names, by their ids."""
        asked: dict[str, set[tuple[int, int]]] = {}
        for outcome in request.outcomes:
            if outcome.WhichOneof("decision") == "requested":
                of = outcome.requested
                asked.setdefault(of.request_id, set()).add((of.row, _window(of)))
        if not asked:
            return {}
        found: dict[str, list[Decision]] = {key: [] for key in asked}
        if self._decisions is not None:
            self._decisions.flush()
            found = {key: self._decisions.find(request.model, key, rows) for key, rows in asked.items()}
            missing = [key for key, decisions in found.items() if not decisions]
            if missing and self._patience_s:
                time.sleep(self._patience_s)  # another worker may have answered just now
                found |= {key: self._decisions.find(request.model, key, asked[key]) for key in missing}
        # A model that is gone may still have decided; of one that never was, it is better said than "unknown request".
        if not any(found.values()) and request.model not in (*self._models.names(), *self._store.models()):
            raise ModelNotFound(f"Request for unknown model: '{request.model}' is not found")
        return found


class _Message:
    """One message, with what is looked up once for all of its outcomes."""

    def __init__(
        self, request: v1.ReportOutcomesRequest, models: Models, policies: PolicyStore, *, keeps_decisions: bool
    ) -> None:
        self._request, self._models, self._policies = request, models, policies
        self._keeps_decisions = keeps_decisions
        self._served: tuple[Graph, int] | None = None
        self._places: dict[Graph, dict[str, int]] = {}
        self._thresholds: dict[tuple[str, int, int], NDArray[np.float32] | None] = {}

    def scored(self, name: str, outcome: v1.Outcome, now_s: float) -> Entry:
        """The entry of a decision that the caller kept."""
        graph, active = self._graph()
        of = outcome.scored
        if of.time_s > now_s + _AHEAD_S:
            expected = f"seconds since 1970, of a decision that was made; it is {now_s:.0f} now"
            raise BadRequest.of(f"{name}.scored.time_s", of.time_s, expected)
        logits = np.array(of.logits, np.float32)
        if len(logits) != len(graph.labels):
            expected = f"{len(graph.labels)}, one for each label of {graph.model}/{graph.version}"
            raise BadRequest.of(f"{name}.scored.logits", f"{len(logits)} numbers", expected)
        try:
            targets = self._targets(name, outcome, graph)
        except _Miss as miss:
            raise BadRequest(f"{name}: {miss.text}") from None
        lacking = np.flatnonzero(np.isnan(logits) & (targets != UNLABELLED))
        if len(lacking):
            of_label = f"{name}.scored.logits of label {graph.labels[lacking[0]]!r}"
            raise BadRequest.of(of_label, "NaN", "a number, for a label with an outcome")
        policy = of.policy_version or active
        try:
            thresholds = self._cuts(graph, policy)
        except PolicyNotFound as error:
            raise BadRequest.of(f"{name}.scored.policy_version", policy, f"a policy that decided: {error}") from None
        if policy and thresholds is None:
            expected = f"a policy of the graph that {graph.model}/{graph.version} has now"
            raise BadRequest.of(f"{name}.scored.policy_version", policy, expected)
        decided = _decided(logits, thresholds)
        return self._entry(graph, SCORED, of.key, 0, -1, of.time_s or now_s, logits, decided, targets)

    def requested(self, name: str, outcome: v1.Outcome, decisions: Sequence[Decision]) -> Entry:
        """The entry of a decision made for a request, of which `decisions` are known."""
        of = outcome.requested
        if not decisions:
            why = "" if self._keeps_decisions else ": this server keeps none (--decisions-mib 0)"
            raise _Miss("unknown_request", f"no decision is kept for request {of.request_id!r}{why}")
        some = self._of_version(of.request_id, decisions)
        if any(each.ambiguous for each in some):
            raise _ambiguous(of.request_id)
        if (some[0].windows > 0) != of.HasField("window"):
            found, expected = ("not given", "given") if some[0].windows else (of.window, "not given")
            raise BadRequest.of(f"{name}.requested.window", found, f"{expected}, for what {self._request.model} answers")
        rows = max(each.first_row + each.rows for each in some)
        if of.only_row and rows > 1:
            text = f"the row of request {of.request_id!r} is not given, which had {rows}; expected 0 to {rows - 1}"
            raise _Miss("row_not_given", text)
        parts = [each for each in some if each.has(of.row)]
        if len(parts) > 1:
            raise _ambiguous(of.request_id)
        if not parts:
            raise _Miss("no_such_row", f"row {of.row} of request {of.request_id!r}, which had {rows}")
        (part,) = parts
        window = _window(of)
        if (of.row, window) not in part.logits:
            raise _Miss("no_such_row", f"window {window} of request {of.request_id!r}, whose rows had {part.windows}")
        logits = part.logits[of.row, window]
        targets = self._targets(name, outcome, part.graph)
        try:
            thresholds = self._cuts(part.graph, part.policy)
        except PolicyNotFound:  # the store of policies was lost
            thresholds = None
        decided = _decided(logits, thresholds)
        return self._entry(part.graph, REQUESTED, of.request_id, of.row, window, part.decided_s, logits, decided, targets)

    def again(self, name: str, outcome: v1.Outcome, kept: Sequence[Entry]) -> Entry:
        """The entry of a row of which outcomes are `kept`."""
        of = outcome.requested
        if of.only_row:
            text = f"the row of request {of.request_id!r} is not given, and how many it had is not known any more"
            raise _Miss("row_not_given", text)
        (entry,) = self._of_version(of.request_id, kept)
        targets = self._targets(name, outcome, entry.graph)
        logits, decided = entry.labels["logit"], entry.labels["decided"]
        return self._entry(
            entry.graph, REQUESTED, of.request_id, of.row, entry.window, entry.decided_s, logits, decided, targets
        )  # fmt: skip

    def _of_version(self, request_id: str, found: Sequence[T]) -> list[T]:
        """Those of the version that the message speaks of; of one graph."""
        version = self._request.model_version
        some = [each for each in found if version in ("", str(each.graph.version))]
        if not some:
            made = sorted({each.graph.version for each in found})
            raise _Miss("other_version", f"request {request_id!r} was answered by version {made}, not {version}")
        if len({each.graph for each in some}) > 1:
            raise _ambiguous(request_id)
        return some

    def _entry(
        self,
        graph: Graph,
        kind: int,
        key: str,
        row: int,
        window: int,
        decided_s: float,
        logits: NDArray[np.float32],
        decided: NDArray[np.uint8],
        targets: NDArray[np.uint8],
    ) -> Entry:
        if self._request.sampling == v1.SAMPLING_ALERTED and (decided == 0).any() and not (decided == 1).any():
            of = f"key {key!r}" if kind == SCORED else f"row {row} of request {key!r}" + f", window {window}" * (window >= 0)
            raise _Miss("not_alerted", f"{of} did not alert; with sampling alerted only alerts are taken")
        labels = np.empty(len(targets), LABEL)
        labels["logit"], labels["target"], labels["decided"] = logits, targets, decided
        labels["weight"] = np.where(targets == UNLABELLED, 0, self._weight(decided))
        return Entry(graph, kind, key.encode(), row, window, decided_s, labels)

    def _weight(self, decided: NDArray[np.uint8]) -> float:
        """How many decisions one stands for that came to be looked at; 0 where nobody knows."""
        sampling = self._request.sampling
        if sampling in (v1.SAMPLING_UNKNOWN, v1.SAMPLING_ALERTED):
            return 0.0
        if sampling == v1.SAMPLING_ALL or (sampling == v1.SAMPLING_ALERTED_AND_RANDOM and (decided == 1).any()):
            return 1.0
        return 1 / self._request.probability

    def _graph(self) -> tuple[Graph, int]:
        """What scored decisions are of, and the version of its active policy."""
        if self._served is None:
            model = self._models.get(self._request.model, self._request.model_version)
            model.require_labels()
            active = 0 if model.active is None else model.active.policy.version
            self._served = model.graph, active
        return self._served

    def _cuts(self, graph: Graph, policy: int) -> NDArray[np.float32] | None:
        """A policy's thresholds; None where nothing was decided, or it is of another graph. PolicyNotFound."""
        if not policy:
            return None
        of = (graph.digest, graph.version, policy)
        if of not in self._thresholds:
            found = self._policies.get(graph.model, graph.version, policy)
            self._thresholds[of] = found.thresholds() if found.model_digest == graph.digest else None
        return self._thresholds[of]

    def _targets(self, name: str, outcome: v1.Outcome, graph: Graph) -> NDArray[np.uint8]:
        """UINT8 [label]."""
        version = f"{graph.model}/{graph.version}"
        if outcome.targets:
            targets = np.frombuffer(outcome.targets, np.uint8)
            if len(targets) != len(graph.labels):
                raise _Miss("unknown_label", f"targets of {len(targets)} labels; {version} has {len(graph.labels)}")
            return targets
        places = self._places.get(graph)
        if places is None:
            places = self._places[graph] = {label: i for i, label in enumerate(graph.labels)}
        targets = np.full(len(graph.labels), UNLABELLED, np.uint8)
        for target, names in ((1, outcome.positive), (0, outcome.negative)):
            for label in names:
                place = places.get(label)
                if place is None:
                    known = ", ".join(map(repr, graph.labels[:5])) + (", ..." if len(graph.labels) > 5 else "")
                    raise _Miss("unknown_label", f"label {label[:100]!r}; {version} has {known}")
                targets[place] = target
        return targets


def _window(of: v1.Requested) -> int:
    return of.window if of.HasField("window") else -1


def _decided(logits: NDArray[np.float32], thresholds: NDArray[np.float32] | None) -> NDArray[np.uint8]:
    """UINT8 [label]: 1 at or above the threshold, 0 below, `UNLABELLED` where nothing was decided."""
    decided = np.full(len(logits), UNLABELLED, np.uint8)
    if thresholds is not None:
        known = ~np.isnan(thresholds) & ~np.isnan(logits)
        decided[known] = (logits >= thresholds)[known]
    return decided
