"""The demo: the main job from end to end, by the commands that a user has, on simulated bearings.

Only the data are made here. Every step is a `cutpoint` command in a process of its own or a call of the Python client against
the server that one of them is.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from cutpoint.calibration import LabelPolicy, Policy, average_precision, exact_curve, expected_at
from cutpoint.calibration.policy import Counts, Rate
from cutpoint.client import Client, Scores
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.terminal import console as make_console
from cutpoint.terminal import plain_table
from cutpoint.trainer import plot_sequence, read_run
from numpy.typing import NDArray
from rich.table import Table

from .bearing import RECORD_S, SAMPLE_HZ, WINDOW_HZ, simulate

MODEL = "bearings"
LABEL = "fault"
FIRST, SECOND = "max_fbeta=1", "recall_at_least=0.9"
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
loss: {{name: weighted_bce, pos_weight: sqrt}}
fit: {{epochs: {epochs}, batch_size: 4, learning_rate: 0.001, weight_decay: 0.05}}
seed: {seed}
out: {out}
"""

console = make_console()


@dataclass(frozen=True)
class Live:
    """What /metrics says of the one label: counts since the server started."""

    decisions: float
    positives: float
    expected: float

    def since(self, earlier: "Live") -> "Live":
        """The counts between two scrapes."""
        return Live(self.decisions - earlier.decisions, self.positives - earlier.positives, self.expected - earlier.expected)


def run(out: Path, sequences: int, epochs: int, seed: int) -> None:
    """Run it all into the folder `out`; about two minutes on two cores.

    Raises:
        BadConfig: `out` exists and no demo made it.
        CutpointError: a step failed; its own output is above.
    """
    begun = time.perf_counter()
    _claim(out)
    data, models, trained = out / "data", out / "models", out / "run"

    _stage(1, f"Simulate {sequences} vibration spectra of 40 machines")
    _write_data(data, sequences, seed)

    _stage(2, "Train with a class-weighted loss")
    config = out / "train.yaml"
    config.write_text(CONFIG.format(model=MODEL, data=data, epochs=epochs, seed=seed, out=trained))
    _command("train", config)

    _stage(3, "Export to ONNX, the prior shift undone, parity measured")
    _command("export", trained, "--models", models)

    _stage(4, f"Calibrate on the validation machines for {FIRST}")
    _command("calibrate", models / MODEL, "--run", trained, "--objective", FIRST)

    _stage(5, "Serve over gRPC, and score machines that it has never seen")
    dataset, splits = read_dataset(data), read_run(trained).record.splits
    valid, test = (np.array(splits[name], np.int64) for name in ("valid", "test"))
    with _serving(models, out / "server.log") as (target, metrics_url), Client(target) as client:
        start = _live(metrics_url)
        first, latencies_s = _score(client, dataset, test)
        first_live = _live(metrics_url)
        _say(f"{len(test)} sequences scored one by one by policy {first.policy_version}")

        _stage(6, f"Recalibrate over gRPC for {SECOND}; the next response uses it")
        shipped = client.policy(MODEL)
        made = client.calibrate(MODEL, SECOND, targets=_labels(dataset, valid), inputs=dataset.x[valid], author="cutpoint demo")
        second, _ = _score(client, dataset, test)
        second_live = _live(metrics_url)
        _say(
            f"policy {first.policy_version} cut at logit {_only(shipped).threshold:.3f}, "
            f"policy {second.policy_version} at {_only(made.policy).threshold:.3f}: "
            f"{_alerts(first)} alerts became {_alerts(second)}"
        )
        _command("policy", "list", MODEL, "--server", target)

        _stage(7, "Watch: the live positive rate beside the expected one, from /metrics")
        lives = (first_live.since(start), second_live.since(first_live))
        for scores, live in zip((first, second), lives, strict=True):
            _say(f"policy {scores.policy_version}: {_live_text(live)}")

    truth = _labels(dataset, test)
    picture = _picture(out / "sequence.png", dataset, test, second, _only(made.policy))
    table = plain_table("", "measured", "beside it", title="On machines that it has never seen")
    _result_rows(table, dataset.x[test], truth, first, latencies_s)
    for scores, policy, live in zip((first, second), (shipped, made.policy), lives, strict=True):
        _policy_rows(table, scores, policy, truth, live)
    console.print()
    console.print(table)
    console.print(
        f"\nDone in {time.perf_counter() - begun:.0f} s. Left in {out}: the bundle models/{MODEL}/1 (ONNX, manifest, policy), "
        f"{picture.name}, train.yaml, run/, server.log.\n\n"
        "Next, on your own data (README.md, 'On your own data'):\n"
        f"  1. put arrays x, y and perhaps group into a folder or an .npz, as in {data}\n"
        f"  2. copy {config}, set data.path, and run: cutpoint train my.yaml\n"
        f"  3. see this model again: cutpoint serve --models {models}\n"
        f"     and beside it:        cutpoint score {data} --model {MODEL}"
    )


def _claim(out: Path) -> None:
    if out.exists():
        if not (out / MARK).exists() and any(out.iterdir()):
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
    _say(
        f"{count} sequences of {windows * bins} points: {RECORD_S} s at {SAMPLE_HZ / 1000:g} kHz each, "
        f"{windows} windows of {bins} bins ({WINDOW_HZ} Hz)"
    )
    _say(f"{spectra.y.sum() / count:.2f} anomalous windows in {windows} on average")


def _command(*arguments: object) -> None:
    """Run a `cutpoint` command with this terminal as its own."""
    words = [str(argument) for argument in arguments]
    console.print(f"  [bold]$ cutpoint {' '.join(words)}[/bold]")
    done = subprocess.run([sys.executable, "-m", "cutpoint.cli", *words], check=False)
    if done.returncode:
        raise CutpointError(f"cutpoint {words[0]} failed with exit code {done.returncode}; its message is above")


