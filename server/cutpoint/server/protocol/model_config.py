"""A model's configuration as Triton words it: what perf_analyzer, pytriton's ModelClient and tritonclient ask for."""

from collections.abc import Sequence

from cutpoint.errors import BadConfig
from cutpoint.oip import inference_pb2 as oip

from ..runs.session import TensorSpec

PLATFORM = "onnxruntime_onnx"
_TYPES = {
    "BOOL": oip.TYPE_BOOL, "INT8": oip.TYPE_INT8, "INT16": oip.TYPE_INT16, "INT32": oip.TYPE_INT32, "INT64": oip.TYPE_INT64,
    "UINT8": oip.TYPE_UINT8, "UINT16": oip.TYPE_UINT16, "UINT32": oip.TYPE_UINT32, "UINT64": oip.TYPE_UINT64,
    "FP16": oip.TYPE_FP16, "FP32": oip.TYPE_FP32, "FP64": oip.TYPE_FP64, "BF16": oip.TYPE_BF16, "BYTES": oip.TYPE_STRING,
}  # fmt: skip


def model_config(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch_rows: int,
    batchable: bool,
    versions: Sequence[int],
    instances: int,
    gpus: Sequence[int] = (),
    queue_delay_s: float = 0.0,
) -> oip.ModelConfig:
    """How a model is served.

    Where rows of several requests share a run, the first axis of a tensor is the batch: `max_batch_size` is not 0,
    `dynamic_batching` is there, and `dims` leave the first axis out of every tensor whose first axis is of any size. Triton
    wants at least one of `dims`, so a tensor without any is said to be `[1]`, reshaped to `[]`.

    Args:
        name: of the model.
        inputs: the graph's, with the batch axis.
        outputs: those that may be asked for, with the batch axis. One without it (the labels' names) keeps its whole shape.
        max_batch_rows: most rows in a run.
        batchable: rows of different requests may share a run. Without it, or where the first axis of an input is fixed, there
            is no batch: `max_batch_size` is 0 and `dims` are whole shapes.
        versions: those in service.
        instances: runs at a time, on all devices together.
        gpus: numbers of the devices; none: on the CPU.
        queue_delay_s: longest wait for a fuller batch.

    Raises:
        BadConfig: a tensor has a datatype that Triton's configuration has no name for.
    """
    batched = batchable and bool(inputs) and all(spec.shape[:1] == (-1,) for spec in inputs)
    config = oip.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=max_batch_rows if batched else 0,
        model_transaction_policy=oip.ModelTransactionPolicy(decoupled=False),
    )
    config.version_policy.specific.versions.extend(versions)
    for spec in inputs:
        _describe(config.input.add(name=spec.name), spec, batched)
    for spec in outputs:
        _describe(config.output.add(name=spec.name), spec, batched)
    if batched:
        config.dynamic_batching.SetInParent()
        config.dynamic_batching.max_queue_delay_microseconds = round(queue_delay_s * 1e6)
    kind = oip.ModelInstanceGroup.KIND_GPU if gpus else oip.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(name=name, kind=kind, count=instances, gpus=gpus)
    return config


def _describe(tensor: oip.ModelInput | oip.ModelOutput, spec: TensorSpec, batched: bool) -> None:
    data_type = _TYPES.get(spec.datatype)
    if data_type is None:
        raise BadConfig.of(f"datatype of '{spec.name}'", spec.datatype, "one of " + ", ".join(_TYPES))
    tensor.data_type = data_type
    dims = spec.shape[1:] if batched and spec.shape[:1] == (-1,) else spec.shape
    tensor.dims.extend(dims or (1,))
    if not dims:
        tensor.reshape.SetInParent()
