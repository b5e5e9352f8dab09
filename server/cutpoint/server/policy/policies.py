"""The policy store: policies are only ever added, and one pointer per model version says which is active.

SQLite, so that what was acknowledged survives kill -9: a write-ahead log synced at every commit. The pointer is changed by
compare-and-set, which is what several servers will need of Postgres too.
"""

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from cutpoint.calibration import Policy, ProbabilityMap
from cutpoint.errors import BadConfig, Conflict, PolicyNotFound
from numpy.typing import NDArray

from ..monitoring.promises import FALSE_POSITIVES, RECALL, RSE, promises_of
from ..outcomes.database import opened

_SCHEMA = """
CREATE TABLE IF NOT EXISTS policy (
    model TEXT NOT NULL, model_version INTEGER NOT NULL, version INTEGER NOT NULL,
    shipped INTEGER NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (model, version)) STRICT;
CREATE TABLE IF NOT EXISTS active (
    model TEXT NOT NULL, model_version INTEGER NOT NULL, version INTEGER NOT NULL,
    generation INTEGER NOT NULL, activated_s REAL NOT NULL,
    PRIMARY KEY (model, model_version)) STRICT;
"""

_NUMBER = struct.Struct("<Q")
_KNOWN = 32  # policies that are kept at hand
_START = 64  # characters of a document, in which it says its format
_SUMMED = [RSE, RECALL, FALSE_POSITIVES]  # promises that are summed over decisions


@dataclass(frozen=True)
class Active:
    """The active policy of one model version.

    Attributes:
        generation: how many times the pointer has been set; increases.
        activated_s: when, in seconds since 1970.
        previous: the policy version that this activation replaced, where it was just made; 0 for none.
    """

    policy: Policy
    generation: int
    activated_s: float
    previous: int = field(default=0, compare=False)

    @cached_property
    def thresholds(self) -> NDArray[np.float32]:
        """Float32 [label]; NaN, which no logit reaches, where a label has none."""
        return self.policy.thresholds()

    @cached_property
    def decides(self) -> NDArray[np.bool_]:
        """Which labels have a threshold, [label]."""
        return ~np.isnan(self.thresholds)

    @cached_property
    def probabilities(self) -> ProbabilityMap:
        """From logits [..., label] to calibrated probabilities."""
        return self.policy.probability_map()

    @cached_property
    def rates(self) -> NDArray[np.float64]:
        """Expected positive rate, float64 [label], 0 to 1; 0 where a label has no threshold."""
        return np.nan_to_num(self.policy.expected_rates())

    @cached_property
    def per_decision(self) -> NDArray[np.float64]:
        """What one decision adds to the counters of `cutpoint.server.metrics` whatever it is, float64 [counter, label]."""
        rates, decides, (error, recall, false) = self.rates * self.decides, 1.0 * self.decides, self.promises[_SUMMED]
        known = ~np.isnan(recall + false)
        rows = [decides, 0 * rates, rates, rates * (1 - rates), rates * error, recall * known, false * known, decides * known]
        found: NDArray[np.float64] = np.nan_to_num(np.stack(rows))
        return found

    @cached_property
    def promises(self) -> NDArray[np.float64]:
        """What `promises_of` finds, [gauge, label]."""
        return promises_of(self.policy)

    def prepared(self) -> Self:
        """The same, with everything worked out that an answer needs: not to be done while one waits for it."""
        _ = self.thresholds, self.decides, self.probabilities, self.rates, self.per_decision, self.promises
        return self

    def again(self, generation: int, activated_s: float, previous: int = 0) -> Self:
        """The same policy made active another time; what was worked out of it is so once, and for both."""
        other = copy(self.prepared())
        other.__dict__.update(generation=generation, activated_s=activated_s, previous=previous)
        return other


class Generation:
    """A number in a file that several processes map: whoever changes what is active raises it, before saying that it is done.

    Two that raise it at a time may raise it once; both of their changes are on disk by then, for whoever sees the new number.
    """

    def __init__(self, path: Path) -> None:
        """Map `path`, made where it is missing."""
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) < _NUMBER.size:
                file.truncate(_NUMBER.size)
            self._map = mmap.mmap(file.fileno(), _NUMBER.size)

    @property
    def value(self) -> int:
        """The number now; a tenth of a microsecond."""
        found: int = _NUMBER.unpack_from(self._map)[0]
        return found

    def bump(self) -> None:
        """Raise it."""
        _NUMBER.pack_into(self._map, 0, (self.value + 1) & 0xFFFFFFFFFFFFFFFF)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Have a state folder for oneself, until the process ends, however it ends; BadConfig where another server has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        found = f"{folder} (in use by another server)"
        raise BadConfig.of("state folder", found, "one of its own for each server, see --state") from error
    except OSError as error:
        raise BadConfig(f"state folder {folder} cannot be used ({error}); expected a writable one, see --state") from error


class PolicyStore:
    """Policies of all models of one server, on disk; of one, because another would not see which policy is active now.

    Attributes:
        generation: where several processes are that server, what tells them of changes; None otherwise.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        """Open or create the store in `folder`; BadConfig where that cannot be.

        `shared` is for a worker, whose supervisor has the folder.
        """
        self._lock = threading.Lock()
        self._alone = folder / "alone"
        self._known: dict[tuple[str, int], Active] = {}
        with ExitStack() as undo:
            if not shared:
                undo.enter_context(own_folder(folder))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.generation = Generation(folder / "generation") if shared else None
                if self.generation is not None:
                    undo.callback(self.generation.close)
                self._db = opened(folder / "policies.sqlite3", _SCHEMA, "FULL")
                undo.callback(self._db.close)
            except OSError as error:
                raise BadConfig(
                    f"state folder {folder} cannot be used ({error}); expected a writable one, see --state"
                ) from error
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Close the file and let another server have the folder."""
        with self._lock:
            self._undo.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Look and then change without another worker in between."""
        with self._alone.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def add(self, policy: Policy, *, shipped: bool = False) -> Policy:
        """Store a policy under the next version number of its model and return it with that number."""
        with self._transaction():
            return self._add(policy, shipped)

    def add_and_activate(self, policy: Policy, now_s: float, *, shipped: bool = False) -> Active:
        """Store a policy and make it active in one step, provided that its `parent` still is the active one.

        Raises:
            Conflict: another policy became active meanwhile; nothing was stored.
        """
        with self._transaction():
            stored = Active(self._add(policy, shipped), 0, now_s)
            active = self._activate(stored, now_s, policy.parent or 0)
        self._remember(stored)
        return active

    def activate(self, model: str, model_version: int, version: int, now_s: float, expected: int | None = None) -> Active:
        """Make a stored policy active; `expected` is the version believed active (0 for none), None for whatever is.

        Raises:
            PolicyNotFound: no such policy of that model version.
            Conflict: another policy than `expected` is active; nothing changed.
        """
        with self._transaction():
            return self._activate(self._get(model, model_version, version), now_s, expected)

    def get(self, model: str, model_version: int, version: int) -> Policy:
        """One policy; PolicyNotFound where there is none."""
        with self._lock:
            return self._get(model, model_version, version).policy

    def document(self, policy: Policy) -> str:
        """A stored policy as JSON: read, not written anew, which at 512 labels makes every thread wait for 2 ms."""
        with self._lock:
            found = self._document(policy.model, policy.model_version, policy.version)
        # Of an older format it is what an older server wrote.
        return policy.to_json() if found is None or f'"format": {policy.format}' not in found[:_START] else found

    def list(self, model: str, model_version: int) -> list[Policy]:
        """All policies of a model version, newest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT document FROM policy WHERE model=? AND model_version=? ORDER BY version DESC", (model, model_version)
            ).fetchall()
        return [Policy.from_json(document) for (document,) in rows]

    def active(self, model: str, model_version: int) -> Active | None:
        """The active policy of a model version, if any."""
        with self._lock:
            row = self._pointer(model, model_version)
            return None if row is None else self._get(model, model_version, row[0]).again(row[1], row[2])

    def is_shipped(self, policy: Policy) -> bool:
        """Whether a stored policy came with a bundle."""
        with self._lock:
            row = self._db.execute(
                "SELECT shipped FROM policy WHERE model=? AND version=?", (policy.model, policy.version)
            ).fetchone()
        return bool(row and row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
                if self.generation is not None:
                    self.generation.bump()
            except BaseException:
                if self._db.in_transaction:  # sqlite rolls back by itself when the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def _add(self, policy: Policy, shipped: bool) -> Policy:
        (last,) = self._db.execute("SELECT coalesce(max(version), 0) FROM policy WHERE model=?", (policy.model,)).fetchone()
        stored = policy.model_copy(update={"version": last + 1})
        self._db.execute(
            "INSERT INTO policy VALUES (?, ?, ?, ?, ?)",
            (stored.model, stored.model_version, stored.version, int(shipped), stored.to_json()),
        )
        return stored

    def _activate(self, stored: Active, now_s: float, expected: int | None) -> Active:
        policy = stored.policy
        row = self._pointer(policy.model, policy.model_version)
        current, generation = (row[0], row[1]) if row else (0, 0)
        if expected is not None and expected != current:
            raise Conflict(
                f"policy {current} of {policy.model}/{policy.model_version} is active, not {expected} as the caller expected; "
                "read it and decide again"
            )
        self._db.execute(
            "INSERT OR REPLACE INTO active VALUES (?, ?, ?, ?, ?)",
            (policy.model, policy.model_version, policy.version, generation + 1, now_s),
        )
        return stored.again(generation + 1, now_s, current)

    def _document(self, model: str, model_version: int, version: int) -> str | None:
        row = self._db.execute(
            "SELECT document FROM policy WHERE model=? AND model_version=? AND version=?", (model, model_version, version)
        ).fetchone()
        return None if row is None else str(row[0])

    def _get(self, model: str, model_version: int, version: int) -> Active:
        """A policy, as if it had just been made active."""
        known = self._known.get((model, version))
        if known is not None and known.policy.model_version == model_version:
            return known
        document = self._document(model, model_version, version)
        if document is None:
            others = self._db.execute(
                "SELECT version FROM policy WHERE model=? AND model_version=? ORDER BY version", (model, model_version)
            ).fetchall()
            numbers = [number for (number,) in others]
            has = f"it has {numbers}; numbers run over all versions of a model" if numbers else "it has none"
            raise PolicyNotFound(f"model {model}/{model_version} has no policy {version}: {has}")
        stored = Active(Policy.from_json(document), 0, 0.0)
        self._remember(stored)
        return stored

    def _remember(self, stored: Active) -> None:
        """Keep a stored policy at hand: none ever changes, and reading one of 512 labels makes every thread wait for 16 ms."""
        self._known[stored.policy.model, stored.policy.version] = stored
        while len(self._known) > _KNOWN:
            self._known.pop(next(iter(self._known)), None)

    def _pointer(self, model: str, model_version: int) -> tuple[int, int, float] | None:
        row: tuple[int, int, float] | None = self._db.execute(
            "SELECT version, generation, activated_s FROM active WHERE model=? AND model_version=?", (model, model_version)
        ).fetchone()
        return row
