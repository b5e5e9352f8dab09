"""Outcomes with the scores that they are of, on disk: each label of a row or window once, whatever is reported again.

SQLite as the policy store: a write-ahead log synced at every commit, so that what was acknowledged survives kill -9. Several
workers share the file; the oldest rows are dropped first.
"""

import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadRequest
from numpy.typing import NDArray

from .database import GRAPHS, Graph, drop_oldest, graph_of, number_of, opened, transaction, used_bytes
from .likeness import alike

_SCHEMA = f"""
{GRAPHS}
CREATE TABLE IF NOT EXISTS outcome (
    id INTEGER PRIMARY KEY, graph INTEGER NOT NULL, kind INTEGER NOT NULL, key BLOB NOT NULL,
    row INTEGER NOT NULL, window INTEGER NOT NULL, decided_s REAL NOT NULL, labels BLOB NOT NULL,
    UNIQUE (key, graph, kind, row, window)) STRICT;
CREATE INDEX IF NOT EXISTS outcome_time ON outcome (graph, decided_s);
"""
# One of these for each label of a row: the logit, what one such outcome stands for (0 where nobody knows), what it turned out
# to be, and what was decided; 255 where that is not known.
LABEL = np.dtype([("logit", "<f4"), ("weight", "<f4"), ("target", "u1"), ("decided", "u1")])
REQUESTED, SCORED = 0, 1
_SIZES = "length(key) + length(labels)"
_FIND = "SELECT id, labels FROM outcome WHERE key=? AND graph=? AND kind=? AND row=? AND window=?"
_RANGE = (
    "SELECT kind, key, row, window, labels FROM outcome WHERE graph=? AND decided_s >= ? AND decided_s < ? ORDER BY decided_s"
)
# Rows that are read at a time, and their bytes: what is made of them takes several times as much.
_CHUNK, _CHUNK_BYTES = 4096, 4 << 20

Fate = Literal["taken", "repeated", "corrected", "conflict", "other_logits"]


@dataclass(frozen=True)
class Entry:
    """What one outcome says, of a decision that is known.

    Attributes:
        graph: that made the logits.
        kind: whether `key` is a request's id or the caller's own.
        row, window: of the request; -1 for no window. 0 and -1 for a caller's key.
        decided_s: when it was decided, seconds since 1970.
        labels: `LABEL` [label]; target 255 for labels that this outcome says nothing of.
    """

    graph: Graph
    kind: int
    key: bytes
    row: int
    window: int
    decided_s: float
    labels: NDArray[Any]


@dataclass
class Counted:
    """What a call adds to the counts of one graph.

    Attributes:
        outcomes: [label, decided, actual] of labels that had a decision.
        recallable: float [label, decided] of the positives among them from which recall can be estimated: their weights.
    """

    outcomes: NDArray[np.int64]
    recallable: NDArray[np.float64]

    @classmethod
    def of(cls, labels: int) -> "Counted":
        """Nothing yet."""
        return cls(np.zeros((labels, 2, 2), np.int64), np.zeros((labels, 2)))

    def add(self, labels: NDArray[Any], new: NDArray[np.bool_]) -> None:
        """Count the entries of one row that are `new`."""
        (i,) = (new & (labels["decided"] != UNLABELLED)).nonzero()
        self.outcomes[i, labels["decided"][i], labels["target"][i]] += 1
        self.weigh(labels, new)

    def weigh(self, labels: NDArray[Any], new: NDArray[np.bool_]) -> None:
        """Count those whose sampling is `new`."""
        (i,) = (new & (labels["decided"] != UNLABELLED) & (labels["target"] == 1)).nonzero()
        self.recallable[i, labels["decided"][i]] += labels["weight"][i]


@dataclass(frozen=True)
class Added:
    """What became of entries: a fate and the labels in conflict for each, and what there is to count by graph."""

    fates: list[tuple[Fate, tuple[int, ...]]] = field(default_factory=list)
    counted: dict[Graph, Counted] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """Rows of the store.

    Attributes:
        labels: `LABEL` [row, label].
        groups: of what each is a part: windows of one row have the same.
        windowed: whether any is a window.
    """

    labels: NDArray[Any]
    groups: list[tuple[int, bytes, int]]
    windowed: bool


