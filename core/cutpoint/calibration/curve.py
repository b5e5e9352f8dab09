"""A curve: for one label, the counts of true and false positives at every candidate cut.

Everything that chooses or judges a cut reads a curve and does not care what made it.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData


@dataclass(frozen=True)
class Curve:
    """Counts at every distinct score of one label. At `cuts[i]` a row alerts when its score >= `cuts[i]`.

    Attributes:
        cuts: float32 [cut], strictly descending; the distinct scores. Empty when there are no labelled rows.
        tp: int64 [cut], positives that alert; not decreasing.
        fp: int64 [cut], negatives that alert; not decreasing.
        positives: labelled positives in all.
        negatives: labelled negatives in all.
    """

    cuts: NDArray[np.float32]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def rows(self) -> int:
        """Labelled rows in all."""
        return self.positives + self.negatives

    def threshold(self, index: int) -> float:
        """A float32 logit that alerts on exactly the rows counted at `cuts[index]`, midway to the next lower score.

        Midway, because two machines' float32 scores of one row differ in the last bits: a threshold on a score would flip
        the very rows it was tuned on. Below the lowest score, where there is no next one, the margin is the gap above it
        (or 1 if there is only one score). Infinity is no measure of a gap: below +inf the margin is counted from the next score
        up, above -inf from the cut down. The result is infinite only where no finite logit separates the rows, as at -inf.
        """
        cut = float(self.cuts[index])
        below = float(self.cuts[index + 1]) if index + 1 < len(self.cuts) else -math.inf
        above = float(self.cuts[index - 1]) if index > 0 else math.inf
        if math.isfinite(cut) and math.isfinite(below):
            middle = cut * 0.5 + below * 0.5
        else:
            middle = below + 0.5 if math.isfinite(below) else cut - 0.5 * min(above - cut, 1.0)
        rounded = float(np.float32(middle))
        return rounded if below < rounded < cut else cut


def exact_curve(scores: NDArray[Any], targets: NDArray[Any]) -> Curve:
    """The curve of one label from scores in memory, exact over all cuts.

    Args:
        scores: [row] logits, any float dtype; compared as float32. Infinities are ordinary scores.
        targets: [row] 0, 1 or `UNLABELLED` (255), which is left out.

    Returns:
        A curve with one cut per distinct score; without labelled rows, an empty one.

    Raises:
        BadData: a score is NaN, or the lengths differ.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise BadData.of("scores and targets", f"{list(scores.shape)} and {list(targets.shape)}", "two lists, as long")
    labelled = targets != UNLABELLED
    scores, targets = scores[labelled].astype(np.float32), targets[labelled]
    if np.isnan(scores).any():
        raise BadData.of("scores", f"NaN in {int(np.isnan(scores).sum())} of {len(scores)} labelled rows", "numbers")
    # Sort values, not indices: numpy sorts float32 values many times faster, and positives are few.
    ascending = np.sort(scores)
    hits = np.sort(scores[targets == 1])
    # Compared, not subtracted: infinity minus itself is NaN.
    first = np.flatnonzero(np.append(len(ascending) > 0, ascending[1:] != ascending[:-1]))[::-1]
    cuts = ascending[first]
    tp = len(hits) - np.searchsorted(hits, cuts, side="left")
    fp = len(ascending) - first - tp
    return Curve(cuts, tp.astype(np.int64), fp.astype(np.int64), len(hits), len(ascending) - len(hits))
