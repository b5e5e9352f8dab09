"""Requests for quick models that are ready at the same moment share one run, made by the thread that read them.

A model of microseconds costs less than handing its rows to another thread, and less a row the more rows there are. So the
serving thread takes all that is ready, and then runs it; nobody waits for a request that is still to come.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from ..port.idle import Idle
from .served import Answer, Declared, ServedModel

log = logging.getLogger("cutpoint.server")

# Bytes of a request up to which putting it beside others costs less than a run of its own.
_SMALL_BYTES = 1 << 14

Arrays = Mapping[str, NDArray[Any]]


class Answered(Protocol):
    """Told how a request ended: its answer, or why there is none."""

    def __call__(self, answer: Answer | None, error: BaseException | None) -> None:
        """Called once."""
        ...


# Its arrays, how many rows they have, when it came, and who is told.
_Request = tuple[Arrays, int, float, Answered]


@dataclass(eq=False, slots=True)
class _Group:
    """Requests that may share a run: of one model, one kind and one set of outputs."""

    model: ServedModel
    kind: object
    wanted: tuple[str, ...]
    rows: int = 0
    requests: list[_Request] = field(default_factory=list)


class Gathering:
    """What waits for the serving thread to have read all that is ready."""

    def __init__(self, idle: Idle, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing waits; `idle` is what the serving thread does once nothing more is ready, `clock` gives seconds."""
        self._idle, self._clock = idle, clock
        self._groups: dict[object, _Group] = {}

    def take(self, model: ServedModel, arrays: Arrays, declared: Declared, wanted: tuple[str, ...], answered: Answered) -> bool:
        """Have a request answered soon by this thread, where its model is so quick; False where it is to go by the lanes.

        Args and errors are those of `ServedModel.infer`; `arrays` are what is declared.
        """
        rows, kind = model.rows_and_kind(declared)
        if not model.is_quick(rows, kind):
            return False
        request = (arrays, rows, self._clock(), answered)
        model.series.inflight.add(1)
        most = model.batcher.batching.max_rows if model.batcher.batchable else 0
        if rows >= most or not self._idle.here or sum(array.nbytes for array in arrays.values()) > _SMALL_BYTES:
            self._answer(_Group(model, kind, wanted), [request])
            return True
        key = (id(model), kind, wanted)
        group = self._groups.get(key)
        if group is None:
            if not self._groups:
                self._idle.add(self._answer_all)
            group = self._groups[key] = _Group(model, kind, wanted)
        full: _Group | None = None
        if group.rows + rows > most:
            full, group = group, _Group(model, kind, wanted)
            self._groups[key] = group  # first: whoever is answered may ask again at once
        group.rows += rows
        group.requests.append(request)
        if full is not None:
            self._answer(full, full.requests)
        return True

    def _answer_all(self) -> None:
        groups, self._groups = self._groups, {}
        for group in groups.values():
            self._answer(group, group.requests)

    def _answer(self, group: _Group, requests: Sequence[_Request]) -> None:
        """Answer these of a group; where that fails one by one, since one of them may be to blame."""
        inflight = group.model.series.inflight
        now = self._clock()
        try:
            taken = [(arrays, rows, now - arrived) for arrays, rows, arrived, _ in requests]
            answers = group.model.at_once(taken, group.kind, group.wanted)
        except Exception as error:
            if len(requests) > 1:
                for request in requests:
                    self._answer(group, [request])
            else:
                inflight.add(-1)
                _tell(requests[0][3], None, error)
            return
        inflight.add(-len(requests))
        for (_, _, _, answered), answer in zip(requests, answers, strict=True):
            _tell(answered, answer, None)


def _tell(answered: Answered, answer: Answer | None, error: BaseException | None) -> None:
    """Answer; what goes wrong in that is nobody else's trouble."""
    try:
        answered(answer, error)
    except Exception:
        log.exception("an answer could not be given")
