"""`cutpoint.v1.OutcomeService`: what became of earlier decisions, taken, kept and told."""

from collections import Counter
from concurrent.futures import Executor

from cutpoint.calibration import Rate
from cutpoint.errors import ModelNotFound
from cutpoint.v1 import outcome_pb2 as v1

from ..port.admission import Admission
from ..port.rpc import Rpc, answered_stream, pooled
from ..port.transport import Call
from ..serving.models import Models
from .confirmed import Confirmed
from .counters import Counters
from .database import Graph, said
from .form import refuse_many
from .reports import Matched, Miss, Reports
from .store import REQUESTED, Added, OutcomeStore, time_range

SERVICE = v1.DESCRIPTOR.services_by_name["OutcomeService"].full_name
# Of a message's outcomes that fit nothing, those that are told one by one.
_MOST_TOLD = 1000


class OutcomeService:
    """One method per RPC; all of them read the disk."""

    def __init__(self, models: Models, store: OutcomeStore, reports: Reports, counters: Counters) -> None:
        """Take outcomes for `models` into `store`, as `reports` reads them, and tell `counters`."""
        self._models, self._store, self._reports, self._counters = models, store, reports, counters

    def rpcs(self, pool: Executor, admission: Admission) -> list[Rpc]:
        """The service's RPCs, answered in threads of `pool`, within what `admission` allows."""
        of, ask = v1.ReportOutcomesRequest, v1.GetOutcomeSummaryRequest
        return [
            pooled(f"/{SERVICE}/ReportOutcomes", of, self.report, pool, admission=admission, check=refuse_many),
            pooled(f"/{SERVICE}/GetOutcomeSummary", ask, self.summary, pool, admission=admission),
            answered_stream(f"/{SERVICE}/StreamOutcomes", of, self.report, pool, admission=admission, check=refuse_many),
        ]

    def report(self, request: v1.ReportOutcomesRequest, call: Call) -> v1.ReportOutcomesResponse:
        """Take a message's outcomes; they are on disk when this returns."""
        with said():
            matched = self._reports.match(request)
            added = self._store.add(matched.entries, replace=request.replace)
        misses = sorted(matched.misses + _refused(matched, added), key=lambda miss: miss.place)
        self._count(request.model, added, misses)
        fates = Counter(fate for fate, _ in added.fates)
        response = v1.ReportOutcomesResponse(
            taken=fates["taken"], repeated=fates["repeated"], corrected=fates["corrected"],
            unmatched_reasons=Counter(miss.reason for miss in misses),
        )  # fmt: skip
        for miss in misses[:_MOST_TOLD]:
            response.unmatched.add(outcome=miss.place, reason=miss.reason, text=miss.text)
        return response

    def summary(self, request: v1.GetOutcomeSummaryRequest, call: Call) -> v1.GetOutcomeSummaryResponse:
        """What the kept outcomes of a version say, of the graph that it has, or had last."""
        since_s, until_s = time_range(request)
        with said(), self._store.snapshot() as snapshot:
            graph = self._graph(request.model, request.model_version)
            confirmed = Confirmed(len(graph.labels))
            confirmed.add_all(chunk.labels for chunk in snapshot.kept(graph, since_s, until_s))
        response = v1.GetOutcomeSummaryResponse(model=graph.model, model_version=str(graph.version), rows=confirmed.rows)
        for i, label in enumerate(graph.labels):
            (tn, fn), (fp, tp) = confirmed.counts[i].tolist()
            response.labels.add(
                label=label, true_positives=tp, false_positives=fp, false_negatives=fn, true_negatives=tn,
                undecided_positives=int(confirmed.undecided[i, 1]), undecided_negatives=int(confirmed.undecided[i, 0]),
                precision=_rate(confirmed.precision(i)), recall=_rate(confirmed.recall(i)),
                recall_reason=confirmed.recall_reason(i),
            )  # fmt: skip
        return response

    def _graph(self, name: str, version: str) -> Graph:
        try:
            model = self._models.get(name, version)
        except ModelNotFound:
            if not (version.isascii() and version.isdecimal() and len(version) < 19):
                raise
            known = self._store.graphs(name, int(version))  # of a version that is served no more
            if not known:
                raise
            return known[0]
        model.require_labels()
        return model.graph

    def _count(self, name: str, added: Added, misses: list[Miss]) -> None:
        for graph, counted in added.counted.items():
            served = self._models.find(graph.model, str(graph.version))
            if served is None or served.graph != graph:
                continue  # its series are those of another graph, or of other labels, or gone
            for i, was, actual in zip(*map(list, counted.outcomes.nonzero()), strict=True):
                n = int(counted.outcomes[i, was, actual])
                self._counters.counted(graph.model, graph.version, int(i), bool(was), bool(actual), n)
            for i, was in zip(*map(list, counted.recallable.nonzero()), strict=True):
                weight = float(counted.recallable[i, was])
                self._counters.recallable(graph.model, graph.version, int(i), bool(was), weight)
        for reason, n in Counter(miss.reason for miss in misses).items():
            self._counters.unmatched(name, reason, n)


def _refused(matched: Matched, added: Added) -> list[Miss]:
    """What the store did not take."""
    found = []
    for place, entry, (fate, labels) in zip(matched.places, matched.entries, added.fates, strict=True):
        name = f"outcomes[{place}]"
        if fate == "conflict":
            named = ", ".join(repr(entry.graph.labels[i]) for i in labels[:5]) + (", ..." if len(labels) > 5 else "")
            found.append(Miss(place, fate, f"{name}: label {named} is known otherwise; `replace` corrects it"))
        elif fate == "other_logits" and entry.kind == REQUESTED:
            text = f"{name}: request {entry.key.decode()!r} is kept with another answer: its id was used again"
            found.append(Miss(place, "ambiguous_request", text))
        elif fate == "other_logits":
            found.append(Miss(place, fate, f"{name}: key {entry.key.decode()!r} is kept with other logits"))
    return found


def _rate(found: Rate | None) -> v1.ConfirmedRate | None:
    return None if found is None else v1.ConfirmedRate(value=found.value, low=found.low, high=found.high)
