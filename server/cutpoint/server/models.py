"""The models of one server, by name and version."""

import logging
import time

from cutpoint.bundle import POLICY_FILE, Bundle, list_versions, read_bundle
from cutpoint.errors import BadBundle, ModelNotFound

from .batcher import Batcher, Batching
from .config import ServerConfig
from .lanes import Lanes
from .metrics import Metrics, observer
from .policies import Active, PolicyStore
from .served import LOGITS, ServedModel
from .session import OnnxSession

log = logging.getLogger("cutpoint.server")


class Models:
    """What is served now. Looked up from the serving thread; loaded and unloaded from others."""

    def __init__(self, config: ServerConfig, store: PolicyStore, metrics: Metrics) -> None:
        """Nothing is loaded yet."""
        self._config, self._store, self._metrics = config, store, metrics
        self._lanes = Lanes(config.lane_count, time.perf_counter)
        self._served: dict[str, dict[int, ServedModel]] = {}
        self._named: dict[tuple[str, str], ServedModel] = {}  # by name and version as written, "" for the highest

    def load_all(self, now_s: float) -> list[ServedModel]:
        """Load every version in the repository.

        Raises:
            BadBundle: the folder holds no model, or one of them cannot be served; the message names the file.
        """
        for name, versions in list_versions(self._config.models).items():
            for version in versions:
                self._load(name, version, now_s)
        if not self._served:
            raise BadBundle.of("models folder", f"{self._config.models} (no models)", "<name>/<version>/model.onnx in it")
        return [model for versions in self._served.values() for model in versions.values()]

    def get(self, name: str, version: str = "") -> ServedModel:
        """A model by name and version, the highest where `version` is empty; ModelNotFound otherwise."""
        found = self._named.get((name, version))
        if found is not None:
            return found
        versions = self._served.get(name)
        if versions is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        raise ModelNotFound(f"Request for unknown model: '{name}' version {version} is not found; served: {sorted(versions)}")

    def versions(self, name: str) -> list[str]:
        """The served versions of a model."""
        return [str(version) for version in sorted(self._served[name])]

    def close(self) -> None:
        """Take no more work; what still runs is past the grace, and nobody waits for it."""
        self._lanes.close()

    def _load(self, name: str, version: int, now_s: float) -> None:
        config = self._config
        bundle = read_bundle(config.models / name / str(version))
        session = OnnxSession(bundle.model_path, config.provider)
        tensors = (*session.inputs, *session.outputs)
        batcher = Batcher(
            session,
            self._lanes,
            Batching(max_rows=config.max_batch_rows, max_waiting_rows=config.max_waiting_rows, direct_s=60e-6),
            batchable=all(spec.shape and spec.shape[0] == -1 for spec in tensors),
            observe_run=observer(self._metrics, bundle.name),
        )
        model = ServedModel(bundle, session, batcher, self._metrics, config.provider)
        if bundle.policy is not None and len(bundle.policy.labels) != len(model.labels):
            wanted = f"{len(model.labels)}, as the graph's '{LOGITS}' has"
            raise BadBundle.of(f"{bundle.path / POLICY_FILE}: number of labels", len(bundle.policy.labels), wanted)
        starting = starting_policy(self._store, bundle, now_s)
        model.apply(None if starting is None else starting.prepared())
        self._served.setdefault(model.name, {})[model.version] = model
        self._named = {
            key: each
            for of, versions in self._served.items()
            for key, each in [((of, ""), versions[max(versions)]), *(((of, str(v)), m) for v, m in versions.items())]
        }
        active = f"policy {model.active.policy.version}" if model.active else "no policy: no decisions until it is calibrated"
        log.info("loaded %s/%d, %s", model.name, model.version, active)


def starting_policy(store: PolicyStore, bundle: Bundle, now_s: float) -> Active | None:
    """The policy that a model starts with: the stored active one, or the one shipped with the bundle.

    A stored policy holds only for the graph it was made on. A newly shipped one replaces another shipped one, but never one
    that somebody made while serving, and only once: after that, what somebody activates (a roll back too) stays.
    """
    stored, shipped = store.active(bundle.name, bundle.version), bundle.policy
    fits = stored is not None and stored.policy.model_digest == bundle.digest
    if stored is not None and not fits:
        log.warning("policy %d of %s/%d is of another graph: not used", stored.policy.version, bundle.name, bundle.version)
    if shipped is None:
        return stored if fits else None
    if stored is not None and fits:
        known = any(
            policy.model_copy(update={"version": shipped.version, "parent": shipped.parent}) == shipped
            for policy in store.list(bundle.name, bundle.version)
        )
        if not known and not store.is_shipped(stored.policy):
            added = store.add(shipped, shipped=True)  # to be seen in lists; at the next start it is known
            log.warning(
                "the new policy.json of %s/%d is stored as policy %d and not active: policy %d was made while serving; "
                "cutpoint policy activate %s %d",
                bundle.name, bundle.version, added.version, stored.policy.version, bundle.name, added.version,
            )  # fmt: skip
            return stored
        if known:
            return stored
    parent = stored.policy.version if stored is not None else None
    return store.add_and_activate(shipped.model_copy(update={"parent": parent}), now_s, shipped=True)
