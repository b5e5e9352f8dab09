"""One ScoreSignal: reads a message, has its blocks scored, sends the results in order, and only then reads on."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc
from cutpoint.errors import BadRequest, Overloaded, Unavailable
from cutpoint.signals import Block
from cutpoint.v1 import signal_pb2 as v1

from ..port.admission import Admission
from ..port.rpc import fail, parsed
from ..port.transport import Call
from ..runs.batcher import Ticket
from ..serving.served import LOGITS, Answer
from .scoring import SignalScoring

# Blocks of one signal that are under way at a time: enough for a lane to find the next one when it is done.
_DEPTH = 4
# Bytes of a message that is worked on where it arrives; larger ones go to a thread, for others' requests wait meanwhile.
_SMALL_BYTES = 1 << 14


@dataclass(eq=False)
class _Pending:
    """One block: its answer, once there is one."""

    block: Block
    ticket: Ticket | None = None
    answer: Answer | None = None
    error: BaseException | None = None


class SignalStream:
    """The state of one call. Events come from any thread; one thread at a time acts on them, and none ever waits.

    What is held: one message, the blocks under way (four at most), and the responses of one block.
    """

    def __init__(
        self,
        call: Call,
        admission: Admission,
        pool: Executor,
        begin: Callable[[v1.SignalHeader], SignalScoring],
        serves: Callable[[SignalScoring], bool],
        ended: Callable[[], None],
    ) -> None:
        """Serve `call`.

        Args:
            call: just accepted.
            admission: told of the bytes held.
            pool: for what takes more than microseconds.
            begin: makes of a header what scores.
            serves: whether that model is in service still.
            ended: called once, however the call ends.
        """
        self._call, self._admission, self._pool = call, admission, pool
        self._begin, self._serves, self._ended = begin, serves, ended
        self._scoring: SignalScoring | None = None
        self._lock = threading.Lock()
        self._driving = self._again = False
        # Set by events, under the lock:
        self._message: bytes | None = None
        self._arrived = self._reading = self._sending = self._stopping = self._over = False
        # Of whoever drives:
        self._heavy = True  # the first message may have to import scipy
        self._held = 0
        self._blocks: Iterator[Block] | None = None
        self._waiting: Block | None = None  # that the batcher had no room for
        self._full = False
        self._under_way: deque[_Pending] = deque()
        self._outbox: deque[v1.SignalResponse] = deque()
        self._at_end = self._summed = False

    def start(self) -> None:
        """Read the header."""
        self._call.on_stop = self._stop
        self._call.on_gone(self._close)
        self._go_on()

    # Events.

    def _received(self, data: bytes | None) -> None:
        with self._lock:
            self._message, self._arrived, self._reading = data, True, False
        heavy = self._heavy or data is None or len(data) > _SMALL_BYTES
        self._heavy = data is None or len(data) > _SMALL_BYTES
        self._go_on_elsewhere() if heavy else self._go_on()

    def _sent(self, ok: bool) -> None:
        with self._lock:
            self._sending = False
        if ok:
            self._go_on_elsewhere() if self._heavy else self._go_on()

    def _answered(self, pending: _Pending, answer: Answer | None, error: BaseException | None) -> None:
        with self._lock:
            pending.answer, pending.error, self._full = answer, error, False
        self._go_on()

    def _stop(self) -> None:
        """Answer what was read, and read no more."""
        self._call.on_stop = None  # a call without one is waited for
        with self._lock:
            self._stopping = True
        self._go_on_elsewhere()

    def _go_on_elsewhere(self) -> None:
        try:
            self._pool.submit(self._go_on)
        except RuntimeError:  # the pool is shut down, and the server with it
            self._go_on()

    # What follows from them.

    def _go_on(self) -> None:
        """Act until there is nothing to do now; where another thread acts already, have it look again."""
        with self._lock:
            if self._driving:
                self._again = True
                return
            self._driving = True
        while True:
            try:
                acted = not self._over and self._act()
            except Exception as error:
                self._close()
                fail(self._call, error)
                acted = False
            with self._lock:
                if not acted and not self._again:
                    self._driving = False
                    return
                self._again = False

    def _act(self) -> bool:
        """Do the next thing; False where there is none."""
        if self._outbox:
            return not self._sending and self._send(self._outbox.popleft())
        if self._under_way and (self._under_way[0].answer is not None or self._under_way[0].error is not None):
            with self._lock:
                pending = self._under_way.popleft()
            self._deliver(pending)
            return True
        if self._blocks is not None and len(self._under_way) < _DEPTH and not self._full:
            return self._take()
        if self._under_way or self._sending or self._blocks is not None or (self._reading and not self._stopping):
            return False
        return self._next_message()

    def _send(self, response: v1.SignalResponse) -> bool:
        with self._lock:
            self._sending = True
        self._call.send(response.SerializeToString(), self._sent)
        return True

    def _deliver(self, pending: _Pending) -> None:
        if pending.error is not None:
            raise pending.error
        assert pending.answer is not None and self._scoring is not None
        self._scoring.model.series.waited(pending.answer.timing.queue_s)
        self._outbox.extend(self._scoring.results(pending.block, pending.answer.outputs[LOGITS]))

    def _take(self) -> bool:
        """Have the next block scored."""
        assert self._blocks is not None and self._scoring is not None
        block = self._waiting if self._waiting is not None else next(self._blocks, None)
        self._waiting = None
        if block is None:
            self._blocks = None
            self._release()
            return True
        pending = _Pending(block)
        with self._lock:
            self._under_way.append(pending)
        x = block.x
        model, declared = self._scoring.model, ((self._scoring.input, "FP32", x.shape),)
        try:
            pending.ticket = model.infer(
                lambda: {declared[0][0]: x}, declared, (LOGITS,), lambda answer, error: self._answered(pending, answer, error)
            )
        except Overloaded:
            with self._lock:
                self._under_way.pop()
                if not self._under_way:
                    raise
                # Once one of our own is done there may be room.
                self._waiting = block
                self._full = all(each.answer is None and each.error is None for each in self._under_way)
        if self._over and pending.ticket is not None:  # the caller left meanwhile
            model.batcher.cancel(pending.ticket)
        return True

    def _next_message(self) -> bool:
        """With everything answered: work on the message that came, read another one, or end."""
        with self._lock:
            arrived, message = self._arrived, self._message
            self._arrived, self._message = False, None
            if not arrived and not (self._at_end or self._stopping):
                self._reading = True
        if arrived and message is not None:
            self._open(message)
        elif arrived:
            self._finish_signal()
        elif self._at_end and not self._summed:
            assert self._scoring is not None
            self._summed = True
            self._outbox.extend(self._scoring.summary())
        elif self._at_end:
            self._close()
            self._call.finish()
        elif self._stopping:
            self._close()
            self._call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping")
        else:
            self._call.read(self._received)
            return False
        return True

    def _open(self, message: bytes) -> None:
        request: Any = parsed(v1.SignalRequest, message)
        part = request.WhichOneof("part")
        if self._scoring is None:
            if part != "header":
                raise BadRequest.of("first signal message", part or "empty", "a header with the model")
            self._scoring = self._begin(request.header)
            self._outbox.append(self._scoring.opened())
            return
        if part != "chunk":
            raise BadRequest.of("signal message", part or "empty", "a chunk after the header")
        self._check_served(self._scoring)
        with self._lock:
            self._held = len(message)
        self._admission.hold(len(message))
        if self._call.gone:  # it may have been closed, and what it held released, before this was held
            self._release()
        self._blocks = self._scoring.blocks(request.chunk, request.channels)

    def _finish_signal(self) -> None:
        if self._call.gone:
            self._close()
            return
        if self._scoring is None:
            raise BadRequest.of("signal", "without a message", "a header, then chunks")
        self._check_served(self._scoring)
        self._at_end = True
        self._blocks = self._scoring.finish()

    def _check_served(self, scoring: SignalScoring) -> None:
        if not self._serves(scoring):
            raise Unavailable(
                f"model '{scoring.model.name}' version {scoring.model.version} was taken out of service; begin again"
            )

    def _release(self) -> None:
        with self._lock:
            held, self._held = self._held, 0
        if held:
            self._admission.release(held)

    def _close(self) -> None:
        """Nobody waits any more, or nothing is left to say: stop what is under way."""
        with self._lock:
            was, self._over = self._over, True
            tickets = [each.ticket for each in self._under_way if each.ticket is not None and not each.ticket.answered]
        if was:
            return
        self._release()
        self._ended()
        if self._scoring is not None:
            for ticket in tickets:
                self._scoring.model.batcher.cancel(ticket)
