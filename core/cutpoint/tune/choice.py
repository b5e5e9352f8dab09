"""The choice, from the table and nothing else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Literal, TypeVar

from ..bundle import Busy, Computation, Idle, Lost, Measured, Way
from ..errors import BadConfig
from .variants import complexity

Load = Literal["busy", "idle"]

LEAST_GAIN = 1.05  # what is not simpler must be faster by so much
_CONFIDENCE = 0.95
T = TypeVar("T")


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as the other, round by round: the median, and the interval of the mean at 95 %."""

    median: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether it is worth a choice that is less simple."""
        return self.median >= LEAST_GAIN and self.low > 1


@dataclass(frozen=True)
class Choice:
    """What to run, and why.

    Attributes:
        wide: whether a run that has the machine to itself takes all cores.
        lost: what else there was, each with the reason against it.
    """

    computation: Computation
    way: Way
    wide: bool
    reason: str
    lost: tuple[Lost, ...]


def compare(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """`ours` over `theirs`, of rounds that took turns; the last rounds count where one has more of them.

    The interval is Student's, of the mean of the logarithms; with a single round it has no end.
    """
    count = min(len(ours), len(theirs))
    logs = [math.log(a / b) for a, b in zip(ours[-count:], theirs[-count:], strict=True)]
    if count < 2:
        return Ratio(math.exp(logs[0]), 0.0, math.inf)
    half = _student(count - 1) * stdev(logs) / math.sqrt(count)
    mean = fmean(logs)
    return Ratio(math.exp(median(logs)), math.exp(mean - half), math.exp(mean + half))


def choose(measured: Measured, load: Load = "busy") -> Choice:
    """The fastest of what detects well enough; of two that cannot be told apart the simpler.

    By computation: the way that answers the most rows when many wait, and whether a request alone takes all cores. Then
    the computation, by `load`: busy for rows a second, idle for the ms of one caller.

    Raises:
        BadConfig: nothing that may be served was measured.
    """
    accepted = [each.computation for each in measured.detection if not each.refused]
    accepted = [c for c in accepted if any(b.computation == c for b in measured.busy)]
    if not accepted:
        raise BadConfig.of("tune", "nothing that may be served", "; ".join(d.refused for d in measured.detection) or "a graph")
    accepted.sort(key=complexity)
    best_busy = {c: _best_way([b for b in measured.busy if b.computation == c]) for c in accepted}
    best_idle = {c: _best_idle([i for i in measured.idle if i.computation == c]) for c in accepted}

    def faster(ours: Computation, theirs: Computation) -> Ratio:
        if load == "busy":
            return compare(best_busy[ours].rows_per_s, best_busy[theirs].rows_per_s)
        return compare(best_idle[theirs].p50_ms, best_idle[ours].p50_ms)

    chosen = _fastest(accepted, faster)
    busy, idle = best_busy[chosen], best_idle[chosen]
    lost = [_lost(each, chosen, faster) for each in accepted if each != chosen]
    lost += [Lost(what=str(d.computation), why=d.refused) for d in measured.detection if d.refused]
    lost += [Lost(what=str(a.computation), why=a.why) for a in measured.absent]
    lost += [
        Lost(what=str(each.way), why=_against(compare(each.rows_per_s, busy.rows_per_s), each.way.wide, "rows a second"))
        for each in measured.busy
        if each.computation == chosen and each is not busy
    ]
    return Choice(chosen, busy.way, idle.wide, _reason(measured, chosen, busy, idle, accepted, faster), tuple(lost))


def _best_way(trials: Sequence[Busy]) -> Busy:
    """Of one computation. What was given up after a first look has fewer rounds, and is out."""
    most = max(len(each.rows_per_s) for each in trials)
    kept = [each for each in trials if len(each.rows_per_s) == most]
    return _fastest(kept, lambda ours, theirs: compare(ours.rows_per_s, theirs.rows_per_s))


def _best_idle(trials: Sequence[Idle]) -> Idle:
    ordered = sorted(trials, key=lambda each: each.wide)
    return _fastest(ordered, lambda ours, theirs: compare(theirs.p50_ms, ours.p50_ms))


def _fastest(simplest_first: Sequence[T], faster: Callable[[T, T], Ratio]) -> T:
    chosen = simplest_first[0]
    for each in simplest_first[1:]:
        if faster(each, chosen).clear:
            chosen = each
    return chosen


def _lost(each: Computation, chosen: Computation, faster: Callable[[Computation, Computation], Ratio]) -> Lost:
    return Lost(what=str(each), why=_against(faster(each, chosen), complexity(each) > complexity(chosen), "the speed"))


def _against(ratio: Ratio, less_simple: bool, what: str) -> str:
    if math.isinf(ratio.high):
        return "given up after a first look"
    spread = f"{ratio.median:.2f} times {what} ({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.high < 1 and ratio.median < 1:
        return spread
    return f"{spread}: {'not clearly faster, and less simple' if less_simple else 'cannot be told apart'}"


def _reason(
    measured: Measured,
    chosen: Computation,
    busy: Busy,
    idle: Idle,
    accepted: Sequence[Computation],
    faster: Callable[[Computation, Computation], Ratio],
) -> str:
    detection = next(each for each in measured.detection if each.computation == chosen)
    cores = "all cores" if idle.wide else "one core"
    said = [
        f"{chosen}: {busy.median:.4g} rows/s for {measured.callers} callers, {idle.median:.3g} ms for one on {cores}",
        f"{busy.way}",
    ]
    if chosen != accepted[0]:
        ratio = faster(chosen, accepted[0])
        said.append(f"{ratio.median:.2f} times the speed of {accepted[0]} ({ratio.low:.2f} to {ratio.high:.2f})")
        said.append(
            f"average precision {detection.average_precision:.4f} beside {detection.reference:.4f}, "
            "every rate at the cut within what is promised"
        )
    elif len(accepted) > 1:
        said.append("nothing else that detects as well is clearly faster")
    return "; ".join(said)


def _student(degrees: int) -> float:
    """The quantile of Student's t that leaves out 5 % at both ends."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + _CONFIDENCE) / 2))
