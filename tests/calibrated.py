"""Policies made by hand, of every kind of calibrator, and a clock that tests move."""

from collections.abc import Sequence

import numpy as np
from cutpoint.calibration import Calibrator, Counts, LabelPolicy, Policy, expected_at

COUNTS = Counts(positives=20, negatives=180, tp=15, fp=5)
KINDS = (
    Calibrator(),
    Calibrator(kind="temperature", shift=0.5, coefficients=(0.7,)),
    Calibrator(kind="platt", shift=-0.25, coefficients=(1.3, -0.8)),
    Calibrator(kind="beta", shift=1.5, coefficients=(0.8, 1.4, -0.3)),
    Calibrator(kind="isotonic", shift=0.125, x=(-3.0, -1.0, 0.5, 4.0), y=(-6.0, -2.5, -2.5, 3.0)),
    Calibrator(kind="venn_abers", x=(0.25,), y=(-1.0,)),
)


class Clock:
    """Seconds that stand still until they are moved, or move by `step_s` whenever somebody looks."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self._step_s = 1000.0, step_s

    def __call__(self) -> float:
        self.now_s += self._step_s
        return self.now_s


def policy_of(calibrators: Sequence[Calibrator], thresholds: Sequence[float | None], version: int = 1) -> Policy:
    labels = tuple(
        LabelPolicy(
            label=f"label {i}",
            objective="max_fbeta=1",
            status="INFEASIBLE" if threshold is None else "OK",
            threshold=None if threshold is None else float(np.float32(threshold)),
            counts=COUNTS,
            expected=None if threshold is None else expected_at(COUNTS),
            calibrator=calibrator,
        )
        for i, (calibrator, threshold) in enumerate(zip(calibrators, thresholds, strict=True))
    )
    return Policy(
        model="m", model_version=1, model_digest="0", version=version, created="", author="", data_digest="0", labels=labels
    )
