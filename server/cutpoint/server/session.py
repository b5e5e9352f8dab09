"""A session: what the batcher needs to know of whatever computes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from cutpoint.errors import BadBundle, BadConfig, BadRequest
from cutpoint.wire import DATATYPES
from numpy.typing import NDArray

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ONNX_TYPES = {
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}  # fmt: skip


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the graph: -1 in `shape` is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return DATATYPES[self.datatype]


class Session(Protocol):
    """Computes outputs from inputs; called from several threads at a time."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The graph's inputs."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """The graph's outputs."""
        ...

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name, from all inputs by name."""
        ...


class OnnxSession:
    """An onnxruntime session with one thread per run: several runs at a time use the cores better than one run on all."""

    def __init__(self, model: Path, provider: str = "cpu") -> None:
        """Load `model`; BadConfig where the provider is not in this onnxruntime, BadBundle where the file is no ONNX model."""
        wanted = _PROVIDERS[provider]
        available = ort.get_available_providers()
        if wanted not in available:
            raise BadConfig.of(
                "provider", f"{provider} ({wanted})", f"one of this onnxruntime build's: {', '.join(available)}; "
                "for CUDA install cutpoint[gpu] in place of cutpoint[server]",
            )  # fmt: skip
        if provider == "cuda":
            ort.preload_dlls()  # the CUDA libraries that came as wheels are on no search path
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # TF32 rounds inputs to 10 bits of mantissa, which moves scores across thresholds that were tuned without it.
        settings: list[Any] = [(wanted, {"use_tf32": "0"} if provider == "cuda" else {})]
        try:
            self._session = ort.InferenceSession(model, options, providers=settings)
        except Exception as error:  # onnxruntime raises a dozen classes without a common parent of its own
            raise BadBundle(f"{model} cannot be loaded by onnxruntime {ort.__version__}: {_first_line(error)}") from error
        if self._session.get_providers()[0] != wanted:
            raise BadConfig.of(
                "provider", provider, f"{wanted} to start; onnxruntime fell back, see its log for what is missing"
            )
        self.inputs = tuple(_spec(model, node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(model, node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name. The GIL is free meanwhile."""
        texts = {name: _text(name, array) if array.dtype.kind == "O" else array for name, array in inputs.items()}
        return dict(zip(self._names, self._session.run(self._names, texts), strict=True))


def _spec(model: Path, node: Any) -> TensorSpec:
    datatype = _ONNX_TYPES.get(node.type)
    if datatype is None:
        raise BadBundle.of(f"{model}: type of '{node.name}'", node.type, "a tensor type of the Open Inference Protocol")
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else -1 for size in node.shape))


def _text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """BYTES as the str that onnxruntime takes; of bytes it would make their repr."""
    try:
        items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise BadRequest.of(f"input '{name}'", str(error), "text in UTF-8") from None
    return np.array(items, np.object_).reshape(array.shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
