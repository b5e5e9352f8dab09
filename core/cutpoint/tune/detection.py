"""What a computation costs in detection: average precision, and the rates at a cut that is chosen for its own logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cutpoint.trainer.bootstrap import drawn_units
from cutpoint.trainer.export.cost import cost_of
from numpy.typing import NDArray

from ..bundle import Computation, Detection, PrecisionCost
from ..calibration import LabelPolicy, Plan, Policy, Rate, Scores, fit_labels
from ..dataset import Dataset
from ..errors import BadScores

Logits = NDArray[np.float32]

# The rates that a policy promises, and whether more is better; the alert rate is neither, but an alarm costs.
_RATES = {"precision": True, "recall": True, "fpr": False, "alert_rate": False}


@dataclass(frozen=True)
class Judged:
    """A computation's logits, the cuts for them, and what both cost."""

    detection: Detection
    cost: PrecisionCost
    scores: Scores
    labels: tuple[LabelPolicy, ...]


class Judge:
    """Holds computations against a reference on the same rows, each by cuts chosen for its own logits."""

    def __init__(
        self,
        reference: Logits,
        dataset: Dataset,
        rows: NDArray[np.int64],
        labels: Sequence[str],
        plan: Plan,
        *,
        max_ap_loss: float,
        tolerance: float,
    ) -> None:
        """Choose the cuts of the reference.

        Args:
            reference: its logits of `rows`, [row, ..., label].
            dataset: with y.
            rows: labelled ones that trained nothing and calibrated no quantisation.
            labels: names, in the order of the last axis.
            plan: what cuts are chosen for.
            max_ap_loss: what average precision may lose, mean over the labels.
            tolerance: what a batch may move a logit of a row by, where the computation itself moves it by less.

        Raises:
            BadScores: a logit is not finite.
            Uncalibratable: no label gets a cut.
            BadData: no label has a positive.
        """
        assert dataset.y is not None  # `labels_of` has looked
        self._y = np.asarray(dataset.y[rows])
        self._units = drawn_units(dataset, rows)
        self._groups = dataset.group[rows] if dataset.group is not None else rows if self._y.ndim > 2 else None
        self._labels, self._plan = tuple(labels), plan
        self._max_ap_loss, self._tolerance = max_ap_loss, tolerance
        self._reference = reference
        self._promised, _ = self._fitted(reference)

    def judge(self, computation: Computation, logits: Logits, batch_difference: float) -> Judged:
        """What `computation`, which gave `logits`, costs.

        Raises:
            BadScores: one is not finite.
            Uncalibratable: no label gets a cut.
        """
        labels, scores = self._fitted(logits)
        cost = cost_of(self._reference, logits, self._y, self._units, self._labels)
        reference = float(np.mean([label.reference for label in cost.labels]))
        allowed = max(self._tolerance, cost.max_abs_difference)
        refused = ""
        if cost.loss > self._max_ap_loss:
            refused = f"loses {cost.loss:.4f} of average precision, more than {self._max_ap_loss:g}"
        elif batch_difference > allowed:
            refused = f"a batch moves a row's logit by {batch_difference:.3g}, more than {allowed:.3g}"
        else:
            refused = broken_promise(self._promised, labels)
        detection = Detection(
            computation=computation,
            average_precision=reference - cost.loss,
            reference=reference,
            loss=cost.loss,
            low=cost.low,
            high=cost.high,
            max_abs_difference=cost.max_abs_difference,
            batch_difference=batch_difference,
            changed=float(np.mean(_decisions(self._reference, self._promised) != _decisions(logits, labels))),
            refused=refused,
        )
        return Judged(detection, cost, scores, labels)

    def _fitted(self, logits: Logits) -> tuple[tuple[LabelPolicy, ...], Scores]:
        if not np.isfinite(logits).all():
            raise BadScores("NaN or an infinite logit")
        scores = Scores(logits, self._y, self._labels, groups=self._groups)
        return tuple(fit_labels(scores, self._plan)), scores


def broken_promise(promised: Sequence[LabelPolicy], found: Sequence[LabelPolicy]) -> str:
    """Which rate at the cut is worse than the interval that was promised for it, in words; empty where none is.

    Better than promised is no reason against anything.
    """
    for before, after in zip(promised, found, strict=True):
        if before.expected is None:
            continue
        if after.expected is None:
            return f"{before.label} gets no threshold: {after.reason}"
        for name, more_is_better in _RATES.items():
            was: Rate | None = getattr(before.expected, name)
            now: Rate | None = getattr(after.expected, name)
            if was is None:
                continue
            if now is None:
                return f"{before.label}: no {name} at its cut"
            if now.value < was.low if more_is_better else now.value > was.high:
                return f"{before.label}: {name} {now.value:.3g}, outside {was.low:.3g} to {was.high:.3g}"
    return ""


def plan_of(policy: Policy) -> Plan:
    """The plan that a policy was made by, as far as it says: objectives, guarantee, and whether logits are mapped."""
    each = {label.label: label.objective for label in policy.labels}
    texts = list(each.values())
    most = max(texts, key=texts.count)
    unmapped = all(label.calibrator.kind == "none" for label in policy.labels)
    return Plan(
        objective=most,
        objectives={label: text for label, text in each.items() if text != most},
        guarantee=policy.guarantee,
        calibrator="none" if unmapped else "auto",
    )


def _decisions(logits: Logits, labels: Sequence[LabelPolicy]) -> NDArray[np.bool_]:
    cuts = np.array([np.nan if label.threshold is None else label.threshold for label in labels], np.float32)
    return np.asarray(logits >= cuts)
