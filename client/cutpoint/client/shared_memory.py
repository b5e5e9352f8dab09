"""Rows beside the message: regions of POSIX shared memory that a server on this machine reads them from.

A region's file is unlinked as soon as the server has opened it: nothing stays in /dev/shm, however this process ends then.
While it lives it holds a lock (flock) on each of its regions, by which the server sees whose owner is gone, and forgets them.

Rows are written by pwrite, and nothing is mapped: a full /dev/shm is an error, after which rows go in the message, where a
mapping would be SIGBUS.
"""

import errno
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import finalize

import grpc
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import REASON_KEY
from numpy.typing import NDArray

from .inference import Part

# Fewer bytes are sent in the message: that is as fast, and costs the server less.
LEAST_BYTES = 128 << 10
# Of one request, as much as the server reads for one; a region is as long. Only what was once written of it takes memory.
MOST_BYTES = 64 << 20
# Of one client, each for one call at a time. The server has 256 for all of its clients.
MOST_REGIONS = 16
_FOLDER = Path("/dev/shm")
_CLOSE_S = 1.0
# With a reason beside them, these are said by the server itself when it is done with a request, and its rows are read no more.
_DONE = (
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)  # fmt: skip

Call = Callable[..., Awaitable[Any]]


class _Region:
    """A region, to be registered. It ends when nobody holds it any more."""

    def __init__(self) -> None:
        self.name = f"cutpoint-{secrets.token_hex(16)}"
        self.registered = False
        self._path = _FOLDER / self.name
        with _naming("a system with POSIX shared memory"):
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self.end = finalize(self, _end, self._descriptor, self._path)
            import fcntl  # not on Windows, where this module is imported all the same

            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, MOST_BYTES)

    def write(self, rows: NDArray[Any]) -> bool:
        """Copy contiguous rows to its start; False where there is no room for them, as in a container's 64 MB."""
        data = rows.data.cast("B")
        done = 0
        with _naming(f"room for {len(data)} bytes"):
            try:
                while done < len(data):
                    done += os.pwrite(self._descriptor, data[done:], done)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                os.ftruncate(self._descriptor, 0)  # what was written of them is of no use
                os.ftruncate(self._descriptor, MOST_BYTES)
                return False
        return True

    def opened(self) -> None:
        """The server has it: take its name away."""
        self._path.unlink(missing_ok=True)
        self.registered = True


class SharedMemory:
    """The regions of one client, made when they are needed; thread-safe."""

    def __init__(self, server: str, register: Call, infer: Call) -> None:
        """No regions yet.

        Args:
            server: what errors call it.
            register: makes SystemSharedMemoryRegister.
            infer: makes ModelInfer.
        """
        self._server, self._register, self._infer = server, register, infer
        self._free: list[_Region] = []
        self._count = 0
        self._closed = False
        self._process = os.getpid()
        self._lock = threading.Lock()

    async def infer(self, part: Part, *, timeout: float, **given: Any) -> Any:
        """Make one attempt of ModelInfer, with the rows beside the message where that is faster.

        Raises:
            BadConfig: the server has no shared memory, or not this machine's.
            grpc.RpcError: what the call comes to.
        """
        deadline = time.monotonic() + timeout

        def left() -> float:
            return max(0.0, deadline - time.monotonic())

        while True:
            with self._lent(part) as region:
                if region is None:
                    return await self._infer(part.message(), timeout=left(), **given)
                known = region.registered
                # Registered first: at that the server forgets regions whose owners have gone, which may be what fills /dev/shm.
                if not (known or await self._make_known(region, timeout=left(), **given)) or not region.write(part.rows):
                    return await self._infer(part.message(), timeout=left(), **given)
                try:
                    return await self._infer(part.message(region.name), timeout=left(), **given)
                except grpc.RpcError as error:
                    if not known or not _forgotten(error, region.name):
                        raise
                    region.registered = False
            self._dropped()  # the server was started again: it knows none of them

    async def close(self, unregister: Call) -> None:
        """Have the server forget the regions, if it can be reached; one that is in use ends with its call."""
        self._closed = True
        regions = self._dropped()
        with suppress(grpc.RpcError, grpc.aio.UsageError, ValueError, CutpointError):
            for region in regions:
                await unregister(oip.SystemSharedMemoryUnregisterRequest(name=region.name), timeout=_CLOSE_S)

    async def _make_known(self, region: _Region, **given: Any) -> bool:
        """Have the server open it; False where the server has as many of all clients as may be."""
        request = oip.SystemSharedMemoryRegisterRequest(name=region.name, key=f"/{region.name}", byte_size=MOST_BYTES)
        try:
            await self._register(request, **given)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return False
            if error.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT):
                raise
            found = f"refused by {self._server} ({error.details()})"
            raise BadConfig.of("shared_memory", found, f"one with --shared-memory, that sees this {_FOLDER}") from error
        region.opened()
        return True

    @contextmanager
    def _lent(self, part: Part) -> Iterator[_Region | None]:
        """A region for one call, kept for another one only if the server is certainly done with it; None: use the message."""
        region = self._taken() if LEAST_BYTES <= part.rows.nbytes <= MOST_BYTES else None
        done = False
        try:
            yield region
            done = True
        except grpc.RpcError as error:
            done = _answered(error)
            raise
        finally:
            if region is not None:
                self._give_back(region, done)

    def _taken(self) -> _Region | None:
        """One that is free, or new; None where as many as may be are in use: waiting would take longer than sending."""
        if self._process != os.getpid():  # forked: what was made before is the parent's
            self._process, self._count, self._free, self._lock = os.getpid(), 0, [], threading.Lock()
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._count == MOST_REGIONS:
                return None
            self._count += 1
        try:
            return _Region()
        except BaseException:
            with self._lock:
                self._count -= 1
            raise

    def _give_back(self, region: _Region, done: bool) -> None:
        with self._lock:
            if done and region.registered and not self._closed:
                self._free.append(region)
                return
            self._count -= 1
        region.end()

    def _dropped(self) -> list[_Region]:
        """End all that are free."""
        with self._lock:
            found, self._free = self._free, []
            self._count -= len(found)
        for region in found:
            region.end()
        return found


def blocking(call: Callable[..., Any]) -> Call:
    """A call that blocks, in the form of one that is awaited."""

    async def made(*given: Any, **named: Any) -> Any:
        return call(*given, **named)

    return made


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine all of whose calls are `blocking`: it never waits for a loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a call that blocks does not wait for a loop")


def _end(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)  # and with it the lock, by which the server sees that the region has ended


def _answered(error: Any) -> bool:
    return error.code() in _DONE and any(key == REASON_KEY for key, _ in error.trailing_metadata() or ())


def _forgotten(error: Any, name: str) -> bool:
    return error.code() is grpc.StatusCode.INVALID_ARGUMENT and f"'{name}', which is not registered" in (error.details() or "")


@contextmanager
def _naming(wanted: str) -> Iterator[None]:
    """Have an error of the system be one of the setting."""
    try:
        yield
    except OSError as error:
        raise BadConfig.of("shared_memory", f"not to be had ({_FOLDER}: {error.strerror})", wanted) from error
