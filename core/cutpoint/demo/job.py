"""The main job on windowed sequences, from a configuration to a watched server: six stages and a table.

Every step is a `cutpoint` command in a process of its own, or a call of the Python client against a server that is one.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cutpoint.calibration import LabelPolicy, Policy, average_precision, exact_curve, expected_at
from cutpoint.calibration.policy import Counts, Rate
from cutpoint.client import Client, Scores
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadData, CutpointError
from cutpoint.terminal import plain_table
from cutpoint.trainer import read_run
from numpy.typing import NDArray
from rich.table import Table

from .commands import Live, command, console, say, scrape, serving


@dataclass(frozen=True)
class Job:
    """What the main job is done on.

    Attributes:
        model: name in the configuration.
        unseen: what a sequence of the test split is, in words.
        first: objective that the model is shipped with.
        second: objective that it is recalibrated for.
        stages: how many there are in all; the job's own are the last six.
    """

    model: str
    unseen: str
    first: str = "max_fbeta=1"
    second: str = "recall_at_least=0.9"
    stages: int = 6


@dataclass(frozen=True)
class Decided:
    """The test split under one policy: the scores, the policy, and each label's live counts meanwhile."""

    scores: Scores
    policy: Policy
    live: tuple[Live, ...]


@dataclass(frozen=True)
class Outcome:
    """What came out: the test rows of `dataset`, decided by each policy, and the seconds of each request by the first."""

    dataset: Dataset
    rows: NDArray[np.int64]
    decided: tuple[Decided, Decided]
    seconds: NDArray[np.float64]


def main_job(job: Job, config: Path, out: Path) -> Outcome:
    """Train as `config` says into `out`/run, and on to the watched server.

    Raises:
        CutpointError: a step failed; its own output is above.
    """
    models, trained = out / "models", out / "run"
    stages = iter(range(job.stages - 5, job.stages + 1))

    def stage(text: str) -> None:
        console.print(f"\n[bold cyan]{next(stages)}/{job.stages}[/bold cyan] [bold]{text}[/bold]")

    stage("Train with a class-weighted loss")
    command("train", config, "--out", trained)

    stage("Export to ONNX, the prior shift undone, parity measured")
    command("export", trained, "--models", models)

    stage(f"Calibrate on the validation split for {job.first}")
    command(
        "calibrate", models / job.model, "--run", trained, "--objective", job.first, "--report", out / "calibration.html"
    )  # fmt: skip
    command("report", models / job.model, "--run", trained)

    stage(f"Serve over gRPC, and score {job.unseen}")
    run = read_run(trained)
    dataset, valid, test = read_dataset(run.config.data.path), run.rows("valid"), run.rows("test")
    with serving(models, out / "server.log") as (target, metrics_url), Client(target) as client:
        first, seconds = _decide(client, job, dataset, test, metrics_url)
        say(f"{len(test)} sequences scored one by one by policy {first.policy.version}")

        stage(f"Recalibrate over gRPC for {job.second}; the next response uses it")
        made = client.calibrate(
            job.model, job.second, targets=targets_of(dataset, valid), inputs=dataset.x[valid],
            groups=None if dataset.group is None else dataset.group[valid], author="cutpoint demo",
        )  # fmt: skip
        if not made.activated:
            lacking = "; ".join(f"{label.label}: {label.reason}" for label in made.policy.undecided)
            raise CutpointError(f"{job.second} cannot be met for every label ({lacking})")
        second, _ = _decide(client, job, dataset, test, metrics_url)
        for i, label in enumerate(first.scores.labels):
            cuts = [decided.policy.labels[i].threshold or 0 for decided in (first, second)]
            alerts = [int(_decisions(decided.scores)[..., i].sum()) for decided in (first, second)]
            say(
                f"{label}: policy {first.policy.version} cut at logit {cuts[0]:.3f}, policy {second.policy.version} at "
                f"{cuts[1]:.3f}: {alerts[0]} alerts became {alerts[1]}"
            )
        command("policy", "list", job.model, "--server", target)

        stage("Watch: the live positive rate beside the expected one, from /metrics")
        for decided in (first, second):
            for label, live in zip(decided.scores.labels, decided.live, strict=True):
                say(f"{label}, policy {decided.policy.version}: {live}")
    return Outcome(dataset, test, (first, second), seconds)


