"""Providers: what each is given, and what is said where one cannot be had.

Few test machines have a GPU, so for CUDA and TensorRT a hand-written onnxruntime checks what it is given: these tests say that
the documented options are passed, not that a GPU does as documented. For CUDA `test_cuda.py` says that, where there is one.
"""

import ctypes
import gc
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from bundles import linear_onnx
from cutpoint.errors import BadBundle, BadConfig, Overloaded
from cutpoint.server.runs import graphs, providers, session
from cutpoint.server.runs.provider_settings import ProviderSettings, provider_settings
from cutpoint.server.runs.providers import check_provider
from cutpoint.server.runs.session import Abort, OnnxSession

CUDA, TENSORRT, OPENVINO, CPU = (
    f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "OpenVINO", "CPU")
)  # what onnxruntime calls them


class FakeSession:
    """What onnxruntime would make of a graph `x -> 2x`, and everything that it is told."""

    def __init__(self, build: "FakeBuild", options: onnxruntime.SessionOptions, wanted: Sequence[Any]) -> None:
        self._build = build
        self.options, self.wanted = options, wanted
        self.runs: list[tuple[tuple[int, ...], dict[str, str]]] = []
        self.running = 0

    def get_providers(self) -> list[str]:
        names = [each if isinstance(each, str) else each[0] for each in self.wanted]
        return [CPU] if self._build.falls_back else [*names, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda kinds=kinds: [SimpleNamespace(op_type=kind) for kind in kinds])
            for name, kinds in self._build.nodes
        ]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=list(self._build.shape))]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=list(self._build.shape))]

    def run(self, names: Sequence[str], feed: Mapping[str, Any], options: Any) -> list[Any]:
        self._build.before_run(self)
        self.runs.append((feed["x"].shape, entries(options)))
        return [feed["x"] * 2]

    def io_binding(self) -> "FakeBinding":
        return FakeBinding()

    def run_with_iobinding(self, binding: "FakeBinding", options: Any) -> None:
        self._build.before_run(self)
        self.runs.append((binding.inputs["x"].array.shape, {**entries(options), "bound": "1"}))
        binding.outputs["y"].array[...] = binding.inputs["x"].array * 2


class FakeBinding:
    def __init__(self) -> None:
        self.inputs: dict[str, FakeValue] = {}
        self.outputs: dict[str, FakeValue] = {}

    def bind_ortvalue_input(self, name: str, value: "FakeValue") -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: "FakeValue") -> None:
        self.outputs[name] = value


class FakeValue:
    """Memory of a device: its address stays, as a recorded run needs it to."""

    def __init__(self, array: Any, device: tuple[str, int]) -> None:
        self.array, self.device = array, device

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, element_type: Any, device_type: str, device_id: int) -> "FakeValue":
        return cls(np.zeros(shape, element_type), (device_type, device_id))

    def update_inplace(self, data: Any) -> None:
        assert data.flags.c_contiguous and data.shape == self.array.shape and data.dtype == self.array.dtype
        self.array[...] = data

    def numpy(self) -> Any:
        return self.array.copy()


class FakeBuild:
    """An onnxruntime build: what is real of it comes from the one that is installed."""

    OrtValue = FakeValue

    def __init__(self, *available: str) -> None:
        self._available = [*available, CPU]
        self.sessions: list[FakeSession] = []
        self.preloaded = 0
        self.falls_back = False
        self.error: Exception | None = None
        self.nodes: list[tuple[str, tuple[str, ...]]] = [(available[0] if available else CPU, ("MatMul",))]
        self.shape: tuple[Any, ...] = ("batch", 4)
        self.before_run: Callable[[FakeSession], None] = lambda session: None

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return self._available

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def InferenceSession(self, model: Path, options: Any, providers: Sequence[Any], enable_fallback: int = 1) -> FakeSession:
        on_cpu = list(providers) == [CPU]
        assert on_cpu or not enable_fallback, "onnxruntime would fall back and say so on stdout"
        if self.error is not None and not on_cpu:
            raise self.error
        made = FakeSession(self, options, providers)
        if not on_cpu:
            self.sessions.append(made)
        return made


def entries(options: onnxruntime.RunOptions) -> dict[str, str]:
    found = {}
    for key in ("gpu_graph_id", "memory.enable_memory_arena_shrinkage"):
        try:
            found[key] = options.get_run_config_entry(key)
        except RuntimeError:
            continue
    return found


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeBuild]:
    """Installs a build with these providers beside the CPU's."""

    def installed(*available: str) -> FakeBuild:
        build = FakeBuild(*available)
        for module in (providers, session, graphs):
            monkeypatch.setattr(module, "ort", build)
        monkeypatch.setattr(providers, "_missing_library", lambda provider: None)
        monkeypatch.setattr(providers, "_openvino_devices", lambda: ["CPU", "GPU.0"])
        return build

    return installed


