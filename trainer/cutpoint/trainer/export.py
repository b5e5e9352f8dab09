"""From a run to a bundle: one ONNX graph whose sigmoid is honest, and how far it is from torch."""

import contextlib
import datetime
import io
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from cutpoint.bundle import Input, Loss, Manifest, Parity, Provenance, Windows, next_version, write_bundle
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadBundle, CutpointError
from numpy.typing import NDArray
from torch import nn

from .config import ImportModel
from .models import build_network
from .preprocess import blank_preprocess, describe
from .prior import honest_head
from .run import Run, read_run, versions_of
from .score import open_session

OPSET = 18  # the exporter's own; onnxruntime reads it since 1.14
BATCH_SIZES = (1, 2, 5)
TOLERANCE = 1e-4  # of a logit, times the largest logit when that is above 1
PARTS = ("cutpoint", "torch", "onnx", "onnxscript", "onnxruntime")


def export_run(
    run: Path | Run, models: Path, version: int | None = None, dataset: Dataset | None = None, tolerance: float = TOLERANCE
) -> Path:
    """Export a run to `models/<name>/<version>/` and return that folder.

    Args:
        run: the run folder.
        models: the model repository; made when missing.
        version: of the bundle; the next free one when None. Versions are never overwritten.
        dataset: whose rows parity is measured on; that of the run when None.
        tolerance: largest difference of a logit between torch and onnxruntime, times the largest logit when that is above 1.

    Raises:
        BadConfig: `run` is no run folder.
        BadBundle: the version exists, the model cannot be exported, or parity is above the tolerance; nothing is written.
    """
    run = run if isinstance(run, Run) else read_run(run)
    dataset = dataset or read_dataset(run.config.data.path)
    version = next_version(models, run.config.name) if version is None else version
    if version < 1 or (models / run.config.name / str(version)).exists():
        raise BadBundle.of("version", version, "a new version from 1; versions are never overwritten")
    served = load_served(run)
    shape = run.record.x_shape
    own = run.config.model
    any_windows = run.config.task == "windows" and (not isinstance(own, ImportModel) or own.any_windows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_graph(served, shape, any_windows, file)
        parity = measure_parity(served, file, _real_batches(run, dataset, any_windows), tolerance)
        manifest = _manifest(run, version, any_windows, parity, onnx.load(file))
        return write_bundle(models, manifest, file)


def load_served(run: Run) -> nn.Sequential:
    """Rebuild a run as it is served, in evaluation mode: float32 x [batch, ...] to honest logits [batch, ..., label]."""
    config, record = run.config, run.record
    windows = config.task == "windows"
    # Random initial weights are drawn only to be replaced.
    with torch.random.fork_rng([]):
        preprocess = blank_preprocess(config.model, record.x_shape, windows)
        network = build_network(config, record.x_shape, len(record.labels), preprocess)
    run.load_weights(network)
    return nn.Sequential(OrderedDict(network=network, honest=honest_head(config.loss, record.priors))).eval()


def export_graph(served: nn.Module, x_shape: tuple[int, ...], any_windows: bool, file: Path) -> None:
    """Write a single-file graph with input `x`, output `logits` and a free batch axis (and window axis, if `any_windows`).

    Raises:
        BadBundle: torch cannot export the model; the message has torch's first line.
    """
    axes = {0: torch.export.Dim("batch", min=1)}
    if any_windows:
        axes[1] = torch.export.Dim("window", min=1)
    # Neither 0 nor 1, and no two alike: torch.export takes equal example sizes for the same size.
    example = torch.zeros(3, *((7, *x_shape[1:]) if any_windows else x_shape))
    try:
        with _quiet_export():
            torch.onnx.export(
                served,
                (example,),
                str(file),
                dynamo=True,
                external_data=False,
                input_names=["x"],
                output_names=["logits"],
                dynamic_shapes=(axes,),
                opset_version=OPSET,
                verbose=False,
            )
    except CutpointError:
        raise
    except Exception as error:  # torch.export raises classes of its own, with pages of text
        cause = error.__cause__ or error
        line = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise BadBundle(f"the model cannot be exported to ONNX: {type(cause).__name__}: {line[:300]}") from error


def measure_parity(served: nn.Module, file: Path, batches: list[NDArray[np.float32]], tolerance: float = TOLERANCE) -> Parity:
    """Compare the logits of torch and onnxruntime on each batch.

    Raises:
        BadBundle: shapes differ, a logit is not finite, or the largest difference is above the tolerance.
    """
    session = open_session(file)
    worst, largest = 0.0, 0.0
    for x in batches:
        with torch.no_grad():
            ours = served(torch.from_numpy(x)).numpy()
        (theirs,) = session.run(["logits"], {"x": x})
        if theirs.shape != ours.shape or theirs.dtype != np.float32:
            raise BadBundle.of("onnxruntime's logits", f"{theirs.dtype} {list(theirs.shape)}", f"float32 {list(ours.shape)}")
        difference = np.abs(ours.astype(np.float64) - theirs)
        if not np.isfinite(difference).all():
            raise BadBundle.of("logits", "not finite", "finite numbers on the training data")
        worst, largest = max(worst, float(difference.max())), max(largest, float(np.abs(ours).max()))
    allowed = tolerance * max(1.0, largest)
    if worst > allowed:
        raise BadBundle.of(
            "parity of torch and onnxruntime", f"{worst:.3g} apart", f"at most {allowed:.3g}; nothing was written"
        )
    sizes = tuple(sorted({len(x) for x in batches}))
    return Parity(max_abs_difference=worst, tolerance=allowed, batch_sizes=sizes, rows=sum(len(x) for x in batches))


def _real_batches(run: Run, dataset: Dataset, any_windows: bool) -> list[NDArray[np.float32]]:
    """Batches of validation rows, of several sizes; where any number of windows will do, also of fewer windows."""
    valid = run.rows("valid")
    if dataset.x.shape[1:] != run.record.x_shape or valid.max() >= len(dataset):
        raise BadBundle.of(
            f"{dataset.path}: x", list(dataset.x.shape), f"the rows of the run, of shape {list(run.record.x_shape)}"
        )
    batches = []
    for i, size in enumerate(BATCH_SIZES):
        rows = valid[(np.arange(size) + i) % len(valid)]
        batches += [x for _, x in dataset.batches(rows, size)]
    if any_windows:
        fewer = max(1, run.record.x_shape[0] // 2)
        batches += [np.ascontiguousarray(x[:, :windows]) for x in batches[1:2] for windows in {1, fewer}]
    return batches


def _manifest(run: Run, version: int, any_windows: bool, parity: Parity, graph: onnx.ModelProto) -> Manifest:
    config, record, shape = run.config, run.record, run.record.x_shape
    windows = None
    if config.task == "windows":
        channels = shape[1] if len(shape) == 3 else 1
        count = None if any_windows else shape[0]
        windows = Windows(count=count, samples=shape[-1], channels=channels, rate_hz=config.data.rate_hz)
    return Manifest(
        name=config.name,
        version=version,
        task=config.task,
        labels=record.labels,
        input=Input(shape=(-1, -1, *shape[1:]) if any_windows else (-1, *shape)),
        windows=windows,
        preprocessing=describe(config.model, shape, config.task == "windows"),
        loss=Loss(name=config.loss.name, parameters=config.loss.model_dump(mode="json", exclude={"name"})),
        sampler=config.sampler,
        priors=record.priors,
        parity=parity,
        provenance=Provenance(
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            data_digest=record.data_digest,
            config_digest=record.config_digest,
            seed=config.seed,
            versions={**record.versions, **versions_of(PARTS)},
            opset=graph.opset_import[0].version,
            ir_version=graph.ir_version,
        ),
        digests={},
    )


@contextmanager
def _quiet_export() -> Iterator[None]:
    """The exporter prints its progress, and warns of what neither we nor the user can change."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