def outcome_table(job: Job, outcome: Outcome, beside: str = "") -> Table:
    """AP, latency, and by label and policy what was measured beside what the calibration promised.

    Args:
        job: what was done.
        outcome: what came of it.
        beside: a word on the first label's AP, as that of a simpler score.
    """
    table = plain_table("", "measured", "beside it", title=f"On {job.unseen}")
    truth = targets_of(outcome.dataset, outcome.rows)
    logits = outcome.decided[0].scores.logits
    for i, label in enumerate(outcome.decided[0].scores.labels):
        curve = exact_curve(logits[..., i].ravel(), truth[..., i].ravel())
        prevalence = f"prevalence {curve.positives / curve.rows:.3f}"
        table.add_row(f"{label}: average precision", f"{average_precision(curve):.3f}", prevalence + (beside if i == 0 else ""))
    p50, p99 = np.percentile(outcome.seconds * 1000, (50, 99))
    points = int(np.prod(outcome.dataset.x.shape[1:]))
    table.add_row("latency of one sequence", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms", f"{points} points over gRPC, one caller")
    for decided in outcome.decided:
        for i in range(len(decided.scores.labels)):
            _add_label(table, decided, i, truth[..., i])
    return table


def targets_of(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The labels of rows, [row, window, label]."""
    if dataset.y is None:
        raise BadData.of(f"{dataset.path}: keys", "no y", "labels")
    return np.asarray(dataset.y[rows])


def _decide(
    client: Client, job: Job, dataset: Dataset, rows: NDArray[np.int64], metrics_url: str
) -> tuple[Decided, NDArray[np.float64]]:
    """Score rows one request each, and scrape before and after; also each request's seconds."""
    policy = client.policy(job.model)
    names = [label.label for label in policy.labels]
    before = [scrape(metrics_url, name) for name in names]
    parts, seconds = [], []
    for row in rows:
        x = dataset.x[row : row + 1]
        begun = time.perf_counter()
        parts.append(client.score(job.model, x))
        seconds.append(time.perf_counter() - begun)
    last = parts[-1]
    scores = Scores(
        logits=np.concatenate([part.logits for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        decisions=np.concatenate([_decisions(part) for part in parts]),
        labels=last.labels, model=last.model, model_version=last.model_version,
        policy_version=last.policy_version, undecided_labels=last.undecided_labels,
    )  # fmt: skip
    if any(part.policy_version != policy.version for part in parts):
        raise CutpointError(f"policy {policy.version} of {job.model} was replaced while its rows were scored")
    live = tuple(scrape(metrics_url, name).since(then) for name, then in zip(names, before, strict=True))
    return Decided(scores, policy, live), np.array(seconds)


def _decisions(scores: Scores) -> NDArray[np.bool_]:
    if scores.decisions is None:
        raise CutpointError(f"model {scores.model} answered without decisions although it was calibrated")
    return scores.decisions


def _add_label(table: Table, decided: Decided, i: int, truth: NDArray[np.uint8]) -> None:
    policy: LabelPolicy = decided.policy.labels[i]
    alerts = _decisions(decided.scores)[..., i]
    counts = Counts(
        positives=int((truth == 1).sum()), negatives=int((truth == 0).sum()),
        tp=int((alerts & (truth == 1)).sum()), fp=int((alerts & (truth == 0)).sum()),
    )  # fmt: skip
    measured, promised, live = expected_at(counts), policy.expected, decided.live[i]
    table.add_section()
    table.add_row(
        f"[bold]{policy.label}: policy {decided.policy.version}, {policy.objective}[/bold]", "", "promised by the calibration"
    )
    for name in ("precision", "recall"):
        table.add_row(f"  {name}", _shown(getattr(measured, name)), _shown(getattr(promised, name)))
    table.add_row("  live positive rate", f"{live.positives / live.decisions:.4f}", f"{live.expected / live.decisions:.4f}")


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.3f}  ({rate.low:.3f} to {rate.high:.3f})"
