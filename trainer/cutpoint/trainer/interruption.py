"""Ctrl-C and SIGTERM: the step is finished, a checkpoint left, and the run ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupted(Exception):  # not an error: somebody wanted it
    """A training that was told to stop, and has left a checkpoint.

    Attributes:
        signal: the number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class Interruption:
    """Notes the first signal instead of dying of it; the second one kills as ever.

    A context: the handlers that were there before are put back at its end.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal = 0
        self._before: list[object] = []

    def __enter__(self) -> Self:
        self._before = [signal.getsignal(number) for number in self.SIGNALS]
        return self

    def listen(self) -> None:
        """From now on; in the main thread only, since no other may set handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                signal.signal(number, self._note)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, before in zip(self.SIGNALS, self._before, strict=True):
                if before is not None:  # a handler that was not set from Python cannot be set from it
                    signal.signal(number, before)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)
