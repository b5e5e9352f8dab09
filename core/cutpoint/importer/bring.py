"""From somebody's ONNX file to a bundle: rewritten, checked against the original, written whole."""

import datetime
import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from pydantic import ValidationError

from ..bundle import MODEL_FILE, Input, Manifest, Provenance, Task, Windows, next_version, write_bundle
from ..dataset import Dataset
from ..errors import BadBundle, BadConfig
from ..validation import first_problem
from .check import Original, measure, read_form, record_examples
from .graph import rewrite
from .rows import data_rows, random_rows
from .source import Scores, Source

_RANK = {"binary": 2, "multilabel": 2, "windows": 3}  # of the logits
_BYTES = (2 << 30) - (1 << 20)  # what protobuf holds, less some room


def import_model(
    source: Source,
    models: Path,
    *,
    name: str,
    task: Task,
    labels: Sequence[str],
    output: str | None = None,
    scores: Scores | None = None,
    rate_hz: float | None = None,
    version: int | None = None,
    dataset: Dataset | None = None,
) -> Path:
    """Write `models/<name>/<version>/` from a graph of somebody else's and return that folder.

    Args:
        source: the graph.
        models: the model repository; made when missing.
        name: of the model.
        task: "binary", "multilabel" or "windows".
        labels: in the order of the scores' columns; for task "binary" the positive class: of two columns the one of that name,
            where the classes have names, and otherwise the second.
        output: that holds the scores; None where there is only one.
        scores: "logits" or "probabilities"; None for what the graph says.
        rate_hz: samples per second, of windows.
        version: of the bundle; the next free one when None. Versions are never overwritten.
        dataset: whose rows the check is made on, and whose shape fills in what the graph leaves open; random rows when None.

    Raises:
        BadConfig: a setting is missing, or does not fit the graph.
        BadData: the data are not what the graph takes, or have other labels.
        BadBundle: the version exists, or the graph answers something else than finite scores of its rows. Nothing is written.
    """
    chosen = source.choose(output)
    held = scores or chosen.scores
    if held is None:
        raise BadConfig.of("scores", "missing", f"logits or probabilities: the graph does not say what '{chosen.name}' holds")
    _check_settings(source, task, labels, rate_hz)
    axes = _RANK[task] - 1  # batch and, of windows, their number
    rows = random_rows(source, axes) if dataset is None else data_rows(source, dataset, tuple(labels))
    shape = (*source.shape[:axes], *rows.shape[axes:])
    version = next_version(models, name) if version is None else version
    if (models / name / str(version)).exists():
        raise BadBundle.of("version", f"{models / name / str(version)} (exists)", "a new one; versions are never overwritten")
    original = Original(source, chosen)
    classes = [str(key) for key in chosen.classes if isinstance(key, str)] or source.classes
    form = read_form(original(rows), rows.shape[:axes], labels, chosen, held, classes)
    model = rewrite(source, chosen, form, shape, (*shape[:axes], len(labels)))
    if model.ByteSize() > _BYTES:
        raise BadBundle.of(f"{source.path}: size", f"{model.ByteSize() >> 20} MiB", "less than 2 GiB, as one file")
    any_windows = task == "windows" and shape[1] < 0
    counts = sorted({1, max(1, rows.shape[1] // 2)}) if any_windows else []
    windows = None
    try:
        if task == "windows":
            channels = shape[2] if len(shape) == 4 else 1
            windows = Windows(count=None if any_windows else shape[1], samples=shape[-1], channels=channels, rate_hz=rate_hz)
        manifest = Manifest(
            origin="imported", name=name, version=version, task=task, labels=tuple(labels), input=Input(shape=shape),
            windows=windows, preprocessing="what the imported graph does", precision=source.precision,
            parity=measure(original, model, form, rows, counts), provenance=_provenance(source, model), digests={},
        )  # fmt: skip
    except ValidationError as error:
        raise BadConfig(first_problem(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MODEL_FILE
        onnx.save(model, file)
        return write_bundle(models, manifest, file, record_examples(model, rows))


def _check_settings(source: Source, task: Task, labels: Sequence[str], rate_hz: float | None) -> None:
    if task not in _RANK:
        raise BadConfig.of("task", task, "binary, multilabel or windows")
    if not labels or not all(labels) or len(set(labels)) != len(labels):
        raise BadConfig.of("labels", list(labels), "different names, one per label")
    if task == "binary" and len(labels) != 1:
        raise BadConfig.of("labels", list(labels), "one name for task binary, that of the positive class")
    if task == "windows" and len(source.shape) not in (3, 4):
        wanted = "[batch, window, sample] or [batch, window, channel, sample]"
        raise BadConfig.of("task", f"windows, for an input {list(source.shape)}", wanted)
    if rate_hz is not None and task != "windows":
        raise BadConfig.of("rate_hz", rate_hz, "none, but for task windows")


def _provenance(source: Source, model: onnx.ModelProto) -> Provenance:
    versions = {part: importlib.metadata.version(part) for part in ("cutpoint", "onnx", "onnxruntime")}
    if source.model.producer_name:
        versions[source.model.producer_name] = source.model.producer_version or "unknown"
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions,
        opset=next(entry.version for entry in model.opset_import if entry.domain == ""),
        ir_version=model.ir_version,
    )
