"""One signal without end through a server, beside the same windows in process: speed, memory, a window's way there and back.

`make bench-signals`. The client, the server and what they are compared with share the cores of this machine.
"""

import re
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime as ort
from claims import Claim, report, timed
from cutpoint.client import Client, SignalOpened, SignalWindows
from numpy.typing import NDArray
from serving_models import conv140, rows, tiny140
from serving_process import cutpoint_serve

SEQUENCES = 40
REPEATS = 20  # of the recording, in the signal that shows how memory stays
LIVE = 200  # sequences that are sent one by one


def main() -> None:
    """Measure, print a line a claim, exit 1 where one falls short."""
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        graph = conv140(models) / "model.onnx"
        tiny140(models)
        recording = rows("conv140", SEQUENCES).reshape(-1)
        with cutpoint_serve(models) as server, Client(server.target) as client:
            claims = [
                *_speed(client, graph, recording),
                _memory(client, server.process.pid, recording),
                _live(client, recording),
            ]
    report(claims)


def _speed(client: Client, graph: Path, recording: NDArray[np.float32]) -> list[Claim]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    sequences = recording.reshape(SEQUENCES, 1, 140, 1000)
    answers: dict[str, NDArray[np.float32]] = {}
    with ThreadPoolExecutor(2) as pool:

        def in_process() -> None:
            found = list(pool.map(lambda x: session.run(["logits"], {"x": x})[0], sequences))
            answers["theirs"] = np.concatenate(found).reshape(-1, 1)

        def signal() -> None:
            parts = client.stream_signal("conv140", [recording], rate_hz=1000)
            answers["ours"] = np.concatenate([part.logits for part in parts if isinstance(part, SignalWindows)])

        ours_s, theirs_s = timed(signal, in_process)
    same = int((np.abs(answers["ours"] - answers["theirs"]) <= 1e-5).sum())
    return [
        Claim(
            "conv140, one signal, against two threads in process", SEQUENCES / ours_s, SEQUENCES / theirs_s, 0.8, "sequences/s"
        ),
        Claim("conv140, windows whose logits are those in process", same, SEQUENCES * 140, 1, "windows"),
    ]


def _memory(client: Client, pid: int, recording: NDArray[np.float32]) -> Claim:
    """Of a signal's second half: what it needs it has by then."""
    begun, resident_mib, windows = perf_counter(), 0.0, 0
    half = REPEATS * SEQUENCES * 140 // 2
    for part in client.stream_signal("tiny140", (recording for _ in range(REPEATS)), rate_hz=1000):
        if isinstance(part, SignalWindows):
            if windows < half <= windows + len(part):
                resident_mib = _resident_mib(pid)
            windows += len(part)
    assert windows == 2 * half
    sent_mib = REPEATS * recording.nbytes / (1 << 20)
    print(f"tiny140, one signal: {sent_mib:.0f} MiB at {sent_mib / (perf_counter() - begun):.0f} MiB/s")
    grown_mib = _resident_mib(pid) - resident_mib
    return Claim(f"growth of the server in the second half of {sent_mib:.0f} MiB", grown_mib, 16, 1, "MiB", False)


def _live(client: Client, recording: NDArray[np.float32]) -> Claim:
    """A sequence of windows sent when the one before has been answered."""
    go_on = threading.Semaphore(0)

    def windows() -> Iterator[NDArray[np.float32]]:
        for i in range(LIVE):
            go_on.acquire()
            yield recording[i % SEQUENCES * 140_000 :][:140_000]

    parts = client.stream_signal("tiny140", windows(), rate_hz=1000)
    assert isinstance(next(parts), SignalOpened)
    times = [perf_counter()]
    for _ in range(LIVE):
        go_on.release()
        next(parts)
        times.append(perf_counter())
    parts.close()
    took_ms = 1e3 * median(after - before for before, after in pairwise(times))
    return Claim("tiny140, a sequence's way there and back while the signal goes on", took_ms, 5, 1, "ms", False)


def _resident_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
