"""How every label stands at a moment: counts of all servers together, and what follows from them."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..calibration.surprise import expected_range, relative, surprise
from .replica import COUNTERS, GAUGES, OUTCOMES, Key, Replica

Floats = NDArray[np.float64]

# For so long the counts since the servers' start are shown: a window of seconds says nothing of rare events.
FIRST_VIEW_S = 60.0
_Z = 1.96  # of intervals at 95 %
_LEAST_CONTRAST = 1e-6  # between recall and false-positive rate, below which alerts say nothing of prevalence
_NAMED = 10  # of what is there in place of what was asked for


@dataclass(frozen=True)
class Change:
    """Another policy became active while somebody watched."""

    model: str
    version: str
    before: int
    after: int
    seen_s: float


@dataclass(frozen=True)
class Standing:
    """One refresh; arrays are float64 [label], NaN where nothing can be said.

    Attributes:
        at_s: when, in seconds since 1970.
        since_start: counts are all since the servers started; else those of the last `covered_s` seconds.
        covered_s: of the window, so far.
        keys: model, version and label of each line.
        decisions: made.
        positives: at or above the threshold.
        expected: how many the calibration expects of these decisions.
        low: of what is to be expected at 95 %, given how sure the calibration is.
        high: likewise.
        z: how surprising the positives are, in standard deviations; positive for too many.
        rate: positives by decisions.
        prevalence: true positives by decisions, estimated from the rate by Rogan and Gladen (1978).
        prevalence_low: its interval at 95 %, of the live rate's sampling error alone.
        prevalence_high: likewise.
        confirmed: of positives with a known outcome since the servers started, those that were right.
        reviewed: positives with a known outcome.
        threshold: a logit.
        policies: versions of the active policies, of all servers, by line.
        changes: of policies, newest last, of the window.
        folded: how many labels are counted together as `__other__`, by model and version, where any are.
        missing: why nothing is shown of models and labels that were asked for: those that are not there, and what is.
    """

    at_s: float
    since_start: bool
    covered_s: float
    keys: tuple[Key, ...]
    decisions: Floats
    positives: Floats
    expected: Floats
    low: Floats
    high: Floats
    z: Floats
    rate: Floats
    prevalence: Floats
    prevalence_low: Floats
    prevalence_high: Floats
    confirmed: Floats
    reviewed: Floats
    threshold: Floats
    policies: tuple[tuple[int, ...], ...]
    changes: tuple[Change, ...]
    folded: Mapping[tuple[str, str], int]
    missing: tuple[str, ...]

    def order(self) -> list[int]:
        """Lines by surprise, the greatest first; then those with more expected, and by name."""
        surprise_first = np.where(np.isnan(self.z), -1.0, np.abs(self.z))
        return sorted(range(len(self.keys)), key=lambda i: (-surprise_first[i], -self.expected[i], self.keys[i]))


class Watch:
    """Several servers watched as one.

    Attributes:
        replicas: them.
    """

    def __init__(self, urls: Sequence[str], window_s: float, models: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        """Watch the pages at `urls`, over `window_s` seconds; only these models and labels, where there are any."""
        self.replicas = [Replica(url, window_s) for url in urls]
        self._window_s, self._models, self._labels = window_s, frozenset(models), frozenset(labels)
        self._policies: dict[tuple[str, str], int] = {}
        self._changes: list[Change] = []

    def look(self, now_s: float, at_s: float | None = None) -> Standing:
        """How things stand at `now_s`, in the seconds by which pages were taken; `at_s` is the same since 1970."""
        increases = [replica.increase(now_s) for replica in self.replicas]
        covered_s = max((covered for _, covered in increases), default=0.0)
        since_start = covered_s < min(FIRST_VIEW_S, self._window_s)
        there = {replica.keys[i] for replica in self.replicas for i in np.flatnonzero(replica.present)}
        keys = sorted(filter(self._asked, there), key=_by_number)
        row = {key: i for i, key in enumerate(keys)}
        counters, outcomes = np.zeros((len(COUNTERS), len(keys))), np.full((len(OUTCOMES), len(keys)), np.nan)
        gauges, newest = np.full((len(GAUGES), len(keys)), np.nan), np.full(len(keys), -np.inf)
        policies: list[set[int]] = [set() for _ in keys]
        for replica, (increase, _) in zip(self.replicas, increases, strict=True):
            found = [(i, row[key]) for i, key in enumerate(replica.keys) if replica.present[i] and key in row]
            if not found:
                continue
            of, to = (np.array(each) for each in zip(*found, strict=True))
            counters[:, to] += (replica.totals if since_start else increase)[:, of]
            told = replica.outcomes[:, of]
            outcomes[:, to] = np.where(np.isnan(told), outcomes[:, to], np.nan_to_num(outcomes[:, to]) + told)
            activated = np.array([self._activated_s(replica, replica.keys[i]) for i in of])
            fresher = activated >= newest[to]  # of servers that disagree, what the newest policy says
            gauges[:, to[fresher]], newest[to[fresher]] = replica.gauges[:, of[fresher]], activated[fresher]
            for i, at in found:
                state = replica.models.get(replica.keys[i][:2])
                if state is not None and state.policy > 0:
                    policies[at].add(int(state.policy))
        self._note_changes(keys, policies, now_s)
        decided = tuple(tuple(sorted(each)) for each in policies)
        folded = {of: int(state.folded) for each in self.replicas for of, state in each.models.items() if state.folded > 0}
        at_s = time.time() if at_s is None else at_s
        return _standing(
            at_s, since_start, covered_s, keys, counters, gauges, outcomes, decided, tuple(self._changes), folded,
            self._missing(there),
        )  # fmt: skip

    def _asked(self, key: Key) -> bool:
        return (not self._models or key[0] in self._models) and (not self._labels or key[2] in self._labels)

    def _missing(self, there: Collection[Key]) -> tuple[str, ...]:
        """A line for each name that was asked for and is not `there`; none while nobody has answered."""
        if not any(replica.answered_s is not None for replica in self.replicas):
            return ()
        models = {model for model, _, _ in there}
        labels = {label for model, _, label in there if not self._models or model in self._models}
        absent = [("model", name, models) for name in sorted(self._models - models)]
        if labels:  # else it is the models that are not there
            absent += [("label", name, labels) for name in sorted(self._labels - labels)]
        return tuple(f"no {kind} {name!r} makes decisions here: {_listed(found)}" for kind, name, found in absent)

    @staticmethod
    def _activated_s(replica: Replica, key: Key) -> float:
        state = replica.models.get(key[:2])
        return -np.inf if state is None or np.isnan(state.activated_s) else state.activated_s

    def _note_changes(self, keys: Sequence[Key], policies: Sequence[set[int]], now_s: float) -> None:
        for of, active in {key[:2]: max(found) for key, found in zip(keys, policies, strict=True) if len(found) == 1}.items():
            before = self._policies.get(of)
            if before is not None and before != active:
                self._changes.append(Change(*of, before, active, now_s))
            self._policies[of] = active
        self._changes = [change for change in self._changes if change.seen_s > now_s - self._window_s][-100:]


def _standing(
    at_s: float,
    since_start: bool,
    covered_s: float,
    keys: Sequence[Key],
    counters: Floats,
    gauges: Floats,
    outcomes: Floats,
    policies: tuple[tuple[int, ...], ...],
    changes: tuple[Change, ...],
    folded: Mapping[tuple[str, str], int],
    missing: tuple[str, ...],
) -> Standing:
    decisions, positives, expected, error, recall, fpr, promised = counters
    (threshold,), some, rse = gauges, decisions > 0, relative(error, expected)
    low, high = expected_range(expected, rse, _Z)
    nothing = np.full(len(keys), np.nan)
    rate = np.divide(positives, decisions, out=nothing.copy(), where=some)
    contrast = recall - fpr  # of each decision by its own policy, summed, as is everything here
    told = some & (promised >= decisions) & (contrast > _LEAST_CONTRAST * decisions)

    def prevalence(of: Floats) -> Floats:
        share: Floats = np.clip(np.divide(of * decisions - fpr, contrast, out=nothing.copy(), where=told), 0, 1)
        return share

    rate_low, rate_high = wilson(positives, decisions)
    return Standing(
        at_s=at_s, since_start=since_start, covered_s=covered_s, keys=tuple(keys), decisions=decisions, positives=positives,
        expected=expected, low=np.where(some, low, np.nan), high=np.where(some, high, np.nan),
        z=np.where(some, surprise(positives, expected, rse), np.nan), rate=rate,
        prevalence=prevalence(rate), prevalence_low=prevalence(rate_low), prevalence_high=prevalence(rate_high),
        confirmed=outcomes[0], reviewed=outcomes[0] + outcomes[1], threshold=threshold,
        policies=policies, changes=changes, folded=folded, missing=missing,
    )  # fmt: skip


def wilson(count: Floats, of: Floats) -> tuple[Floats, Floats]:
    """The interval of a proportion at 95 % (Wilson 1927), (low, high) in 0 to 1; NaN where `of` is 0 or NaN."""
    n = np.where(of > 0, of, np.nan)
    share, slack = np.clip(count / n, 0, 1), _Z**2 / n
    middle, half = (share + slack / 2) / (1 + slack), _Z * np.sqrt(share * (1 - share) / n + slack / (4 * n)) / (1 + slack)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def _listed(names: Collection[str]) -> str:
    """What is there, as a person reads it."""
    if not names:
        return "nothing does"
    shown = ", ".join(map(repr, sorted(names)[:_NAMED]))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more} {'does' if len(names) == 1 else 'do'}"


def _by_number(key: Key) -> tuple[str, int, str, str]:
    model, version, label = key
    return model, int(version) if version.isdecimal() else -1, version, label
