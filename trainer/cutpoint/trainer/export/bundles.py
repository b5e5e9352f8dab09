"""From a run to bundles, one a precision: exported, measured, and only then written."""

import datetime
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np
import onnx
from cutpoint.bundle import (
    Examples,
    Input,
    Loss,
    Manifest,
    Parity,
    Precision,
    PrecisionCost,
    Provenance,
    Windows,
    mix_rows,
    next_version,
    write_bundle,
)
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadBundle, BadConfig

from ..config import ImportModel
from ..preprocess import describe
from ..run import Run, read_run, versions_of
from ..score import choose_rows
from .context import check_context, derive_context
from .cost import measure_cost
from .graph import export_graph, load_served, name_graph
from .parity import TOLERANCE, answer_of, compare, measure_batch_difference, measure_parity, parity_batches
from .precision import lower_precision
from .quantize import calibration_batches

PARTS = ("cutpoint", "torch", "onnx", "onnxscript", "onnxruntime")
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
MAX_AP_LOSS = 0.01


def export_run(
    run: Path | Run,
    models: Path,
    version: int | None = None,
    dataset: Dataset | None = None,
    tolerance: float = TOLERANCE,
    precision: Precision = "fp32",
    max_ap_loss: float = MAX_AP_LOSS,
) -> Path:
    """Export a run to `models/<name>/<version>/` and return that folder: `export_precisions` of one precision."""
    (path,) = export_precisions(run, models, (precision,), version, dataset, tolerance, max_ap_loss)
    return path


def export_precisions(
    run: Path | Run,
    models: Path,
    precisions: Sequence[str] = ("fp32",),
    version: int | None = None,
    dataset: Dataset | None = None,
    tolerance: float = TOLERANCE,
    max_ap_loss: float = MAX_AP_LOSS,
) -> tuple[Path, ...]:
    """Export a run in each precision, as consecutive versions of one model, and return their folders.

    The fp32 graph is always made and compared with torch; the others are made from it. Everything is measured before anything
    is written. Lower precisions are measured on the validation rows; int8 is calibrated on training rows.

    Args:
        run: the run folder.
        models: the model repository; made when missing.
        precisions: one or several of fp32, fp16, bf16, int8; fp32 comes first, the others in the order given.
        version: of the first; the next free one when None. Versions are never overwritten.
        dataset: whose rows it is measured on; that of the run when None.
        tolerance: largest difference of a logit between torch and onnxruntime, times the largest logit when that is above 1.
        max_ap_loss: what a lower precision may lose of the fp32 graph's average precision, mean over the labels.

    Raises:
        BadConfig: `run` is no run folder; no precision, or an unknown one.
        BadBundle: a version exists, the model cannot be exported or lowered, parity is above the tolerance, a row's logits
            depend on its batch, a window's on windows further away than its layers reach, or a precision loses more than it
            may; nothing is written.
        BadData: the data of the run are no longer those that it was trained on, or cannot be read; nothing is written.
        OSError: a version cannot be written, since the disk is full, say; those written before it are removed.
    """
    run = run if isinstance(run, Run) else read_run(run)
    wanted = _ordered(precisions)
    first = next_version(models, run.config.name) if version is None else version
    for number in range(first, first + len(wanted)):
        if number < 1 or (models / run.config.name / str(number)).exists():
            raise BadBundle.of("version", number, "a new version from 1; versions are never overwritten")
    if dataset is None:
        dataset = read_dataset(run.config.data.path)
        valid = choose_rows(dataset, "valid", run)  # which compares the digests
    else:
        valid = run.rows("valid")
    if dataset.x.shape[1:] != run.record.x_shape or valid.max() >= len(dataset):
        raise BadBundle.of(
            f"{dataset.path}: x", list(dataset.x.shape), f"the rows of the run, of shape {list(run.record.x_shape)}"
        )
    own = run.config.model
    any_windows = run.config.task == "windows" and (not isinstance(own, ImportModel) or own.any_windows)
    with tempfile.TemporaryDirectory() as folder:
        files = {precision: Path(folder) / f"{precision}.onnx" for precision in PRECISIONS}
        served = load_served(run)
        export_graph(served, run.record.x_shape, any_windows, files["fp32"])
        batches = parity_batches(dataset, valid, any_windows)
        parity = measure_parity(served, files["fp32"], batches, tolerance)
        context = derive_context(run.config) if any_windows else None
        mixed = mix_rows(max(batches, key=len))
        manifests, examples = [], []
        for number, precision in enumerate(wanted, first):
            cost, measured = None, parity
            if precision != "fp32":
                train = run.rows("train")
                lower_precision(files["fp32"], files[precision], precision, calibration_batches(dataset, train))
                reference, answer = answer_of(files["fp32"]), answer_of(files[precision])
                compare(reference, answer, batches, f"logits of precision {precision}")
                cost = measure_cost(files[precision], files["fp32"], dataset, valid, run.record.labels)
                _check_cost(precision, cost, max_ap_loss)
                allowed = max(parity.tolerance, cost.max_abs_difference)
                difference = measure_batch_difference(answer, batches, allowed)
                measured = parity.model_copy(update={"batch_difference": difference})
            if context is not None:
                check_context(answer_of(files[precision]), batches[0], context)
            graph = onnx.load(files[precision])
            manifest = _manifest(run, number, any_windows, context, precision, measured, cost, graph)
            name_graph(files[precision], manifest)
            manifests.append(manifest)
            logits = answer_of(files[precision])(mixed)
            # Not of these rows, but of some that it was mixed from, it is known that the logits are finite.
            examples.append(Examples(mixed, logits) if np.isfinite(logits).all() else None)
        return _write(models, manifests, files, examples)


