"""Rows of different callers, run together.

A run starts the moment a lane is free and something waits; it takes what is waiting, up to a number of rows, and waits for
more only where it was told to. An idle server therefore adds no delay, and a busy one batches by itself.
"""

import heapq
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from cutpoint.errors import Aborted, DeadlineExceeded, InternalError, Overloaded
from numpy.typing import NDArray

from .cost import Cost, padded_size
from .lanes import Lanes, Run
from .rows import pad_rows
from .session import Abort, Session

log = logging.getLogger("cutpoint.server")

Arrays = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]

# How far a batch looks past requests of another shape for those of its own.
_LOOK = 64
_CLOSED = "the model is being taken out of service; retry"


@dataclass(frozen=True)
class Batching:
    """How requests share runs; what is best differs by model and machine, `cutpoint tune` measures it.

    Attributes:
        max_rows: rows of different callers in one run; a request with more runs alone.
        max_waiting_rows: rows that may wait; more are refused.
        max_running: runs of this model at a time; 0 for as many as there are lanes.
        delay_s: how long the first request may wait for others while a lane is free.
        sizes: numbers of rows that runs are padded to, increasing; empty for none.
        quick_s: a run that is expected to take less of a core is quick: best made by who asks for it, at no lane's cost; 0 for
            none, as where something else than that core computes.
        wide: whether every run may take all cores, not only one that is alone; for `max_running` of 1.
    """

    max_rows: int = 8
    max_waiting_rows: int = 4096
    max_running: int = 0
    delay_s: float = 0.0
    sizes: tuple[int, ...] = ()
    quick_s: float = 0.0
    wide: bool = False


class Timing(NamedTuple):
    """Where one request's time went, in seconds."""

    queue_s: float = 0.0
    run_s: float = 0.0


