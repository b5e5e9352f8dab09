"""Requests for quick models that are ready at the same moment share one run, made by the thread that read them.

A model of microseconds costs less than handing its rows to another thread, and less a row the more rows there are. So the
serving thread takes all that is ready, and then runs it; nobody waits for a request that is still to come.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from ..port.idle import Idle
from .served import Answer, Declared, ServedModel

# Bytes of a request up to which putting it beside others costs less than a run of its own.
_SMALL_BYTES = 1 << 14

Arrays = Mapping[str, NDArray[Any]]


class Answered(Protocol):
    """Told how a request ended: its answer, or why there is none."""

    def __call__(self, answer: Answer | None, error: BaseException | None) -> None:
        """Called once."""
        ...


@dataclass(eq=False, slots=True)
class _Group:
    """Requests that may share a run: of one model, one kind and one set of outputs."""

    model: ServedModel
    kind: object
    wanted: tuple[str, ...]
    rows: int = 0
    requests: list[tuple[Arrays, int, float, Answered]] = field(default_factory=list)


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
        most = model.batcher.batching.max_rows if model.batcher.batchable else 0
        if rows >= most or not self._idle.here or sum(array.nbytes for array in arrays.values()) > _SMALL_BYTES:
            self._answer(_Group(model, kind, wanted, rows, [request]))
            return True
        key = (id(model), kind, wanted)
        group = self._groups.get(key)
        if group is None:
            if not self._groups:
                self._idle.add(self._answer_all)
            group = self._groups[key] = _Group(model, kind, wanted)
        if group.rows + rows > most:
            self._answer(group)
            group = self._groups[key] = _Group(model, kind, wanted)
        group.rows += rows
        group.requests.append(request)
        return True

    def _answer_all(self) -> None:
        groups, self._groups = self._groups, {}
        for group in groups.values():
            self._answer(group)

    def _answer(self, group: _Group) -> None:
        """Answer all of a group; where that fails one by one, since one of them may be to blame."""
        requests = group.requests
        now = self._clock()
        try:
            taken = [(arrays, rows, now - arrived) for arrays, rows, arrived, _ in requests]
            answers = group.model.at_once(taken, group.kind, group.wanted)
        except Exception as error:
            if len(requests) == 1:
                requests[0][3](None, error)
                return
            for request in requests:
                self._answer(_Group(group.model, group.kind, group.wanted, request[1], [request]))
            return
        for (_, _, _, answered), answer in zip(requests, answers, strict=True):
            answered(answer, None)
