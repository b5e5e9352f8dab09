"""What one trained run reaches on the test split."""

from dataclasses import dataclass

import numpy as np
from cutpoint.calibration import Infeasible, average_precision, exact_curve, parse_objective
from cutpoint.dataset import Dataset
from numpy.typing import NDArray

from ..bootstrap import average_precision_draws, drawn_units
from ..report.logits import run_logits
from ..run import Run

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """One run with one seed.

    Attributes:
        precision: average precision, [label]; NaN without positives.
        draws: the same under bootstrap, [draw, label].
        counts: at the cuts for the wanted recall, [label, 4]: tp, fp, positives, negatives; -1 where there is no cut.
        skill_before, skill_after: log loss skill of all labels together, of training logits and of honest ones.
    """

    run: Run
    precision: Floats
    draws: Floats
    counts: NDArray[np.int64]
    skill_before: float
    skill_after: float


def measure_run(run: Run, dataset: Dataset, recall: float, draws: int) -> Measured:
    """Score the validation and test rows and judge them.

    Args:
        run: trained on `dataset`.
        dataset: with y.
        recall: wanted; its cuts are the highest that reach it on the validation rows.
        draws: of the bootstrap; the same rows are drawn for every run.
    """
    assert dataset.y is not None  # the run was trained on it
    valid, test = run.rows("valid"), run.rows("test")
    _, honest_valid = run_logits(run, dataset, valid)
    trained, honest = run_logits(run, dataset, test)
    y_valid, y = np.asarray(dataset.y[valid]), np.asarray(dataset.y[test])
    labels = range(y.shape[-1])
    precision = [average_precision(exact_curve(honest[..., i].ravel(), y[..., i].ravel())) for i in labels]
    counts = [_counts_at(recall, honest_valid[..., i], y_valid[..., i], honest[..., i], y[..., i]) for i in labels]
    return Measured(
        run,
        np.array(precision),
        average_precision_draws(honest, y, drawn_units(dataset, test), draws),
        np.array(counts),
        pooled_skill(trained, y),
        pooled_skill(honest, y),
    )


def pooled_skill(logits: NDArray[np.float32], targets: NDArray[np.uint8]) -> float:
    """Log loss skill of all labels together: 1 - loss / loss of always answering each label's prevalence.

    Of one label it is `cutpoint.calibration.log_loss_skill`; of many, rare ones count by their surprise. NaN where no label has
    both classes.
    """
    loss = reference = 0.0
    for i in range(targets.shape[-1]):
        z, y = logits[..., i].astype(np.float64), targets[..., i]
        hits, misses = z[y == 1], z[y == 0]
        n, p = len(hits) + len(misses), len(hits)
        if 0 < p < n:
            loss += float(np.logaddexp(0, -hits).sum() + np.logaddexp(0, misses).sum())
            reference -= p * np.log(p / n) + (n - p) * np.log1p(-p / n)
    return 1 - loss / reference if reference > 0 else float("nan")


def _counts_at(
    recall: float,
    valid: NDArray[np.float32],
    y_valid: NDArray[np.uint8],
    test: NDArray[np.float32],
    y: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    curve = exact_curve(valid.ravel(), y_valid.ravel())
    chosen = parse_objective(f"recall_at_least={recall}").choose(curve)
    if isinstance(chosen, Infeasible):
        return -1, -1, -1, -1
    alerts = test >= np.float32(curve.threshold(chosen))
    tp, fp = (int((alerts & (y == value)).sum()) for value in (1, 0))
    return tp, fp, int((y == 1).sum()), int((y == 0).sum())
