"""Who is in whose shadow: the scoring beside the default version of each model, set up and taken down."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from cutpoint.errors import CutpointError

from ..monitoring.metrics import Metrics
from ..policy.policies import Active, PolicyStore
from ..runs.lanes import Lanes
from .routing import Routing
from .served import ServedModel
from .shadow import Matched, Shadow, ShadowPolicy, ShadowVersion
from .shadow_counters import ShadowCounters

log = logging.getLogger("cutpoint.server")


@dataclass(frozen=True)
class _Beside:
    """A shadow, and what it was made for."""

    live: ServedModel
    target: ServedModel | int
    share: float
    shadow: Shadow
    counters: ShadowCounters


class Shadowing:
    """The shadows of one server, by model; changed by one thread at a time."""

    def __init__(self, store: PolicyStore, metrics: Metrics, lanes: Lanes) -> None:
        """None yet."""
        self._store, self._metrics, self._lanes = store, metrics, lanes
        self._beside: dict[str, _Beside] = {}

    def set(self, name: str, live: ServedModel | None, versions: Mapping[int, ServedModel], routing: Routing) -> str:
        """Have beside `live` of model `name` what its routing says, or nothing; gives what stands in the way, if anything.

        Args:
            name: of the model.
            live: that answers who names no version; None where nobody does.
            versions: those in service, by number.
            routing: which of them, or which policy, is scored beside it.
        """
        present = self._beside.get(name)
        target, problem = self._target(name, live, versions, routing)
        if present is not None:
            same = present.live is live and present.share == routing.shadow_share
            # A version is the object that is served now; a policy its number.
            if same and (present.target is target or (isinstance(target, int) and present.target == target)):
                return problem
            present.live.shadow = None
            present.shadow.close()
            del self._beside[name]
        made: _Beside | None = None
        if target is not None and live is not None:
            try:
                made = self._make(live, target, routing.shadow_share)
            except CutpointError as error:
                problem = str(error)
        if present is not None and (made is None or made.counters is not present.counters):
            self._metrics.shadows.remove(present.counters)
        if made is not None:
            self._beside[name] = made
            made.live.shadow = made.shadow
            log.info("%s: %s is scored in the shadow of version %d", name, routing.shadow, made.live.version)
        return problem

    def _target(
        self, name: str, live: ServedModel | None, versions: Mapping[int, ServedModel], routing: Routing
    ) -> tuple[ServedModel | int | None, str]:
        """What is to be in the shadow, None for nothing; and what stands in the way of it."""
        if routing.shadow is None or live is None:
            return None, ""
        if not live.labels:
            return None, f"version {live.version} makes no decisions to compare with"
        if routing.shadow_policy is not None:
            return routing.shadow_policy, ""
        model = versions.get(routing.shadow_version or 0)
        if model is None:
            return None, f"version {routing.shadow} is not served"
        if model is live:
            return None, f"version {routing.shadow} is the default: it cannot be in its own shadow"
        if not set(model.labels) & set(live.labels):
            return None, f"version {model.version} has no label of version {live.version}"
        if not _takes(model, live):
            return None, f"version {model.version} does not take the inputs of version {live.version}"
        return model, ""

    def _make(self, live: ServedModel, target: ServedModel | int, share: float) -> _Beside:
        if isinstance(target, int):
            policy = self._store.get(live.name, live.version, target)
            if policy.model_digest != live.bundle.digest:
                raise CutpointError(f"policy {target} was made for another graph than version {live.version} has")
            counters = self._metrics.shadows.of(live.name, live.version, str(target), live.labels)
            shadow: Shadow = ShadowPolicy(Active(policy, 0, 0.0).prepared(), counters, share)
            return _Beside(live, target, share, shadow, counters)
        model = target
        counters = self._metrics.shadows.of(model.name, model.version, "", model.labels)
        matched = Matched.of(live.labels, model.labels)
        shadow = ShadowVersion(model.session, lambda: model.active, matched, counters, self._lanes, share)
        return _Beside(live, model, share, shadow, counters)


def _takes(model: ServedModel, live: ServedModel) -> bool:
    """Whether every request that `live` takes fits `model` too, as far as their graphs say."""
    if model.inputs.keys() != live.inputs.keys():
        return False
    for name, spec in model.inputs.items():
        theirs = live.inputs[name]
        if spec.datatype != theirs.datatype or len(spec.shape) != len(theirs.shape):
            return False
        if any(own not in (-1, other) for own, other in zip(spec.shape, theirs.shape, strict=True)):
            return False
    return True
