"""One ModelStreamInfer: requests held to a number under way, and answers put into the order of the batches."""

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cutpoint.errors import BadInput, CutpointError, InternalError
from cutpoint.wire import REASON_KEY, REASON_PARAMETER, error_of
from grpc import StatusCode
from numpy.typing import ArrayLike

from .inference import Asked
from .results import Scores

IN_FLIGHT = 8


class Answers:
    """The answers of one stream, which a server may give in any order, as scores in the order of the batches."""

    def __init__(self, asked: Asked) -> None:
        self.given = 0  # how many batches were answered
        self._asked = asked
        self._early: dict[int, Any] = {}

    def of(self, message: Any) -> Iterator[Scores]:
        """What can be given now that `message` is here; raises the error of a batch when it is its turn."""
        name = message.infer_response.id
        self._early[int(name) if name.isdecimal() else self.given] = message
        while self.given in self._early:
            found = self._early.pop(self.given)
            if found.error_message:
                raise _error(found)
            scores = self._asked.scores_of([found.infer_response])
            self.given += 1
            yield scores


class Requests:
    """The requests of one stream for a synchronous channel, which takes them in a thread of its own.

    What the caller's batches raise is kept for the reader: gRPC would log it and say that an iterator failed.
    """

    def __init__(self, asked: Asked, batches: Iterable[ArrayLike], most: int) -> None:
        self.asked = self._rows = 0
        self.error: BaseException | None = None
        self._made = asked
        self._batches = batches
        self._room = threading.Semaphore(checked(most))
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        batches = iter(self._batches)
        try:
            while True:
                self._room.acquire()
                if self._closed:
                    return
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                with naming(lambda: self.asked):
                    message, rows = self._made.whole(batch, self.asked, self._rows)
                self.asked, self._rows = self.asked + 1, self._rows + rows
                yield message
        except BaseException as error:  # the thread is gRPC's: nobody else would hear of it
            self.error = error

    def answered(self) -> None:
        """Make room for one more."""
        self._room.release()

    def close(self) -> None:
        """Take no more batches."""
        self._closed = True
        self._room.release()


class AioRequests:
    """As `Requests`, for an asynchronous channel."""

    def __init__(self, asked: Asked, batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike], most: int) -> None:
        self.asked = self._rows = 0
        self.error: BaseException | None = None
        self._made = asked
        self._batches = batches
        self._room = asyncio.Semaphore(checked(most))
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        batches = aiter(self._batches) if isinstance(self._batches, AsyncIterable) else _awaited(self._batches)
        try:
            while True:
                await self._room.acquire()
                if self._closed:
                    return
                try:
                    batch = await anext(batches)
                except StopAsyncIteration:
                    return
                with naming(lambda: self.asked):
                    message, rows = self._made.whole(batch, self.asked, self._rows)
                self.asked, self._rows = self.asked + 1, self._rows + rows
                yield message
        except Exception as error:
            self.error = error

    def answered(self) -> None:
        """Make room for one more."""
        self._room.release()

    def close(self) -> None:
        """Take no more batches."""
        self._closed = True
        self._room.release()


def finish(requests: Requests | AioRequests, answers: Answers) -> None:
    """At the end of a stream: raise what the batches raised, and InternalError where the server owes an answer."""
    if answers.given < requests.asked:
        raise InternalError(f"the server ended the stream without an answer to batch {answers.given}")
    if requests.error is not None:
        raise requests.error


@contextmanager
def naming(index: Callable[[], int]) -> Iterator[None]:
    """Have an error of ours say which batch it is of."""
    try:
        yield
    except CutpointError as error:
        raise type(error)(f"batch {index()}: {error}") from error


def checked(most: int) -> int:
    """How many requests may be under way; BadInput below 1."""
    if most < 1:
        raise BadInput.of("most_in_flight", most, "a whole number from 1")
    return most


def _error(message: Any) -> CutpointError:
    """What an error in the stream stands for. The protocol has only a text; our server says the reason beside it."""
    parameters = message.infer_response.parameters
    reason = parameters[REASON_PARAMETER].string_param if REASON_PARAMETER in parameters else ""
    return error_of(StatusCode.UNKNOWN, message.error_message, ((REASON_KEY, reason),))


async def _awaited(batches: Iterable[ArrayLike]) -> AsyncIterator[ArrayLike]:
    for batch in batches:
        yield batch
