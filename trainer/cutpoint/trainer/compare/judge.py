"""From what every run and seed reached to a comparison with intervals.

Two things make a figure move: which rows are in the test split, and which seed trained the model. The first is measured by
bootstrap: the same rows, or groups of rows, are drawn for all runs, and runs are subtracted draw by draw. The second is the
standard deviation over seeds, pooled over the runs, with the quantile of Student's t for as many degrees of freedom. Both
half-widths are put together as the root of the sum of their squares (Zou and Donner 2008). Intervals of differences hold
together for all runs (Bonferroni), so that among ten losses that are alike none looks better by luck.
"""

import math
from collections.abc import Mapping

import numpy as np
from cutpoint.dataset import Dataset
from numpy.typing import NDArray

from ..bootstrap import interval_of, mean_over_labels
from .measure import Measured
from .outcome import Comparison, Estimate, LabelOutcome, Price, RunOutcome, SeedOutcome
from .plan import ComparePlan

CONFIDENCE = 0.95

Floats = NDArray[np.float64]


def compare_runs(
    plan: ComparePlan, dataset: Dataset, measured: Mapping[tuple[str, int], Measured], recall: float, draws: int
) -> Comparison:
    """Judge what was measured of every run and seed of the plan."""
    any_run = next(iter(measured.values())).run
    test = any_run.rows("test")
    assert dataset.y is not None  # the runs were trained on it
    y = np.asarray(dataset.y[test]).reshape(-1, dataset.y.shape[-1])
    positives, labelled = (y == 1).sum(axis=0), (y <= 1).sum(axis=0)
    runs = [_run_outcome(plan, name, measured, recall, dataset.label_names, positives) for name in plan.runs]
    return Comparison(
        model=any_run.config.name,
        data=str(dataset.path),
        data_digest=any_run.record.data_digest,
        rows=len(test),
        prevalence=float((positives / np.maximum(labelled, 1))[positives > 0].mean()),
        labels=dataset.label_names,
        seeds=plan.seeds,
        baseline=plan.baseline,
        recall=recall,
        draws=draws,
        method=_method(plan, dataset, draws),
        runs=tuple(runs),
        conclusions=tuple(_conclusion(run, plan.baseline) for run in runs if run.difference is not None),
    )


def _run_outcome(
    plan: ComparePlan,
    name: str,
    measured: Mapping[tuple[str, int], Measured],
    recall: float,
    labels: tuple[str, ...],
    positives: NDArray[np.int64],
) -> RunOutcome:
    means = {run: _over_seeds(plan, run, measured, None) for run in plan.runs}
    of_label = [{run: _over_seeds(plan, run, measured, i) for run in plan.runs} for i in range(len(labels))]
    own = [measured[name, seed] for seed in plan.seeds]
    counts = np.array([each.counts for each in own])  # [seed, label, 4]
    precision = _estimate(means, name)
    assert precision is not None  # the test split has a positive
    return RunOutcome(
        name=name,
        changes=dict(plan.changes[name]),
        average_precision=precision,
        difference=_difference(means, name, plan.baseline),
        skill_before=_range([each.skill_before for each in own]),
        skill_after=_range([each.skill_after for each in own]),
        price=price_of(counts.reshape(-1, 4)),
        seeds=tuple(
            SeedOutcome(
                seed=seed,
                run=str(each.run.path),
                best_epoch=each.run.record.best_epoch,
                seconds=each.run.record.seconds,
                average_precision=float(np.nanmean(each.precision)),
                skill_before=_finite(each.skill_before),
                skill_after=_finite(each.skill_after),
            )
            for seed, each in zip(plan.seeds, own, strict=True)
        ),
        labels=tuple(
            LabelOutcome(
                label=label,
                positives=int(positives[i]),
                average_precision=_estimate(of_label[i], name),
                difference=_difference(of_label[i], name, plan.baseline),
                price=price_of(counts[:, i]),
            )
            for i, label in enumerate(labels)
        ),
    )


class _Seeds:
    """One figure of one run: of every seed, [seed], and the mean over seeds under bootstrap, [draw]."""

    def __init__(self, values: Floats, draws: Floats) -> None:
        self.values, self.draws = values, draws

    @property
    def mean(self) -> float:
        return float(self.values.mean())


