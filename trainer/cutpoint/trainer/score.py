"""Scores of a bundle over a dataset, with onnxruntime: what calibration, evaluation and parity are measured on."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cutpoint.bundle import Bundle
from cutpoint.dataset import SPLITS, Dataset, read_dataset
from cutpoint.errors import BadBundle, BadConfig, BadData, BadScores
from numpy.typing import NDArray

from .run import Run, read_run

BATCH_BYTES = 16 << 20
onnx_errors: Any = onnxruntime.capi.onnxruntime_pybind11_state


def open_session(model: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Args:
        model: the .onnx file.
        threads: of one run; 0 is one per core.

    Raises:
        BadBundle: not a graph that onnxruntime can load, or not one with one float32 input.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each of its status codes
        raise BadBundle(f"{model} cannot be loaded by onnxruntime: {' '.join(str(error).split())[:300]}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        found = [f"{i.name} {i.type}" for i in inputs]
        raise BadBundle.of(f"{model}: inputs", found, "one float32 tensor")
    return session


def score_rows(
    bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64] | None = None, batch_size: int | None = None, threads: int = 0
) -> NDArray[np.float32]:
    """Logits of the bundle's graph: `score_graph` of its file; rows None for all."""
    rows = np.arange(len(dataset), dtype=np.int64) if rows is None else rows
    return score_graph(bundle.model_path, dataset, rows, batch_size, threads)


def score_graph(
    model: Path, dataset: Dataset, rows: NDArray[np.int64], batch_size: int | None = None, threads: int = 0
) -> NDArray[np.float32]:
    """Logits of a graph of any precision; input and logits are float32.

    Args:
        model: the .onnx file, Cutpoint's or anybody's: its output named `logits`, or else the first, is taken.
        dataset: its x [row, ...].
        rows: indices, in the order wanted.
        batch_size: rows a run; None for about 16 MiB of input.
        threads: of onnxruntime; 0 is one per core.

    Returns:
        float32 [row, label] or [sequence, window, label].

    Raises:
        BadData: x has a shape that the graph does not take, or holds NaN.
        BadScores: the graph answers NaN.
        BadBundle: the graph cannot be loaded, or answers something other than one row per row.
    """
    session = open_session(model, threads)
    check_shape(session.get_inputs()[0].shape, dataset)
    outputs = [output.name for output in session.get_outputs()]
    output = "logits" if "logits" in outputs else outputs[0]
    found = []
    for chosen, x in dataset.batches(rows, batch_size or batch_size_of(dataset)):
        if not np.isfinite(x).all():
            row = chosen[int(np.argwhere(~np.isfinite(x))[0][0])]
            raise BadData.of(f"{dataset.path}: x[{row}]", "NaN or infinite somewhere", "finite numbers")
        (logits,) = session.run([output], {session.get_inputs()[0].name: x})
        if len(logits) != len(x) or logits.ndim < 2 or logits.dtype != np.float32:
            raise BadBundle.of(
                f"{model}: output {output}", f"{logits.dtype} {list(logits.shape)}", f"float32 [{len(x)}, ..., label]"
            )
        if np.isnan(logits).any():
            row = chosen[int(np.argwhere(np.isnan(logits))[0][0])]
            raise BadScores(f"{model} answers NaN for row {row} of {dataset.path}")
        found.append(logits)
    if not found:
        raise BadData.of("rows", "none", "at least one")
    return np.concatenate(found)


def batch_size_of(dataset: Dataset) -> int:
    """Rows of about 16 MiB of float32 input, 1 to 1024."""
    return min(1024, dataset.rows_in(BATCH_BYTES))


def choose_rows(dataset: Dataset, split: str, run: Run | None = None) -> NDArray[np.int64]:
    """Row indices of a split: the run's when there is one, else the data's own; "all" is every row.

    Raises:
        BadData: the data have no such split, or are not those that the run was trained on.
        BadConfig: the run has no such split.
    """
    if run is not None and split != "all":
        found = dataset.digest()
        if found != run.record.data_digest:
            expected = f"{run.record.data_digest[:12]}..., the data of run {run.path}; its row indices fit no other"
            raise BadData.of(f"{dataset.path}: SHA-256 of x and y", f"{found[:12]}...", expected)
        rows = run.rows(split)
    elif split == "all":
        rows = np.arange(len(dataset), dtype=np.int64)
    elif split in dataset.splits:
        rows = dataset.splits[split]
    else:
        known = [name for name in SPLITS if name in dataset.splits]
        expected = (
            f"--split {' | '.join([*known, 'all'])} of {dataset.path}, where all is every row, or --run for those of a run"
        )
        raise BadData.of("split", split, expected)
    if len(rows) == 0:
        raise BadData.of(f"split {split}", "empty", "at least one row")
    return rows


def labels_of(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The targets of `rows`, uint8 [..., label]; BadData without y or where the labels are not the model's."""
    if dataset.y is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'y'", "'y', the labels to calibrate or evaluate with")
    if bundle.manifest is not None and dataset.label_names != bundle.manifest.labels:
        found, wanted = list(dataset.label_names[:5]), list(bundle.manifest.labels[:5])
        raise BadData.of(f"{dataset.path}: label_names", found, f"{wanted}, the labels of {bundle.name}, in that order")
    return np.asarray(dataset.y[rows])


def dataset_rows(data: Path | None, run: Path | None, split: str) -> tuple[Dataset, NDArray[np.int64]]:
    """The dataset and the rows that a command means by --data, --run and --split; BadConfig without both."""
    trained = read_run(run) if run is not None else None
    if data is None:
        if trained is None:
            raise BadConfig.of("--data", "missing", "--data PATH, --run RUN, or both")
        data = trained.config.data.path
    dataset = read_dataset(data)
    return dataset, choose_rows(dataset, split, trained)


def check_shape(wanted: list[Any], dataset: Dataset) -> None:
    """Check x against a graph's input shape, in which text and None are any size; BadData where they differ."""
    found = dataset.x.shape
    sizes = [size if isinstance(size, int) else -1 for size in wanted]
    fits = len(sizes) == len(found) and all(size in (-1, n) for size, n in zip(sizes[1:], found[1:], strict=True))
    if not fits:
        raise BadData.of(f"{dataset.path}: x", f"of shape {list(found)}", f"{sizes}, what the model takes (-1 is any size)")