MODEL = Path("model.onnx")
X = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "abacus"}, "provider is 'abacus'"),
        ({"precision": "bf16"}, "precision bf16 is for openvino and tensorrt"),
        ({"provider": "cuda", "precision": "f16"}, "precision f16 is for openvino and tensorrt"),
        ({"devices": ("0",)}, "the provider is cpu"),
        ({"provider": "cuda", "devices": ("GPU.0",)}, "expected numbers of GPUs"),
        ({"provider": "cuda", "devices": ("0", "0")}, "expected each once"),
        ({"provider": "cuda", "batch_sizes": (4, 2)}, "increasing"),
        ({"provider": "cuda", "batch_sizes": (0, 2)}, "increasing"),
        ({"provider": "cuda", "cuda_graphs": True}, "batch_sizes"),
        ({"provider": "tensorrt", "cuda_graphs": True, "batch_sizes": (1,)}, "the provider cuda"),
        ({"provider": "cuda", "cuda_graphs": True, "batch_sizes": (1,), "shrink_above_mib": 1}, "shrink_above_mib must be 0"),
        ({"lanes": 0}, "lanes is 0"),
        ({"warp": 9}, "warp is not a known key"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadConfig, match=r"^provider: ") as caught:
        provider_settings(**settings)
    assert message in str(caught.value)


def test_none_is_not_given() -> None:
    assert provider_settings(provider=None, devices=None) == ProviderSettings()


# What is missing


@pytest.mark.parametrize(("provider", "extra"), [("cuda", "gpu"), ("tensorrt", "tensorrt"), ("openvino", "openvino")])
def test_a_build_without_the_provider_names_the_extra(install: Callable[..., FakeBuild], provider: str, extra: str) -> None:
    install()
    with pytest.raises(BadConfig, match=rf"provider is {provider}.*{CPU}.*cutpoint\[{extra}\]"):
        OnnxSession(MODEL, provider)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino"])
def test_the_installed_build_is_asked(provider: str, tmp_path: Path) -> None:
    wanted = f"{'Tensorrt' if provider == 'tensorrt' else provider}executionprovider".lower()
    if wanted in [name.lower() for name in onnxruntime.get_available_providers()]:
        pytest.skip(f"this onnxruntime has {provider}")
    with pytest.raises(BadConfig, match=f"provider is {provider}"):
        OnnxSession(linear_onnx(tmp_path / "model.onnx", np.eye(4), ["batch", 4]), provider)


@pytest.mark.parametrize(("falls_back", "error"), [(True, None), (False, RuntimeError("Please install TensorRT libraries"))])
def test_a_missing_library_is_named(
    install: Callable[..., FakeBuild], monkeypatch: pytest.MonkeyPatch, falls_back: bool, error: Exception | None
) -> None:
    build = install(CUDA)
    build.falls_back, build.error = falls_back, error
    monkeypatch.setattr(providers, "_missing_library", lambda provider: "libcublasLt.so.13: cannot open shared object file")
    with pytest.raises(BadConfig, match=r"provider is cuda; .*libcublasLt\.so\.13: cannot open"):
        OnnxSession(MODEL, "cuda")


