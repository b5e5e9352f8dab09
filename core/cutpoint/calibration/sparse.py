"""Labels with few positives: cuts moved towards, or taken from, those of all labels together or of the policy before."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .candidate import Candidate, Source
from .curve import exact_curve
from .notation import parse_objective
from .objective import Infeasible, Objective
from .plan import Plan
from .policy import Policy


def with_pooled_cuts(data: Source, labels: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    """With cuts moved towards, or taken from, the cut of all labels together.

    They are pooled on calibrated log-odds: raw scores of different labels have different offsets, and pooling those is worse
    than nothing (notes in docs/calibration.md).
    """
    found = list(labels)
    pooled: dict[str, float | None] = {}
    for i, label in enumerate(labels):
        if label.objective.joint or label.guarantee is not None:
            continue
        moves = plan.shrink > 0 and label.threshold is not None and not label.objective.constraint and len(labels) > 1
        falls_back = plan.fallback == "pooled" and label.status == "INSUFFICIENT" and label.counts.rows > 0
        if not (moves or falls_back):
            continue
        text = str(label.objective)
        if text not in pooled:
            pooled[text] = _pooled_cut(labels, label.objective)
        cut = pooled[text]
        if cut is None:
            continue
        towards = label.calibrator.inverse(cut)
        if not math.isfinite(towards):
            continue
        if falls_back:
            sure = ", without the guarantee" if plan.guarantee is not None else ""
            reason = f"the cut of all labels together{sure}: {label.reason}"
            found[i] = _moved(data, i, replace(label, status="FALLBACK", needs=None, reason=reason), towards)
        elif label.threshold is not None:
            n = label.counts.positives if label.effective is None else label.effective[0]
            to = (n * label.threshold + plan.shrink * towards) / (n + plan.shrink)
            reason = (
                f"moved {plan.shrink / (n + plan.shrink):.0%} of the way from {label.threshold:.4g} to the pooled {towards:.4g}"
            )
            found[i] = _moved(data, i, replace(label, reason=reason), to)
    return found


def _pooled_cut(labels: Sequence[Candidate], objective: Objective) -> float | None:
    """The objective's cut, in calibrated log-odds, on the rows of all labels together."""
    odds, classes, weights = [], [], []
    for label in labels:
        points = label.points
        if points is None or not points.labelled or len(points.cuts) == 0:
            continue
        at = np.append(points.cuts, points.below[-1]) + points.step / 2  # the last for what is below a histogram's grid
        for c, (counts, total) in enumerate(((points.fp, points.negatives), (points.tp, points.positives))):
            odds.append(label.calibrator.log_odds(at))
            classes.append(np.full(len(at), c, np.uint8))
            weights.append(np.maximum(np.diff(counts, prepend=0, append=total), 0.0))  # sums of weights are right to rounding
    if not odds:
        return None
    curve = exact_curve(np.concatenate(odds), np.concatenate(classes), np.concatenate(weights))
    choice = objective.choose(curve)
    return None if isinstance(choice, Infeasible) else curve.threshold(choice)


def _moved(data: Source, i: int, label: Candidate, threshold: float) -> Candidate:
    """With the cut at a threshold that was not chosen on the label's own curve; in a histogram at the next that it offers."""
    curve = data.curve(i)
    wanted = float(np.float32(threshold))
    index = curve.index_at(wanted)
    every = index >= 0 and curve.alerts[index] >= curve.rows * (1 - 1e-12)  # to rounding, where weights are summed
    offered = not curve.step or every or wanted >= (curve.lowest_threshold(index) if index >= 0 else curve.top)
    return label.at(curve, index, wanted if offered else None)


def from_previous(data: Source, i: int, label: Candidate, previous: Policy | None) -> Candidate:
    """With the previous policy's cut, where the label has too little data and that was chosen for the same objective."""
    if label.status != "INSUFFICIENT" or previous is None:
        return label
    before = next((each for each in previous.labels if each.label == label.name), None)
    if before is None or before.threshold is None or type(parse_objective(before.objective)) is not type(label.objective):
        return label  # a cut for an alert rate is none for a recall
    was = "" if before.objective == str(label.objective) else f" for {before.objective}"
    reason = f"the cut of policy {previous.version}{was}: {label.reason}"
    kept = replace(label, status="FALLBACK", needs=None, reason=reason, calibrator=before.calibrator)
    if label.counts.rows == 0:
        return replace(kept, threshold=before.threshold, expected=before.expected)
    return _moved(data, i, kept, before.threshold)
