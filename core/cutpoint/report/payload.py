"""What the page shows, as plain JSON values: of each label its points, choices, reliability and histogram."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..calibration import (
    NEVER,
    Counts,
    Curve,
    Infeasible,
    LabelPolicy,
    Plan,
    Policy,
    Rate,
    ScoreHistogram,
    Scores,
    average_precision,
    parse_objective,
)
from ..calibration.reliability import ReliabilityBin, reliability
from ..errors import BadData

MOST_POINTS: Final = 160
MOST_BINS: Final = 48
# What every label's objective is held against; the alert rate at the label's prevalence comes with them.
COMPARED: Final = (
    "max_fbeta=1", "max_fbeta=2", "precision_at_least=0.5", "precision_at_least=0.9", "recall_at_least=0.9",
    "recall_at_least=0.5", "fpr_at_most=0.01", "alert_rate_at_most=0.01", "min_cost=20",
)  # fmt: skip


def page_data(policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None = None) -> dict[str, Any]:
    """All numbers of the page: `head`, and `labels` in the order of the policy.

    Counts are whole where rows are; other numbers have 6 significant digits, and what is not finite is None.

    Raises:
        BadData: the labels of the data are not the policy's, or a score that counts is NaN.
    """
    names = [label.label for label in policy.labels]
    if list(data.labels) != names:
        raise BadData.of("labels of the data", list(data.labels[:5]), f"those of the policy, {names[:5]}")
    shown = data.map_curves(lambda i, curve: _label_data(policy.labels[i], curve), ["all"] * len(names))
    return {"head": _head(policy, data, plan), "labels": list(shown)}


def compared_objectives(curve: Curve) -> tuple[str, ...]:
    """The objectives that a label's own is held against; of unlabelled rows those that need no classes."""
    if not curve.labelled:
        return tuple(text for text in COMPARED if not parse_objective(text).needs)
    prevalence = f"{curve.positives / curve.rows:.2g}" if curve.rows else "0"
    at_prevalence = f"alert_rate_at_most={prevalence}"
    if not 0 < float(prevalence) < 1 or at_prevalence in COMPARED:
        return COMPARED
    found = list(COMPARED)
    found.insert(found.index("alert_rate_at_most=0.01"), at_prevalence)
    return tuple(found)


