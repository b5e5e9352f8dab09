"""The measurements in turns: all that is compared is measured in every round, so that what disturbs one disturbs all."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..bundle import Busy, Computation, Idle, Way
from .process import Process
from .variants import ways

ROUNDS = 5
_FIRST_LOOKS = 2
_KEPT = 3  # ways of each computation, after the first look
SLOTS_S = (0.25, 0.3, 1.0)  # length of a first look, least and greatest of a measurement
_MOST_ROUNDS = 15


@dataclass(frozen=True)
class Session:
    """A computation that is open in a process, under its own name.

    Attributes:
        wide: whether it has runs on all cores.
        batchable: whether the graph takes any number of rows.
        refused: whether it may not be served, so that a first look at its speed is enough.
    """

    computation: Computation
    process: Process
    wide: bool
    batchable: bool
    refused: bool = False

    @property
    def name(self) -> str:
        """In its process."""
        return str(self.computation)


@dataclass
class _Trial:
    """One figure to be measured: a rate that is to be large, or milliseconds that are to be small."""

    session: Session
    way: Way
    wide: bool | None  # of an idle one; None for a busy one
    first: list[float]
    rounds: list[float]
    cpu_ms: list[float]

    def measure(self, seconds: float) -> float:
        if self.wide is None:
            rate, cpu_ms = self.session.process.busy(self.session.name, self.way, seconds)
            self.cpu_ms.append(cpu_ms)
            return rate
        return self.session.process.idle(self.session.name, self.way, self.wide, seconds)

    @property
    def looked(self) -> float:
        return max(self.first) if self.wide is None else min(self.first)

    @property
    def figures(self) -> tuple[float, ...]:
        return tuple(self.rounds) or (self.looked,)


def measure(
    sessions: Sequence[Session],
    seconds: float,
    *,
    rounds: int = ROUNDS,
    slots_s: tuple[float, float, float] = SLOTS_S,
    say: Callable[[str], None] = lambda text: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[tuple[Busy, ...], tuple[Idle, ...]]:
    """Rows a second of every way to share the machine, and ms of one caller with one core and with all.

    Args:
        sessions: to be compared.
        seconds: about how long it may take after the first look, in all.
        rounds: how many at least. There are more while there is time.
        slots_s: how long a first look takes, and a measurement at least and at most.
        say: told how far it is.
        clock: seconds, increasing.
    """
    trials = [
        _Trial(session, way, None, [], [], [])
        for session in sessions
        for way in ways(session.computation, session.process.machine.cores, session.batchable, session.wide)
    ]
    trials += [
        _Trial(session, Way(), wide, [], [], [])
        for session in sessions
        for wide in ((False, True) if session.wide else (False,))
    ]
    say(f"a first look at {len(trials)} settings")
    for turn in range(_FIRST_LOOKS):
        for trial in _turned(trials, turn):
            trial.first.append(trial.measure(slots_s[0]))
    kept = [trial for session in sessions for trial in _promising(session, trials)]
    slot_s = min(slots_s[2], max(slots_s[1], seconds / (rounds * len(kept))))
    say(f"{len(kept)} of them in turns, {rounds} rounds or more of {slot_s:.2g} s each")
    ends, turn = clock() + seconds, 0
    while turn < rounds or (turn < _MOST_ROUNDS and clock() < ends):
        for trial in _turned(kept, turn):
            trial.rounds.append(trial.measure(slot_s))
        turn += 1
    busy = [
        Busy(computation=trial.session.computation, way=trial.way, rows_per_s=trial.figures, cpu_ms=min(trial.cpu_ms))
        for trial in trials
        if trial.wide is None
    ]
    idle = [
        Idle(computation=trial.session.computation, wide=trial.wide, p50_ms=trial.figures)
        for trial in trials
        if trial.wide is not None
    ]
    return tuple(busy), tuple(idle)


def _promising(session: Session, trials: Sequence[_Trial]) -> list[_Trial]:
    if session.refused:
        return []
    own = [trial for trial in trials if trial.session is session]
    busy = sorted((trial for trial in own if trial.wide is None), key=lambda trial: -trial.looked)
    return [*busy[:_KEPT], *(trial for trial in own if trial.wide is not None)]


def _turned(trials: Sequence[_Trial], turn: int) -> list[_Trial]:
    """In another order every round: there and back."""
    return list(trials) if turn % 2 == 0 else list(reversed(trials))
