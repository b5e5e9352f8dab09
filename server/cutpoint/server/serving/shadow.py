"""A version, or a policy, scored beside the live one: counted, never answered, to see its positive rate before switching.

A policy in the shadow is a comparison of logits that are there. A version in the shadow is a run of its own, after the answer
went out: only where nothing else waits and, of several lanes, one stays free. What would have to wait for longer is dropped,
and counted as that; a share that is missing says nothing of the rate of the rest.
"""

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active
from ..runs.lanes import Lanes, Run
from ..runs.session import Session
from .shadow_counters import ShadowCounters

log = logging.getLogger("cutpoint.server")

Arrays = Mapping[str, NDArray[Any]]

# What may wait for a run: little, since it is held beyond what admission allows.
_WAITING = 4
_WAITING_BYTES = 16 << 20


class Shadow(Protocol):
    """What a served model tells of the requests that asked it for decisions. Nothing is raised."""

    def keep(self, arrays: Arrays, rows: int) -> Arrays | None:
        """What of a request will be needed after it was answered; None where it is not to be scored. Before the run."""
        ...

    def score(
        self, kept: Arrays, logits: NDArray[np.float32], decisions: NDArray[np.bool_] | None, active: Active | None
    ) -> None:
        """The request was answered, with `decisions` by `active` (None where it has no policy). In the thread that answered."""
        ...

    def close(self) -> None:
        """Score no more."""
        ...


@dataclass(frozen=True)
class Matched:
    """The labels that live and shadow share, by their places.

    Attributes:
        live: place among the live labels of each label of the shadow; -1 where it is not one of them.
    """

    live: NDArray[np.int64]

    @classmethod
    def of(cls, live: Sequence[str], shadow: Sequence[str]) -> "Matched":
        """By name."""
        places = {label: i for i, label in enumerate(live)}
        return cls(np.array([places.get(label, -1) for label in shadow], np.int64))

    def decisions(
        self, found: NDArray[np.bool_] | None, live: Active | None, shadow: Active
    ) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
        """The live decisions in the shadow's order of labels, and which of them both decide; None where there are none."""
        if found is None or live is None:
            return None, None
        known = self.live >= 0
        return found[..., self.live], known & live.decides[self.live] & shadow.decides


class ShadowPolicy:
    """Decides the live logits by another stored policy."""

    def __init__(
        self, active: Active, counters: ShadowCounters, share: float = 1.0, draw: Callable[[], float] = random.random
    ) -> None:
        """Decide by `active` a `share` of the requests, drawn by `draw`, uniform on [0, 1)."""
        self._active, self._counters, self._share, self._draw = active, counters, share, draw
        self._matched = Matched.of(counters.labels, counters.labels)
        self._open = True

    def keep(self, arrays: Arrays, rows: int) -> Arrays | None:
        """Nothing is needed but the logits."""
        return {} if self._open and self._draw() < self._share else None

    def score(
        self, kept: Arrays, logits: NDArray[np.float32], decisions: NDArray[np.bool_] | None, active: Active | None
    ) -> None:
        """Compare, here and now."""
        theirs, both = self._matched.decisions(decisions, active, self._active)
        self._counters.add(logits >= self._active.thresholds, self._active, theirs, both)

    def close(self) -> None:
        """Score no more."""
        self._open = False


class ShadowVersion:
    """Scores requests by another version, in lanes that nobody else needs; a queue of lanes."""

    def __init__(
        self,
        session: Session,
        active: Callable[[], Active | None],
        matched: Matched,
        counters: ShadowCounters,
        lanes: Lanes,
        share: float = 1.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Run `session`, decide by what is `active` then.

        Args:
            session: of the version in the shadow; it takes what the live one takes.
            active: its policy now.
            matched: its labels among the live ones.
            counters: where it is counted.
            lanes: where it runs.
            share: of the requests, 0 to 1.
            draw: uniform on [0, 1).
        """
        self._session, self._active, self._matched, self._counters = session, active, matched, counters
        self._lanes, self._share, self._draw = lanes, share, draw
        self._waiting: deque[_Request] = deque()
        self._bytes = 0
        self._running = self._closed = self._said = False
        lanes.add(self)

    def keep(self, arrays: Arrays, rows: int) -> Arrays | None:
        """The arrays, copied where the caller can still write to them."""
        if self._share < 1 and self._draw() >= self._share:
            return None
        with self._lanes.changed:
            if self._closed:
                return None
            size = sum(array.nbytes for array in arrays.values())
            full = len(self._waiting) >= _WAITING or (self._waiting and self._bytes + size > _WAITING_BYTES)
        if full:
            self._counters.miss("dropped")
            return None
        return {name: _owned(array) for name, array in arrays.items()}

    def score(
        self, kept: Arrays, logits: NDArray[np.float32], decisions: NDArray[np.bool_] | None, active: Active | None
    ) -> None:
        """Have it run when a lane has nothing else to do."""
        request = _Request(self, kept, decisions, active)
        with self._lanes.changed:
            dropped = self._closed or len(self._waiting) >= _WAITING
            if not dropped:
                self._waiting.append(request)
                self._bytes += request.size
                self._lanes.wake()
        if dropped:
            self._counters.miss("dropped")

    def close(self) -> None:
        """Score no more; what waits is dropped."""
        self._lanes.remove(self)
        with self._lanes.changed:
            self._closed = True
            left, self._bytes = len(self._waiting), 0
            self._waiting.clear()
        for _ in range(left):
            self._counters.miss("dropped")

    # What lanes ask, with their lock held.

    def due_s(self) -> float | None:
        """Never: nobody is to make room for it, or to take fewer cores on its account."""
        return None

    def take(self, now_s: float) -> Run | None:
        """The next request, where nothing else waits and it does not take the last lane."""
        if not self._waiting or self._running:
            return None
        if self._lanes.running >= max(1, self._lanes.count - 1) or self._lanes.others_wait(self):
            return None
        self._running = True
        request = self._waiting.popleft()
        self._bytes -= request.size
        return request

    def run(self, request: "_Request") -> None:
        """Score one request and count it."""
        try:
            logits = self._session.run(request.arrays)["logits"]
            active = self._active()
            if np.isnan(logits).any():
                raise ValueError("it answered NaN")
            if active is None:
                raise ValueError("it has no active policy: calibrate it first")
            theirs, both = self._matched.decisions(request.decisions, request.active, active)
            self._counters.add(logits >= active.thresholds, active, theirs, both)
        except Exception as error:
            self._counters.miss("failed")
            if not self._said:
                self._said = True
                log.warning("the shadow of %s fails, said once: %s", "/".join(self._counters.of[:2]), error)
        finally:
            with self._lanes.changed:
                self._running = False
                if self._waiting:
                    self._lanes.wake()


class _Request:
    """One request as a run of lanes."""

    def __init__(
        self, shadow: ShadowVersion, arrays: Arrays, decisions: NDArray[np.bool_] | None, active: Active | None
    ) -> None:
        self.arrays, self.decisions, self.active = arrays, decisions, active
        self.size = sum(array.nbytes for array in arrays.values())
        self._shadow = shadow

    def __call__(self, *, alone: bool) -> None:
        self._shadow.run(self)


def _owned(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy where it is a view of memory that somebody else may write to, shared with a client say."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return array if isinstance(base, bytes | np.ndarray) else array.copy()
