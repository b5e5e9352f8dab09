"""CUDA graphs: a run of a fixed number of rows, recorded once and replayed without launching its kernels one by one.

A recorded run reads and writes the memory that it was recorded with. So each number of rows has its own buffers on the
device, bound to the session; rows are copied in and out around a replay.

onnxruntime keeps a recording for the thread that made it, and records in CUDA's global mode: whatever another thread of the
process allocates, frees or copies meanwhile fails, and spoils the recording. So a session's runs are all made by one thread
of its own, and whoever else uses a GPU holds `using_gpu` while it does, which a recording waits for.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

log = logging.getLogger("cutpoint.server")

_GRAPH = "gpu_graph_id"  # onnxruntime's key of a run: which recording; -1 for none
_TRIES = 3  # of a recording: a model that is retired at the same moment frees its memory, and waits for nobody


class _Gate:
    """Any number of users at a time, or one recorder alone; a recorder that waits goes before users that come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = self._recorders = 0
        self._recording = False

    @contextmanager
    def using(self) -> Iterator[None]:
        with self._changed:
            while self._recorders:
                self._changed.wait()
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._recorders and not self._users:
                    self._changed.notify_all()

    @contextmanager
    def recording(self) -> Iterator[None]:
        with self._changed:
            self._recorders += 1
            while self._users or self._recording:
                self._changed.wait()
            self._recording = True
        try:
            yield
        finally:
            with self._changed:
                self._recorders -= 1
                self._recording = False
                self._changed.notify_all()


_gate = _Gate()  # of the process, as CUDA's mode is
using_gpu = _gate.using


class CapturedRuns:
    """The recordings of one session, one for each number of rows in `sizes`; other numbers of rows run without."""

    def __init__(self, session: ort.InferenceSession, device: int, sizes: Sequence[int]) -> None:
        """Record nothing yet: a size is recorded after its first run, which takes longer.

        Args:
            session: made with `enable_cuda_graph`; nobody else may run it.
            device: number of the GPU.
            sizes: numbers of rows.
        """
        self._session = session
        self._device = device
        self._sizes = set(sizes)
        self._names = [node.name for node in session.get_outputs()]
        self._recorded: dict[int, _Recording] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda-graphs")  # ends when this is forgotten

    def run(self, feed: Mapping[str, NDArray[Any]], options: Any) -> dict[str, NDArray[Any]]:
        """All outputs by name. `options` are of this run alone, and are changed; a replay cannot be stopped by them."""
        return self._thread.submit(self._run, feed, options).result()

    def _run(self, feed: Mapping[str, NDArray[Any]], options: Any) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(feed.values())))
        recording = self._recorded.get(rows)
        with using_gpu():
            if recording is not None:
                return recording.replay(self._session, feed, _graph(str(rows)))
            options.add_run_config_entry(_GRAPH, "-1")
            outputs = dict(zip(self._names, self._session.run(self._names, dict(feed), options), strict=True))
        if rows in self._sizes:  # now the outputs' shapes are known
            self._record(rows, feed, outputs)
        return outputs

    def _record(self, rows: int, feed: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Record this size now, where nobody can stop it: of a run that ends midway half would be recorded."""
        for turn in range(_TRIES):
            try:
                with _gate.recording():
                    recording = _Recording(self._session, self._device, feed, outputs)
                    recording.replay(self._session, feed, _graph(str(rows)))
            except Exception as error:  # onnxruntime raises a dozen classes without a common parent
                if turn == _TRIES - 1:
                    self._sizes.discard(rows)
                    log.warning("no graph of %d rows, which run without from now on: %s", rows, str(error)[-300:])
            else:
                self._recorded[rows] = recording
                return


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


def _graph(name: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH, name)
    return options


def _buffer(array: NDArray[Any], device: int) -> Any:
    return ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, "cuda", device)
