"""CUDA for real, where this onnxruntime has it and there is a GPU; without one all of it is skipped.

pip install -c constraints.txt '.[gpu]' pytest hypothesis scikit-learn, and pytest tests/server/test_cuda.py
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from bundles import linear_onnx, manifest, slow_onnx
from cutpoint.bundle import Examples, write_bundle
from cutpoint.client import Client
from cutpoint.errors import Aborted, Overloaded
from cutpoint.server.runs.provider_settings import ProviderSettings
from cutpoint.server.runs.session import Abort, OnnxSession
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from processes import ENVIRONMENT, serving


def _missing() -> str:
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime has no CUDA: NOTHING OF CUDA IS TESTED HERE"
    shown = (
        subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
        if shutil.which("nvidia-smi")
        else None
    )
    return "" if shown and shown.returncode == 0 and "GPU 0" in shown.stdout else "no GPU: NOTHING OF CUDA IS TESTED HERE"


MISSING = _missing()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

CUDA = ProviderSettings(provider="cuda")
WIDE, LONG = 64, 1000  # channels and samples of the convolutions


def conv_onnx(path: Path) -> Path:
    """x [n, 1, 1000] to logits [n, 3]: two convolutions, a mean, a product."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(WIDE, 1, 7)) / 7**0.5, "b": rng.normal(size=(WIDE, WIDE, 5)) / (5 * WIDE) ** 0.5,
        "w": rng.normal(size=(WIDE, 3)) / WIDE**0.5,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[3, 3]), helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "b"], ["e"], pads=[2, 2]), helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]), helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["logits"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, LONG])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def rows(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 1, LONG)).astype(np.float32)


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conv_onnx(tmp_path_factory.mktemp("cuda") / "model.onnx")


def test_a_product_is_as_exact_as_float32_unless_tf32_is_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights, x = (rng.normal(size=size).astype(np.float32) for size in ((1024, 256), (512, 1024)))
    model = linear_onnx(tmp_path / "model.onnx", weights, ["batch", 1024])
    wanted = x.astype(np.float64) @ weights.astype(np.float64)
    exact, rounded = (
        np.abs(OnnxSession(model, settings).run({"x": x})["logits"] - wanted).max() / np.abs(wanted).max()
        for settings in (CUDA, ProviderSettings(provider="cuda", tf32=True))
    )
    assert exact < 1e-6
    assert 1e-5 < rounded < 1e-2


def test_convolutions_agree_with_the_cpu_and_all_nodes_are_on_the_gpu(conv: Path) -> None:
    session, x = OnnxSession(conv, CUDA), rows(9)
    np.testing.assert_allclose(session.run({"x": x})["logits"], OnnxSession(conv).run({"x": x})["logits"], atol=1e-5)
    nodes = {part.ep_name for part in session._instances[0].session.get_provider_graph_assignment_info()}
    assert nodes == {"CUDAExecutionProvider"}


def test_graphs_answer_as_without_whoever_runs_them(conv: Path) -> None:
    plain = OnnxSession(conv, CUDA)
    graphs = OnnxSession(conv, ProviderSettings(provider="cuda", cuda_graphs=True, batch_sizes=(1, 4, 8)))
    x = rows(64)
    wanted = {(n, at): plain.run({"x": x[at : at + n]})["logits"] for n in (1, 3, 4, 8) for at in (0, 5, 40)}
    wrong: list[tuple[int, int]] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        keys = list(wanted)
        for _ in range(60):
            n, at = keys[rng.integers(len(keys))]
            found = graphs.run({"x": x[at : at + n]})["logits"]
            if not np.allclose(found, wanted[n, at], rtol=0, atol=1e-6):
                wrong.append((n, at))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    captured = graphs._instances[0].captured
    assert captured is not None and set(captured._recorded) == {1, 4, 8}


