"""What the serving thread does once it has taken all that is ready."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("cutpoint.server")


class Idle:
    """Work of the serving thread that waits for a moment without events; only that thread adds to it."""

    def __init__(self) -> None:
        """Nothing waits, and no thread serves."""
        self._thread: int | None = None
        self._works: list[Callable[[], None]] = []

    def begin(self) -> None:
        """The calling thread is the one that serves."""
        self._thread = threading.get_ident()

    @property
    def here(self) -> bool:
        """Whether the calling thread is the one that serves: others have no such moment."""
        return threading.get_ident() == self._thread

    @property
    def waits(self) -> bool:
        """Whether there is something to do."""
        return bool(self._works)

    def add(self, work: Callable[[], None]) -> None:
        """Have `work` done; to be called where `here` is True."""
        self._works.append(work)

    def do(self) -> None:
        """Do what waits; what is added meanwhile waits for the next time."""
        works, self._works = self._works, []
        for work in works:
            try:
                work()
            except Exception:
                log.exception("work that waited met an error that nobody foresaw")
