"""What a model does on rows it has not seen, beside what its policy promised; and a picture of one sequence."""

from pathlib import Path

import numpy as np
from cutpoint.bundle import Bundle
from cutpoint.calibration import (
    Counts,
    Expected,
    LabelPolicy,
    Rate,
    average_precision,
    exact_curve,
    expected_at,
    probabilities,
)
from cutpoint.dataset import UNLABELLED, Dataset
from cutpoint.errors import BadData
from cutpoint.terminal import SHOWN_LABELS, plain_table
from cutpoint.validation import Record
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from .score import labels_of, score_rows


class LabelEvaluation(Record):
    """One label on one split.

    Attributes:
        prevalence: positives over labelled entries, 0 to 1: the average precision of random scores.
        average_precision: None without positives.
        threshold: logit; None where the policy has none, and then `observed` and `expected` are None too.
        observed: rates at the threshold on these rows, with their intervals.
        expected: the rates that the policy expects.
    """

    label: str
    positives: int
    negatives: int
    prevalence: float
    average_precision: float | None
    threshold: float | None
    observed: Expected | None
    expected: Expected | None


class Evaluation(Record):
    """The content of evaluate.json.

    Attributes:
        rows: how many rows (for windows: sequences).
        mean_average_precision: over the labels with positives; None without any.
    """

    model: str
    model_version: int
    policy_version: int | None
    data: str
    split: str
    rows: int
    mean_average_precision: float | None
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
    logits = score_rows(bundle, dataset, rows)
    if logits.shape != targets.shape:
        raise BadData.of("shapes of logits and y", f"{list(logits.shape)} and {list(targets.shape)}", "the same")
    count = targets.shape[-1]
    flat, y = logits.reshape(-1, count), targets.reshape(-1, count)
    policies: tuple[LabelPolicy | None, ...] = bundle.policy.labels if bundle.policy else (None,) * count
    labels = tuple(
        _evaluate_label(dataset.label_names[i], flat[:, i], y[:, i], policy) for i, policy in enumerate(policies)
    )  # fmt: skip
    known = [label.average_precision for label in labels if label.average_precision is not None]
    return Evaluation(
        model=bundle.name,
        model_version=bundle.version,
        policy_version=bundle.policy.version if bundle.policy else None,
        data=str(dataset.path),
        split=split,
        rows=len(rows),
        mean_average_precision=float(np.mean(known)) if known else None,
        labels=labels,
    )


def evaluation_table(evaluation: Evaluation) -> Table:
    """One line a label: AP beside the prevalence, and each rate at the cut beside the expected one."""
    title = f"{evaluation.model}/{evaluation.model_version} on split {evaluation.split}, {evaluation.rows} rows"
    caption = "at the shipped cut: observed (expected)"
    table = plain_table("label", "prevalence", "AP", "precision", "recall", "alert rate", title=title, caption=caption)
    for label in evaluation.labels[:SHOWN_LABELS]:
        rates = [_beside(label, name) for name in ("precision", "recall", "alert_rate")]
        ap = "-" if label.average_precision is None else f"{label.average_precision:.3f}"
        table.add_row(escape(label.label), f"{label.prevalence:.4f}", ap, *rates)
    if len(evaluation.labels) > SHOWN_LABELS:
        mean = evaluation.mean_average_precision
        table.add_section()
        table.add_row(f"mean of {len(evaluation.labels)}", "", "-" if mean is None else f"{mean:.3f}")
    return table


