"""What a GPU does under onnxruntime in this process: how near its scores are, what shapes, memory and a stop cost."""

import subprocess
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime as ort
import serving_models
from claims import Claim
from cutpoint.errors import Aborted, Overloaded
from cutpoint.server.runs.provider_settings import ProviderSettings
from cutpoint.server.runs.rows import row_invariance
from cutpoint.server.runs.session import Abort, OnnxSession
from onnx import TensorProto, helper, numpy_helper
from serving_race import expected, say

SIZES = (1, 2, 4, 8)
LIMIT_MIB = 128
RUNS = 2000
LINKS, WIDTH = 3000, 2048  # of the chain of products that is stopped


def settings(provider: str, *, graphs: bool = False, **more: object) -> ProviderSettings:
    """Settings of `provider`; `--provider cpu` tries the script where no GPU is, and has no graphs."""
    found: dict[str, object] = {"provider": provider, **more}
    if graphs:
        found |= {"batch_sizes": SIZES, "cuda_graphs": provider == "cuda"}
    return ProviderSettings.model_validate(found)


def exact(provider: str, graph: Path, model: str) -> list[Claim]:
    """How far its logits are from the CPU's, and whether a row's depend on what it is run with."""
    x = serving_models.rows(model, 32, seed=9)
    want = expected(graph, x).reshape(32, -1)
    plain, graphs = OnnxSession(graph, settings(provider)), OnnxSession(graph, settings(provider, graphs=True))
    found, rounded = (
        each.run({"x": x})["logits"].reshape(32, -1) for each in (plain, OnnxSession(graph, settings(provider, tf32=True)))
    )
    by_size = [
        np.abs(graphs.run({"x": x[:n]})["logits"] - plain.run({"x": x[:n]})["logits"]).max() for n in SIZES for _ in range(3)
    ]
    alone = row_invariance(plain, {"x": x}, [8, 3, 2, 32], limit_s=30)
    padded = row_invariance(plain, {"x": x}, [8, 3, 2], padding=(8,), limit_s=30)
    say(
        "exact", model, f"largest logit {np.abs(want).max():.3g}", f"from the CPU's {np.abs(found - want).max():.2g}",
        f"with tf32 {np.abs(rounded - want).max():.2g}", f"a row alone and among 2, 3, 8, 32: {alone:.2g}",
        f"all padded to 8: {padded:.2g}",
    )  # fmt: skip
    return [
        Claim(f"{model}: furthest logit from the CPU's, limit 1e-4", float(np.abs(found - want).max()), 1e-4, 1, "", False),
        Claim(f"{model}: a graph's logits from those without, limit 1e-6", float(max(by_size)), 1e-6, 1, "", False),
        Claim(f"{model}: a row alone and among others, all padded to 8, limit 1e-9", padded, 1e-9, 1, "", False),
    ]


def shapes(provider: str, graph: Path, model: str) -> list[Claim]:
    """What another number of rows than that of the last run costs."""
    x = serving_models.rows(model, 8)
    plain, graphs = OnnxSession(graph, settings(provider)), OnnxSession(graph, settings(provider, graphs=True))
    first = [median_ms(lambda n=n: plain.run({"x": x[:n]}), 1, 0) for n in SIZES]  # type: ignore[misc]

    def turns(session: OnnxSession) -> Callable[[], object]:
        return lambda: [session.run({"x": x[:n]}) for n in (4, 8)]

    same = median_ms(lambda: plain.run({"x": x[:4]}), 20) + median_ms(lambda: plain.run({"x": x}), 20)
    without, recorded = median_ms(turns(plain), 20), median_ms(turns(graphs), 20)
    say(
        "shapes", model, "first runs of 1, 2, 4, 8 rows " + ", ".join(f"{ms:.3g}" for ms in first) + " ms",
        f"4 and 8 rows, each repeated {same:.3g} ms", f"in turn {without:.3g} ms", f"by graphs in turn {recorded:.3g} ms",
    )  # fmt: skip
    return [Claim(f"{model}: 4 and 8 rows in turn, graphs beside without", recorded, without, 0.5, "ms", False)]


