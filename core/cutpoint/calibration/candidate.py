"""A label while its cut is chosen: what the steps of a fit hand on to each other."""

import math
from dataclasses import dataclass, field, replace

from .calibrator import Calibrator
from .curve import Curve
from .guarantee import Guaranteed
from .histogram import ScoreHistogram
from .objective import NEVER, Infeasible, Objective
from .policy import Counts, Expected, Needs, Status
from .scores import Scores

Source = Scores | ScoreHistogram


@dataclass(frozen=True)
class Candidate:
    """What is known of one label while the cuts are chosen; `threshold` is None where there is none (yet)."""

    name: str
    objective: Objective
    counts: Counts
    effective: tuple[float, float] | None
    status: Status = "OK"
    threshold: float | None = None
    reason: str = ""
    needs: Needs | None = None
    guarantee: Guaranteed | None = None
    curve: Curve | None = None  # at positives, of joint objectives
    points: Curve | None = None  # binned, for calibrators and the pooled cut
    calibrator: Calibrator = field(default_factory=Calibrator)
    expected: Expected | None = None  # taken over from a previous policy

    def at(self, curve: Curve, index: int, threshold: float | None = None) -> "Candidate":
        """With the cut at `index` of `curve`."""
        placed = curve.threshold(index) if threshold is None else threshold
        if not math.isfinite(placed):
            where = curve.cuts[index] if index >= 0 else curve.top
            return self.without(
                Infeasible("INFEASIBLE", f"the cut is at a score of {where}, which no finite threshold separates")
            )
        tp, fp = curve.counts_at(index)
        counts = {"tp": tp, "fp": fp} if curve.labelled else {"unlabelled_alerts": fp}
        reason = self.reason or ("best without any alert" if index == NEVER else "")
        return replace(self, threshold=placed, counts=self.counts.model_copy(update=counts), reason=reason)

    def without(self, why: Infeasible) -> "Candidate":
        """With no cut."""
        needs = None if why.needs is None else Needs(count=why.needs, of=why.of)
        return replace(self, status=why.status, threshold=None, reason=why.reason, needs=needs)
