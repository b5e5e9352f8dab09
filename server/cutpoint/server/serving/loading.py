"""From a version's folder to a model that may be served: read, loaded, checked, warmed up.

It takes as long as it takes, in the background of what is served; it puts nothing in service. onnxruntime (1.31) makes a
session without holding the GIL, so the other threads go on meanwhile; they share its core.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cutpoint.bundle import EXAMPLES_FILE, POLICY_FILE, Bundle, Examples, read_bundle, read_examples, read_profile
from cutpoint.errors import BadBundle, CutpointError
from numpy.typing import NDArray

from ..config import ServerConfig
from ..monitoring.metrics import Metrics
from ..protocol.statistics import Statistics
from ..runs.batcher import Batcher
from ..runs.lanes import Lanes
from ..runs.rows import example_rows, pad_rows, row_invariance, sharing_cost
from ..runs.session import OnnxSession, Session
from .profiled import Running, running_of
from .served import LOGITS, ServedModel

log = logging.getLogger("cutpoint.server")

# A foreign graph says nothing of what its logits may differ by: that of an export, times the largest logit when above 1.
_TOLERANCE = 1e-4
# What a provider's own rounding may add, of the largest logit: not how good it is, but whether this is the graph at all.
_COMPUTED = {"f32": 0.0, "f16": 1e-2, "bf16": 1e-1}
_INVARIANCE_S = 0.5
# Of a run of one row: slow enough to be tried with fewer rows, and too slow to be tried with more than one.
_SLOW_S, _LONG_S = 0.02, 0.25
# Of what a row costs alone: a gain that is no measurement's error, and worth it that the others' answers wait for the last row.
_GAINS = 0.8
_DOUBT = (_GAINS / 1.1, _GAINS * 1.1)
_WARM_UP_S = 0.25  # of the runs that find out whether all cores are faster than one


class Loading:
    """Makes served models of folders."""

    def __init__(self, config: ServerConfig, metrics: Metrics, lanes: Lanes) -> None:
        """Models run in `lanes` and are counted in `metrics`."""
        self._config, self._metrics, self._lanes = config, metrics, lanes
        # By model: what was found when it was loaded first.
        self._wide: dict[str, bool] = {}
        self._shares: dict[str, bool] = {}

    def load(self, path: Path) -> ServedModel:
        """The model in a version's folder, ready to answer, without a policy.

        Raises:
            BadBundle: it is not whole, cannot be loaded, or does not give what its examples say.
            BadConfig: the provider cannot be had, or does not know the graph.
        """
        config = self._config
        bundle = read_bundle(path)
        examples = read_examples(path)
        running = running_of(config, f"{bundle.name}/{bundle.version}", read_profile(path, bundle.digest))
        session = OnnxSession(bundle.model_path, running.provider)
        tensors = (*session.inputs, *session.outputs)
        series, statistics = self._metrics.series(bundle.name), Statistics(bundle.name, bundle.version)
        series.follow(statistics)
        batcher = Batcher(
            session,
            self._lanes,
            running.batching,
            batchable=all(spec.shape and spec.shape[0] == -1 for spec in tensors),
            observe_run=partial(series.ran, statistics),
        )
        try:
            model = ServedModel(bundle, session, batcher, self._metrics, running.provider.provider, statistics)
            if bundle.policy is not None and len(bundle.policy.labels) != len(model.labels):
                wanted = f"{len(model.labels)}, as the graph's '{LOGITS}' has"
                raise BadBundle.of(f"{bundle.path / POLICY_FILE}: number of labels", len(bundle.policy.labels), wanted)
            if examples is not None:
                check_examples(bundle, session, examples, session.settings.precision)
            self._warm_up(model, session, examples, running)
        except BaseException:
            batcher.close()
            raise
        if examples is None:
            log.info("%s/%d is not checked: it has no %s", model.name, model.version, EXAMPLES_FILE)
        return model

    def _warm_up(self, model: ServedModel, session: OnnxSession, examples: Examples | None, running: Running) -> None:
        """The first runs, which are slower, before anybody waits for them; what a run takes; whether batches change rows."""
        rows = _rows(model, session, examples)
        if rows is None:
            return
        try:
            one = {name: array[:1] if model.batcher.batchable else array for name, array in rows.items()}
            wide = running.wide
            if wide is None and self._lanes.running:  # a measurement would be of whoever else runs
                wide = self._wide.get(model.name)
            speed = session.prepare(one, limit_s=_WARM_UP_S, wide=wide)
            self._wide[model.name] = speed.wide_s is not None
            model.batcher.learn(max(len(array) for array in one.values()), speed.narrow_s)
            if running.shares is None and model.batcher.batchable:
                self._choose_sharing(model, session, one, speed.narrow_s)
            for size in model.batcher.batching.sizes if model.batcher.batchable else ():  # a graph of each is recorded now
                session.run(pad_rows({name: array[:size] for name, array in rows.items()}, size))
        except CutpointError:
            raise
        except Exception as error:
            if examples is not None:
                raise BadBundle(f"{model.bundle.model_path} fails on its examples: {error}") from error
            # Numbers made up for a graph of which nothing is known: an index out of range, say.
            log.info("%s/%d is not warmed up: it fails on random numbers", model.name, model.version)
            return
        if model.batcher.batchable:
            self._check_batches(model, session, rows)

    def _choose_sharing(self, model: ServedModel, session: Session, one: Mapping[str, NDArray[Any]], narrow_s: float) -> None:
        """Have requests share runs only where that makes a row cheaper here."""
        batcher, shares = model.batcher, self._shares.get(model.name) if self._lanes.running else None
        if shares is None:
            rows = min(batcher.batching.max_rows, 2 if narrow_s > _SLOW_S else 4)
            # What takes so long on its own has enough to do.
            cost = sharing_cost(session, one, rows, _DOUBT) if rows > 1 and narrow_s < _LONG_S else 1.0
            shares = cost < _GAINS
            log.info(
                "%s/%d: a row among %d costs %.2f of what it does alone: requests %s", model.name, model.version, rows, cost,
                "share runs" if shares else "run by themselves",
            )  # fmt: skip
        self._shares[model.name] = shares
        if not shares:
            batcher.batching = replace(batcher.batching, max_rows=1)

    def _check_batches(self, model: ServedModel, session: Session, rows: Mapping[str, NDArray[Any]]) -> None:
        sizes = sorted({2, 3, model.batcher.batching.max_rows} - {1}, reverse=True)
        try:
            apart = row_invariance(session, rows, sizes, padding=model.batcher.batching.sizes, limit_s=_INVARIANCE_S)
        except BadBundle as error:
            # Answered row by row such a graph is right, and the batcher refuses to share out what is not a row each.
            log.warning("%s/%d: %s: requests that share a run will fail", model.name, model.version, error)
            return
        if apart:
            log.warning(
                "%s/%d: an output of a row differs by up to %.3g with the rows beside it; a decision next to its threshold may "
                "depend on who asks at the same moment", model.name, model.version, apart,
            )  # fmt: skip


def check_examples(bundle: Bundle, session: Session, examples: Examples, computed: str = "f32") -> None:
    """Run a bundle's recorded rows.

    Args:
        bundle: what is loaded.
        session: of its graph.
        examples: its recorded rows.
        computed: the precision that the provider was told to compute a float32 graph in.

    Raises:
        BadBundle: they do not fit the graph, or a logit is further from the recorded one than the manifest's tolerance, what
            lower precision was measured to cost, that of an export where there is no manifest, and what `computed` may add.
    """
    of = f"{bundle.path / EXAMPLES_FILE}"
    if len(session.inputs) != 1 or all(spec.name != LOGITS for spec in session.outputs):
        raise BadBundle.of(of, f"beside a graph of {len(session.inputs)} inputs", f"one of one input that gives '{LOGITS}'")
    try:
        found = session.run({session.inputs[0].name: examples.x})[LOGITS]
    except Exception as error:  # onnxruntime raises a dozen classes without a common parent
        raise BadBundle(f"{of}: the graph fails on its recorded rows: {error}") from error
    if found.shape != examples.logits.shape:
        raise BadBundle.of(f"{of}: shape of logits", list(examples.logits.shape), f"{list(found.shape)}, as the graph gives")
    apart = np.abs(found.astype(np.float64) - examples.logits)
    largest = max(1.0, float(np.abs(examples.logits).max()))
    allowed = _allowed(bundle, largest) + _COMPUTED[computed] * largest
    worst = float(apart.max()) if np.isfinite(apart).all() else float("inf")
    if worst > allowed:
        raise BadBundle.of(
            f"{of}: largest difference between a recorded logit and the one computed here", f"{worst:.3g}",
            f"at most {allowed:.3g}: this graph, or what computes it here, is not what was measured",
        )  # fmt: skip


def _allowed(bundle: Bundle, largest: float) -> float:
    manifest = bundle.manifest
    if manifest is None:
        return _TOLERANCE * largest
    # Another processor rounds a lower precision elsewhere: by as much, at most, as the precision itself moved the logits.
    return max(manifest.parity.tolerance, manifest.cost.max_abs_difference if manifest.cost is not None else 0.0)


def _rows(model: ServedModel, session: Session, examples: Examples | None) -> dict[str, NDArray[Any]] | None:
    """Rows to warm up with: the recorded ones, or random ones where the sizes are known; None where they are not."""
    if examples is not None:
        return {session.inputs[0].name: examples.x}
    manifest = model.bundle.manifest
    windows = manifest.windows.trained_count if manifest is not None and manifest.windows is not None else None
    unknown = any(size < 0 for spec in session.inputs for size in spec.shape[1:])
    if unknown and windows is None:
        return None
    return example_rows(session.inputs, 4, free=windows or 1)
