"""When a call is made again: what is safe, within the caller's deadline, after a random pause.

gRPC has retries of its own, and they would not do: a request above 256 KiB is not retried, and nobody is told (it keeps no more
than that to send again); its pause is random by a fifth only; it cannot tell an overloaded server from a message that is too
large; and nobody hears of a retry.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
from cutpoint.errors import BadConfig, CutpointError, Overloaded, Unavailable

from .methods import typed_error


@dataclass(frozen=True)
class Retried:
    """A call that failed and will be made again.

    Attributes:
        method: the RPC's name.
        attempt: how many times it was made, from 1.
        error: what the last one came to.
        delay_s: the pause before the next one.
    """

    method: str
    attempt: int
    error: CutpointError
    delay_s: float


@dataclass(frozen=True)
class Retry:
    """How calls that may be made twice are made again, where the server does not answer.

    Those are all but Calibrate, ActivatePolicy and a stream: a lost answer of these is for the caller to look into. The pause
    before attempt n + 1 is uniform between 0 and `backoff_s * 2 ** (n - 1)`, at most `most_backoff_s`, so that callers who
    failed together do not come back together. Where it would pass the call's deadline the error is raised at once.

    Attributes:
        attempts: how many times a call is made in all; 1 for no retries.
        backoff_s: the longest first pause.
        most_backoff_s: the longest pause.
        overloaded: also after `Overloaded`. Each retry is more load on a server that has too much; only where callers are few.
        on_retry: is told of each one, in the thread or task of the call.
    """

    attempts: int = 4
    backoff_s: float = 0.1
    most_backoff_s: float = 1.0
    overloaded: bool = False
    on_retry: Callable[[Retried], None] | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise BadConfig.of("attempts", self.attempts, "a whole number from 1")
        for name, value in (("backoff_s", self.backoff_s), ("most_backoff_s", self.most_backoff_s)):
            if not 0 <= value < float("inf"):
                raise BadConfig.of(name, value, "seconds, from 0")

    def mends(self, error: CutpointError) -> bool:
        """Whether the same call may come to something else."""
        return isinstance(error, Unavailable) or (self.overloaded and isinstance(error, Overloaded))

    def longest_s(self, attempt: int) -> float:
        """The longest pause after attempt `attempt`, from 1."""
        return min(self.most_backoff_s, self.backoff_s * 2.0 ** min(attempt - 1, 60))


class Attempts:
    """The attempts of one call.

    for attempt in attempts:
        with attempt:  # lets an error pass unless there is to be another attempt
            return call(request, timeout=attempt.timeout_s)
        sleep(attempt.delay_s)
    """

    def __init__(self, retry: Retry | None, method: str, server: str, timeout_s: float) -> None:
        self.delay_s = 0.0
        self._retry = retry
        self._method = method
        self._server = server
        self._deadline = time.monotonic() + timeout_s
        self._made = 0

    def __iter__(self) -> Iterator[Self]:
        while True:
            self._made += 1
            yield self

    @property
    def timeout_s(self) -> float:
        """What is left of the call's time."""
        return max(0.0, self._deadline - time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is None:
            return False
        found = typed_error(error, self._server)
        if found is None:
            return False
        retry = self._retry
        mended = retry is not None and isinstance(error, grpc.RpcError) and retry.mends(found)  # a closed client stays closed
        if retry is None or not mended or self._made >= retry.attempts:
            raise found from error
        self.delay_s = random.uniform(0, retry.longest_s(self._made))
        if self.delay_s >= self.timeout_s:
            raise found from error
        if retry.on_retry is not None:
            retry.on_retry(Retried(self._method, self._made, found, self.delay_s))
        return True
