"""A session: what the batcher needs to know of whatever computes."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from cutpoint.errors import Aborted, BadBundle, BadConfig, BadRequest, Overloaded
from cutpoint.wire import DATATYPES
from numpy.typing import NDArray

from .graphs import CapturedRuns, using_gpu
from .provider_settings import ProviderSettings, provider_settings
from .providers import check_provider, open_session, run_options
from .turns import in_turns

_ONNX_TYPES = {
    "tensor(bool)": "BOOL", "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32",
    "tensor(int64)": "INT64", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}  # fmt: skip
# What onnxruntime says where memory is short: of its arena, of its limit, of the device.
_NO_MEMORY = ("is smaller than requested bytes", "Failed to allocate memory", "out of memory")
# Of a narrow run's time: what a wide one may take at most, and where four turns do not say on which side of it that is.
_WIDE_GAINS = 0.9
_WIDE_DOUBT = (0.855, 0.945)


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


class Abort:
    """A way to stop a run: handed to it, and set from any thread."""

    # Without a lock, as it is part of every run: `set` writes the flag and then reads the list, `watch` does it the other way
    # round, so at least one of them sees the other.

    def __init__(self) -> None:
        self._set = False
        self._stops: list[Callable[[], None]] = []

    @property
    def is_set(self) -> bool:
        """Whether somebody asked for the end."""
        return self._set

    def set(self) -> None:
        """Ask for the end: what runs ends soon with Aborted, what has not begun does not begin."""
        self._set = True
        stops, self._stops = self._stops, []
        for stop in tuple(stops):
            stop()

    def watch(self, stop: Callable[[], None]) -> None:
        """Have `stop` called from the thread that asks for the end, at once where it was asked for; both if at that moment."""
        self._stops.append(stop)
        if self._set:
            stop()

    def unwatch(self, stop: Callable[[], None]) -> None:
        """Forget `stop`; it may still be called when the end is asked for at this very moment."""
        try:  # noqa: SIM105  (suppress costs more than all the rest)
            self._stops.remove(stop)
        except ValueError:
            pass


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

    def run(
        self, inputs: Mapping[str, NDArray[Any]], *, wide: bool = False, abort: Abort | None = None
    ) -> dict[str, NDArray[Any]]:
        """All outputs by name, from all inputs by name.

        Args:
            inputs: arrays of the types that `inputs` says.
            wide: nothing else runs or waits: this run may use every core.
            abort: stops the run when set.

        Raises:
            Aborted: `abort` was set before the run's end.
        """
        ...


@dataclass(frozen=True)
class Speed:
    """Seconds that a run of some rows takes: on one core or a device, and on all cores, None where that is not faster."""

    narrow_s: float
    wide_s: float | None


class OnnxSession:
    """A graph in onnxruntime: on a CPU one core a run and, once `prepare` found it faster, all cores for a run that is alone.

    On devices there is an instance each; a run goes to the one with the fewest runs.
    """

    def __init__(self, model: Path, provider: ProviderSettings | str = "cpu") -> None:
        """Load `model`.

        Args:
            model: an ONNX file.
            provider: what computes; a name stands for that provider's default settings.

        Raises:
            BadConfig: the provider cannot be had here, or does not know the graph.
            BadBundle: the file is no ONNX model, or has a tensor type that cannot be served.
        """
        settings = provider if isinstance(provider, ProviderSettings) else provider_settings(provider=provider)
        check_provider(settings)
        self.settings = settings
        self._model = model
        profile = _profile(model) if settings.provider == "tensorrt" and settings.batch_sizes else None
        with using_gpu() if settings.on_gpu else nullcontext():
            self._instances = [
                _Instance(open_session(model, settings, each, profile=profile), each, settings.on_gpu)
                for each in settings.instances
            ]
        self._wide: _Instance | None = None
        first = self._instances[0].session
        self.inputs = tuple(_spec(model, node) for node in first.get_inputs())
        self.outputs = tuple(_spec(model, node) for node in first.get_outputs())
        self._text = frozenset(spec.name for spec in self.inputs if spec.datatype == "BYTES")
        self._choosing = threading.Lock()
        if settings.cuda_graphs:
            _check_fixed(model, {spec.name: spec.shape for spec in self.inputs})
            for instance in self._instances:
                instance.captured = CapturedRuns(instance.session, int(instance.device), settings.batch_sizes)

    def prepare(self, rows: Mapping[str, NDArray[Any]], *, limit_s: float = 1.0, wide: bool | None = None) -> Speed:
        """Warm up with inputs as they will come, and find out whether all cores are faster than one.

        The session for all cores has its own copy of the weights, so it is kept only where it takes at most 0.9 of the time.
        Other runs at the same time make the answer worthless.

        Args:
            rows: inputs of the size that is to be quick: one row, as a rule.
            limit_s: about how long it may take beyond two runs of each kind, in seconds.
            wide: whether all cores are faster, where a profile says so; None to find out.
        """
        narrow_s = measure(self, rows, limit_s=limit_s / 25)
        # A run of less than 100 us is over before another core is awake; one of seconds would keep the model from being served.
        pays = 100e-6 <= narrow_s <= limit_s if wide is None else wide
        if not self.settings.on_cpu or self.settings.wide_cores < 2 or not pays:
            return Speed(narrow_s, None)
        device = self.settings.instances[0]
        self._wide = _Instance(open_session(self._model, self.settings, device, wide=True), device)
        if wide:
            return Speed(narrow_s, measure(self, rows, wide=True, limit_s=limit_s / 25))
        self.run(rows, wide=True)  # the first one is slower
        narrow_s, wide_s = in_turns(
            lambda: self.run(rows), lambda: self.run(rows, wide=True), _WIDE_DOUBT, least=4, limit_s=limit_s
        )
        if wide_s > _WIDE_GAINS * narrow_s:
            self._wide = None
            return Speed(narrow_s, None)
        return Speed(narrow_s, wide_s)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], *, wide: bool = False, abort: Abort | None = None
    ) -> dict[str, NDArray[Any]]:
        """All outputs by name. The GIL is free meanwhile; large arrays in C order at multiples of 16 are read where they are.

        Raises:
            Aborted: `abort` was set before the run's end.
            BadRequest: a text is not UTF-8.
            Overloaded: the device has not the memory for it.
        """
        feed: dict[str, NDArray[Any]] = {}
        size = 0
        for name, array in inputs.items():
            feed[name] = _text(name, array) if name in self._text else _placed(array)
            size += array.nbytes
        alone = self._wide if wide else None
        if alone is not None:
            return self._run(alone, feed, size, abort)
        if len(self._instances) == 1:
            return self._run(self._instances[0], feed, size, abort)
        with self._choosing:
            instance = min(self._instances, key=lambda each: each.running)
            instance.running += 1
        try:
            return self._run(instance, feed, size, abort)
        finally:
            with self._choosing:
                instance.running -= 1

    def _run(
        self, instance: "_Instance", feed: dict[str, NDArray[Any]], size: int, abort: Abort | None
    ) -> dict[str, NDArray[Any]]:
        options = run_options(self.settings, instance.device, size)
        if abort is None:
            return self._outputs(instance, feed, options)

        def stop() -> None:
            options.terminate = True

        abort.watch(stop)
        try:
            if abort.is_set:
                raise Aborted("stopped before the run began")
            return self._outputs(instance, feed, options)
        except Exception as error:
            if abort.is_set and "terminate flag" in str(error):
                raise Aborted("the run was stopped: nobody waited for it any more") from None
            raise
        finally:
            abort.unwatch(stop)

    def _outputs(
        self, instance: "_Instance", feed: dict[str, NDArray[Any]], options: ort.RunOptions
    ) -> dict[str, NDArray[Any]]:
        if not instance.on_gpu:
            return instance.outputs(feed, options)
        try:
            return instance.outputs(feed, options)
        except Exception as error:
            if not any(said in str(error) for said in _NO_MEMORY):
                raise
            rows = len(next(iter(feed.values())))
            of = f"device {instance.device}"
            if self.settings.gpu_memory_mib:
                of += f" (gpu_memory_mib={self.settings.gpu_memory_mib})"
            raise Overloaded(f"a run of {rows} rows does not fit in the memory of {of}: send fewer at a time") from error


class _Instance:
    """A session on a device, and how many runs it has at the moment."""

    def __init__(self, session: ort.InferenceSession, device: str, on_gpu: bool = False) -> None:
        self.session, self.device, self.on_gpu, self.running = session, device, on_gpu, 0
        # What InferenceSession.run wraps; its checks, for cases that are not ours, are a tenth of a small model's run.
        self.direct: Any = getattr(session, "_sess", session)
        self.captured: CapturedRuns | None = None
        self._names = [node.name for node in session.get_outputs()]

    def outputs(self, feed: dict[str, NDArray[Any]], options: ort.RunOptions) -> dict[str, NDArray[Any]]:
        """All outputs by name."""
        if self.captured is not None:
            return self.captured.run(feed, options)
        if self.on_gpu:
            with using_gpu():
                return dict(zip(self._names, self.direct.run(self._names, feed, options), strict=True))
        return dict(zip(self._names, self.direct.run(self._names, feed, options), strict=True))


def measure(
    session: Session,
    rows: Mapping[str, NDArray[Any]],
    *,
    wide: bool = False,
    runs: int = 20,
    limit_s: float = 0.25,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that a run of these inputs takes when nothing disturbs it: the least of some runs, after one to warm up.

    Args:
        session: what computes.
        rows: inputs by name.
        wide: as `Session.run` takes it.
        runs: runs to try.
        limit_s: no further run is begun after this, in seconds; one always is.
        clock: seconds, increasing.
    """
    session.run(rows, wide=wide)
    least, started = float("inf"), clock()
    for _ in range(runs):
        before = clock()
        session.run(rows, wide=wide)
        after = clock()
        least = min(least, after - before)
        if after - started > limit_s:
            break
    return least