def _write(
    models: Path, manifests: Sequence[Manifest], files: Mapping[Precision, Path], examples: Sequence[Examples | None]
) -> tuple[Path, ...]:
    """Write all versions or none."""
    written: list[Path] = []
    try:
        for manifest, recorded in zip(manifests, examples, strict=True):
            written.append(write_bundle(models, manifest, files[manifest.precision], recorded))
    except BaseException:
        for path in written:
            # Hidden first: nobody is to find half of a version.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.removed")), ignore_errors=True)
        raise
    return tuple(written)


def _ordered(precisions: Sequence[str]) -> list[Precision]:
    """Each once, fp32 first."""
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise BadConfig.of("precision", unknown[0] if unknown else "none", f"one or several of {', '.join(PRECISIONS)}")
    known: list[Precision] = [precision for precision in PRECISIONS if precision in precisions]
    return sorted(known, key=lambda precision: (precision != "fp32", precisions.index(precision)))


def _check_cost(precision: Precision, cost: PrecisionCost, most: float) -> None:
    if cost.loss > most:
        worst = max(cost.labels, key=lambda label: label.reference - label.average_precision)
        raise BadBundle.of(
            f"precision {precision}: average precision lost, mean over labels",
            f"{cost.loss:.4f} (most for {worst.label!r}: {worst.reference:.4f} to {worst.average_precision:.4f})",
            f"at most {most:g}, --max-ap-loss; nothing was written",
        )


def _manifest(
    run: Run,
    version: int,
    any_windows: bool,
    context: int | None,
    precision: Precision,
    parity: Parity,
    cost: PrecisionCost | None,
    graph: onnx.ModelProto,
) -> Manifest:
    config, record, shape = run.config, run.record, run.record.x_shape
    windows = None
    if config.task == "windows":
        channels = shape[1] if len(shape) == 3 else 1
        count = None if any_windows else shape[0]
        windows = Windows(
            count=count,
            samples=shape[-1],
            channels=channels,
            rate_hz=config.data.rate_hz,
            trained_count=shape[0],
            context=context,
        )
    return Manifest(
        name=config.name,
        version=version,
        task=config.task,
        labels=record.labels,
        input=Input(shape=(-1, -1, *shape[1:]) if any_windows else (-1, *shape)),
        windows=windows,
        preprocessing=describe(config.model, shape, config.task == "windows"),
        precision=precision,
        cost=cost,
        loss=Loss(name=config.loss.name, parameters=config.loss.model_dump(mode="json", exclude={"name"})),
        sampler=config.sampler.kind,
        sampler_parameters=config.sampler.model_dump(mode="json", exclude={"kind"}),
        priors=record.priors,
        parity=parity,
        provenance=Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            data_digest=record.data_digest,
            config_digest=record.config_digest,
            seed=config.seed,
            versions={**record.versions, **versions_of(PARTS)},
            opset=next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")),
            ir_version=graph.ir_version,
        ),
        digests={},
    )