class Answer(Protocol):
    """Told how a request ended: its outputs, or why there are none."""

    def __call__(self, outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
        """Called once, in the thread that ran it, or that cancelled it."""
        ...


@dataclass(eq=False)
class Ticket:
    """One request in the queue or in a run.

    Attributes:
        prepare: gives the arrays, in the thread that runs them: decoding and checks that nobody else should wait for.
        kind: requests of one kind may share a run.
        expires_s: when it is too late to start, in the batcher's clock.
    """

    prepare: Callable[[], Arrays]
    rows: int
    kind: object
    arrived_s: float
    answer: Answer
    expires_s: float = float("inf")
    gone: bool = False
    answered: bool = False
    batch: "_Batch | None" = field(default=None, repr=False)


class Batcher:
    """Feeds one session: takes requests from any thread, gives batches to lanes."""

    def __init__(
        self,
        session: Session,
        lanes: Lanes,
        batching: Batching,
        *,
        batchable: bool = True,
        observe_run: Callable[[int, float], None] = lambda rows, seconds: None,
        clock: Callable[[], float] = time.perf_counter,
        core_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Nothing runs until the first request.

        Args:
            session: what computes.
            lanes: the threads that do it.
            batching: how rows share a run.
            batchable: whether the graph takes any number of rows; otherwise every request runs alone.
            observe_run: told (rows, seconds) of every run.
            clock: seconds, increasing; that of `lanes`.
            core_clock: seconds that the calling thread has had of a core.
        """
        self._core_clock = core_clock
        self.session, self.batching, self.batchable = session, batching, batchable
        self._lanes, self._clock, self._observe_run = lanes, clock, observe_run
        self._waiting: list[tuple[int, int, Ticket]] = []  # a heap: priority, order of arrival
        self._count = itertools.count()
        self._running = 0
        self._gone = 0  # since the waiting were last looked through
        self._closed = False
        self._cost = Cost()
        self._several_kinds = any(size < 0 for spec in session.inputs for size in spec.shape[1:])
        self.waiting_rows = 0
        lanes.add(self)

    def submit(
        self,
        prepare: Callable[[], Arrays],
        rows: int,
        kind: object,
        answer: Answer,
        *,
        priority: int = 0,
        expires_s: float | None = None,
    ) -> Ticket:
        """Have one request run, alone or with others of its kind.

        Args:
            prepare: gives its arrays, the row first; called in the thread that runs them.
            rows: how many there are.
            kind: names, datatypes and shapes of the arrays without their rows.
            answer: told the outputs, or the error.
            priority: smaller ones go first.
            expires_s: when it is too late to start, in the batcher's clock; None for never.

        Raises:
            Overloaded: too many rows wait already, or the batcher was closed; nothing was done.
        """
        ticket = Ticket(prepare, rows, kind, self._clock(), answer, float("inf") if expires_s is None else expires_s)
        with self._lanes.changed:
            if self._closed:
                raise Overloaded(_CLOSED)
            if self._waiting and self.waiting_rows + rows > self.batching.max_waiting_rows:
                raise Overloaded(
                    f"{self.waiting_rows} rows are waiting and {rows} more exceed {self.batching.max_waiting_rows}; retry later"
                )
            heapq.heappush(self._waiting, (priority, next(self._count), ticket))
            self.waiting_rows += rows
            self._lanes.wake()
        return ticket

    def is_quick(self, rows: int, kind: object) -> bool:
        """Whether a run of so many rows takes less than handing it to a lane would: then it need not wait for one either."""
        batching = self.batching
        return (
            batching.quick_s > 0
            and not batching.sizes
            and not (self._full or self._closed)
            and self._cost.of(self._sort(kind), rows) < batching.quick_s
        )

    def run_at_once(self, arrays: Arrays, rows: int, kind: object) -> tuple[Outputs, Timing]:
        """Run rows in this thread, at no lane's cost, and give the outputs; whatever the run raises.

        Raises:
            InternalError: an output has not a row for each row in, though rows of several requests may share a run.
        """
        started = self._clock()
        used = self._core_clock()
        outputs = self.session.run(arrays)
        if self.batchable:
            _check_rows(outputs, rows)
        self._cost.learn(self._sort(kind), rows, self._core_clock() - used)
        seconds = self._clock() - started
        self._observe_run(rows, seconds)
        return outputs, Timing(0.0, seconds)

    def learn(self, rows: int, seconds: float, kind: object = None) -> None:
        """A run of `rows` was seen to take `seconds`; `kind` says more where the graph takes rows of several sizes."""
        self._cost.learn(self._sort(kind), rows, seconds)

    def _sort(self, kind: object) -> object:
        """What else a run's cost depends on: a row of a thousand windows takes longer than one of one."""
        return kind if self._several_kinds else None

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this request any more: it is not started, and a run of nothing else is stopped.

        One that waits is answered here, with Aborted; one that runs, where it runs.
        """
        with self._lanes.changed:
            if ticket.gone or ticket.answered:
                return
            ticket.gone = True
            batch = ticket.batch
            if batch is None:
                self.waiting_rows -= ticket.rows
                self._drop_gone()
            stop = batch is not None and all(each.gone or each.answered for each in batch.tickets)
        if batch is None:
            _tell(ticket, None, Aborted("the caller is gone"), Timing(self._clock() - ticket.arrived_s))
        elif stop:
            batch.abort.set()

    def _drop_gone(self) -> None:
        """Forget those that left while they waited, once they are half of what waits: behind others they might stay long."""
        self._gone += 1
        if 2 * self._gone > len(self._waiting) and self._gone > _LOOK:
            self._waiting = [entry for entry in self._waiting if not entry[2].gone]
            heapq.heapify(self._waiting)
            self._gone = 0

    def close(self) -> None:
        """Take no more work from here; what waits is refused, what runs is run to its end."""
        self._lanes.remove(self)
        with self._lanes.changed:
            left = [ticket for _, _, ticket in self._waiting if not ticket.gone]
            for ticket in left:
                ticket.gone = True
            self._closed, self._waiting, self.waiting_rows = True, [], 0
        for ticket in left:
            _tell(ticket, None, Overloaded(_CLOSED), Timing(self._clock() - ticket.arrived_s))

    def reopen(self) -> None:
        """Take work again after `close`."""
        with self._lanes.changed:
            if self._closed and not self._lanes.closed:
                self._closed = False
                self._lanes.add(self)

    # What lanes ask, with their lock held.

    def due_s(self) -> float | None:
        """When there is something to take."""
        if not self._waiting or self._full:
            return None
        if self.batching.delay_s <= 0 or self.waiting_rows >= self.batching.max_rows:
            return 0.0
        return min(ticket.arrived_s for _, _, ticket in self._waiting) + self.batching.delay_s

    def take(self, now_s: float) -> Run | None:
        """The next batch: by priority, then in order of arrival, of one kind, without those whose caller has gone."""
        due = self.due_s()
        if due is None or due > now_s:
            return None
        tickets: list[Ticket] = []
        others: list[tuple[int, int, Ticket]] = []
        late: list[Ticket] = []
        rows, limit = 0, self.batching.max_rows if self.batchable else 0
        while self._waiting and len(others) < _LOOK and (rows < limit or not tickets):
            ticket = self._waiting[0][2]
            live = not ticket.gone and ticket.expires_s > now_s
            if live and tickets and ticket.kind != tickets[0].kind:
                others.append(heapq.heappop(self._waiting))
                continue
            if live and tickets and rows + ticket.rows > limit:
                break
            heapq.heappop(self._waiting)
            if ticket.gone:  # it has been answered
                continue
            self.waiting_rows -= ticket.rows
            if live:
                tickets.append(ticket)
                rows += ticket.rows
            else:
                late.append(ticket)
        for entry in others:
            heapq.heappush(self._waiting, entry)
        if not tickets and not late:
            return None
        self._running += 1
        batch = _Batch(self, tickets, late)
        for ticket in (*tickets, *late):
            ticket.batch = batch
        return batch

    @property
    def _full(self) -> bool:
        limit = self.batching.max_running
        return 0 < limit <= self._running

    def ended(self) -> None:
        """A batch has been answered."""
        with self._lanes.changed:
            self._running -= 1
            if self._waiting:
                self._lanes.wake()


class _Batch:
    """Requests taken together, from their arrays to their answers."""

    def __init__(self, batcher: Batcher, tickets: list[Ticket], late: list[Ticket]) -> None:
        self.tickets = tickets
        self.abort = Abort()
        self._batcher, self._late = batcher, late
        self._clock = batcher._clock

    def __call__(self, *, alone: bool) -> None:
        """Run and answer."""
        try:
            for ticket in self._late:
                waited_s = self._clock() - ticket.arrived_s
                _tell(
                    ticket,
                    None,
                    DeadlineExceeded(f"Request timeout expired after {waited_s:.3f} s in the queue"),
                    Timing(waited_s),
                )
            prepared = [(ticket, arrays) for ticket in self.tickets if (arrays := self._prepared(ticket)) is not None]
            if prepared:
                self._run(prepared, wide=alone or self._batcher.batching.wide)
        finally:
            self.tickets = []  # each has its batch: a cycle would keep a model that was retired, until the collector comes
            self._batcher.ended()

    def _prepared(self, ticket: Ticket) -> Arrays | None:
        if ticket.gone:
            _tell(ticket, None, Aborted("the caller is gone"), Timing())
            return None
        try:
            return ticket.prepare()
        except Exception as error:
            _tell(ticket, None, error, Timing(self._clock() - ticket.arrived_s))
            return None

    def _run(self, prepared: list[tuple[Ticket, Arrays]], wide: bool) -> None:
        started, used = self._clock(), self._batcher._core_clock()
        try:
            outputs = self._outputs(prepared, wide)
        except Aborted as error:
            for ticket, _ in prepared:
                _tell(ticket, None, error, Timing(started - ticket.arrived_s, self._clock() - started))
            return
        except Exception as error:
            if len(prepared) > 1:  # one of them may be to blame; the others must not suffer
                for each in prepared:
                    self._run([each], wide)
            else:
                _tell(prepared[0][0], None, error, Timing(started - prepared[0][0].arrived_s, self._clock() - started))
            return
        seconds = self._clock() - started
        rows = sum(ticket.rows for ticket, _ in prepared)
        # Of this thread alone: it may have waited for the interpreter, which is no part of what a run costs.
        self._batcher.learn(rows, self._batcher._core_clock() - used, prepared[0][0].kind)
        self._batcher._observe_run(rows, seconds)
        at = 0
        for ticket, _ in prepared:
            part = outputs
            if len(prepared) > 1:
                part = {name: array[at : at + ticket.rows] for name, array in outputs.items()}
            at += ticket.rows
            _tell(ticket, part, None, Timing(started - ticket.arrived_s, seconds))

    def _outputs(self, prepared: list[tuple[Ticket, Arrays]], wide: bool) -> Outputs:
        inputs = prepared[0][1]
        if len(prepared) > 1:
            inputs = {name: np.concatenate([arrays[name] for _, arrays in prepared]) for name in inputs}
        batching, rows = self._batcher.batching, sum(ticket.rows for ticket, _ in prepared)
        size = padded_size(rows, batching.sizes) if self._batcher.batchable else rows
        if size != rows:
            inputs = pad_rows(inputs, size)
        outputs = self._batcher.session.run(inputs, wide=wide, abort=self.abort)
        if len(prepared) == 1 and size == rows:
            return outputs
        _check_rows(outputs, size)
        return outputs if size == rows else {name: array[:rows] for name, array in outputs.items()}


def _check_rows(outputs: Outputs, rows: int) -> None:
    """Answering one caller with another's rows is the one silent failure a batcher can have."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise InternalError(f"output '{name}' has shape {list(array.shape)} for {rows} rows in")


def _tell(ticket: Ticket, outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
    """Answer, once; what goes wrong in that is nobody else's trouble."""
    if not ticket.answered:
        ticket.answered, ticket.prepare = True, dict  # whoever holds on to the ticket need not keep the request
        try:
            ticket.answer(outputs, error, timing)
        except Exception:
            log.exception("an answer could not be given")
