"""Rows of different callers, run together.

A run starts the moment a lane is free and something waits; it takes what is waiting, up to a number of rows, and never waits
for more. An idle server therefore adds no delay, and a busy one batches by itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.errors import InternalError, Overloaded
from numpy.typing import NDArray

from .session import Session

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Timing:
    """Where one request's time went, in seconds."""

    queue_s: float
    run_s: float


@dataclass
class _Entry:
    """One request's arrays and how to answer it."""

    arrays: Arrays
    rows: int
    kind: tuple[Any, ...]
    arrived: float
    answer: asyncio.Future[tuple[dict[str, NDArray[Any]], Timing]]


class Batcher:
    """Feeds one session from one event loop, at most `lanes` runs at a time, each in a thread of `executor`."""

    def __init__(
        self,
        session: Session,
        executor: Executor,
        *,
        lanes: int,
        max_batch_rows: int,
        max_waiting_rows: int,
        batchable: bool = True,
        observe_run: Callable[[int, float], None] = lambda rows, seconds: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing runs until the first request.

        Args:
            session: what computes.
            executor: where `session.run` is called; it needs at least `lanes` threads.
            lanes: runs at a time.
            max_batch_rows: rows of different callers in one run.
            max_waiting_rows: rows that may wait; more are refused.
            batchable: whether the graph takes any number of rows; otherwise every request runs alone.
            observe_run: told (rows, seconds) of every run.
            clock: seconds, increasing.
        """
        self._session = session
        self._executor = executor
        self._idle = lanes
        self._max_batch_rows = max_batch_rows if batchable else 0
        self._max_waiting_rows = max_waiting_rows
        self._observe_run = observe_run
        self._clock = clock
        self._waiting: deque[_Entry] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting_rows = 0

    async def run(self, arrays: Arrays) -> tuple[dict[str, NDArray[Any]], Timing]:
        """Outputs by name for one request's arrays, whose first axis is the row.

        Raises:
            Overloaded: too many rows wait already; nothing was done.
        """
        first = next(iter(arrays.values()))
        rows = len(first) if first.ndim else 1
        if self._waiting and self.waiting_rows + rows > self._max_waiting_rows:
            raise Overloaded(
                f"{self.waiting_rows} rows are waiting and {rows} more exceed {self._max_waiting_rows}; retry later"
            )
        kind = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(arrays.items()))
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(arrays, rows, kind, self._clock(), answer))
        self.waiting_rows += rows
        if self._idle > 0:
            self._idle -= 1
            task = asyncio.create_task(self._lane())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        result: tuple[dict[str, NDArray[Any]], Timing] = await answer
        return result

    async def _lane(self) -> None:
        try:
            while batch := self._take():
                await self._answer(batch)
        finally:
            self._idle += 1

    def _take(self) -> list[_Entry]:
        """The next batch: in order of arrival, of one kind, without those whose caller has gone."""
        batch: list[_Entry] = []
        rows = 0
        while self._waiting:
            entry = self._waiting[0]
            if not entry.answer.done():
                if batch and (entry.kind != batch[0].kind or rows + entry.rows > self._max_batch_rows):
                    break
                batch.append(entry)
                rows += entry.rows
            self._waiting.popleft()
            self.waiting_rows -= entry.rows
        return batch

    async def _answer(self, batch: list[_Entry]) -> None:
        try:
            outputs, started, seconds = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, batch)
        except Exception as error:
            if len(batch) > 1:  # one of them may be to blame; the others must not suffer
                for entry in batch:
                    if not entry.answer.done():
                        await self._answer([entry])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        self._observe_run(sum(entry.rows for entry in batch), seconds)
        at = 0
        for entry in batch:
            if not entry.answer.done():
                part = {name: array[at : at + entry.rows] for name, array in outputs.items()} if len(batch) > 1 else outputs
                entry.answer.set_result((part, Timing(started - entry.arrived, seconds)))
            at += entry.rows

    def _run(self, batch: list[_Entry]) -> tuple[dict[str, NDArray[Any]], float, float]:
        """Outputs, when the run began and how long it took: timed in its thread, for which it may have waited."""
        started = self._clock()
        outputs = self._run_rows(batch)
        return outputs, started, self._clock() - started

    def _run_rows(self, batch: list[_Entry]) -> dict[str, NDArray[Any]]:
        inputs = batch[0].arrays
        if len(batch) > 1:
            inputs = {name: np.concatenate([entry.arrays[name] for entry in batch]) for name in inputs}
        outputs = self._session.run(inputs)
        if len(batch) == 1:
            return outputs
        rows = sum(entry.rows for entry in batch)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != rows:
                # Answering one caller with another's rows is the one silent failure a batcher can have.
                raise InternalError(f"output '{name}' has shape {list(array.shape)} for {rows} rows in")
        return outputs
