"""The state machine of one signal's call, event by event, with a hand-written call and model: no thread, no time."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint.errors import InternalError, Overloaded
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.port.admission import Admission
from cutpoint.server.runs.batcher import Ticket, Timing
from cutpoint.server.serving.served import Answer
from cutpoint.server.signals.stream import SignalStream
from cutpoint.signals import Block
from cutpoint.v1 import signal_pb2 as v1


class FakeCall:
    """A call whose every step the test takes."""

    method = "/cutpoint.v1.SignalService/ScoreSignal"

    def __init__(self) -> None:
        self.gone = False
        self.on_stop: Callable[[], None] | None = None
        self.reads: list[Callable[[bytes | None], None]] = []
        self.sends: list[tuple[bytes, Callable[[bool], None]]] = []
        self.sent: list[v1.SignalResponse] = []
        self.ended: tuple[grpc.StatusCode, str] | None = None
        self._leaving: list[Callable[[], None]] = []

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._leaving.append(callback)

    def read(self, then: Callable[[bytes | None], None]) -> None:
        assert not self.reads, "one read at a time"
        self.reads.append(then)

    def send(self, message: bytes, then: Callable[[bool], None]) -> None:
        assert not self.sends, "one send at a time"
        assert self.ended is None
        self.sends.append((message, then))

    def finish(self, message: Any = None, code: Any = grpc.StatusCode.OK, details: str = "", trailing: Any = ()) -> None:
        assert message is None
        self.ended = self.ended or (code, details)

    def leave(self) -> None:
        self.gone = True
        for callback in self._leaving:
            callback()

    # What the other side does.

    def give(self, request: v1.SignalRequest | None) -> None:
        """The next message arrives."""
        self.reads.pop()(None if request is None else request.SerializeToString())

    def take(self) -> v1.SignalResponse:
        """What is being sent goes out."""
        message, then = self.sends.pop()
        self.sent.append(v1.SignalResponse.FromString(message))
        then(True)
        return self.sent[-1]


class FakeModel:
    """Keeps what it is asked; the test answers."""

    name, version = "fake", 1

    def __init__(self) -> None:
        self.asked: list[tuple[int, Callable[[Answer | None, BaseException | None], None], Ticket]] = []
        self.cancelled: list[Ticket] = []
        self.refuse = False
        self.batcher = self
        self.series = Metrics().series(self.name)

    def infer(self, prepare: Any, declared: Any, wanted: Any, reply: Any) -> Ticket:
        if self.refuse:
            raise Overloaded("full")
        assert (declared, wanted) == ((("x", "FP32", (1, 1, 1)),), ("logits",))
        ticket = Ticket(prepare, 1, None, 0.0, lambda *_: None)
        self.asked.append((int(prepare()["x"][0, 0, 0]), reply, ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        self.cancelled.append(ticket)

    def answer(self, window: int, error: BaseException | None = None) -> None:
        (asked,) = [each for each in self.asked if each[0] == window]
        self.asked.remove(asked)
        asked[2].answered = True
        logits = {"logits": np.full((1, 1, 1), window, np.float32)}
        asked[1](None if error else Answer(logits, None, Timing()), error)


class FakeScoring:
    """Chunks of n bytes are n blocks of one window."""

    input = "x"

    def __init__(self, model: FakeModel) -> None:
        self.model, self.made = model, 0

    def opened(self) -> v1.SignalResponse:
        return v1.SignalResponse(opened=v1.SignalOpened())

    def blocks(self, chunk: bytes, channels: int = 0) -> Iterator[Block]:
        assert channels == 0
        for _ in chunk:
            self.made += 1
            yield Block(np.full((1, 1, 1), self.made - 1, np.float32), self.made - 1, 0, 1)

    def finish(self) -> Iterator[Block]:
        return self.blocks(b"1")

    def results(self, block: Block, logits: Any) -> list[v1.SignalResponse]:
        assert block.answered(logits)[0, 0] == block.first
        return [v1.SignalResponse(results=v1.SignalResults(first=block.first, count=1))]

    def summary(self) -> list[v1.SignalResponse]:
        return [v1.SignalResponse(summary=v1.SignalSummary(windows=self.made))]


class Pool:
    """Runs at once."""

    def submit(self, work: Callable[[], None]) -> None:
        work()


class Set:
    def __init__(self) -> None:
        self.call, self.model, self.admission = FakeCall(), FakeModel(), Admission(10, 1 << 20, 1 << 10)
        self.scoring, self.ends, self.serves = FakeScoring(self.model), 0, True
        stream = SignalStream(
            self.call, self.admission, Pool(), lambda header: self.scoring, lambda _: self.serves, self._end  # type: ignore[arg-type, return-value]
        )  # fmt: skip
        stream.start()
        self.call.give(v1.SignalRequest(header=v1.SignalHeader(model="fake")))
        assert self.call.reads == []
        assert self.call.take().WhichOneof("part") == "opened"

    def _end(self) -> None:
        self.ends += 1

    @property
    def waiting(self) -> list[int]:
        return [window for window, _, _ in self.model.asked]


def chunk(count: int) -> v1.SignalRequest:
    return v1.SignalRequest(chunk=bytes(count))


def test_nothing_is_read_until_all_of_a_chunk_is_answered_and_sent():
    s = Set()
    s.call.give(chunk(6))
    assert s.waiting == [0, 1, 2, 3]  # four at a time
    assert s.admission.held_bytes == chunk(6).ByteSize()
    for window in range(6):
        assert not s.call.reads
        s.model.answer(window)
        assert not s.call.reads
        assert s.call.take().results.first == window
    assert len(s.call.reads) == 1 and s.admission.held_bytes == 0
    s.call.give(None)
    assert s.waiting == [6]
    s.model.answer(6)
    assert [s.call.take().results.first, s.call.take().summary.windows] == [6, 7]
    assert (s.call.ended, s.ends) == ((grpc.StatusCode.OK, ""), 1)


def test_answers_that_come_in_any_order_go_out_in_order():
    s = Set()
    s.call.give(chunk(4))
    for window in (2, 3, 1):
        s.model.answer(window)
        assert not s.call.sends
    s.model.answer(0)
    assert [s.call.take().results.first for _ in range(4)] == [0, 1, 2, 3]
    assert len(s.call.reads) == 1


def test_a_reader_that_does_not_take_holds_everything_back():
    s = Set()
    s.call.give(chunk(9))
    for window in range(5):
        s.model.answer(window)
    # One being sent, one ready to be sent; the answers of the others wait, and no more blocks are begun than that.
    assert len(s.call.sends) == 1 and s.scoring.made <= 8 and not s.call.reads
    before = s.scoring.made
    for window in list(s.waiting):
        s.model.answer(window)
    assert s.scoring.made - before <= 1 and not s.waiting


def test_who_leaves_has_nothing_run_on():
    s = Set()
    s.call.give(chunk(6))
    tickets = [ticket for _, _, ticket in s.model.asked]
    s.model.answer(0)
    s.call.leave()
    assert s.model.cancelled == [*tickets[1:], s.model.asked[-1][2]]
    assert (s.admission.held_bytes, s.ends) == (0, 1)
    before = s.scoring.made
    s.model.answer(1)
    s.call.take()
    assert s.scoring.made == before and not s.call.sends and not s.call.reads and s.call.ended is None


def test_a_full_queue_is_waited_for_as_long_as_blocks_of_our_own_are_in_it():
    s = Set()
    s.call.give(chunk(2))
    s.model.answer(0)
    s.call.take()
    s.model.answer(1)
    s.call.take()
    s.call.give(chunk(1))
    s.model.answer(2)
    s.model.refuse = True
    s.call.take()
    s.call.give(chunk(1))
    assert s.call.ended == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    assert s.admission.held_bytes == 0

    s = Set()
    infer, s.model.infer = s.model.infer, lambda *given: infer(*given) if len(s.model.asked) < 2 else refuse()  # type: ignore[method-assign]

    def refuse() -> Ticket:
        raise Overloaded("full")

    s.call.give(chunk(5))
    assert s.waiting == [0, 1] and s.call.ended is None
    for window in range(5):
        s.model.answer(window)
        assert s.call.take().results.first == window
    assert len(s.call.reads) == 1


@pytest.mark.parametrize("error", [InternalError("what the model said"), RuntimeError("secret")])
def test_a_failing_block_ends_the_call_after_what_came_before_it(error):
    s = Set()
    s.call.give(chunk(6))
    s.model.answer(1, error)
    assert s.call.ended is None
    s.model.answer(0)
    assert s.call.take().results.first == 0
    assert s.call.ended is not None
    code, text = s.call.ended
    assert code is grpc.StatusCode.INTERNAL and "secret" not in text
    assert len(s.model.cancelled) >= 2 and s.ends == 1 and s.admission.held_bytes == 0


def test_a_server_that_stops_answers_what_was_read():
    s = Set()
    s.call.give(chunk(2))
    assert s.call.on_stop is not None
    s.call.on_stop()
    assert s.call.on_stop is None  # from now on it is waited for
    for window in (0, 1):
        s.model.answer(window)
        assert s.call.take().results.first == window
    assert s.call.ended == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
    idle = Set()
    assert len(idle.call.reads) == 1
    assert idle.call.on_stop is not None
    idle.call.on_stop()
    assert idle.call.ended == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


def test_a_model_taken_out_of_service_ends_the_signal():
    s = Set()
    s.serves = False
    s.call.give(chunk(1))
    assert s.call.ended is not None
    assert s.call.ended[0] is grpc.StatusCode.UNAVAILABLE and "taken out of service" in s.call.ended[1]


def test_many_blocks_answered_at_once_take_no_stack():
    s = Set()

    def infer(prepare: Any, declared: Any, wanted: Any, reply: Any) -> Ticket:
        ticket = Ticket(prepare, 1, None, 0.0, lambda *_: None, answered=True)
        reply(Answer({"logits": np.full((1, 1, 1), prepare()["x"][0, 0, 0], np.float32)}, None, Timing()), None)
        return ticket

    def send(message: bytes, then: Callable[[bool], None]) -> None:
        s.call.sent.append(v1.SignalResponse.FromString(message))
        then(True)

    s.model.infer, s.call.send = infer, send  # type: ignore[method-assign]
    s.call.give(chunk(5000))
    assert [each.results.first for each in s.call.sent[1:]] == list(range(5000))
    assert s.model.series.spreads["queue"].buckets()[0][-1] == ("+Inf", 5000), "each waited for its run"
    assert len(s.call.reads) == 1
