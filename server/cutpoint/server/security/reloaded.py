"""What a few files say, read again when they change."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from cutpoint.errors import BadConfig

log = logging.getLogger("cutpoint.server")
T = TypeVar("T")


class Reloaded(Generic[T]):
    """A value read from files, and read again after one of them changed; a change that is wrong keeps the last good value.

    Nothing watches: whoever asks for the value looks at the files, at most once in `every_s`. Safe to use from any thread.
    """

    def __init__(
        self,
        what: str,
        paths: Sequence[Path],
        read: Callable[[], T],
        every_s: float = 1.0,
        now_s: Callable[[], float] = time.monotonic,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Read the first time.

        Args:
            what: for the log, such as "tokens".
            paths: the files whose change counts, links followed.
            read: makes the value from them.
            every_s: how often they are looked at, in seconds.
            now_s: a steady clock, in seconds.
            changed: called when there is a new good value, by whoever asked for it.

        Raises:
            BadConfig: a file is missing, unreadable or wrong.
        """
        self._what, self._paths, self._read, self._every_s, self._now_s = what, tuple(paths), read, every_s, now_s
        self._changed = changed
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._value = self._read_whole()
        self._next_s = now_s() + every_s

    @property
    def value(self) -> T:
        """The newest good value."""
        # Whoever finds the lock taken has the old value, which was right until this moment: nobody waits for a disk.
        if self._now_s() >= self._next_s and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._value

    def _look(self) -> None:
        self._next_s = self._now_s() + self._every_s
        signature = self._signature()
        if signature == self._seen:
            return
        # Remembered even where it is wrong: said once, not every second. What is put right has another signature.
        self._seen = signature
        try:
            self._value = self._read_whole()
        except BadConfig as error:
            log.error("%s changed and cannot be used; the last good ones stay in use: %s", self._what, error)
        else:
            log.info("%s read again", self._what)
            self._changed()

    def _read_whole(self) -> T:
        try:
            return self._read()
        except OSError as error:
            raise BadConfig(f"{self._what}: {error.filename} cannot be read ({error.strerror})") from None

    def _signature(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(_signature(path) for path in self._paths)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does: replaced by a rename (another inode), or written in place."""
    try:
        stat = os.stat(path)  # noqa: PTH116  # a link's target counts: Kubernetes swaps the link
    except OSError:
        return None
    return stat.st_ino, stat.st_dev, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode
