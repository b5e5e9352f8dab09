"""What is served now, by name and version: a table that is replaced whole, so that a look finds the old one or the new one."""

import contextlib
import ctypes
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cutpoint.errors import ModelNotFound, Unavailable

from ..monitoring.metrics import Metrics
from ..policy.policies import Active, Generation, PolicyStore
from .served import ServedModel

log = logging.getLogger("cutpoint.server")

# How long a model that has drained may be held before the collector is asked to look for cycles.
_PATIENCE_S = 60.0

StateName = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True)
class State:
    """Where a version stands, in Triton's words, and why."""

    name: StateName
    reason: str = ""


@dataclass(frozen=True)
class _Table:
    served: Mapping[str, Mapping[int, ServedModel]] = field(default_factory=dict)
    named: Mapping[tuple[str, str], ServedModel] = field(default_factory=dict)  # by name and version as written, "" the default


class Models:
    """The models of one server. Looked up from any thread without a lock; changed by one at a time."""

    def __init__(self, metrics: Metrics, lane_count: int) -> None:
        """Nothing is served yet. `lane_count` is how many runs there are at a time."""
        self.lane_count = lane_count
        self._metrics = metrics
        self._table = _Table()
        self._states: dict[str, dict[int, State]] = {}
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._store: PolicyStore | None = None
        self._generation: Generation | None = None
        self._seen = 0

    def get(self, name: str, version: str = "") -> ServedModel:
        """A model by name and version, the default one where `version` is empty.

        Raises:
            ModelNotFound: there is none, or none that is served.
            Unavailable: it is being loaded.
        """
        found = self.find(name, version)
        if found is not None:
            return found
        table = self._table
        of = f"Request for unknown model: '{name}'"
        served, states = sorted(table.served.get(name, ())), dict(self._states.get(name, ()))
        asked = [state for number, state in states.items() if version in ("", str(number))]
        if any(state.name == "LOADING" for state in asked):
            raise Unavailable(f"{of} version {version or 'latest'} is not at ready state: it is being loaded")
        if served and version:
            raise ModelNotFound(f"{of} version {version} is not found; served: {served}")
        if served:
            raise ModelNotFound(f"{of} has no default version: the one it is pinned to is not served; served: {served}")
        raise ModelNotFound(f"{of} has no available versions" if states else f"{of} is not found")

    def watch(self, store: PolicyStore, generation: Generation) -> None:
        """Take up, at the next look-up, what other workers make active in `store`; `generation` says that they did."""
        self._store, self._generation, self._seen = store, generation, generation.value

    def _take_policies(self) -> None:
        with self._taking:  # whoever comes meanwhile waits: it may have been told that the change is done
            assert self._generation is not None and self._store is not None
            now = self._generation.value
            if now == self._seen:
                return
            for model in self.all():
                stored = self._store.active(model.name, model.version)
                if stored is not None and stored.policy.model_digest == model.bundle.digest:
                    model.apply(stored.prepared())
            self._seen = now

    def find(self, name: str, version: str = "") -> ServedModel | None:
        """As `get`; None where that raises."""
        if self._generation is not None and self._generation.value != self._seen:
            self._take_policies()
        return self._table.named.get((name, version))

    def versions(self, name: str) -> list[str]:
        """The served versions of a model."""
        return [str(version) for version in sorted(self._table.served.get(name, ()))]

    def all(self) -> list[ServedModel]:
        """Every version of every model in service."""
        return [model for versions in self._table.served.values() for model in versions.values()]

    def served(self, name: str) -> dict[int, ServedModel]:
        """The versions of a model in service, by number."""
        return dict(self._table.served.get(name, {}))

    def names(self) -> list[str]:
        """The models of which anything is known."""
        with self._lock:
            return sorted({*self._states, *self._table.served})

    def states(self, name: str) -> dict[int, State]:
        """Where each version of a model stands, by number."""
        with self._lock:
            return dict(sorted(self._states.get(name, {}).items()))

    def set_state(self, name: str, version: int, state: State | None) -> None:
        """Say where a version stands; None forgets it."""
        with self._lock:
            versions = self._states.setdefault(name, {})
            if state is None:
                versions.pop(version, None)
            else:
                versions[version] = state
            if not versions:
                del self._states[name]

    def publish(self, name: str, versions: Mapping[int, ServedModel], default: int | None) -> None:
        """Serve these versions of a model from now on, and no others of it.

        One that is not among them any more answers whom it has accepted, and is dropped then.

        Args:
            name: of the model.
            versions: by number.
            default: which of them answers who names none; None: nobody does.
        """
        with self._lock:
            before = self._table.served.get(name, {})
            for number, model in versions.items():
                if before.get(number) is not model:
                    model.enter()
            served = {of: each for of, each in self._table.served.items() if of != name}
            named = {key: model for key, model in self._table.named.items() if key[0] != name}
            if versions:
                served[name] = dict(versions)
                named |= {(name, str(number)): model for number, model in versions.items()}
            if default is not None:
                named[name, ""] = versions[default]
            self._table = _Table(served, named)
            gone = [model for number, model in before.items() if versions.get(number) is not model]
            for model in gone:
                if model.version not in versions:
                    self._metrics.remove_version(name, model.version)
            if before and not versions:
                self._metrics.remove_model(name)
        for model in gone:
            self._retire(model)

    def apply(self, model: ServedModel, active: Active) -> None:
        """Decide by a policy from the next answer on: `model`, and what has come in its place meanwhile with the same graph."""
        model.apply(active)
        now = self.find(model.name, str(model.version))
        if now is not None and now.bundle.digest == active.policy.model_digest:
            now.apply(active)

    def _retire(self, model: ServedModel) -> None:
        """Have it answer whom it has accepted; when nobody holds it any more its memory goes back, in a thread of its own."""
        model.shadow = None
        drained, gone, session = model.retire(), threading.Event(), [model.session]
        weakref.finalize(model, gone.set).atexit = False
        name, version = model.name, model.version

        def wait() -> None:
            drained.wait()
            self._unloaded(name, version)
            if not gone.wait(_PATIENCE_S):
                gc.collect()  # unless somebody really holds it, a signal that began with it say
                gone.wait()
            session.clear()
            _trim()
            log.info("dropped %s/%d", name, version)

        threading.Thread(target=wait, name=f"retire-{name}-{version}", daemon=True).start()

    def _unloaded(self, name: str, version: int) -> None:
        with self._lock:
            state = self._states.get(name, {}).get(version)
            if state is not None and state.name == "UNLOADING":
                self._states[name][version] = State("UNAVAILABLE", "unloaded")


def _trim() -> None:
    """Give what was freed back to the system: glibc was told to keep it, for the requests."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
