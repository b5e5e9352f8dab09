"""SQLite files of the state folder, and the graphs that what they hold is of."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cutpoint.errors import BadConfig

# A label is known by its place, and a logit means something of one graph only: both hang on the digest.
GRAPHS = """
CREATE TABLE IF NOT EXISTS graph (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL, labels TEXT NOT NULL,
    rows INTEGER NOT NULL DEFAULT 0,
    UNIQUE (model, version, digest)) STRICT;
"""
_BUSY_S = 30.0


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
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={synchronous}")
            db.executescript(schema)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        folder = path.parent
        raise BadConfig(f"state folder {folder} cannot be used ({error}); expected a writable one, see --state") from error
    return db


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
