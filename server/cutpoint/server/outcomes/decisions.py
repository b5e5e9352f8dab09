"""The decisions of late, by request id: what an outcome that names a request is matched with.

An answer costs its request an append to a list; a thread writes what has gathered, in one statement that runs without the
interpreter's lock. Written to survive the process but not the machine: what is not on disk yet is a decision whose outcome will
be unmatched, not one that was wrong.
"""

import json
import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .database import GRAPHS, Graph, drop_oldest, graph_of, number_of, opened, transaction
from .form import LONGEST_KEY
from .likeness import alike

log = logging.getLogger("cutpoint.server")

_SCHEMA = f"""
{GRAPHS}
CREATE TABLE IF NOT EXISTS decision (
    id INTEGER PRIMARY KEY, request BLOB NOT NULL, graph INTEGER NOT NULL, first_row INTEGER NOT NULL,
    rows INTEGER NOT NULL, windows INTEGER NOT NULL, policy INTEGER NOT NULL, decided_s REAL NOT NULL,
    ambiguous INTEGER NOT NULL DEFAULT 0, logits BLOB NOT NULL,
    UNIQUE (request, graph, first_row)) STRICT;
"""
# Everything of a batch in one step. A second answer to an id is a retry where it is the same, and otherwise nobody knows which
# of the two an outcome would speak of.
_INSERT = """
INSERT INTO decision (request, graph, first_row, rows, windows, policy, decided_s, logits)
SELECT substr(:requests, value ->> 0, value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
    value ->> 7, substr(:logits, value ->> 8, value ->> 9) FROM json_each(:described) WHERE true
ON CONFLICT (request, graph, first_row) DO UPDATE SET
    ambiguous = ambiguous OR rows != excluded.rows OR windows != excluded.windows OR NOT alike(logits, excluded.logits)
"""
_SIZES = "length(request) + length(logits)"
_PARTS = (
    "SELECT id, graph, first_row, rows, windows, policy, decided_s, ambiguous FROM decision WHERE request=? "
    "ORDER BY graph, first_row"
)
# Answers of 512 labels take half a page of the usual 4 KiB and a little, and a page of the index is written by many batches:
# larger pages, brought into the database less often, take a third less time.
_SETTINGS = ("page_size=8192", "wal_autocheckpoint=4000")
# How long a batch gathers: what an outcome that comes sooner, through another worker, has to wait for.
GATHER_S = 0.1
# Bytes that may wait to be written; beyond it decisions are dropped, and counted.
_WAITING_BYTES = 32 << 20
# Graph, request, first row, shape, policy, when, and the logits: a tuple, since making one costs a tenth of a record.
_Waiting = tuple[Graph, bytes, int, tuple[int, ...], int, float, bytes]
# What a decision takes beside its logits and its id, in memory.
_EACH_BYTES = 200


@dataclass(frozen=True)
class Decision:
    """The answer to a request, or to a part of one.

    Attributes:
        graph: whose logits they are.
        first_row: of these, in what the caller scored; 0 unless it was sent in parts.
        rows: how many.
        windows: of each row; 0 where the logits have no window axis.
        policy: version of the policy that decided; 0 where nothing was decided.
        decided_s: when, seconds since 1970.
        ambiguous: several requests with different answers had this id.
        logits: float32 [label] of those asked for, by row of what the caller scored and window, -1 for none.
    """

    graph: Graph
    first_row: int
    rows: int
    windows: int
    policy: int
    decided_s: float
    ambiguous: bool
    logits: Mapping[tuple[int, int], NDArray[np.float32]]

    def has(self, row: int) -> bool:
        """Whether a row of what the caller scored is among these."""
        return 0 <= row - self.first_row < self.rows