@contextmanager
def _serving(models: Path, log: Path) -> Iterator[tuple[str, str]]:
    """A `cutpoint serve` on free ports: its gRPC target and its metrics URL; stopped by SIGTERM."""
    console.print(f"  [bold]$ cutpoint serve --models {models} --port 0 --metrics-port 0[/bold]")
    command = [sys.executable, "-m", "cutpoint.cli", "serve", "--models", str(models), "--port", "0", "--metrics-port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.match(r"serving grpc=(\S+) metrics=(\S+)", line)
        if found is None:
            raise CutpointError(f"cutpoint serve did not start:\n{log.read_text()}")
        _say(line.strip())
        yield found[1], found[2]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def _score(client: Client, dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Scores, NDArray[np.float64]]:
    """Score rows one request each; the scores as one, and each request's seconds."""
    parts, seconds = [], []
    for row in rows:
        x = dataset.x[row : row + 1]
        begun = time.perf_counter()
        parts.append(client.score(MODEL, x))
        seconds.append(time.perf_counter() - begun)
    last = parts[-1]
    if last.decisions is None:
        raise CutpointError(f"model {MODEL} answered without decisions although it was calibrated")
    whole = Scores(
        logits=np.concatenate([part.logits for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        decisions=np.concatenate([part.decisions for part in parts if part.decisions is not None]),
        labels=last.labels, model=last.model, model_version=last.model_version,
        policy_version=last.policy_version, undecided_labels=last.undecided_labels,
    )  # fmt: skip
    return whole, np.array(seconds)


def _live(metrics_url: str) -> Live:
    with urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    names = ("cutpoint_decisions_total", "cutpoint_positives_total", "cutpoint_expected_positives_total")
    found = [re.search(rf'^{name}\{{[^}}]*label="{LABEL}"[^}}]*\}} (\S+)$', text, re.MULTILINE) for name in names]
    return Live(*(float(match[1]) if match else 0.0 for match in found))


def _result_rows(
    table: Table, x: NDArray[np.float32], truth: NDArray[np.uint8], scores: Scores, seconds: NDArray[np.float64]
) -> None:
    ap = average_precision(exact_curve(scores.logits.ravel(), truth.ravel()))
    energy = np.log(np.square(x, dtype=np.float64).sum(-1))
    energy = (energy - energy.mean(1, keepdims=True)) / energy.std(1, keepdims=True)
    baseline = average_precision(exact_curve(energy.ravel(), truth.ravel()))
    table.add_row("average precision", f"{ap:.3f}", f"prevalence {truth.mean():.3f}; window energy {baseline:.3f}")
    p50, p99 = np.percentile(seconds * 1000, (50, 99))
    table.add_row("latency of one sequence", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", "140000 points over gRPC, one caller")


def _policy_rows(table: Table, scores: Scores, policy: Policy, truth: NDArray[np.uint8], live: Live) -> None:
    decided = scores.decisions.ravel() if scores.decisions is not None else np.zeros(truth.size, bool)
    positive = truth.ravel() == 1
    counts = Counts(
        positives=int(positive.sum()), negatives=int((~positive).sum()),
        tp=int((decided & positive).sum()), fp=int((decided & ~positive).sum()),
    )  # fmt: skip
    measured, promised = expected_at(counts), _only(policy).expected
    table.add_section()
    table.add_row(f"[bold]policy {scores.policy_version}: {_only(policy).objective}[/bold]", "", "promised by the calibration")
    for name in ("precision", "recall"):
        table.add_row(f"  {name}", _rate(getattr(measured, name)), _rate(getattr(promised, name)))
    table.add_row("  live positive rate", f"{live.positives / live.decisions:.4f}", f"{live.expected / live.decisions:.4f}")


def _picture(path: Path, dataset: Dataset, rows: NDArray[np.int64], scores: Scores, label: LabelPolicy) -> Path:
    """Draw the first test sequence with as many anomalous windows as the median faulty one."""
    counts = _labels(dataset, rows).sum(axis=(1, 2))
    chosen = int(np.argmin(np.abs(counts - np.median(counts[counts > 0])))) if counts.any() else 0
    row = int(rows[chosen])
    machine = "" if dataset.group is None else f" of machine {dataset.group[row]}"
    return plot_sequence(
        path, scores.logits[chosen, :, 0], _labels(dataset, rows)[chosen, :, 0], label.threshold,
        np.log10(dataset.x[row] + 1e-6), f"Spectrum {row}{machine}: log10 amplitude, 0 to 14 kHz",
        f"window of {WINDOW_HZ} Hz",
    )  # fmt: skip


def _labels(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    if dataset.y is None:
        raise BadConfig.of(f"{dataset.path}: keys", "no y", "labels")
    return np.asarray(dataset.y[rows])


def _only(policy: Policy) -> LabelPolicy:
    return policy.labels[0]


def _alerts(scores: Scores) -> int:
    return 0 if scores.decisions is None else int(scores.decisions.sum())


def _live_text(live: Live) -> str:
    rate, expected = live.positives / live.decisions, live.expected / live.decisions
    return f"live {rate:.4f} ({live.positives:.0f} of {live.decisions:.0f} windows), expected {expected:.4f}"


def _rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.3f}  ({rate.low:.3f} to {rate.high:.3f})"


def _stage(number: int, text: str) -> None:
    console.print(f"\n[bold cyan]{number}/7[/bold cyan] [bold]{text}[/bold]")


def _say(text: str) -> None:
    console.print(f"  {text}")
