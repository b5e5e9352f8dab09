"""The trainer's own time: from the command to the first optimiser step, and beside the model in an epoch.

Run with `make bench-training`, on a machine that does nothing else. The first is the time from starting `cutpoint train` on a
small data set to the end of its first step, the median of 5. The second is the share of an epoch's time, reading, validation,
logs and checkpoint included, that is spent in forward and backward passes and the optimiser: the window encoder with its
defaults on 16 memory-mapped training sequences of 140 windows of 1000 samples, 4 a step, and 4 for validation; the median of 5
epochs after one that does not count.
"""

import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from claims import Claim, report
from cutpoint.trainer import parse_config, train
from cutpoint.trainer.loop import Loop

FIRST_STEP_S = 6.0
STARTS, EPOCHS = 5, 6
STAMP = """
import sys, time
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

class Stamped(nn.Linear):
    def __init__(self):
        super().__init__(8, 1)
        register_optimizer_step_post_hook(lambda *_: print("stepped", time.time(), time.process_time(), flush=True))
"""


def first_step_s(folder: Path) -> float:
    """Median seconds from the command to the end of its first step."""
    rng = np.random.default_rng(0)
    np.savez(folder / "small.npz", x=rng.normal(size=(1000, 8)).astype(np.float32), y=rng.random(1000) < 0.1)
    (folder / "stamped.py").write_text(STAMP)
    (folder / "small.yaml").write_text(
        "name: small\ntask: binary\ndata: {path: small.npz}\nsplit: {by: random}\n"
        "model: {kind: import, path: stamped:Stamped}\nloss: {name: weighted_bce}\nfit: {epochs: 1}\n"
    )
    found, used = [], []
    for _ in range(STARTS):
        begun = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "cutpoint.cli", "train", "small.yaml", "--quiet", "--force"],
            cwd=folder, env=os.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
        line = next(line for line in done.stdout.splitlines() if line.startswith("stepped"))
        found.append(float(line.split()[1]) - begun)
        used.append(float(line.split()[2]))
    print(f"command to first step: {', '.join(f'{each:.2f}' for each in found)} s; of a processor {median(used):.2f} s")
    return median(found)


class Clock:
    """Adds up the seconds spent in functions that it is put around, but for those within one another."""

    def __init__(self) -> None:
        self.total_s, self.depth = 0.0, 0

    def around(self, owner: Any, name: str) -> None:
        """Put it around `owner.name`."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            self.depth += 1
            begun = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.total_s += time.perf_counter() - begun

        setattr(owner, name, timed)


def model_share(folder: Path) -> tuple[float, float]:
    """Median seconds of an epoch that are spent in the model, and of the whole epoch."""
    rng = np.random.default_rng(0)
    data = folder / "windows"
    data.mkdir()
    x = np.lib.format.open_memmap(data / "x.npy", "w+", np.float32, (20, 140, 1000))
    for sequence in x:
        sequence[:] = rng.normal(size=(140, 1000))
    x.flush()
    np.save(data / "y.npy", (rng.random((20, 140)) < 0.05).astype(np.uint8))
    np.save(data / "train.npy", np.arange(16))
    np.save(data / "valid.npy", np.arange(16, 20))
    settings = {
        "name": "windows", "task": "windows", "data": {"path": data}, "split": {"by": "given"}, "out": folder / "run",
        "model": {"kind": "window_encoder"}, "loss": {"name": "weighted_bce"},
        "fit": {"epochs": EPOCHS, "batch_size": 4, "accelerator": "cpu"},
    }  # fmt: skip
    clock = Clock()
    clock.around(Loop, "manual_backward")
    clock.around(torch.optim.AdamW, "step")
    whole: list[float] = []
    inside: list[float] = []
    start, end = Loop.on_train_start, Loop.on_train_epoch_end

    def begin(loop: Loop) -> None:
        for network in {loop.network, loop.judged}:  # what is trained, and what is validated: the average of its weights
            clock.around(network, "forward")
        start(loop)
        marks.append((time.perf_counter(), clock.total_s))

    def finish(loop: Loop) -> None:
        end(loop)
        marks.append((time.perf_counter(), clock.total_s))

    marks: list[tuple[float, float]] = []
    Loop.on_train_start, Loop.on_train_epoch_end = begin, finish  # type: ignore[method-assign]
    train(parse_config(settings), quiet=True)
    for (t0, s0), (t1, s1) in pairwise(marks[1:]):
        whole.append(t1 - t0)
        inside.append(s1 - s0)
    print("epochs: " + ", ".join(f"{s:.3f} of {t:.3f} s" for s, t in zip(inside, whole, strict=True)))
    return median(inside), median(whole)


def main() -> None:
    """Measure both and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inside_s, whole_s = model_share(folder)
        step_s = first_step_s(folder)
    report(
        [
            Claim("cutpoint train, command to first step, of 6 s", step_s, FIRST_STEP_S, 1.0, "s", least=False),
            Claim("an epoch of 16 x 140 x 1000, share in the model", inside_s, whole_s, 0.85, "s"),
        ]
    )


if __name__ == "__main__":
    main()
