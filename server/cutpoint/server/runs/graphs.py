"""CUDA graphs: a run of a fixed number of rows, recorded once and replayed without launching its kernels one by one.

A recorded run reads and writes the memory that it was recorded with. So each number of rows has its own buffers on the
device, bound to the session; rows are copied in and out around a replay.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

_GRAPH = "gpu_graph_id"  # onnxruntime's key of a run: which recording; -1 for none


class CapturedRuns:
    """The recordings of one session, one for each number of rows in `sizes`; other numbers of rows run without."""

    def __init__(self, session: ort.InferenceSession, device: int, sizes: Sequence[int]) -> None:
        """Record nothing yet: a size is recorded at its first run, which takes longer.

        Args:
            session: made with `enable_cuda_graph`; nobody else may run it.
            device: number of the GPU.
            sizes: numbers of rows.
        """
        self._session = session
        self._device = device
        self._sizes = frozenset(sizes)
        self._names = [node.name for node in session.get_outputs()]
        self._recorded: dict[int, _Recording] = {}
        self._one_at_a_time = threading.Lock()  # onnxruntime allows no two runs of such a session

    def run(self, feed: Mapping[str, NDArray[Any]], options: Any) -> dict[str, NDArray[Any]]:
        """All outputs by name. `options` are of this run alone, and are changed."""
        rows = len(next(iter(feed.values())))
        with self._one_at_a_time:
            recording = self._recorded.get(rows)
            if recording is not None:
                options.add_run_config_entry(_GRAPH, str(rows))
                return recording.replay(self._session, feed, options)
            options.add_run_config_entry(_GRAPH, "-1")
            outputs = dict(zip(self._names, self._session.run(self._names, dict(feed), options), strict=True))
            if rows in self._sizes:  # now the outputs' shapes are known
                self._recorded[rows] = _Recording(self._session, self._device, feed, outputs)
            return outputs


class _Recording:
    """Buffers on the device for runs of arrays of these shapes, bound to the session."""

    def __init__(
        self, session: ort.InferenceSession, device: int, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        self._binding = session.io_binding()
        self._inputs = {name: _buffer(array, device) for name, array in feed.items()}
        self._outputs = {name: _buffer(array, device) for name, array in outputs.items()}
        for name, buffer in self._inputs.items():
            self._binding.bind_ortvalue_input(name, buffer)
        for name, buffer in self._outputs.items():
            self._binding.bind_ortvalue_output(name, buffer)

    def replay(self, session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]], options: Any) -> dict[str, NDArray[Any]]:
        for name, array in feed.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        session.run_with_iobinding(self._binding, options)
        return {name: buffer.numpy() for name, buffer in self._outputs.items()}


def _buffer(array: NDArray[Any], device: int) -> Any:
    return ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, "cuda", device)
