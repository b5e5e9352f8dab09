"""What a model does on rows it has not seen, beside what its policy promised."""

import numpy as np
from cutpoint.bundle import Bundle
from cutpoint.calibration import Counts, Expected, LabelPolicy, Rate, average_precision, exact_curve, expected_at
from cutpoint.dataset import Dataset
from cutpoint.errors import BadData
from cutpoint.terminal import SHOWN_LABELS, plain_table
from cutpoint.validation import Record
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from ..bootstrap import average_precision_draws, drawn_units, interval_of, mean_over_labels
from ..score import labels_of, score_rows

Interval = tuple[float, float]


class LabelEvaluation(Record):
    """One label on one split.

    Attributes:
        prevalence: positives over labelled entries, 0 to 1: the average precision of random scores.
        average_precision: None without positives.
        interval: of the average precision at 95 %, by bootstrap of whole rows (groups where the data have them); None with
            hardly a positive.
        threshold: logit; None where the policy has none, and then `observed` and `expected` are None too.
        observed: rates at the threshold on these rows, with their intervals.
        expected: the rates that the policy expects.
    """

    label: str
    positives: int
    negatives: int
    prevalence: float
    average_precision: float | None
    interval: Interval | None = None
    threshold: float | None
    observed: Expected | None
    expected: Expected | None


class Evaluation(Record):
    """The content of evaluate.json.

    Attributes:
        rows: how many rows (for windows: sequences).
        mean_average_precision: over the labels with positives; None without any.
        mean_interval: at 95 %, of the same draws; None without any.
    """

    model: str
    model_version: int
    policy_version: int | None
    data: str
    split: str
    rows: int
    mean_average_precision: float | None
    mean_interval: Interval | None = None
    labels: tuple[LabelEvaluation, ...]


def evaluate_bundle(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], split: str = "test") -> Evaluation:
    """Score `rows` and judge them label by label at the cuts of the bundle's own policy, if it has one.

    Args:
        bundle: with its policy.
        dataset: with y.
        rows: indices of rows that neither trained nor calibrated the model.
        split: what to call them.

    Raises:
        BadData: no y, or labels or shapes that are not the model's.
    """
    targets = labels_of(bundle, dataset, rows)
    return evaluate_scores(bundle, dataset, rows, score_rows(bundle, dataset, rows), targets, split)


def evaluate_scores(
    bundle: Bundle,
    dataset: Dataset,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    targets: NDArray[np.uint8],
    split: str = "test",
) -> Evaluation:
    """`evaluate_bundle` of logits and targets [row, ..., label] that are at hand; BadData where their shapes differ."""
    if logits.shape != targets.shape:
        raise BadData.of("shapes of logits and y", f"{list(logits.shape)} and {list(targets.shape)}", "the same")
    count = targets.shape[-1]
    flat, y = logits.reshape(-1, count), targets.reshape(-1, count)
    draws = average_precision_draws(logits, targets, drawn_units(dataset, rows))
    policies: tuple[LabelPolicy | None, ...] = bundle.policy.labels if bundle.policy else (None,) * count
    labels = tuple(
        _evaluate_label(dataset.label_names[i], flat[:, i], y[:, i], draws[:, i], policy) for i, policy in enumerate(policies)
    )
    known = [label.average_precision for label in labels if label.average_precision is not None]
    mean = float(np.mean(known)) if known else None
    return Evaluation(
        model=bundle.name,
        model_version=bundle.version,
        policy_version=bundle.policy.version if bundle.policy else None,
        data=str(dataset.path),
        split=split,
        rows=len(rows),
        mean_average_precision=mean,
        mean_interval=_interval(mean, mean_over_labels(draws)),
        labels=labels,
    )


def evaluation_table(evaluation: Evaluation) -> Table:
    """One line a label: AP with its interval beside the prevalence, and each rate at the cut beside the expected one."""
    title = f"{evaluation.model}/{evaluation.model_version} on split {evaluation.split}, {evaluation.rows} rows"
    caption = "AP with its interval at 95 %, by bootstrap of rows or groups; at the shipped cut: observed (expected)"
    table = plain_table("label", "prevalence", "AP", "precision", "recall", "alert rate", title=title, caption=caption)
    for label in evaluation.labels[:SHOWN_LABELS]:
        rates = [_beside(label, name) for name in ("precision", "recall", "alert_rate")]
        table.add_row(escape(label.label), f"{label.prevalence:.4f}", _shown(label.average_precision, label.interval), *rates)
    if len(evaluation.labels) > 1:
        table.add_section()
        mean = _shown(evaluation.mean_average_precision, evaluation.mean_interval)
        table.add_row(f"mean of {len(evaluation.labels)}", "", mean)
    return table


def _evaluate_label(
    name: str,
    scores: NDArray[np.float32],
    targets: NDArray[np.uint8],
    draws: NDArray[np.float64],
    policy: LabelPolicy | None,
) -> LabelEvaluation:
    curve = exact_curve(scores, targets)
    threshold = policy.threshold if policy else None
    observed = None
    if threshold is not None and curve.rows:
        alerts = scores >= np.float32(threshold)
        tp, fp = int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())
        observed = expected_at(Counts(positives=curve.positives, negatives=curve.negatives, tp=tp, fp=fp))
    ap = average_precision(curve) if curve.positives else None
    return LabelEvaluation(
        label=name,
        positives=int(curve.positives),
        negatives=int(curve.negatives),
        prevalence=curve.positives / curve.rows if curve.rows else 0.0,
        average_precision=ap,
        interval=_interval(ap, draws),
        threshold=threshold,
        observed=observed,
        expected=policy.expected if policy else None,
    )


def _interval(value: float | None, draws: NDArray[np.float64]) -> Interval | None:
    found = None if value is None else interval_of(value, draws)
    return None if found is None else (max(0.0, found[0]), min(1.0, found[1]))


def _shown(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if interval is None else f"{value:.3f} {interval[0]:.2f}-{interval[1]:.2f}"


def _beside(label: LabelEvaluation, name: str) -> str:
    if label.observed is None or label.expected is None:
        return "no cut" if label.threshold is None else "-"
    rates: list[Rate | None] = [getattr(label.observed, name), getattr(label.expected, name)]
    shown = ["-" if rate is None else f"{rate.value:.4f}" if name == "alert_rate" else f"{rate.value:.3f}" for rate in rates]
    return f"{shown[0]} ({shown[1]})"
