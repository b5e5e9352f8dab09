"""From labelled scores to the labels of a policy."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData, Uncalibratable
from .curve import Curve, exact_curve
from .interval import clopper_pearson
from .objective import Infeasible, Objective
from .policy import Counts, Expected, LabelPolicy, Rate


def fit_labels(
    logits: NDArray[Any], targets: NDArray[Any], names: Sequence[str], objective: Objective, min_positives: int = 0
) -> tuple[LabelPolicy, ...]:
    """Choose every label's cut, exactly, over all cuts.

    Args:
        logits: [..., label] float; leading axes (row, or sequence and window) are rows alike.
        targets: the same shape; 0, 1 or `UNLABELLED` (255).
        names: label names, as many as the last axis.
        objective: what the cuts are chosen for.
        min_positives: labels with fewer labelled positives (or 1, where the objective needs labels) get no cut.

    Raises:
        BadData: shapes differ, a target is none of the three values, or a labelled score is NaN.
        Uncalibratable: nothing is labelled, or no label at all gets a cut; the message gives the labels' reasons.
    """
    logits, targets = np.asarray(logits), np.asarray(targets)
    if logits.shape != targets.shape or logits.ndim < 2 or logits.shape[-1] != len(names):
        shapes = f"{list(logits.shape)} and {list(targets.shape)}"
        raise BadData.of("shapes of logits and targets", shapes, f"the same, [..., {len(names)} labels]")
    values = np.unique(targets)
    if not np.isin(values, (0, 1, UNLABELLED)).all():
        raise BadData.of("targets", values[~np.isin(values, (0, 1, UNLABELLED))][:5].tolist(), "0, 1, or 255 for not labelled")
    if not (targets != UNLABELLED).any():
        raise Uncalibratable("no labels: every entry is marked as not labelled")
    logits, targets = logits.reshape(-1, len(names)), targets.reshape(-1, len(names))
    labels = []
    for i, name in enumerate(names):
        try:
            curve = exact_curve(logits[:, i], targets[:, i])
        except BadData as error:
            raise BadData(f"label {name!r}: {error}") from None
        labels.append(fit_label(curve, name, objective, min_positives))
    if all(label.threshold is None for label in labels):
        reasons = "; ".join(f"{label.label}: {label.status}, {label.reason}" for label in labels[:5])
        more = f"; and {len(labels) - 5} more" if len(labels) > 5 else ""
        raise Uncalibratable(f"{objective} can be met for no label: {reasons}{more}")
    return tuple(labels)


def refuse_probabilities(name: str, logits: NDArray[Any]) -> None:
    """Raise BadData where scores given as logits are plainly probabilities: 100 or more, all of them from 0 to 1.

    A threshold on probabilities, held against logits, would decide something else; rare events' logits are mostly negative.
    """
    if logits.size >= 100 and np.min(logits) >= 0 and np.max(logits) <= 1 and np.ptp(logits) > 0:
        found = f"all from {np.min(logits):.3g} to {np.max(logits):.3g}, as probabilities are"
        raise BadData.of(name, found, "logits, log(p / (1 - p)); the outputs 'logits', not 'scores'")


def fit_label(curve: Curve, name: str, objective: Objective, min_positives: int = 0) -> LabelPolicy:
    """One label's cut from its curve, with the counts and the rates expected at it, or why there is none."""
    choice = objective.choose(curve, min_positives)
    if not isinstance(choice, Infeasible) and not math.isfinite(curve.threshold(choice)):
        choice = Infeasible("INFEASIBLE", f"the cut is at a score of {curve.cuts[choice]}, which no finite threshold separates")
    if isinstance(choice, Infeasible):
        return LabelPolicy(
            label=name,
            objective=str(objective),
            status=choice.status,
            threshold=None,
            reason=choice.reason,
            needs_positives=choice.needs_positives,
            counts=Counts(positives=curve.positives, negatives=curve.negatives, tp=0, fp=0),
            expected=None,
        )
    counts = Counts(positives=curve.positives, negatives=curve.negatives, tp=int(curve.tp[choice]), fp=int(curve.fp[choice]))
    return LabelPolicy(
        label=name,
        objective=str(objective),
        status="OK",
        threshold=curve.threshold(choice),
        counts=counts,
        expected=expected_at(counts),
    )


def expected_at(counts: Counts) -> Expected:
    """The rates that follow from counts at a cut, with their intervals; `counts` must have at least one row."""
    alerts = counts.tp + counts.fp
    alert_rate = rate(alerts, counts.rows)
    if alert_rate is None:
        raise BadData.of("counts", "no rows", "at least one labelled row")
    return Expected(
        precision=rate(counts.tp, alerts),
        recall=rate(counts.tp, counts.positives),
        fpr=rate(counts.fp, counts.negatives),
        alert_rate=alert_rate,
    )


def rate(count: int, of: int) -> Rate | None:
    """`count` of `of` with its interval; None when `of` is 0."""
    if of == 0:
        return None
    low, high = clopper_pearson(count, of)
    return Rate(value=count / of, low=low, high=high)


def digest_of(logits: NDArray[Any], targets: NDArray[Any]) -> str:
    """SHA-256, in hex, of float32 logits and uint8 targets with their shape."""
    total = hashlib.sha256(str(logits.shape).encode())
    total.update(np.ascontiguousarray(logits, np.float32).tobytes())
    total.update(np.ascontiguousarray(targets, np.uint8).tobytes())
    return total.hexdigest()
