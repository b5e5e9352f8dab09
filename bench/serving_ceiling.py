"""What onnxruntime does with a model in a process of its own, without any server: the ceiling of a server's rate.

`python serving_ceiling.py MODEL CALLERS THREADS BATCH SPIN RUNS` runs the model `RUNS` times from `CALLERS` threads on one
session with `THREADS` threads a run, and prints sequences a second and the median ms of a run.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Setting:
    """How a model is run: threads that call, threads of one run, rows of one run, whether waiting threads spin."""

    callers: int
    threads: int
    batch: int = 1
    spin: bool = True

    def __str__(self) -> str:
        spin = "" if self.threads == 1 else ", spinning" if self.spin else ", not spinning"
        return f"{self.callers} caller(s) x {self.threads} thread(s), batch {self.batch}{spin}"


BUSY = (Setting(2, 1), Setting(1, 2), Setting(2, 1, 8), Setting(2, 1, 32))
ALONE = (Setting(1, 1), Setting(1, 2), Setting(1, 2, spin=False))


@dataclass(frozen=True)
class Speed:
    """Rows a second and the median ms of a run."""

    rate: float
    p50_ms: float


def measure(model: Path, setting: Setting, runs: int) -> Speed:
    """Run `model` in a fresh process."""
    numbers = (setting.callers, setting.threads, setting.batch, int(setting.spin), runs)
    ran = subprocess.run(
        [sys.executable, __file__, str(model), *map(str, numbers)], capture_output=True, text=True, timeout=300, check=True
    )
    return Speed(**json.loads(ran.stdout))


def best_busy(model: Path, runs: int) -> Setting:
    """The setting with the most rows a second: medians of three, in turn."""
    return max(BUSY, key=_medians(model, BUSY, runs, "rate").__getitem__)


def best_alone(model: Path, runs: int) -> Setting:
    """The setting that answers one caller soonest: medians of three, in turn."""
    return min(ALONE, key=_medians(model, ALONE, runs, "p50_ms").__getitem__)


def _medians(model: Path, settings: Sequence[Setting], runs: int, what: str) -> dict[Setting, float]:
    turns = [{setting: getattr(measure(model, setting, runs), what) for setting in settings} for _ in range(3)]
    return {setting: median(turn[setting] for turn in turns) for setting in settings}


def main() -> None:
    """Measure and print."""
    import onnxruntime as ort

    model = sys.argv[1]
    callers, threads, batch, spin, runs = map(int, sys.argv[2:])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(spin))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    x = np.random.default_rng(0).normal(size=(batch, *shape[1:])).astype(np.float32)
    took: list[float] = []
    begin = threading.Barrier(callers + 1)
    each = max(1, runs // (callers * batch))

    def work() -> None:
        for _ in range(max(2, each // 10)):
            session.run(None, {"x": x})
        begin.wait()
        for _ in range(each):
            start = time.perf_counter()
            session.run(None, {"x": x})
            took.append(time.perf_counter() - start)

    workers = [threading.Thread(target=work) for _ in range(callers)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    print(json.dumps({"rate": callers * each * batch / seconds, "p50_ms": 1e3 * median(took)}))


if __name__ == "__main__":
    main()