class DecisionLog:
    """Decisions on disk, the oldest dropped first. Any thread, and any process of one server, may use the same file.

    Attributes:
        dropped: how many were not kept: writing was slower than deciding, or failed, or one was larger than half of the log.
    """

    def __init__(
        self, folder: Path, max_bytes: int, now_s: Callable[[], float] = time.time, gather_s: float = GATHER_S
    ) -> None:
        """Open or create the log in `folder`, which may hold `max_bytes`; BadConfig where that cannot be."""
        self._max_bytes, self._now_s, self._gather_s = max_bytes, now_s, gather_s
        path = folder / "decisions.sqlite3"
        self._writing_db = opened(path, _SCHEMA, "NORMAL", _SETTINGS)
        self._writing_db.create_function("alike", 2, _alike, deterministic=True)
        self._reading_db = opened(path, _SCHEMA, "NORMAL", _SETTINGS)
        self._numbers: dict[tuple[str, int, str], int] = {}
        self._graphs: dict[int, Graph] = {}
        self._lock, self._writing, self._reading = threading.Lock(), threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self.dropped = 0
        self._something, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="decisions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits and close the file."""
        self._closed.set()
        self._something.set()
        self._thread.join()
        self.flush()
        self._writing_db.close()
        self._reading_db.close()

    def keep(self, graph: Graph, request_id: str, first_row: int, logits: NDArray[np.float32], policy: int) -> None:
        """Have a decision kept. Never waits: where too much is to be written already, it is dropped.

        Args:
            graph: that made the logits.
            request_id: of the request; one too long to be named in a report is not kept.
            first_row: of these, in what the caller scored.
            logits: [row, label] or [row, window, label]; others are not kept.
            policy: version of what decided, 0 for nothing.
        """
        shape, data, request = logits.shape, logits.tobytes(), request_id.encode()
        if len(request) > LONGEST_KEY or not 2 <= len(shape) <= 3:
            return
        waiting = (graph, request, first_row, shape, policy, self._now_s(), data)
        size = len(data) + len(request) + _EACH_BYTES
        with self._lock:
            # One that would push out most of what is kept is not worth it.
            if self._waiting_bytes + size > _WAITING_BYTES or 2 * size > self._max_bytes:
                self.dropped += 1
                return
            self._waiting.append(waiting)
            self._waiting_bytes += size
            first = len(self._waiting) == 1
        if first:
            self._something.set()

    def flush(self) -> None:
        """Write what waits; whoever was answered before this is found afterwards."""
        with self._writing:
            with self._lock:
                batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
            if not batch:
                return
            try:
                self._write(batch)
            except Exception as error:  # the thread goes on with the next ones
                self._numbers.clear()  # some may not have been committed
                with self._lock:
                    self.dropped += len(batch)
                log.error("%d decisions could not be kept: %s", len(batch), error)

    def find(self, model: str, request_id: str, asked: Collection[tuple[int, int]]) -> list[Decision]:
        """What was answered to an id by any version of a model: a part each, in the order of their rows.

        Args:
            model: its name.
            request_id: of the request.
            asked: rows of what the caller scored, each with its window or -1, whose logits are wanted.
        """
        with self._reading:
            parts = self._reading_db.execute(_PARTS, (request_id.encode(),)).fetchall()
            found, wants = [], sorted(asked)
            for number, graph_number, first_row, rows, windows, policy, decided_s, ambiguous in parts:
                graph = self._graph(graph_number)
                if graph.model != model:
                    continue
                some = wants[bisect_left(wants, (first_row, -1)) : bisect_left(wants, (first_row + rows, -1))]
                wanted = [of for of in some if (0 <= of[1] < windows if windows else of[1] < 0)]
                logits: dict[tuple[int, int], NDArray[np.float32]] = {}
                if wanted:
                    row = self._reading_db.execute("SELECT logits FROM decision WHERE id=?", (number,)).fetchone()
                    if row is None:  # dropped by another process in this moment
                        continue
                    array = np.frombuffer(row[0], "<f4").reshape(rows, max(1, windows), -1)
                    # Copies: nothing else of a part is held while the others are read.
                    logits = {(row, window): array[row - first_row, max(0, window)].copy() for row, window in wanted}
                found.append(Decision(graph, first_row, rows, windows, policy, decided_s, bool(ambiguous), logits))
        return found

    def _write_on(self) -> None:
        while not self._closed.is_set():
            self._something.wait()
            self._closed.wait(self._gather_s)
            self._something.clear()
            self.flush()

    def _write(self, batch: list[_Waiting]) -> None:
        described, requests, logits = [], list[bytes](), list[bytes]()
        request_at = logits_at = 1
        with transaction(self._writing_db):
            for graph, request, first_row, shape, policy, decided_s, data in batch:
                windows = shape[1] if len(shape) == 3 else 0
                described.append(
                    (request_at, len(request), self._number(graph), first_row, shape[0], windows, policy, decided_s, logits_at,
                     len(data))
                )  # fmt: skip
                requests.append(request)
                logits.append(data)
                request_at += len(request)
                logits_at += len(data)
            self._writing_db.execute(
                _INSERT, {"requests": b"".join(requests), "logits": b"".join(logits), "described": json.dumps(described)}
            )
            drop_oldest(self._writing_db, "decision", _SIZES, self._max_bytes)

    def _number(self, graph: Graph) -> int:
        of = (graph.model, graph.version, graph.digest)
        number = self._numbers.get(of)
        if number is None:
            number = self._numbers[of] = number_of(self._writing_db, graph)
        return number

    def _graph(self, number: int) -> Graph:
        graph = self._graphs.get(number)
        if graph is None:
            graph = self._graphs[number] = graph_of(self._reading_db, number)
        return graph


def _alike(one: bytes, other: bytes) -> bool:
    """Whether two answers are one, given twice."""
    if one == other or len(one) != len(other):
        return len(one) == len(other)
    return alike(np.frombuffer(one, "<f4"), np.frombuffer(other, "<f4"))