def test_graphs_are_recorded_while_others_allocate(conv: Path) -> None:
    """CUDA forbids nearly everything to a process's other threads while one of them records."""
    wanted = OnnxSession(conv, CUDA).run({"x": rows(64)})["logits"]
    stop, errors, runs = threading.Event(), [], [0]

    def disturb(seed: int) -> None:
        rng = np.random.default_rng(seed)
        other = OnnxSession(conv, ProviderSettings(provider="cuda", shrink_above_mib=0.001))
        while not stop.is_set():
            try:
                other.run({"x": rows(int(rng.integers(1, 64)))})
                runs[0] += 1
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        graphs = OnnxSession(conv, ProviderSettings(provider="cuda", cuda_graphs=True, batch_sizes=tuple(range(1, 33))))
        for n in range(1, 33):
            for _ in range(3):
                np.testing.assert_allclose(graphs.run({"x": rows(64)[:n]})["logits"], wanted[:n], rtol=0, atol=1e-5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    captured = graphs._instances[0].captured
    assert captured is not None and set(captured._recorded) == set(range(1, 33))
    assert runs[0] and not errors


def test_a_run_beyond_the_limit_is_refused_and_the_next_one_runs(conv: Path) -> None:
    session = OnnxSession(conv, ProviderSettings(provider="cuda", gpu_memory_mib=64))
    wanted = session.run({"x": rows(2)})["logits"]
    with pytest.raises(Overloaded, match=r"run of 2000 rows .*gpu_memory_mib=64"):
        session.run({"x": rows(2000)})
    np.testing.assert_array_equal(session.run({"x": rows(2)})["logits"], wanted)


def test_a_run_is_stopped_midway_and_the_session_stays_good(tmp_path: Path, conv: Path) -> None:
    session, abort = OnnxSession(slow_onnx(tmp_path / "slow.onnx", 2_000_000_000), CUDA), Abort()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            session.run({"x": np.ones((1, 2), np.float32)}, abort=abort)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    while time.clock_gettime(clock) < 0.05:  # it computes
        threading.Event().wait(0.001)
    abort.set()
    thread.join(30)
    assert not thread.is_alive() and isinstance(errors[0], Aborted)
    quick, x = OnnxSession(conv, CUDA), rows(4)
    wanted = quick.run({"x": x})["logits"]
    for spin in range(40):  # whenever it comes
        late = Abort()
        timer = threading.Timer(spin * 2e-5, late.set)
        timer.start()
        with contextlib.suppress(Aborted):
            np.testing.assert_array_equal(quick.run({"x": x}, abort=late)["logits"], wanted)
        timer.join()
    np.testing.assert_array_equal(quick.run({"x": x})["logits"], wanted)


def test_the_server_serves_a_bundle_whose_examples_agree(conv: Path, models: Path) -> None:
    x = rows(4)
    logits = OnnxSession(conv).run({"x": x})["logits"]
    write_bundle(models, manifest("conv", ("a", "b", "c"), (-1, 1, LONG)), conv, Examples(x, logits))
    for more in ((), ("--provider-option", "cuda_graphs=true", "--provider-option", "batch_sizes=1,2,4,8")):
        with serving(models, "--provider", "cuda", *more) as server, Client(server.target) as client:
            np.testing.assert_allclose(client.score("conv", x, outputs=["logits"]).logits, logits, atol=1e-4)
            assert any(name.startswith("cutpoint_model_info") and 'provider="cuda"' in name for name in server.metrics())


def started(models: Path, environment: dict[str, str]) -> str:
    """What a server says that cannot start."""
    command = [sys.executable, "-m", "cutpoint.cli", "serve", "--models", str(models), "--port", "0", "--metrics-port", "0"]
    done = subprocess.run(
        [*command, "--provider", "cuda"],
        env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode and not done.stdout, done.stdout
    return done.stderr.splitlines()[-1]


def without(folder: Path, library: str, part: str) -> dict[str, str]:
    """An environment in which `library` cannot be loaded.

    The wheels' is hidden by a path on which onnxruntime has no such `part` beside it, the system's by an empty file before it.
    """
    hidden, broken = folder / "hidden", folder / "broken"
    (hidden / "nvidia").mkdir(parents=True)
    broken.mkdir()
    installed = Path(ort.__file__).parent
    (hidden / "onnxruntime").symlink_to(installed)
    for each in (installed.parent / "nvidia").glob("*"):
        if each.name != part:
            (hidden / "nvidia" / each.name).symlink_to(each)
    (broken / library).write_bytes(b"")
    return {"PYTHONPATH": os.pathsep.join((str(hidden), ENVIRONMENT["PYTHONPATH"])), "LD_LIBRARY_PATH": str(broken)}


def test_without_a_device_the_start_says_so(conv: Path, models: Path) -> None:
    write_bundle(models, manifest("conv", ("a", "b", "c"), (-1, 1, LONG)), conv)
    assert "no CUDA-capable device" in started(models, {"CUDA_VISIBLE_DEVICES": ""})


def test_a_library_that_cannot_be_loaded_is_named(conv: Path, models: Path, tmp_path: Path) -> None:
    write_bundle(models, manifest("conv", ("a", "b", "c"), (-1, 1, LONG)), conv)
    assert "libcublasLt.so.13" in started(models, without(tmp_path, "libcublasLt.so.13", "cu13"))
