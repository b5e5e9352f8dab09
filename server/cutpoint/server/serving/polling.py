"""Something done again and again, in a thread of its own, until it is told to stop."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("cutpoint.server")


class Polling:
    """Calls `look` every so often; an error of it is logged, and it is called again."""

    def __init__(self, look: Callable[[], None], every_s: float, at: str = "the model repository") -> None:
        """Begin, `every_s` seconds from now; `at` is what it looks at, for the log."""
        self._look, self._every_s, self._at = look, every_s, at
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="polling", daemon=True)
        self._thread.start()

    def close(self, wait_s: float) -> None:
        """Stop; a look that takes longer than `wait_s` is not waited for."""
        self._stop.set()
        self._thread.join(wait_s)

    def _poll(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._look()
            except Exception:
                log.exception("looking at %s failed", self._at)
