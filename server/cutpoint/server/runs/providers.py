"""What computes a graph: onnxruntime's execution providers, chosen by one setting.

A provider that was asked for and cannot be had is an error at start that says what is missing. onnxruntime itself would fall
back to the CPU with a line in its log: whole sessions where a library or a device is missing, single nodes where a provider
does not know them. So three things are checked: what the build has, what the session has, and which nodes went where.
"""

import contextlib
import ctypes
import importlib.util
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
from cutpoint.errors import BadBundle, BadConfig
from onnxruntime.capi import _pybind_state

from .provider_settings import ONNXRUNTIME, ProviderName, ProviderSettings

log = logging.getLogger("cutpoint.server")

_EXTRA: dict[ProviderName, str] = {"cpu": "server", "cuda": "gpu", "tensorrt": "tensorrt", "openvino": "openvino"}
_FATAL = 4  # onnxruntime's severity: what it would log as an error is raised as well


def check_provider(settings: ProviderSettings) -> None:
    """Find out without a model whether the provider can be had.

    Raises:
        BadConfig: this onnxruntime was built without it, or OpenVINO has no such device. Libraries show with a model.
    """
    wanted, available = ONNXRUNTIME[settings.provider], ort.get_available_providers()
    if wanted not in available:
        raise BadConfig.of(
            "provider", settings.provider, f"one that onnxruntime {ort.__version__} has here ({', '.join(available)}); for "
            f"{settings.provider} install cutpoint[{_EXTRA[settings.provider]}] into an environment of its own: one build of "
            "onnxruntime each",
        )  # fmt: skip
    if settings.provider == "openvino":
        found = tuple(_openvino_devices())
        for device in settings.instances:
            if device not in found:  # onnxruntime would run on its own CPU provider instead, and name OpenVINO's
                raise BadConfig.of("device", device, f"one that OpenVINO finds on this machine: {', '.join(found)}")
    if settings.on_gpu:
        # 1.31 warns of every session that its new kind of provider is not there; what fails is raised as well.
        ort.set_default_logger_severity(_FATAL)
        # The libraries that came as wheels are on no search path. What it prints shows with a model; stdout is not its own.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        if settings.provider == "tensorrt":
            _preload_tensorrt()


def open_session(
    model: Path,
    settings: ProviderSettings,
    device: str,
    *,
    wide: bool = False,
    profile: Mapping[str, Sequence[int]] | None = None,
) -> ort.InferenceSession:
    """A session of `model` on `device`, or an error that says what stands in the way.

    Args:
        model: an ONNX file.
        settings: what computes.
        device: one of `settings.instances`.
        wide: for one run at a time on all cores, rather than for several on one core each.
        profile: the inputs' shapes by name, their first axis the rows, for which tensorrt builds engines of `batch_sizes`.

    Raises:
        BadBundle: the file is no model that onnxruntime can load.
        BadConfig: the provider or the device cannot be had, or no node of the graph runs on it.
    """
    wanted = ONNXRUNTIME[settings.provider]
    providers = _providers(settings, device, wide, profile or {})
    options = _session_options(settings, wide)
    try:
        # onnxruntime's own fall back prints to stdout and goes on with the CPU.
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises a dozen classes without a common parent of its own
        if settings.provider == "cpu" or not _loads_on_cpu(model):
            raise BadBundle(f"{model} cannot be loaded by onnxruntime {ort.__version__}: {_said(error)}") from error
        _check_libraries(settings)
        raise BadConfig.of("provider", _shown(settings, device), f"it to load {model}, but: {_said(error)}") from error
    if wanted not in session.get_providers():
        _check_libraries(settings)
    if settings.provider != "cpu":
        _check_nodes(session, model, _shown(settings, device), wanted)
    return session