def _over_seeds(plan: ComparePlan, run: str, measured: Mapping[tuple[str, int], Measured], label: int | None) -> _Seeds:
    """Average precision of one label, or of None the mean over labels."""
    values, draws = [], []
    for seed in plan.seeds:
        each = measured[run, seed]
        if label is None:
            values.append(float(np.nanmean(each.precision)))
            draws.append(mean_over_labels(each.draws))
        else:
            values.append(float(each.precision[label]))
            draws.append(each.draws[:, label])
    return _Seeds(np.array(values), np.mean(draws, axis=0))


def _estimate(runs: Mapping[str, _Seeds], name: str) -> Estimate | None:
    own = runs[name]
    if math.isnan(own.mean):
        return None
    width = _seed_width(runs, 1 / len(own.values), CONFIDENCE)
    return _with_interval(own.mean, own.draws, width, CONFIDENCE, (0.0, 1.0))


def _difference(runs: Mapping[str, _Seeds], name: str, baseline: str) -> Estimate | None:
    own, base = runs[name], runs[baseline]
    if name == baseline or math.isnan(own.mean):
        return None
    confidence = 1 - (1 - CONFIDENCE) / (len(runs) - 1)
    width = _seed_width(runs, 2 / len(own.values), confidence)
    return _with_interval(own.mean - base.mean, own.draws - base.draws, width, confidence, (-1.0, 1.0))


def _seed_width(runs: Mapping[str, _Seeds], share: float, confidence: float) -> float:
    """Half the width of the interval that seeds alone give, for a figure of variance share * (variance of a seed)."""
    from scipy.stats import t

    spreads = [float(((each.values - each.mean) ** 2).sum()) for each in runs.values()]
    freedom = sum(len(each.values) - 1 for each in runs.values())
    if freedom == 0:
        return 0.0  # one seed says nothing of seeds; the method says so
    return float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(sum(spreads) / freedom * share)


def _with_interval(value: float, draws: Floats, seed_width: float, confidence: float, within: tuple[float, float]) -> Estimate:
    rows = interval_of(value, draws, confidence)
    if rows is None:
        return Estimate(value=value)
    middle, half = (rows[0] + rows[1]) / 2, math.hypot((rows[1] - rows[0]) / 2, seed_width)
    low, high = middle - half, middle + half
    return Estimate(value=value, low=max(low, within[0]), high=min(high, within[1]))


def price_of(counts: NDArray[np.int64]) -> Price:
    """The price of all counts [n, 4] (tp, fp, positives, negatives) together; those without a cut are left out."""
    known = counts[counts[:, 0] >= 0]
    tp, fp, positives, negatives = (int(total) for total in known.sum(axis=0))
    return Price(
        recall=tp / positives if positives else None,
        precision=tp / (tp + fp) if tp + fp else None,
        fpr=fp / negatives if negatives else None,
        alerts_per_hit=(tp + fp) / tp if tp else None,
        missing=len(counts) - len(known),
    )


def _range(values: list[float]) -> Estimate | None:
    if not all(math.isfinite(value) for value in values):
        return None
    return Estimate(value=float(np.mean(values)), low=min(values), high=max(values))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _method(plan: ComparePlan, dataset: Dataset, draws: int) -> tuple[str, ...]:
    units = "groups" if dataset.group is not None else "sequences" if dataset.y is not None and dataset.y.ndim == 3 else "rows"
    others = len(plan.runs) - 1
    seeds = (
        f"and for {len(plan.seeds)} seeds (their standard deviation, pooled over runs, and Student's t)"
        if len(plan.seeds) > 1
        else "but for one seed only: what another seed would give is not in them"
    )
    lines = [f"intervals: 95 %, for the test {units} ({draws} bootstrap draws, the same for every run) {seeds}"]
    if others > 1:
        lines.append(f"those of differences hold for all {others} together (Bonferroni)")
    return tuple(lines)


def _conclusion(run: RunOutcome, baseline: str) -> str:
    difference = run.difference
    assert difference is not None
    told = f"{run.name}: AP {_signed(difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{told} against {baseline}: too few positives to say more"
    told += f" ({_signed(difference.low)} to {_signed(difference.high)}) against {baseline}: "
    if difference.low > 0:
        return told + "it ranks better on these data"
    return told + ("it ranks worse on these data" if difference.high < 0 else "no evidence that it helps")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