def memory(provider: str, graph: Path, used_mib: Callable[[], float]) -> list[Claim]:
    """Whether memory stays what it is, whether its limit holds, what shrinking gives and costs."""
    x = serving_models.rows("conv140", 64)
    for mib in (0, 16):
        session = OnnxSession(graph, settings(provider, shrink_above_mib=mib))
        session.run({"x": x[:1]})
        before = used_mib()
        ms = median_ms(lambda: session.run({"x": x}), 5)  # noqa: B023
        say("shrink", f"above {mib} MiB" if mib else "never", f"64 rows in {ms:.3g} ms", f"{used_mib() - before:g} MiB kept")
        del session
    limited = OnnxSession(graph, settings(provider, gpu_memory_mib=LIMIT_MIB))
    want = limited.run({"x": x[:2]})["logits"]
    before = used_mib()
    refused = 0
    try:
        limited.run({"x": x})
    except Overloaded as error:
        refused = 1
        say("limit", error)
    after = np.array_equal(limited.run({"x": x[:2]})["logits"], want)
    grown = used_mib() - before
    del limited
    session, at = OnnxSession(graph, settings(provider)), []
    for _ in range(5):
        threads = [threading.Thread(target=_many, args=(session, x, RUNS // 20, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at.append(used_mib())
    say("runs", f"{RUNS} of 1 to 24 rows from 4 threads", "MiB of the GPU after each fifth: " + ", ".join(f"{a:g}" for a in at))
    return [
        Claim(f"memory after {RUNS} runs, beside after a fifth of them", at[-1] or 1, at[0] or 1, 1.02, "MiB", False),
        Claim(f"gpu_memory_mib={LIMIT_MIB}: grown by runs beyond it", grown, LIMIT_MIB, 1, "MiB", False),
        Claim("a run beyond it is refused, and the next one right", refused * after, 1, 1, ""),
    ]


def stop(provider: str, scratch: Path) -> list[Claim]:
    """How soon a run ends that is stopped, and whether the session is as good as before."""
    size, links = (WIDTH, LINKS) if provider == "cuda" else (WIDTH // 8, LINKS // 10)
    session = OnnxSession(_chain(scratch / "chain.onnx", links, size), settings(provider))
    x = {"x": np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)}
    want = session.run(x)["logits"]
    whole = median_ms(lambda: session.run(x), 2) / 1e3
    took, ended = [], 0
    for share in (0.05, 0.2, 0.4, 0.6, 0.8):
        abort = Abort()
        timer = threading.Timer(share * whole, abort.set)
        timer.start()
        begun = time.perf_counter()
        try:
            session.run(x, abort=abort)
        except Aborted:
            ended += 1
            took.append(max(0.0, time.perf_counter() - begun - share * whole))
        timer.join()
    good = np.array_equal(session.run(x)["logits"], want)
    late = ", ".join(f"{each:.3g}" for each in took)
    say(
        "stop",
        f"a run of {whole:.3g} s, stopped after 5, 20, 40, 60, 80 %",
        f"{ended} of 5 ended early, after another {late} s",
    )
    return [
        Claim("a stopped run ends: the longest wait beside the whole run", max(took, default=whole), whole, 0.4, "s", False),
        Claim("the session is as before", float(good), 1, 1, ""),
    ]


def ceiling(provider: str, graph: Path, model: str, seconds: float = 0.4) -> float:
    """The most rows a second that onnxruntime does in this process from ordinary memory, of some threads and batches."""
    x = serving_models.rows(model, 32)
    if provider == "cuda":
        ort.preload_dlls()
    wanted = ("CUDAExecutionProvider", {"use_tf32": "0"}) if provider == "cuda" else "CPUExecutionProvider"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=[wanted])
    rates = {}
    for batch in (1, 8, 32):
        for callers in (1, 2, 4):
            rates[callers, batch] = _rate(lambda n=batch: session.run(None, {"x": x[:n]}), callers, seconds) * batch  # type: ignore[misc]
    (callers, batch), rate = max(rates.items(), key=lambda item: item[1])
    say("in process", model, f"{rate:.4g} rows/s by {callers} threads, batches of {batch}", f"one by one {rates[1, 1]:.4g}")
    return rate


def card() -> str:
    """The GPU, as its driver names it; empty where there is none."""
    try:
        ran = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", "0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def used_mib() -> float:
    """Of the first GPU's memory, by whomever; 0 where there is none."""
    try:
        ran = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return float(ran.stdout)
    except (OSError, ValueError):
        return 0.0


def median_ms(call: Callable[[], object], runs: int, warm: int = 2) -> float:
    """Median milliseconds of `runs` calls, after some to warm up."""
    for _ in range(warm):
        call()
    took = []
    for _ in range(runs):
        begun = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - begun))
    return median(took)


def _rate(call: Callable[[], object], callers: int, seconds: float) -> float:
    call()
    counts = [0] * callers
    begun = time.perf_counter()

    def work(i: int) -> None:
        while time.perf_counter() - begun < seconds:
            call()
            counts[i] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def _many(session: OnnxSession, x: np.ndarray, runs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(runs):
        session.run({"x": x[: int(rng.integers(1, 25))]})


def _chain(path: Path, links: int, size: int) -> Path:
    """Multiply [n, size] by the same matrix `links` times: long enough to be stopped, and no number grows."""
    weights = (np.random.default_rng(0).normal(size=(size, size)) / size**0.5).astype(np.float32)
    steps = ["x", *(f"h{i}" for i in range(1, links)), "logits"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(steps)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name in ("x", "logits"))
    graph = helper.make_graph(nodes, "chain", [x], [y], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