def plot_sequence(
    path: Path,
    scores: NDArray[np.float32],
    truth: NDArray[np.uint8],
    threshold: float | None,
    signal: NDArray[np.float32] | None = None,
    title: str = "",
    window_label: str = "window",
) -> Path:
    """Draw one sequence: the probability of every window, the cut, the true windows and the found ones. Writes a PNG.

    Args:
        path: of the PNG.
        scores: [window], logits.
        truth: [window], 0, 1 or `UNLABELLED`.
        threshold: logit; None draws no cut.
        signal: [window, sample] or [window, channel, sample], drawn above (its first channel); None for no signal.
        title: of the picture.
        window_label: of the horizontal axis.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps figures in global state and looks for a display

    windows = np.arange(len(scores))
    figure = Figure(figsize=(11, 5 if signal is not None else 3.2), layout="constrained")
    panels = figure.subplots(2 if signal is not None else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes = panels[-1]
    true, found = truth == 1, np.zeros(len(scores), bool) if threshold is None else scores >= np.float32(threshold)
    for panel in panels:
        for i, window in enumerate(windows[true]):
            panel.axvspan(window - 0.5, window + 0.5, color="#f2b134", alpha=0.45, lw=0, label="true" if i == 0 else None)
        for i, window in enumerate(windows[truth == UNLABELLED]):
            panel.axvspan(
                window - 0.5, window + 0.5, color="#999999", alpha=0.2, lw=0, label="not labelled" if i == 0 else None
            )
    if signal is not None:
        points = (signal[:, 0] if signal.ndim == 3 else signal).astype(np.float64)
        at = (np.arange(points.size) + 0.5) / points.shape[1] - 0.5
        panels[0].plot(at, points.ravel(), color="#33475b", lw=0.4, rasterized=True)
        panels[0].set_ylabel("signal")
    p = np.clip(probabilities(scores), 1e-6, 1 - 1e-6)
    axes.step(windows, p, where="mid", color="#1f6f8b", lw=1.4, label="probability")
    for name, chosen, style in (
        ("found", found & true, {"color": "#2a9d4a", "s": 36}),
        ("false alarm", found & (truth == 0), {"color": "#c0392b", "marker": "X", "s": 42}),
        ("alert, not labelled", found & (truth == UNLABELLED), {"color": "#777777", "s": 36}),
        ("missed", ~found & true, {"facecolors": "none", "edgecolors": "#c0392b", "s": 42}),
    ):
        if chosen.any() and threshold is not None:
            axes.scatter(windows[chosen], p[chosen], zorder=3, label=name, **style)
    if threshold is not None:
        cut = float(probabilities(np.array(threshold)))
        axes.axhline(min(max(cut, 1e-6), 1 - 1e-6), color="#555555", lw=1, ls="--", label=f"cut at p = {cut:.3g}")
    axes.set(yscale="logit", xlabel=window_label, ylabel="probability", xlim=(-0.5, len(scores) - 0.5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    axes.yaxis.set_minor_formatter("")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(names), frameon=False)
    panels[0].set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    return path


def _evaluate_label(
    name: str, scores: NDArray[np.float32], targets: NDArray[np.uint8], policy: LabelPolicy | None
) -> LabelEvaluation:
    curve = exact_curve(scores, targets)
    threshold = policy.threshold if policy else None
    observed = None
    if threshold is not None and curve.rows:
        alerts = scores >= np.float32(threshold)
        tp, fp = int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())
        observed = expected_at(Counts(positives=curve.positives, negatives=curve.negatives, tp=tp, fp=fp))
    return LabelEvaluation(
        label=name,
        positives=int(curve.positives),
        negatives=int(curve.negatives),
        prevalence=curve.positives / curve.rows if curve.rows else 0.0,
        average_precision=average_precision(curve) if curve.positives else None,
        threshold=threshold,
        observed=observed,
        expected=policy.expected if policy else None,
    )


def _beside(label: LabelEvaluation, name: str) -> str:
    if label.observed is None or label.expected is None:
        return "no cut" if label.threshold is None else "-"
    rates: list[Rate | None] = [getattr(label.observed, name), getattr(label.expected, name)]
    shown = ["-" if rate is None else f"{rate.value:.4f}" if name == "alert_rate" else f"{rate.value:.3f}" for rate in rates]
    return f"{shown[0]} ({shown[1]})"
