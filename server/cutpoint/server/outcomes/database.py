"""SQLite files of the state folder, and the graphs that what they hold is of."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cutpoint.errors import BadConfig, Overloaded, Unavailable

# A label is known by its place, and a logit means something of one graph only: both hang on the digest.
GRAPHS = """
CREATE TABLE IF NOT EXISTS graph (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, labels TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, version, digest)) STRICT;
"""
_BUSY_S = 30.0
# What a row takes beside its bytes, in indexes and pages that are not full: more of it than there is only means to look again.
_ROW_BYTES = 100
# Room made beyond what is needed, as a share of the bound: or every message would drop something.
_ROOM = 1 / 64


@dataclass(frozen=True)
class Graph:
    """What made some logits: a model version, by the digest of its graph, and the labels of the last axis."""

    model: str
    version: int
    digest: str
    labels: tuple[str, ...]


def opened(path: Path, schema: str, synchronous: Literal["FULL", "NORMAL"], settings: Sequence[str] = ()) -> sqlite3.Connection:
    """A database with this schema, several processes may have it open; BadConfig where that cannot be.

    Args:
        path: its file, made where it is missing; its folder likewise.
        schema: statements that do nothing the second time.
        synchronous: FULL: what is committed survives the machine; NORMAL: the process.
        settings: "name=value" each, of this connection; that of the pages' size is of a new file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=_BUSY_S)
        try:
            for setting in settings:
                db.execute(f"PRAGMA {setting}")
            _write_ahead(db)
            db.execute(f"PRAGMA synchronous={synchronous}")
            db.executescript(schema)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        folder = path.parent
        raise BadConfig(f"state folder {folder} cannot be used ({error}); expected a writable one, see --state") from error
    return db


def _write_ahead(db: sqlite3.Connection, pause_s: float = 0.05) -> None:
    """Have a new file's writes go ahead of it; of several processes that open it at once, only one can say so at a time.

    SQLite does not wait in every one of these cases, though it was told to.
    """
    for left in range(int(_BUSY_S / max(pause_s, 1e-3)), -1, -1):
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or not left:
                raise
        time.sleep(pause_s)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; committed on leaving. For who has the connection to itself."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # sqlite rolls back by itself when the disk is full
            db.execute("ROLLBACK")
        raise


@contextmanager
def said() -> Iterator[None]:
    """Have a database that cannot be written now told to the caller as what it is.

    Raises:
        Unavailable: another process has it locked.
        Overloaded: the disk is full.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if _is_locked(error):
            raise Unavailable(f"the state folder is in use ({error}): nothing was done, and it is safe to repeat") from error
        if _code(error) == sqlite3.SQLITE_FULL:
            text = f"the state folder's disk is full ({error}): nothing was done, and it is safe to repeat once there is room"
            raise Overloaded(text) from error
        raise


def _is_locked(error: sqlite3.OperationalError) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: sqlite3.OperationalError) -> int:
    """SQLite's primary code; -1 where the error is not of SQLite itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def drop_oldest(
    db: sqlite3.Connection, table: str, sizes: str, max_bytes: int, spared: Container[int] = frozenset()
) -> Counter[int]:
    """Delete the oldest rows until the database is at most so large, or only `spared` ones are left.

    Args:
        db: in a transaction.
        table: with `id`, in the order that rows came, and `graph`.
        sizes: an expression of a row's bytes.
        max_bytes: of the whole database.
        spared: ids of rows that stay.

    Returns: how many rows are gone of each graph's number.
    """
    gone: Counter[int] = Counter()
    while (over := used_bytes(db) - max_bytes) > 0:
        found, freed = [], 0
        for number, graph, size in db.execute(f"SELECT id, graph, {sizes} FROM {table} ORDER BY id"):
            if number in spared:
                continue
            found.append((number,))
            gone[graph] += 1
            freed += size + _ROW_BYTES
            if freed >= over + max_bytes * _ROOM:
                break
        if not found:
            break
        db.executemany(f"DELETE FROM {table} WHERE id=?", found)
    return gone


def used_bytes(db: sqlite3.Connection) -> int:
    """What the database holds, without the pages of its file that are free."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def number_of(db: sqlite3.Connection, graph: Graph) -> int:
    """The number of a graph in this database, given to it now where it has none."""
    of = (graph.model, graph.version, graph.digest)
    row = db.execute("SELECT id FROM graph WHERE model=? AND version=? AND digest=?", of).fetchone()
    if row is None:
        # Another process may have been faster.
        db.execute(
            "INSERT OR IGNORE INTO graph (model, version, digest, labels) VALUES (?, ?, ?, ?)", (*of, json.dumps(graph.labels))
        )
        row = db.execute("SELECT id FROM graph WHERE model=? AND version=? AND digest=?", of).fetchone()
    return int(row[0])


def graph_of(db: sqlite3.Connection, number: int) -> Graph:
    """The graph of a number that this database gave."""
    model, version, digest, labels = db.execute(
        "SELECT model, version, digest, labels FROM graph WHERE id=?", (number,)
    ).fetchone()
    return Graph(model, version, digest, tuple(json.loads(labels)))