def thinned(curve: Curve, always: Sequence[int], most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Indices of at most `most` cuts, ascending: `always`, the ends, and the others even in recall and in log alert rate.

    Args:
        curve: of one label.
        always: indices to keep, whatever their number; those that are no cut (NEVER) are left out.
        most: cuts in all.
    """
    count = len(curve.cuts)
    if count <= most:
        return np.arange(count)
    kept = np.unique([i for i in (0, count - 1, *always) if i >= 0])
    room = max(0, most - len(kept))
    wanted = np.linspace(0, 1, room // 2) * float(curve.tp[-1])
    kept = np.union1d(kept, np.minimum(np.searchsorted(curve.tp, wanted), count - 1))
    room = max(0, most - len(kept))
    rates = np.geomspace(float(curve.alerts[0]), float(curve.alerts[-1]), room)
    return np.union1d(kept, np.minimum(np.searchsorted(curve.alerts, rates), count - 1)).astype(np.int64)


def score_bins(curve: Curve, most: int = MOST_BINS) -> dict[str, Any]:
    """Rows of each class in at most `most` bins of equal width on the logit axis.

    The width is a power of two and edges are its multiples, so that rows of a histogram's bins are not divided. The bins reach
    over the scores; where a few are far off, to the span of the middle 99.8 % of either class beyond it on both sides, and
    the outermost bins have the rest.
    """
    scores, hits, misses = _rows_by_score(curve)
    low, high = _span(scores, (hits, misses))
    width = max(curve.step, 2.0 ** math.ceil(math.log2(max(high - low, 1.0) / (most - 2))))
    first, last = math.floor(low / width), math.floor(high / width)
    # Cut to the range before the division: of an infinite score there is no bin.
    at = (np.floor(np.clip(scores, low, high) / width) - first).astype(np.int64)
    counted = {name: np.zeros(last - first + 1, rows.dtype) for name, rows in (("positives", hits), ("negatives", misses))}
    np.add.at(counted["positives"], at, hits)
    np.add.at(counted["negatives"], at, misses)
    return {
        "first": first * width,
        "width": width,
        "outside": bool(len(scores)) and bool(scores[0] > high or scores[-1] < low),
        **{name: [_count(rows) for rows in counts.tolist()] for name, counts in counted.items()},
    }


def _rows_by_score(curve: Curve) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any]]:
    """Scores, highest first, and the positives and negatives that have each; those below the lowest cut come last."""
    scores = curve.cuts.astype(np.float64)
    lowest = float(curve.below[-1]) if len(scores) else curve.top - curve.step
    hits, misses = (
        np.maximum(np.diff(counts, prepend=0, append=total), 0)
        for counts, total in ((curve.tp, curve.positives), (curve.fp, curve.negatives))
    )
    if hits[-1] + misses[-1] > 1e-9 * curve.rows:  # less is rounding of weights
        return np.append(scores, lowest), hits, misses
    return scores, hits[:-1], misses[:-1]


def _span(scores: NDArray[np.float64], classes: Sequence[NDArray[Any]]) -> tuple[float, float]:
    finite = np.isfinite(scores)
    scores = scores[finite]
    if not len(scores):
        return 0.0, 0.0
    inner = []
    for rows in classes:
        upto = np.cumsum(rows[finite])
        if upto[-1] > 0:
            inner += [scores[min(int(np.searchsorted(upto, share * upto[-1])), len(scores) - 1)] for share in (0.001, 0.999)]
    middle = max(max(inner) - min(inner), 1.0)
    return max(float(scores[-1]), float(min(inner)) - middle), min(float(scores[0]), float(max(inner)) + middle)


def _head(policy: Policy, data: Scores | ScoreHistogram, plan: Plan | None) -> dict[str, Any]:
    guarantee = policy.guarantee
    return {
        "model": policy.model,
        "model_version": policy.model_version,
        "version": policy.version,
        "parent": policy.parent,
        "created": policy.created,
        "author": policy.author,
        "data_digest": policy.data_digest,
        "same_data": policy.data_digest == data.digest(),
        "source": "scores" if isinstance(data, Scores) else "histogram",
        "rows": data.rows,
        "groups": data.group_count if isinstance(data, Scores) else None,
        "step": data.step or None,
        "labelled": data.labelled,
        "weighted": data.weighted,
        "guarantee": None if guarantee is None else guarantee.model_dump(),
        "delta_spent": _number(policy.delta_spent),
        "plan": None
        if plan is None
        else plan.model_dump(include={"objective", "calibrator", "min_positives", "shrink", "fallback"}),
    }


def _label_data(label: LabelPolicy, curve: Curve) -> dict[str, Any]:
    chosen = None if label.threshold is None or not len(curve.cuts) else curve.index_at(label.threshold)
    choices = _choices(label, curve, chosen)
    indices = thinned(curve, [each["index"] for each in choices if each["index"] is not None])
    with_never = [NEVER, *indices.tolist()]
    thresholds = [label.threshold if i == chosen else curve.threshold(i) for i in with_never]
    log_odds = label.calibrator.log_odds(np.array([math.nan if t is None else t for t in thresholds]))
    for each in choices:
        index = each.pop("index")
        each["at"] = None if index is None else with_never.index(index)
    # Bins of 0.4 % of the odds change nothing that a plot shows, and take a fraction of the time.
    coarse = curve.binned() if np.abs(curve.cuts).max(initial=0) < 32 else curve
    changed = label.calibrator.kind != "none" or label.calibrator.shift != 0
    return {
        "name": label.label,
        "status": label.status,
        "objective": label.objective,
        "reason": label.reason,
        "threshold": label.threshold,
        "needs": None if label.needs is None else label.needs.model_dump(),
        "guarantee": None if label.guarantee is None else label.guarantee.model_dump(),
        "expected": None
        if label.expected is None
        else {name: _rate(getattr(label.expected, name)) for name in ("precision", "recall", "fpr", "alert_rate")},
        "watched_from": None if label.expected is None else _number(label.watched_from),
        "calibrator": {"kind": label.calibrator.kind, "shift": _number(label.calibrator.shift), "why": label.calibrator.why},
        "positives": _count(curve.positives) if curve.labelled else None,
        "negatives": _count(curve.negatives) if curve.labelled else None,
        "rows": _count(curve.rows),
        "counts": _counts(label.counts),
        "ap": _number(average_precision(curve)) if curve.labelled else None,
        "chosen": None if chosen is None else with_never.index(chosen),
        "points": {
            "cut": [_number(t) for t in thresholds],
            "p": [_number(p) for p in np.exp(-np.logaddexp(0, -log_odds)).tolist()],
            "tp": [0, *(_count(rows) for rows in curve.tp[indices].tolist())],
            "fp": [0, *(_count(rows) for rows in curve.fp[indices].tolist())],
        },
        "choices": choices,
        "reliability": [_bin(each) for each in reliability(coarse, label.calibrator.log_odds)],
        "uncalibrated": [_bin(each) for each in reliability(coarse)] if changed else [],
        "histogram": score_bins(curve) if curve.rows else None,
    }


def _choices(label: LabelPolicy, curve: Curve, chosen: int | None) -> list[dict[str, Any]]:
    """The label's own cut as the policy has it, then what other objectives would choose on the same curve."""
    why = label.reason if chosen is None else ""
    own = {"objective": label.objective, "own": True, "index": chosen, "status": label.status, "reason": why}
    found: list[dict[str, Any]] = [own]
    for text in compared_objectives(curve):
        choice = parse_objective(text).choose(curve)
        if isinstance(choice, Infeasible):
            other = {"objective": text, "own": False, "index": None, "status": choice.status, "reason": choice.reason}
        else:
            other = {"objective": text, "own": False, "index": choice, "status": "OK", "reason": ""}
        # Twice only where the policy's cut is another one: guaranteed, moved or taken from elsewhere.
        if text != label.objective or other["index"] != chosen:
            found.append(other)
    return found


def _counts(counts: Counts) -> dict[str, Any]:
    return {name: _count(rows) for name, rows in counts.model_dump().items()}


def _rate(rate: Rate | None) -> list[float | None] | None:
    return None if rate is None else [_number(rate.value), _number(rate.low), _number(rate.high)]


def _bin(each: ReliabilityBin) -> list[float | None]:
    shares = [_number(share) for share in (each.predicted, each.observed, each.low, each.high)]
    return [*shares, _count(each.rows), _count(each.positives)]


def _count(rows: int | float) -> int | float:
    """Rows as they are; of weighted ones 6 significant digits, whole where they are."""
    rounded = rows if isinstance(rows, int) else float(f"{rows:.6g}")
    return int(rounded) if rounded == int(rounded) else rounded


def _number(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
