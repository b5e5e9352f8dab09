"""Rows in shared memory beside rows in the message: `score` between two processes of one machine, with each, in one run.

tiny140 takes 560 KB a sequence and computes next to nothing: what remains is transport. Both clients are ours, in one process,
with one caller and with four threads, in turns; the answers of both are compared bit for bit. After it, without a claim, one
caller's calls by their size, which says from where on shared memory is worth its while (`LEAST_BYTES`).
"""

import gc
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import serving_models
from claims import Claim, report
from cutpoint.client import Client, Connection
from cutpoint.client import shared_memory as memory
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from serving_process import Server, cutpoint_serve

ROUNDS, CALLS = 7, 100
THREADS = 4
SIZES_KIB = (4, 16, 32, 64, 128, 256, 512, 2048)
SHARED = Connection(shared_memory=True)


def main() -> None:
    """Print the claims."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        serving_models.tiny140(models)
        peak(models)
        with cutpoint_serve(models) as server, Client(server.target) as plain, Client(server.target, SHARED) as shared:
            claims = sequences(server, plain, shared)
            sizes(plain, shared)
    report(claims)


def peak(models: Path) -> None:
    """A graph without a manifest: x [batch, any] to logits [batch, 1], the maximum of each row."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "size"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["x", "axes"], ["logits"], keepdims=1)], "peak", [x], [logits], [axes]
    )
    (models / "peak" / "1").mkdir(parents=True)
    opset = helper.make_opsetid("", serving_models.OPSET)
    onnx.save(
        helper.make_model(graph, opset_imports=[opset], ir_version=serving_models.IR), models / "peak" / "1" / "model.onnx"
    )


def sequences(server: Server, plain: Client, shared: Client) -> list[Claim]:
    """tiny140 by one caller and by four, and what a request costs both processes."""
    x = serving_models.rows("tiny140", 1)
    for name in ("logits", "scores", "decisions"):
        one, other = (getattr(client.score("tiny140", x), name) for client in (shared, plain))
        np.testing.assert_array_equal(one, other)
    sides = [partial(client.score, "tiny140", x) for client in (shared, plain)]
    found = []
    for threads, target in ((1, 1.0), (THREADS, 1.2)):
        spent, rates = _raced(server, sides, threads)
        callers = "one caller" if threads == 1 else f"{threads} threads"
        found.append(Claim(f"tiny140 by score, {callers}: shared memory, message", *rates, target, "requests/s"))
        name = f"tiny140 by score, {callers}, CPU of client and server: shared memory, message"
        found.append(Claim(name, *spent, 0.9, "us a request", least=False))
    return found


def sizes(plain: Client, shared: Client) -> None:
    """Median microseconds of a call by the bytes of its row, of a model that finds its maximum."""
    print("KiB a request | shared memory, us | message, us | ratio")
    least, memory.LEAST_BYTES = memory.LEAST_BYTES, 1
    for size in SIZES_KIB:
        x = np.ones((1, (size << 10) // 4), np.float32)
        ours, theirs = _calls(shared, x), _calls(plain, x)
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(CALLS):
            for call, kept in zip((ours, theirs), took, strict=True):
                begun = time.perf_counter()
                call()
                kept.append(time.perf_counter() - begun)
        one, other = (1e6 * median(kept) for kept in took)
        print(f"{size} | {one:.0f} | {other:.0f} | {one / other:.2f}")
    memory.LEAST_BYTES = least


def _calls(client: Client, x: NDArray[np.float32]) -> Callable[[], object]:
    return partial(client.score, "peak", x, outputs=["logits"])


def _raced(server: Server, sides: list[Callable[[], object]], threads: int) -> tuple[list[float], list[float]]:
    """Microseconds of CPU a request, and requests a second, of each side: medians of rounds in turns, the first uncounted."""
    spent: list[list[float]] = [[] for _ in sides]
    rates: list[list[float]] = [[] for _ in sides]
    for turn in range(ROUNDS + 1):
        for side, cpu, rate in zip(sides, spent, rates, strict=True):

            def work(side: Callable[[], object] = side) -> None:
                for _ in range(CALLS):
                    side()

            workers = [threading.Thread(target=work) for _ in range(threads)]
            gc.collect()
            used, begun = _cpu_s(server), time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if turn:
                rate.append(threads * CALLS / (time.perf_counter() - begun))
                cpu.append(1e6 * (_cpu_s(server) - used) / (threads * CALLS))
    return [median(kept) for kept in spent], [median(kept) for kept in rates]


def _cpu_s(server: Server) -> float:
    """CPU of the server and of this process, in seconds: to a microsecond, where /proc/PID/stat has ticks of 10 ms."""
    slices = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in slices) / 1e9 + time.process_time()


if __name__ == "__main__":
    main()
