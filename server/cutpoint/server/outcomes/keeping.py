"""Everything that is kept for outcomes, from opened to closed."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..config import ServerConfig
from ..policy.policies import PolicyStore
from ..protocol.inference import Keep
from ..serving.models import Models
from ..serving.served import Answer, ServedModel
from .counters import OutcomeCounters
from .decisions import GATHER_S, DecisionLog
from .reports import Reports
from .store import OutcomeStore


@dataclass(frozen=True)
class Keeping:
    """What is kept.

    Attributes:
        store: outcomes, with the scores that they are of.
        reports: match a message with what is known.
        keep: to be told of answers to requests with ids; None where decisions are not kept.
    """

    store: OutcomeStore
    reports: Reports
    keep: Keep | None


@contextmanager
def keeping(
    config: ServerConfig, models: Models, policies: PolicyStore, counters: OutcomeCounters, *, several: bool
) -> Iterator[Keeping]:
    """Keep decisions and outcomes in the state folder; `several`: other processes make decisions too.

    Raises:
        BadConfig: the folder cannot be used.
    """
    with ExitStack() as stack:
        store = OutcomeStore(config.state_folder, config.outcomes_mib << 20)
        stack.callback(store.close)
        log = None
        if config.decisions_mib:
            log = DecisionLog(config.state_folder, config.decisions_mib << 20)
            stack.callback(log.close)
            counters.dropped = lambda: log.dropped
        counters.pool_rows = lambda: _pool_rows(models, store)
        # What another process has answered is on disk when it has gathered and written it.
        reports = Reports(models, policies, store, log, patience_s=3 * GATHER_S if several else 0.0)
        yield Keeping(store, reports, None if log is None else _keeper(log))


def _keeper(log: DecisionLog) -> Keep:
    def keep(model: ServedModel, name: str, first_row: int, answer: Answer, decided: bool) -> None:
        if answer.logits is not None:
            policy = answer.active.policy.version if decided and answer.active is not None else 0
            log.keep(model.graph, name, first_row, answer.logits, policy)

    return keep


def _pool_rows(models: Models, store: OutcomeStore) -> Mapping[tuple[str, int], int]:
    """How many rows with outcomes are kept of each version in service, of the graph that it has."""
    rows = store.rows()
    return {(each.name, each.version): rows.get((each.name, each.version, each.bundle.digest), 0) for each in models.all()}