def test_what_the_loader_says_is_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build = SimpleNamespace(__file__=str(tmp_path / "onnxruntime" / "__init__.py"))
    monkeypatch.setattr(providers, "ort", build)
    assert providers._missing_library("cuda") is None  # not there: another platform's name
    library = tmp_path / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    assert "libonnxruntime_providers_cuda.so" in str(providers._missing_library("cuda"))

    def no_driver(name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert "NVIDIA's driver" in str(providers._missing_library("cuda"))


def test_a_session_that_fell_back_is_an_error(install: Callable[..., FakeBuild]) -> None:
    install(CUDA).falls_back = True
    with pytest.raises(BadConfig, match=f"cuda on 0; expected {CUDA} to start; onnxruntime fell back to {CPU}"):
        OnnxSession(MODEL, "cuda")


def test_a_provider_that_no_node_runs_on_is_an_error(install: Callable[..., FakeBuild]) -> None:
    install(OPENVINO).nodes = [(CPU, ("MatMul", "Relu"))]
    with pytest.raises(BadConfig, match=r"openvino on CPU; .*nodes of model\.onnx"):
        OnnxSession(MODEL, "openvino")


def test_nodes_that_run_elsewhere_are_logged(install: Callable[..., FakeBuild], caplog: pytest.LogCaptureFixture) -> None:
    install(CUDA).nodes = [(CUDA, ("MatMul",)), (CPU, ("Shape",)), (CPU, ("Gather", "Shape"))]
    with caplog.at_level(logging.WARNING, "cutpoint.server"):
        OnnxSession(MODEL, "cuda")
    assert caplog.messages == [f"model.onnx: 3 of 4 nodes run on {CPU}: Gather, Shape"]


def test_what_onnxruntime_said_is_passed_on(install: Callable[..., FakeBuild]) -> None:
    install(CUDA).error = RuntimeError(
        f"/cuda_call.cc:129 {'std::' * 99}\nCUDA failure 100: no CUDA-capable device is detected\n"
    )
    with pytest.raises(BadConfig, match=r"cuda on 0; .*no CUDA-capable device is detected$"):
        OnnxSession(MODEL, "cuda")


def test_a_broken_file_is_not_the_providers_fault(install: Callable[..., FakeBuild], monkeypatch: pytest.MonkeyPatch) -> None:
    install(CUDA).error = RuntimeError("Protobuf parsing failed.")
    monkeypatch.setattr(providers, "_loads_on_cpu", lambda model: False)
    with pytest.raises(BadBundle, match="Protobuf parsing failed"):
        OnnxSession(MODEL, "cuda")


def test_a_device_that_openvino_does_not_find_is_an_error(install: Callable[..., FakeBuild]) -> None:
    install(OPENVINO)
    with pytest.raises(BadConfig, match=r"device is NPU; expected .*: CPU, GPU\.0"):
        check_provider(ProviderSettings(provider="openvino", devices=("NPU",)))


# What each is given


def test_the_cpu_is_given_one_thread_a_run(tmp_path: Path) -> None:
    options = OnnxSession(linear_onnx(tmp_path / "m.onnx", np.eye(4), ["batch", 4]))._instances[0].session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_cuda_is_exact_and_its_arena_grows_as_asked(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    OnnxSession(MODEL, ProviderSettings(provider="cuda", gpu_memory_mib=3))
    given = {
        "device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(3 * 2**20),
    }  # fmt: skip
    assert build.sessions[0].wanted == [(CUDA, given)]
    assert build.preloaded == 1
    assert build.sessions[0].options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_tf32_is_asked_for(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    OnnxSession(MODEL, ProviderSettings(provider="cuda", tf32=True))
    assert build.sessions[0].wanted[0][1]["use_tf32"] == "1"


def test_tensorrt_builds_for_the_batch_sizes_and_keeps_what_it_built(install: Callable[..., FakeBuild], tmp_path: Path) -> None:
    build = install(TENSORRT, CUDA)
    build.shape = ("batch", 140, 1000)
    settings = ProviderSettings(
        provider="tensorrt", devices=("1",), precision="f16", batch_sizes=(1, 4, 8), engine_cache=tmp_path
    )
    OnnxSession(MODEL, settings)
    (name, given), (second, cuda) = build.sessions[0].wanted
    assert (name, second, cuda["device_id"], cuda["use_tf32"]) == (TENSORRT, CUDA, "1", "0")
    assert given == {
        "device_id": "1", "trt_fp16_enable": "1", "trt_bf16_enable": "0",
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "x:1x140x1000", "trt_profile_opt_shapes": "x:8x140x1000",
        "trt_profile_max_shapes": "x:8x140x1000",
    }  # fmt: skip


def test_tensorrt_cannot_build_for_axes_of_any_size(install: Callable[..., FakeBuild]) -> None:
    install(TENSORRT, CUDA).shape = ("batch", "window", 1000)
    with pytest.raises(BadConfig, match=r"batch_sizes is \(-1, -1, 1000\); expected input 'x'"):
        OnnxSession(MODEL, ProviderSettings(provider="tensorrt", batch_sizes=(1,)))


def test_openvino_is_told_its_precision_and_a_stream_a_lane(install: Callable[..., FakeBuild]) -> None:
    build = install(OPENVINO)
    settings = ProviderSettings(provider="openvino", precision="bf16", lanes=4, wide_threads=6)
    for wide in (False, True):
        providers.open_session(MODEL, settings, "CPU", wide=wide)
    given = [dict(each.wanted[0][1]) for each in build.sessions]
    assert [each["device_type"] for each in given] == ["CPU", "CPU"]
    assert [json.loads(each["load_config"]) for each in given] == [
        {"CPU": {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "4", "NUM_STREAMS": "4"}},
        {"CPU": {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "6", "NUM_STREAMS": "1"}},
    ]


def test_openvino_on_a_gpu_is_given_no_threads(install: Callable[..., FakeBuild]) -> None:
    build = install(OPENVINO)
    OnnxSession(MODEL, ProviderSettings(provider="openvino", devices=("GPU.0",)))
    given = build.sessions[0].wanted[0][1]
    assert (given["device_type"], json.loads(given["load_config"])) == ("GPU.0", {"GPU": {"INFERENCE_PRECISION_HINT": "f32"}})


# Several devices, graphs


def test_a_run_goes_to_the_device_with_the_fewest(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", devices=("0", "3")))
    assert [each.wanted[0][1]["device_id"] for each in build.sessions] == ["0", "3"]
    both = threading.Barrier(2, timeout=30)  # passed only when two run at a time

    def meet(fake: FakeSession) -> None:
        both.wait()

    build.before_run = meet
    threads = [threading.Thread(target=served.run, args=(X,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [len(each.runs) for each in build.sessions] == [1, 1]
    build.before_run = lambda fake: None
    np.testing.assert_array_equal(served.run(X)["y"], X["x"] * 2)
    assert sum(len(each.runs) for each in build.sessions) == 3
    assert all(each.running == 0 for each in served._instances)


def test_a_device_has_no_wide_runs(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", wide_threads=4))
    assert served.prepare(X).wide_s is None
    assert len(build.sessions) == 1


def test_a_large_run_shrinks_the_arena_of_its_device(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", devices=("3",), shrink_above_mib=1e-5))
    served.run(X)
    assert build.sessions[0].runs == [((2, 4), {"memory.enable_memory_arena_shrinkage": "gpu:3"})]


def test_graphs_are_recorded_a_batch_size_and_replayed_on_the_same_memory(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", devices=("1",), batch_sizes=(2, 4), cuda_graphs=True))
    assert build.sessions[0].wanted[0][1]["enable_cuda_graph"] == "1"
    rng = np.random.default_rng(0)
    for rows in (2, 2, 3, 4, 2, 4, 3):
        x = np.asfortranarray(rng.normal(size=(rows, 4)).astype(np.float32))  # what is copied to a device is in C order
        first = served.run({"x": x})["y"]
        np.testing.assert_array_equal(first, x * 2)
    plain, two, four = {"gpu_graph_id": "-1"}, {"gpu_graph_id": "2", "bound": "1"}, {"gpu_graph_id": "4", "bound": "1"}
    assert build.sessions[0].runs == [
        ((2, 4), plain), ((2, 4), two),  # recorded at once
        ((2, 4), two),
        ((3, 4), plain),  # no size of a graph
        ((4, 4), plain), ((4, 4), four),
        ((2, 4), two),
        ((4, 4), four),
        ((3, 4), plain),
    ]  # fmt: skip


def test_graphs_need_inputs_of_a_fixed_size(install: Callable[..., FakeBuild]) -> None:
    install(CUDA).shape = ("batch", "window", 4)
    with pytest.raises(BadConfig, match=r"batch_sizes is \(-1, -1, 4\); expected input 'x'"):
        OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))


def test_an_answer_is_not_overwritten_by_the_next_replay(install: Callable[..., FakeBuild]) -> None:
    install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    served.run(X)
    kept = served.run(X)["y"]
    served.run({"x": X["x"] + 1})
    np.testing.assert_array_equal(kept, X["x"] * 2)


def test_a_session_with_graphs_has_one_run_at_a_time(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    overlap, by = [], set()

    def count(fake: FakeSession) -> None:
        fake.running += 1
        overlap.append(fake.running)
        by.add(threading.get_ident())
        threading.Event().wait(0.001)  # long enough for another to come in, were it let in
        fake.running -= 1

    build.before_run = count
    threads = [threading.Thread(target=served.run, args=(X,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert overlap == [1] * 9  # one of them records
    assert len(by) == 1, "onnxruntime keeps a recording for the thread that made it"


def test_the_thread_of_a_session_with_graphs_ends_with_it(install: Callable[..., FakeBuild]) -> None:
    install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    served.run(X)
    captured = served._instances[0].captured
    assert captured is not None
    (thread,) = captured._thread._threads
    del served, captured
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


def test_a_recording_that_is_spoilt_is_tried_again(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    fails = [False, True, True, False]  # the plain run, then its recording

    def spoilt(fake: FakeSession) -> None:
        if fails and fails.pop(0):
            raise RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")

    build.before_run = spoilt
    for _ in range(2):
        np.testing.assert_array_equal(served.run(X)["y"], X["x"] * 2)
    two = {"gpu_graph_id": "2", "bound": "1"}
    assert build.sessions[0].runs == [((2, 4), {"gpu_graph_id": "-1"}), ((2, 4), two), ((2, 4), two)]


def test_a_size_that_cannot_be_recorded_runs_without(
    install: Callable[..., FakeBuild], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))

    def never(fake: FakeSession, binding: FakeBinding, options: Any) -> None:
        raise RuntimeError("no capture")

    monkeypatch.setattr(FakeSession, "run_with_iobinding", never)
    for _ in range(3):
        np.testing.assert_array_equal(served.run(X)["y"], X["x"] * 2)
    assert build.sessions[0].runs == [((2, 4), {"gpu_graph_id": "-1"})] * 3
    assert [message for message in caplog.messages if "no graph of 2 rows" in message] == [caplog.messages[-1]]


def test_nobody_can_stop_a_recording(install: Callable[..., FakeBuild], monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime would keep what was recorded until then, and answer with half a graph."""
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    abort = Abort()
    seen: list[bool] = []
    real = FakeSession.run_with_iobinding

    def leave(fake: FakeSession, binding: FakeBinding, options: Any) -> None:
        abort.set()
        seen.append(options.terminate)
        real(fake, binding, options)

    monkeypatch.setattr(FakeSession, "run_with_iobinding", leave)
    served.run(X, abort=abort)
    assert seen == [False]
    assert len(build.sessions[0].runs) == 2


def test_a_recording_waits_for_runs_and_runs_wait_for_it(
    install: Callable[..., FakeBuild], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever another thread allocates while a GPU records fails, and spoils the recording."""
    build = install(CUDA)
    plain = OnnxSession(MODEL, "cuda")
    recorded = OnnxSession(MODEL, ProviderSettings(provider="cuda", batch_sizes=(2,), cuda_graphs=True))
    inside, go_on, order = threading.Event(), threading.Event(), []

    def hold(fake: FakeSession) -> None:
        if fake is build.sessions[0]:
            inside.set()
            go_on.wait(30)
            order.append("plain")

    build.before_run = hold
    real = FakeSession.run_with_iobinding

    def record(fake: FakeSession, binding: FakeBinding, options: Any) -> None:
        order.append("recorded")
        real(fake, binding, options)

    monkeypatch.setattr(FakeSession, "run_with_iobinding", record)
    first, second, third = (threading.Thread(target=each.run, args=(X,)) for each in (plain, recorded, plain))
    first.start()
    assert inside.wait(30)
    second.start()
    while not graphs._gate._recorders:
        threading.Event().wait(0.001)
    third.start()
    go_on.set()
    for thread in (first, second, third):
        thread.join(30)
    assert order == ["plain", "recorded", "plain"]


# Memory


def test_a_gpu_keeps_its_memory_unless_told(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    large = {"x": np.zeros((1200, 4096), np.float32)}  # more than 16 MiB
    OnnxSession(MODEL, "cuda").run(large)
    assert build.sessions[0].runs == [((1200, 4096), {})]


@pytest.mark.parametrize(
    "said",
    [
        "Available memory of 88637184 is smaller than requested bytes of 143360000",
        "CUDA failure 2: out of memory ; GPU=0",
    ],
)
def test_a_run_that_does_not_fit_in_the_memory_is_refused_and_the_next_one_runs(
    install: Callable[..., FakeBuild], said: str
) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, ProviderSettings(provider="cuda", gpu_memory_mib=128))

    def short(fake: FakeSession) -> None:
        raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. {said}")

    build.before_run = short
    with pytest.raises(Overloaded, match=r"run of 2 rows .*device 0 \(gpu_memory_mib=128\)"):
        served.run(X)
    build.before_run = lambda fake: None
    np.testing.assert_array_equal(served.run(X)["y"], X["x"] * 2)


def test_another_error_of_a_gpu_stays_what_it_is(install: Callable[..., FakeBuild]) -> None:
    build = install(CUDA)
    served = OnnxSession(MODEL, "cuda")

    def broken(fake: FakeSession) -> None:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    build.before_run = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        served.run(X)
