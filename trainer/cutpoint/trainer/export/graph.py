"""A run as it is served, and the ONNX graph of it."""

import contextlib
import io
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from cutpoint.bundle import Manifest
from cutpoint.errors import BadBundle, CutpointError
from torch import nn

from ..models import build_network
from ..preprocess import blank_preprocess
from ..prior import honest_head
from ..run import Run

OPSET = 18  # the exporter's own; onnxruntime reads it since 1.14


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
        BadBundle: torch cannot export the model (the message has torch's first line), or fixes an axis that is to be free.
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
    _forget_source(file)
    sizes = [axis.dim_value for axis in onnx.load(file).graph.input[0].type.tensor_type.shape.dim]
    for axis, name in enumerate(("batch", "window")[: len(axes)]):
        if sizes[axis]:  # torch takes a size for constant where the model computes with it as a Python number
            raise BadBundle.of(
                f"{name} axis of the exported graph", f"fixed to {sizes[axis]}", "one that the model leaves free"
            )


def name_graph(file: Path, manifest: Manifest) -> None:
    """Write into the file's own metadata what it is, for who finds it alone: `cutpoint.name`, `cutpoint.labels` (JSON), ..."""
    model = onnx.load(file)
    said = {
        "name": manifest.name,
        "version": str(manifest.version),
        "task": manifest.task,
        "labels": json.dumps(manifest.labels, ensure_ascii=False),
        "precision": manifest.precision,
    }
    onnx.helper.set_model_props(model, {f"cutpoint.{key}": value for key, value in said.items()})
    onnx.save(model, file)


def _forget_source(file: Path) -> None:
    """Leave out what the exporter notes of every node: the stack, with the paths of this machine."""
    model = onnx.load(file)
    for entry in (
        *model.graph.node,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    onnx.save(model, file)


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
