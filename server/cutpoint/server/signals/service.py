"""`cutpoint.v1.SignalService`: signals without end."""

import threading
from concurrent.futures import Executor

from cutpoint.errors import ModelNotFound, Overloaded, Unavailable
from cutpoint.v1 import signal_pb2 as v1

from ..port.admission import Admission
from ..port.rpc import Rpc
from ..port.transport import Call
from ..serving.models import Models
from .scoring import SignalScoring
from .stream import SignalStream

SERVICE = v1.DESCRIPTOR.services_by_name["SignalService"].full_name
MOST_SIGNALS = 1024


class SignalService:
    """Scores signals with `models`, each in a call of its own."""

    def __init__(
        self, models: Models, admission: Admission, pool: Executor, largest_bytes: int, most_signals: int = MOST_SIGNALS
    ) -> None:
        """No signal yet.

        Args:
            models: that may be asked for.
            admission: told of the bytes held.
            pool: where messages are worked on that take more than microseconds.
            largest_bytes: of a block of windows; that of a message.
            most_signals: at a time; more are refused as overloaded.
        """
        self._models, self._admission, self._pool = models, admission, pool
        self._largest_bytes, self._most = largest_bytes, most_signals
        self._lock = threading.Lock()
        self._signals = 0

    def rpcs(self) -> list[Rpc]:
        """Its one RPC."""
        return [Rpc(f"/{SERVICE}/ScoreSignal", "bidi_stream", self._score)]

    def _score(self, call: Call) -> None:
        with self._lock:
            if self._signals >= self._most:
                raise Overloaded(f"{self._signals} signals are being scored, as many as may be; retry later")
            self._signals += 1
        SignalStream(call, self._admission, self._pool, self._begin, self._serves, self._ended).start()

    def _begin(self, header: v1.SignalHeader) -> SignalScoring:
        return SignalScoring(self._models.get(header.model, header.model_version), header, self._largest_bytes)

    def _serves(self, scoring: SignalScoring) -> bool:
        """Whether the model that a signal began with still is the one of its name and version."""
        try:
            return self._models.get(scoring.model.name, str(scoring.model.version)) is scoring.model
        except (ModelNotFound, Unavailable):
            return False

    def _ended(self) -> None:
        with self._lock:
            self._signals -= 1