def run_options(settings: ProviderSettings, device: str, input_bytes: int) -> ort.RunOptions:
    """Options of one run: its own, since `terminate` is one of them."""
    options = ort.RunOptions()
    if input_bytes > settings.shrinks_above:
        arena = f"gpu:{device}" if settings.on_gpu else "cpu:0"
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def _session_options(settings: ProviderSettings, wide: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.inter_op_num_threads = 1
    # For each shape it would plan one block of memory; with batches of any size that doubles what is held and gains nothing.
    options.enable_mem_pattern = False
    if settings.provider == "cpu" and wide:
        options.intra_op_num_threads = settings.wide_cores
        # A thread spins for the others' part of a node, since to wake it costs more than most parts take; but no longer than
        # that, and never between runs. More and smaller parts leave less to wait for when a core is taken away meanwhile.
        for key, value in (("intra_op.spin_duration_us", "200"), ("force_spinning_stop", "1"), ("dynamic_block_base", "4")):
            options.add_session_config_entry(f"session.{key}", value)
    else:
        options.intra_op_num_threads = 1
        if settings.provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _providers(
    settings: ProviderSettings, device: str, wide: bool, profile: Mapping[str, Sequence[int]]
) -> list[str | tuple[str, dict[str, str]]]:
    """Providers in order of preference, with their options, all of them text."""
    cuda = {
        "device_id": device,
        # TF32 moves scores across thresholds that were tuned without it.
        "use_tf32": str(int(settings.tf32)),
        # The default tries every algorithm for every new shape, and each number of rows is one.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles what it takes, which shrinking could not give back.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if settings.gpu_memory_mib:
        cuda["gpu_mem_limit"] = str(settings.gpu_memory_mib * 2**20)
    if settings.provider == "cuda":
        if settings.cuda_graphs:
            cuda["enable_cuda_graph"] = "1"
        return [("CUDAExecutionProvider", cuda)]
    if settings.provider == "tensorrt":
        # What TensorRT does not know runs on CUDA.
        return [("TensorrtExecutionProvider", _tensorrt(settings, device, profile)), ("CUDAExecutionProvider", cuda)]
    if settings.provider == "openvino":
        return [("OpenVINOExecutionProvider", _openvino(settings, device, wide))]
    return ["CPUExecutionProvider"]


def _tensorrt(settings: ProviderSettings, device: str, profile: Mapping[str, Sequence[int]]) -> dict[str, str]:
    options = {
        "device_id": device,
        "trt_fp16_enable": str(int(settings.precision == "f16")),
        "trt_bf16_enable": str(int(settings.precision == "bf16")),
    }
    if settings.engine_cache is not None:
        folder = str(settings.engine_cache)
        options |= {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "1", "trt_timing_cache_path": folder,
        }  # fmt: skip
    if settings.batch_sizes and profile:
        least, most = settings.batch_sizes[0], settings.batch_sizes[-1]
        for bound, rows in (("min", least), ("opt", most), ("max", most)):
            shapes = ",".join(f"{name}:{'x'.join(map(str, (rows, *shape[1:])))}" for name, shape in profile.items())
            options[f"trt_profile_{bound}_shapes"] = shapes
    return options


def _openvino(settings: ProviderSettings, device: str, wide: bool) -> dict[str, str]:
    # Always stated: no machine's or version's default may decide what scores are computed in.
    properties: dict[str, str] = {"INFERENCE_PRECISION_HINT": settings.precision}
    if device == "CPU":
        threads, streams = (settings.wide_cores, 1) if wide else (settings.lanes, settings.lanes)
        properties |= {"INFERENCE_NUM_THREADS": str(threads), "NUM_STREAMS": str(streams)}
    return {"device_type": device, "load_config": json.dumps({device.partition(".")[0]: properties})}


def _openvino_devices() -> list[str]:
    """What OpenVINO finds here: "CPU", "GPU", "GPU.1", "NPU"."""
    devices: list[str] = _pybind_state.get_available_openvino_device_ids()  # the build's own; not among the public names
    return devices


def _check_nodes(session: ort.InferenceSession, model: Path, shown: str, wanted: str) -> None:
    """BadConfig where the session has not the provider, or no node runs on it; the nodes that run elsewhere are logged."""
    if wanted not in session.get_providers():
        raise BadConfig.of("provider", shown, f"{wanted} to start; onnxruntime fell back to {session.get_providers()[0]}")
    nodes: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    if not nodes.get(wanted):
        raise BadConfig.of("provider", shown, f"one that knows the nodes of {model}; onnxruntime runs all of them on the CPU")
    for provider, kinds in nodes.items():
        if provider != wanted:
            total = sum(map(len, nodes.values()))
            log.warning("%s: %d of %d nodes run on %s: %s", model, len(kinds), total, provider, ", ".join(sorted(set(kinds))))


def _loads_on_cpu(model: Path) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    try:
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def _check_libraries(settings: ProviderSettings) -> None:
    """BadConfig where a library is missing: asked once onnxruntime has tried, since it has to load its own libraries first."""
    missing = _missing_library(settings.provider)
    if missing is not None:
        raise BadConfig.of("provider", settings.provider, f"its libraries to load, but {missing}")


def _missing_library(provider: ProviderName) -> str | None:
    """Why the provider's library cannot be loaded, in the loader's words; onnxruntime only logs them."""
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if not library.exists():
        return None  # not Linux: onnxruntime's own check has to do
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        driver = "; libcuda.so.1 is NVIDIA's driver" if "libcuda.so.1" in str(error) else ""
        return f"{error}{driver}"
    return None


def _preload_tensorrt() -> None:
    """Load the libraries of the wheel tensorrt-cu13-libs, where it is installed."""
    found = importlib.util.find_spec("tensorrt_libs")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        for name in ("libnvinfer.so.10", "libnvonnxparser.so.10"):
            if (Path(folder) / name).exists():
                ctypes.CDLL(str(Path(folder) / name), mode=ctypes.RTLD_GLOBAL)


def _shown(settings: ProviderSettings, device: str) -> str:
    return f"{settings.provider} on {device}" if device else settings.provider


def _said(error: Exception) -> str:
    """What onnxruntime said: the last line's end, since it begins with C++ and ends with the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1] if len(lines[-1]) <= 400 else f"...{lines[-1][-400:]}"
