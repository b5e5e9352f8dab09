"""Thresholds for the largest F1 of 64 labels: `make bench-calibration`.

Beside a loop over scikit-learn's precision_recall_curve, on the same scores, 100000 rows x 64 labels at 5 positives in 512.
"""

import numpy as np
from claims import Claim, report, timed
from cutpoint.calibration import exact_curve, parse_objective
from sklearn.metrics import precision_recall_curve

ROWS, LABELS = 100_000, 64


def main() -> None:
    """Print the claims."""
    rng = np.random.default_rng(0)
    targets = (rng.random((ROWS, LABELS)) < 5 / 512).astype(np.uint8)
    scores = (rng.normal(size=targets.shape) + 2 * targets).astype(np.float32)
    objective = parse_objective("max_fbeta=1")

    def ours() -> list[float]:
        curves = (exact_curve(scores[:, i], targets[:, i]) for i in range(LABELS))
        return [float(curve.cuts[objective.choose(curve)]) for curve in curves]  # type: ignore[index]

    def theirs() -> list[float]:
        found = []
        for i in range(LABELS):
            precision, recall, cuts = precision_recall_curve(targets[:, i], scores[:, i])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            found.append(float(cuts[np.argmax(f1[:-1])]))
        return found

    same = np.mean(np.array(ours()) == np.array(theirs()))
    our_s, their_s = timed(ours, theirs)
    report(
        [
            Claim("F1 thresholds of 100000 x 64, labels a second", LABELS / our_s, LABELS / their_s, 2, "labels/s"),
            Claim("of these, thresholds equal to scikit-learn's", same, 1, 1, ""),
        ]
    )


if __name__ == "__main__":
    main()
