"""The repository on disk and what is served of it, kept in agreement: at the start, at every look, or on request.

A version that is new or changed is loaded in the background of whatever is served. It takes its place when it has been read
with every digest, loaded, checked and warmed up; until then, and for good where that fails, what was served before stays. What
failed is tried again when its files change.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cutpoint.bundle import MANIFEST_FILE, POLICY_FILE, list_versions, read_bundle
from cutpoint.errors import BadBundle, BadConfig, BadRequest, Conflict, CutpointError, ModelNotFound

from ..config import ServerConfig
from ..monitoring.event import Event
from ..monitoring.metrics import Metrics
from ..policy.policies import PolicyStore
from ..runs.lanes import Lanes
from .complaints import Complaints
from .fingerprint import Fingerprint, differ_only_in, fingerprint
from .loading import Loading
from .models import Models, State
from .routes import Routes
from .routing import Routing
from .served import ServedModel
from .shadowing import Shadowing
from .starting import starting_policy

log = logging.getLogger("cutpoint.server")


@dataclass
class _Folder:
    """What is known of a version's folder.

    Attributes:
        seen: how it looked last.
        tried: how it looked when it was loaded, or could not be.
        missing: it was not there at the last look.
    """

    seen: Fingerprint | None = None
    tried: Fingerprint | None = None
    missing: bool = False


def require_models(config: ServerConfig) -> None:
    """Raise BadBundle where `config.models` is no folder, or has no models and none can come later.

    For whoever is about to write beside it: a folder that was mistyped is left as it is.
    """
    if not list_versions(config.models) and config.model_control == "none":
        raise BadBundle.of("models folder", f"{config.models} (no models)", "<name>/<version>/model.onnx in it")


class Catalogue:
    """Loads and unloads, one thing at a time; safe to call from any thread."""

    def __init__(
        self,
        config: ServerConfig,
        store: PolicyStore,
        metrics: Metrics,
        models: Models,
        lanes: Lanes,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is loaded yet.

        Raises:
            BadConfig: a pin or a shadow of the command line is wrong.
        """
        self._folder, self._config = config.models, config
        self._store, self._metrics, self._models, self._now_s = store, metrics, models, now_s
        self._loading = Loading(config, metrics, lanes)
        self._shadowing = Shadowing(store, metrics, lanes)
        self._complaints = Complaints()
        self._routes = Routes(config.models, config.pin, config.shadow, self._complaints)
        self._folders: dict[tuple[str, int], _Folder] = {}
        self._defaults: dict[str, int | None] = {}
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Load what is to be served from the start.

        Raises:
            BadBundle: there is no such folder, or, unless told otherwise, a version cannot be served: one of all of them, or
                of those asked for by name. Polling never stops at that.
            ModelNotFound: a model to load is not there.
        """
        control, found = self._config.model_control, list_versions(self._folder)
        strict = self._config.exit_on_error and control != "poll"
        names = list(dict.fromkeys(self._config.load)) if control == "explicit" else list(found)
        for name in names:
            try:
                errors = self._load(name)
            except CutpointError as error:
                errors = [error]
                log.error("%s", error)
            for found_wrong in errors:
                if strict or isinstance(found_wrong, BadConfig):
                    raise found_wrong
        if strict:  # of explicit control, what is loaded later may still come
            named = [name for name in self._routes.named if control == "none" or name in names]
            self._routes.check({name: self._models.served(name) for name in named})

    def look(self) -> None:
        """Load what is new or changed, once it is whole, and drop what is gone for two looks."""
        with self._lock:
            try:
                found = list_versions(self._folder)
            except (BadBundle, OSError) as error:
                self._complaints.say(f"{self._folder}", f"it cannot be read, what is served stays: {error}")
                return
            if not found and self._models.all():
                # Somebody's mount went away, rather than all models at once.
                self._complaints.say(f"{self._folder}", "it is empty, what is served stays")
                return
            self._complaints.say(f"{self._folder}", "")
            for name in sorted({*found, *self._models.names()}):
                try:
                    self._agree(name, found.get(name, []), settle=True)
                except Exception:  # the next model is none the worse for it
                    log.exception("looking at model %s failed", name)

    def load(self, name: str) -> None:
        """Serve what is on disk of a model, where that is not what is served already; for explicit control.

        Raises:
            ModelNotFound: the repository has no such model.
            BadRequest: a version of it cannot be served; what could be, is, and what was before, stays.
        """
        for error in self._load(name):
            raise BadRequest(f"failed to load '{name}', {error}")

    def unload(self, name: str) -> None:
        """Serve a model no more: who was accepted is answered; for explicit control.

        Raises:
            ModelNotFound: no such model is known.
        """
        with self._lock:
            if not self._models.states(name) and name not in list_versions(self._folder):
                raise ModelNotFound(f"failed to unload '{name}', it is not found")
            for version in self._models.served(name):
                self._models.set_state(name, version, State("UNLOADING"))
                log.info(Event("reload", model=name, version=version, outcome="unloaded"))
            self._serve(name, {}, Routing())
            self._metrics.remove_model(name)  # of versions that could not be served there is more than `_serve` knows
            self._folders = {key: folder for key, folder in self._folders.items() if key[0] != name}
            for version, state in self._models.states(name).items():
                if state.name == "UNAVAILABLE":  # of what failed before: no longer to the point
                    self._models.set_state(name, version, State("UNAVAILABLE", "unloaded"))

    def index(self) -> list[tuple[str, int, State]]:
        """Every version in the repository or in service, and where it stands."""
        try:
            found = list_versions(self._folder)
        except (BadBundle, OSError):
            found = {}
        rows = []
        for name in sorted({*found, *self._models.names()}):
            states = self._models.states(name)
            for version in sorted({*found.get(name, ()), *states}):
                rows.append((name, version, states.get(version, State("UNAVAILABLE", "not loaded"))))
        return rows

    def close(self) -> None:
        """Load nothing more; what is being loaded at this moment comes to its end."""
        self._closed = True

    def _load(self, name: str) -> list[CutpointError]:
        with self._lock:
            versions = list_versions(self._folder).get(name)
            if versions is None:
                raise ModelNotFound(f"failed to load '{name}', the model repository has no such model")
            return self._agree(name, versions, settle=False)

    def _agree(self, name: str, on_disk: list[int], *, settle: bool) -> list[CutpointError]:
        """Serve what is on disk of one model; gives what stood in the way."""
        routing = self._routes.read(name)
        serving, errors = self._models.served(name), list[CutpointError]()
        for version in on_disk:
            error = self._try(name, version, serving, settle)
            if error is not None:
                errors.append(error)
        for version in {*serving, *self._models.states(name)} - set(on_disk):
            folder = self._folders.setdefault((name, version), _Folder())
            if settle and not folder.missing:
                folder.missing = True  # a folder that is replaced by another is away for a moment
                continue
            del self._folders[name, version]
            if serving.pop(version, None) is not None:
                log.info(Event("reload", model=name, version=version, outcome="gone"))
            self._metrics.ready.remove(name, version)
            self._models.set_state(name, version, None)
        self._serve(name, serving, routing)
        if not serving and not self._models.states(name):
            self._metrics.remove_model(name)
        return errors

    def _try(self, name: str, version: int, serving: dict[int, ServedModel], settle: bool) -> CutpointError | None:
        """Load a version into `serving` if it changed and is whole; gives what is wrong with it, if that is known for sure."""
        if self._closed:
            return None
        path, key = self._folder / name / str(version), (name, version)
        folder = self._folders.setdefault(key, _Folder())
        folder.missing = False
        now = fingerprint(path)
        settled, folder.seen = not settle or now == folder.seen, now
        before = serving.get(version)
        if now == folder.tried and (settle or before is not None):
            return None
        if not settled and (before is not None or MANIFEST_FILE not in now):
            return None  # a manifest says when a new folder is whole; of any other, only that it stays as it is
        begun_s, outcome = time.perf_counter(), "policy"
        try:
            only_policy = before is not None and differ_only_in(now, folder.tried or {}, (POLICY_FILE,))
            if before is None or not (only_policy and self._take_policy(path, before)):
                if before is None:
                    self._models.set_state(name, version, State("LOADING"))
                model = self._loading.load(path)
                if self._closed:
                    model.batcher.close()
                    return None
                if fingerprint(path) != now:
                    model.batcher.close()
                    settled = not settle
                    raise BadBundle(f"{path}: files changed while they were loaded")
                self._start_policy(model)
                serving[version], outcome = model, "loaded" if before is None else "replaced"
        except Exception as error:
            return self._failed(key, folder, before, error, settled, now)
        folder.tried = now
        self._metrics.loads.labels(name, "loaded").add()
        self._models.set_state(name, version, State("READY"))
        active = serving[version].active
        log.info(
            Event(
                "reload", model=name, version=version, outcome=outcome, policy=active.policy.version if active else 0,
                digest=serving[version].bundle.digest[:12], seconds=round(time.perf_counter() - begun_s, 3),
            )
        )  # fmt: skip
        return None

    def _failed(
        self,
        key: tuple[str, int],
        folder: _Folder,
        before: ServedModel | None,
        error: Exception,
        settled: bool,
        now: Fingerprint,
    ) -> CutpointError | None:
        name, version = key
        if not settled:  # a manifest that is there before the rest
            if before is None:
                self._models.set_state(name, version, State("LOADING", "it is not whole yet"))
            return None
        if not isinstance(error, CutpointError):
            log.error("loading %s/%d failed", name, version, exc_info=error)
            error = BadBundle(f"{name}/{version} could not be loaded; the server's log has the details")
        folder.tried = now
        self._metrics.loads.labels(name, "failed").add()
        reason = " ".join(str(error).split())
        kept = None if before is None else before.bundle.digest[:12]
        log.error(Event("reload", model=name, version=version, outcome="failed", kept=kept, reason=reason))
        if before is not None:
            self._models.set_state(name, version, State("READY", f"as it was before its files changed: {reason}"))
        else:
            self._metrics.set_ready(name, version, False)
            self._models.set_state(name, version, State("UNAVAILABLE", reason))
        return error

    def _take_policy(self, path: Path, model: ServedModel) -> bool:
        """Take another policy.json for a model whose graph stays; False where the graph is another too."""
        bundle = read_bundle(path)
        if bundle.digest != model.bundle.digest or bundle.manifest != model.bundle.manifest:
            return False
        active = starting_policy(self._store, bundle, self._now_s())
        model.bundle = bundle
        if active is not None:
            model.apply(active.prepared())
        return True

    def _start_policy(self, model: ServedModel) -> None:
        for attempt in range(3):
            try:
                active = starting_policy(self._store, model.bundle, self._now_s())
            except Conflict:  # somebody activated another one at this moment
                if attempt == 2:
                    raise
            else:
                break
        model.apply(None if active is None else active.prepared())
        if active is None and model.labels:
            log.info("%s/%d has no policy: no decisions until it is calibrated", model.name, model.version)

    def _serve(self, name: str, versions: Mapping[int, ServedModel], routing: Routing) -> None:
        """Put these versions in service, with the default and the shadow that the routing says."""
        default = self._routes.default(name, versions, routing, self._defaults.get(name))
        if dict(versions) != self._models.served(name) or default != self._defaults.get(name):
            self._models.publish(name, versions, default)
            self._defaults[name] = default
            for model in versions.values():
                # Activated between its loading and now, when nobody could find this object to tell it.
                stored = self._store.active(name, model.version)
                if stored is not None and stored.policy.model_digest == model.bundle.digest:
                    model.apply(stored.prepared())
            if default is not None:
                log.info("%s answers with version %d by default; served: %s", name, default, sorted(versions))
        problem = self._shadowing.set(name, versions.get(default or 0), versions, routing)
        self._complaints.say(f"{name}: shadow", problem)