def _profile(model: Path) -> dict[str, tuple[int, ...]]:
    """The inputs' shapes by name; BadConfig where another axis than the rows is of no fixed size."""
    session = open_session(model, ProviderSettings(), "")
    shapes = {node.name: _spec(model, node).shape for node in session.get_inputs()}
    _check_fixed(model, shapes)
    return shapes


def _check_fixed(model: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """BadConfig where another axis than the rows is of no fixed size."""
    for name, shape in shapes.items():
        if not shape or min(shape[1:], default=1) < 0:
            raise BadConfig.of("batch_sizes", shape, f"input '{name}' of {model} to be of a fixed size but for its rows")


def _spec(model: Path, node: Any) -> TensorSpec:
    datatype = _ONNX_TYPES.get(node.type)
    if datatype is None:
        raise BadBundle.of(f"{model}: type of '{node.name}'", node.type, "a tensor type of the Open Inference Protocol")
    return TensorSpec(node.name, datatype, tuple(size if isinstance(size, int) else -1 for size in node.shape))


def _placed(array: NDArray[Any]) -> NDArray[Any]:
    """The array at an address that is a multiple of 16, copied where it is not.

    Sums over numbers elsewhere are taken in another order: the same row would get another score by where its bytes happened to
    lie. What numpy allocated is in place; of a view it takes longer to ask for its address than to copy a few rows.
    """
    if array.base is None or (array.nbytes > 16384 and array.__array_interface__["data"][0] % 16 == 0):
        return array
    return array.copy()


def placed(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays where a run reads them: to look at them first brings them near to the core that runs."""
    return {name: _placed(array) for name, array in arrays.items()}


def _text(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """BYTES as the str that onnxruntime takes; of bytes it would make their repr. Other types as they are."""
    if array.dtype.kind != "O":
        return array
    try:
        items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise BadRequest.of(f"input '{name}'", str(error), "text in UTF-8") from None
    return np.array(items, np.object_).reshape(array.shape)
