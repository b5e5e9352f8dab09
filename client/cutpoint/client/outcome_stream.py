"""One StreamOutcomes: batches sent as they come, and the answer to each when the server has it on disk."""

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from cutpoint.errors import BadInput, InternalError
from cutpoint.v1 import outcome_pb2 as v1

from .connection import Channel
from .methods import STREAM_OUTCOMES
from .outcomes import Asked, Outcomes, Reported


class _Sent:
    """What was sent and is not answered: the server answers in order. Of the thread that sends, and the one that reads."""

    def __init__(self, asked: Asked) -> None:
        self.error: BaseException | None = None
        self.call: Any = None
        self._asked = asked
        self._rows: deque[tuple[list[int], bool]] = deque()
        self._reported = Reported()

    def messages(self, batch: Outcomes) -> Iterator[v1.ReportOutcomesRequest]:
        """The messages of one batch, the last of them known as such."""
        made = list(self._asked.messages(batch))
        if not made:
            raise BadInput.of("targets", "all not known", "at least one outcome that is known, in a stream")
        for i, (message, rows) in enumerate(made):
            self._rows.append((rows, i == len(made) - 1))
            yield message

    def failed(self, error: BaseException) -> None:
        """What the batches raised ends the call, and is kept for the reader: gRPC would log it."""
        self.error = error
        if self.call is not None:
            self.call.cancel()

    def answered(self, response: v1.ReportOutcomesResponse) -> Reported | None:
        """The answer to a batch, where this is that to its last message."""
        if not self._rows:
            raise InternalError("the server answered what was not sent")
        rows, last = self._rows.popleft()
        self._reported.add(response, rows)
        if not last:
            return None
        whole, self._reported = self._reported, Reported()
        return whole

    def finish(self) -> None:
        """At the end: raise what the batches raised, and InternalError where the server owes an answer."""
        if self.error is not None:
            raise self.error
        if self._rows:
            raise InternalError("the server ended the stream without an answer to its last messages")


def stream(channel: Channel, asked: Asked, batches: Iterable[Outcomes], timeout_s: float | None) -> Iterator[Reported]:
    """Send batches, and yield what became of each; they are read in a thread of gRPC's."""
    sent = _Sent(asked)

    def messages() -> Iterator[v1.ReportOutcomesRequest]:
        try:
            for batch in batches:
                yield from sent.messages(batch)
        except Exception as error:
            sent.failed(error)

    try:
        with channel.errors(STREAM_OUTCOMES):
            sent.call = channel.on(STREAM_OUTCOMES)(messages(), timeout=timeout_s, metadata=channel.metadata())
            try:
                for response in sent.call:
                    if (found := sent.answered(response)) is not None:
                        yield found
            except Exception as error:
                if sent.error is not None:
                    raise sent.error from error
                raise
        sent.finish()
    finally:
        if sent.call is not None:
            sent.call.cancel()


async def aio_stream(
    channel: Channel, asked: Asked, batches: Iterable[Outcomes] | AsyncIterable[Outcomes], timeout_s: float | None
) -> AsyncIterator[Reported]:
    """As `stream`, for an asynchronous channel; batches are read in its loop."""
    sent = _Sent(asked)

    async def messages() -> AsyncIterator[v1.ReportOutcomesRequest]:
        try:
            if isinstance(batches, AsyncIterable):
                async for batch in batches:
                    for message in sent.messages(batch):
                        yield message
            else:
                for batch in batches:
                    for message in sent.messages(batch):
                        yield message
        except Exception as error:
            sent.failed(error)

    try:
        with channel.errors(STREAM_OUTCOMES):
            sent.call = channel.on(STREAM_OUTCOMES)(messages(), timeout=timeout_s, metadata=channel.metadata())
            try:
                async for response in sent.call:
                    if (found := sent.answered(response)) is not None:
                        yield found
            except BaseException as error:  # of a call that was cancelled here asyncio raises no Exception
                if sent.error is not None:
                    raise sent.error from error
                raise
        sent.finish()
    finally:
        if sent.call is not None:
            sent.call.cancel()
