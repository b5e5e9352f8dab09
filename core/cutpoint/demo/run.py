"""The demo: the main job from end to end on simulated bearings. Only the data are made here."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from cutpoint.calibration import average_precision, exact_curve
from cutpoint.errors import BadConfig
from cutpoint.trainer import plot_sequence
from numpy.typing import NDArray

from .bearing import RECORD_S, SAMPLE_HZ, WINDOW_HZ, simulate
from .commands import console, say
from .job import Job, Outcome, main_job, outcome_table, targets_of

JOB = Job(model="bearings", unseen="machines that it has never seen", stages=7)
LABEL = "fault"
MARK = ".cutpoint-demo"  # a folder without it is not ours to replace

CONFIG = """\
# What `cutpoint demo` trained with; a start for your own windowed sequences.
name: {model}
task: windows
data: {{path: {data}}}
split: {{by: group, train: 0.6, valid: 0.2, test: 0.2}}  # a group is a machine: none is on two sides
model:
  kind: window_encoder
  log_input: true  # amplitudes span decades
  window_norm: true  # and what counts is the texture of a window, not its level
  channels: [12, 24, 32]
  kernels: [15, 7, 5]
  strides: [4, 4, 2]
  context: 64
  dropout: 0.3
  events: 0  # a spectrum has no beats or strokes
loss: {{name: weighted_bce, pos_weight: sqrt}}
fit: {{epochs: {epochs}, batch_size: 4, learning_rate: 0.001, weight_decay: 0.05}}
seed: {seed}
"""


def run(out: Path, sequences: int, epochs: int, seed: int) -> None:
    """Run it all into the folder `out`; a minute or two on two cores.

    Raises:
        BadConfig: `out` exists and no demo made it.
        CutpointError: a step failed; its own output is above.
    """
    begun = time.perf_counter()
    _claim(out)
    data, config = out / "data", out / "train.yaml"
    console.print(f"\n[bold cyan]1/7[/bold cyan] [bold]Simulate {sequences} vibration spectra of 40 machines[/bold]")
    _write_data(data, sequences, seed)
    config.write_text(CONFIG.format(model=JOB.model, data=data, epochs=epochs, seed=seed))
    outcome = main_job(JOB, config, out)
    picture = _picture(out / "sequence.png", outcome)
    np.savez(
        out / "scores.npz", allow_pickle=False, logits=outcome.decided[0].scores.logits,
        y=targets_of(outcome.dataset, outcome.rows), label_names=np.array([LABEL]),
    )  # fmt: skip
    console.print()
    console.print(outcome_table(JOB, outcome, f"; window energy {_energy_ap(outcome):.3f}"))
    console.print(
        f"\nDone in {time.perf_counter() - begun:.0f} s. Left in {out}: the bundle models/{JOB.model}/1 (ONNX, manifest, "
        f"policy, report.html), calibration.html, {picture.name}, scores.npz, train.yaml, run/, server.log.\n\n"
        f"Next, on your own data (README.md, 'On your own data'){_on_path()}:\n"
        f"  1. put arrays x, y and perhaps group into a folder or an .npz, as in {data}\n"
        f"  2. copy {config}, set data.path, and run: cutpoint train my.yaml\n"
        f"  3. see this model again: cutpoint serve --models {out / 'models'}\n"
        f"     and beside it:        cutpoint score {data} --model {JOB.model}"
    )


def _on_path() -> str:
    return "" if shutil.which("cutpoint") else f", after . {Path(sys.executable).with_name('activate')}"


def _claim(out: Path) -> None:
    if out.exists():
        if not out.is_dir() or (not (out / MARK).exists() and any(out.iterdir())):
            raise BadConfig.of("--out", str(out), "a new folder, an empty one, or one that an earlier demo made")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _write_data(folder: Path, sequences: int, seed: int) -> None:
    with console.status("simulating"):
        spectra = simulate(sequences, seed)
    folder.mkdir()
    arrays: dict[str, NDArray[Any]] = {
        "x": spectra.x, "y": spectra.y, "group": spectra.machine, "time": spectra.time_s, "label_names": np.array([LABEL])
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    count, windows, bins = spectra.x.shape
    say(
        f"{count} sequences of {windows * bins} points: {RECORD_S} s at {SAMPLE_HZ / 1000:g} kHz each, "
        f"{windows} windows of {bins} bins ({WINDOW_HZ} Hz)"
    )
    say(f"{spectra.y.sum() / count:.2f} anomalous windows in {windows} on average")


def _energy_ap(outcome: Outcome) -> float:
    """Average precision of each window's log energy, standardised within its sequence: what a threshold on it could do."""
    energy = np.log(np.square(outcome.dataset.x[outcome.rows], dtype=np.float64).sum(-1))
    energy = (energy - energy.mean(1, keepdims=True)) / energy.std(1, keepdims=True)
    return average_precision(exact_curve(energy.ravel(), targets_of(outcome.dataset, outcome.rows).ravel()))


def _picture(path: Path, outcome: Outcome) -> Path:
    """Draw the faulty test sequence whose F1 is the median one: neither the best nor the worst."""
    truth = targets_of(outcome.dataset, outcome.rows)[..., 0] == 1
    decided = outcome.decided[0]
    found = decided.scores.logits[..., 0] >= np.float32(decided.policy.labels[0].threshold or 0)
    f1 = 2 * (truth & found).sum(axis=1) / np.maximum(truth.sum(axis=1) + found.sum(axis=1), 1)
    faulty = np.flatnonzero(truth.any(axis=1))
    chosen = int(faulty[np.argsort(f1[faulty], kind="stable")[len(faulty) // 2]]) if len(faulty) else 0
    row = int(outcome.rows[chosen])
    machine = "" if outcome.dataset.group is None else f" of machine {outcome.dataset.group[row]}"
    return plot_sequence(
        path, decided.scores.logits[chosen, :, 0], truth[chosen].astype(np.uint8), decided.policy.labels[0].threshold,
        np.log10(outcome.dataset.x[row] + 1e-6), f"Spectrum {row}{machine}: log10 amplitude, 0 to 14 kHz",
        f"window of {WINDOW_HZ} Hz",
    )  # fmt: skip