class Snapshot:
    """The store as it was when this was first read from. For one thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read by `db`, which is in a transaction."""
        self._db = db

    def kept(self, graph: Graph, since_s: float = 0.0, until_s: float = math.inf) -> Iterator[Kept]:
        """The rows of a graph that were decided from `since_s` on and before `until_s`, some at a time."""
        of = (graph.model, graph.version, graph.digest)
        found = self._db.execute("SELECT id FROM graph WHERE model=? AND version=? AND digest=?", of).fetchone()
        if found is None:
            return
        cursor = self._db.execute(_RANGE, (found[0], since_s, until_s))
        first = cursor.fetchone()
        if first is None:
            return
        each = max(1, min(_CHUNK, _CHUNK_BYTES // max(1, len(first[4]))))  # rows of a graph have the same size
        rows = [first, *cursor.fetchmany(each - 1)]
        while rows:
            labels = np.frombuffer(b"".join(row[4] for row in rows), LABEL).reshape(len(rows), -1)
            yield Kept(labels, [row[:3] for row in rows], any(row[3] >= 0 for row in rows))
            rows = cursor.fetchmany(each)


class OutcomeStore:
    """The outcomes of all models of one server. Safe to call from any thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open or create the store in `folder`, which may hold `max_bytes`; BadConfig where that cannot be."""
        self._max_bytes = max_bytes
        self._path = folder / "outcomes.sqlite3"
        self._db = opened(self._path, _SCHEMA, "FULL")
        self._reading_db = opened(self._path, "", "FULL")  # so that a look need not wait until something is on disk
        self._lock, self._reading = threading.Lock(), threading.Lock()

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._reading:
            self._db.close()
            self._reading_db.close()

    def add(self, entries: Sequence[Entry], *, replace: bool = False) -> Added:
        """Take entries, in their order, each label of each once; on disk when this returns.

        Args:
            entries: whose labels are as many as their graph has.
            replace: a label that is known otherwise is replaced; without it, an entry with one is not taken at all.

        Raises:
            BadRequest: these alone are more than the store may hold; nothing is taken.
        """
        added = Added()
        with self._lock, transaction(self._db):
            numbers: dict[Graph, int] = {}
            new_rows: dict[int, int] = {}
            named: set[int] = set()
            for entry in entries:
                number = numbers.get(entry.graph)
                if number is None:
                    number = numbers[entry.graph] = number_of(self._db, entry.graph)
                    added.counted[entry.graph] = Counted.of(len(entry.graph.labels))
                fate, conflicts, at, is_new = self._add(entry, number, replace, added.counted[entry.graph])
                added.fates.append((fate, conflicts))
                named.add(at)
                new_rows[number] = new_rows.get(number, 0) + is_new
            # What this call says is known stays so, however old its row is.
            gone = drop_oldest(self._db, "outcome", _SIZES, self._max_bytes, named)
            if used_bytes(self._db) > self._max_bytes:
                size = sum(entry.labels.nbytes for entry in entries)
                expected = f"less than the store may hold, {self._max_bytes >> 20} MiB: fewer at a time, or more --outcomes-mib"
                raise BadRequest.of("outcomes", f"{len(entries)} of them, {size} bytes and their keys", expected)
            for number in new_rows.keys() | gone.keys():
                change = new_rows.get(number, 0) - gone[number]
                if change:
                    self._db.execute("UPDATE graph SET rows = rows + ? WHERE id=?", (change, number))
        return added

    def find(self, model: str, key: bytes, row: int, window: int) -> list[Entry]:
        """What is kept of a row of a request, of any version of a model."""
        with self._reading:
            rows = self._reading_db.execute(
                "SELECT graph, decided_s, outcome.labels FROM outcome JOIN graph ON graph.id = graph "
                "WHERE key=? AND kind=? AND row=? AND window=? AND model=?",
                (key, REQUESTED, row, window, model),
            ).fetchall()
            return [
                Entry(graph_of(self._reading_db, number), REQUESTED, key, row, window, decided_s, np.frombuffer(labels, LABEL))
                for number, decided_s, labels in rows
            ]

    def graphs(self, model: str, version: int) -> list[Graph]:
        """The graphs of a model version of which there are outcomes, the newest first."""
        with self._reading:
            rows = self._reading_db.execute(
                "SELECT id FROM graph WHERE model=? AND version=? ORDER BY id DESC", (model, version)
            ).fetchall()
            return [graph_of(self._reading_db, number) for (number,) in rows]

    def models(self) -> set[str]:
        """The models of which there are outcomes."""
        with self._reading:
            return {name for (name,) in self._reading_db.execute("SELECT DISTINCT model FROM graph")}

    def rows(self) -> dict[tuple[str, int, str], int]:
        """How many rows are kept, by model, version and digest."""
        with self._reading:
            rows = self._reading_db.execute("SELECT model, version, digest, rows FROM graph").fetchall()
        return {(model, version, digest): count for model, version, digest, count in rows}

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """What is kept at this moment, to be read in its own time, holding nobody back."""
        db = opened(self._path, "", "FULL")
        try:
            db.execute("BEGIN")
            yield Snapshot(db)
        finally:
            db.close()

    def _add(self, entry: Entry, number: int, replace: bool, counted: Counted) -> tuple[Fate, tuple[int, ...], int, bool]:
        """Take one entry; gives its fate, the labels in conflict, the id of its row, and whether there was no such row."""
        said = entry.labels["target"] != UNLABELLED
        row = self._db.execute(_FIND, (entry.key, number, entry.kind, entry.row, entry.window)).fetchone()
        if row is None:
            cursor = self._db.execute(
                "INSERT INTO outcome (graph, kind, key, row, window, decided_s, labels) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, entry.kind, entry.key, entry.row, entry.window, entry.decided_s, entry.labels.tobytes()),
            )
            counted.add(entry.labels, said)
            return "taken", (), int(cursor.lastrowid or 0), True
        at, before = int(row[0]), np.frombuffer(row[1], LABEL)
        if not _same_decision(entry, before):
            return "other_logits", (), at, False
        known = before["target"] != UNLABELLED
        other = said & known & (before["target"] != entry.labels["target"])
        if other.any() and not replace:
            return "conflict", tuple(int(i) for i in np.flatnonzero(other)), at, False
        new = said & ~known
        # Of a decision that was looked at twice the reason that sees more holds, whichever came first.
        weight = _smallest(before["weight"], entry.labels["weight"])
        weighed = weight != before["weight"]
        if not (new | other | weighed).any():
            return "repeated", (), at, False
        after = np.where(new | other, entry.labels, before)
        after["weight"] = weight
        unknown = np.isnan(after["logit"])
        after["logit"] = np.where(unknown, entry.labels["logit"], after["logit"])
        # A key is of one decision: what was decided stays as it was first said, whatever policy is named later.
        after["decided"] = np.where(before["decided"] != UNLABELLED, before["decided"], entry.labels["decided"])
        self._db.execute("UPDATE outcome SET labels=? WHERE id=?", (after.tobytes(), at))
        counted.add(after, new | other)
        # What was counted with a larger weight stays so: a counter does not go back.
        counted.weigh(after, said & known & ~other & (before["weight"] == 0) & weighed)
        return "corrected" if other.any() else "taken" if new.any() else "repeated", (), at, False


def _same_decision(entry: Entry, before: NDArray[Any]) -> bool:
    """Whether an entry is of the decision that is kept under its key; a request may have been made again, and run again."""
    both = ~np.isnan(before["logit"]) & ~np.isnan(entry.labels["logit"])
    one, other = before["logit"][both], entry.labels["logit"][both]
    return bool((one == other).all()) or (entry.kind == REQUESTED and alike(one, other))


def _smallest(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The smaller weight, where both are known; the one that is known, where one is; 0 where none is."""
    found: NDArray[np.float32] = np.where((one > 0) & (other > 0), np.minimum(one, other), np.maximum(one, other))
    return found


def time_range(request: Any) -> tuple[float, float]:
    """`since_s` and `until_s` of a message; BadRequest where they are no times, or none is between them."""
    since_s = request.since_s if request.HasField("since_s") else 0.0
    until_s = request.until_s if request.HasField("until_s") else math.inf
    for name, value in (("since_s", since_s), ("until_s", until_s)):
        if math.isnan(value):
            raise BadRequest.of(name, value, "seconds since 1970")
    if since_s >= until_s:
        raise BadRequest.of("until_s", until_s, f"more than since_s, {since_s:g}")
    return since_s, until_s
