"""Metrics of curves against scikit-learn and brute force; intervals against scipy and by simulation."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from cutpoint.calibration import (
    adaptive_calibration_error,
    average_precision,
    bootstrap_interval,
    brier_skill,
    log_loss_skill,
    partial_roc_auc,
    reliability,
    roc_auc,
)
from cutpoint.calibration.curve import Curve, exact_curve
from cutpoint.calibration.histogram import ScoreHistogram
from cutpoint.calibration.interval import clopper_pearson, poisson_interval
from cutpoint.errors import BadConfig, BadData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import beta, chi2, norm
from sklearn.metrics import average_precision_score, d2_log_loss_score, roc_auc_score

QUICK = settings(deadline=None, max_examples=100, database=None)
OF_BOTH_CLASSES = (roc_auc, partial(partial_roc_auc, max_fpr=0.1), brier_skill, log_loss_skill)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Scores with ties, targets of both classes, and weights or none."""
    rows = draw(st.integers(2, 40))
    score = st.one_of(st.integers(-3, 3).map(float), st.floats(-12, 12, width=32))
    scores = np.array(draw(st.lists(score, min_size=rows, max_size=rows)), np.float32)
    targets = np.array(draw(st.lists(st.sampled_from([0, 0, 1]), min_size=rows, max_size=rows)), np.uint8)
    targets[:2] = 0, 1
    weight = st.floats(0.01, 100)
    weights = draw(st.one_of(st.none(), st.lists(weight, min_size=rows, max_size=rows).map(np.array)))
    return scores, targets, weights


def histogram_curve(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None, limit: int = 32, bits: int = 8
) -> Curve:
    histogram = ScoreHistogram(["a"], weighted=weights is not None, limit=limit, bits=bits)
    histogram.update(scores[:, None], targets[:, None], weights)
    return histogram.curve(0)


def binned(scores: np.ndarray, limit: int, bits: int) -> np.ndarray:
    """The middles of the bins that scores are in, by the definition of the grid."""
    step = 2.0**-bits
    return np.clip(np.floor(scores.astype(np.float64) / step) * step, -limit - step, limit) + step / 2


@QUICK
@given(labelled(), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.999, 1.0]))
def test_ranking_metrics_are_scikit_learns(data: tuple[np.ndarray, np.ndarray, np.ndarray | None], max_fpr: float) -> None:
    scores, targets, weights = data
    curve = exact_curve(scores, targets, weights)
    assert roc_auc(curve) == pytest.approx(roc_auc_score(targets, scores, sample_weight=weights))
    expected = roc_auc_score(targets, scores, sample_weight=weights, max_fpr=max_fpr)
    assert partial_roc_auc(curve, max_fpr) == pytest.approx(expected)
    assert average_precision(curve) == pytest.approx(average_precision_score(targets, scores, sample_weight=weights))


def skill_by_hand(targets: np.ndarray, loss: np.ndarray, of_prevalence: np.ndarray, weights: np.ndarray | None) -> float:
    return float(1 - np.average(loss, weights=weights) / np.average(of_prevalence, weights=weights))


@QUICK
@given(labelled(), st.sampled_from([None, lambda z: z * 0.5 - 1]))
def test_skills_are_scikit_learns(
    data: tuple[np.ndarray, np.ndarray, np.ndarray | None], log_odds: Callable[[np.ndarray], np.ndarray] | None
) -> None:
    scores, targets, weights = data
    curve = exact_curve(scores, targets, weights)
    z = scores.astype(np.float64)
    p = expit(z if log_odds is None else log_odds(z))
    both = np.stack((1 - p, p), axis=1)
    assert log_loss_skill(curve, log_odds) == pytest.approx(
        d2_log_loss_score(targets, both, sample_weight=weights), rel=1e-6, abs=1e-9
    )
    # By its definition, as d2_brier_score is newer than the oldest scikit-learn that the tests run with.
    prevalence = np.average(targets, weights=weights)
    expected = skill_by_hand(targets, (targets - p) ** 2, (targets - prevalence) ** 2, weights)
    assert brier_skill(curve, log_odds) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_brier_skill_is_scikit_learns_where_it_has_one() -> None:
    d2_brier_score = getattr(pytest.importorskip("sklearn.metrics"), "d2_brier_score", None)
    if d2_brier_score is None:
        pytest.skip("this scikit-learn has no d2_brier_score")
    rng = np.random.default_rng(0)
    z = rng.normal(-4, 2, 20_000).astype(np.float32)
    targets = (rng.random(20_000) < expit(z)).astype(np.uint8)
    expected = d2_brier_score(targets, expit(z.astype(np.float64)))
    assert brier_skill(exact_curve(z, targets)) == pytest.approx(expected, rel=1e-9)


@QUICK
@given(labelled(), st.sampled_from([(1, 0), (2, 1), (32, 8)]))
def test_a_histogram_gives_the_metrics_of_scores_at_the_middles_of_its_bins(
    data: tuple[np.ndarray, np.ndarray, np.ndarray | None], grid: tuple[int, int]
) -> None:
    scores, targets, weights = data  # many are below the small grids
    limit, bits = grid
    curve = histogram_curve(scores, targets, weights, limit=limit, bits=bits)
    middles = exact_curve(binned(scores, limit, bits), targets, weights)
    for metric in (average_precision, *OF_BOTH_CLASSES):
        assert metric(curve) == pytest.approx(metric(middles), rel=1e-6, abs=1e-9), metric
    if weights is None:  # of weights, which bin a tie is in may be a matter of rounding
        assert reliability(curve) == reliability(middles)
    assert roc_auc(curve) == pytest.approx(roc_auc_score(targets, binned(scores, limit, bits), sample_weight=weights))


def test_ties_count_half() -> None:
    assert roc_auc(exact_curve(np.array([2.0, 1, 1, 0]), np.array([1, 1, 0, 0]))) == (1 + 1 + 0.5 + 1) / 4
    assert roc_auc(exact_curve(np.zeros(9), np.arange(9) % 2)) == 0.5
    below = histogram_curve(np.array([-9.0, -8, -7]), np.array([0, 1, 0]), limit=1)
    assert len(below.cuts) == 0 and roc_auc(below) == 0.5 and average_precision(below) == pytest.approx(1 / 3)
    assert partial_roc_auc(below, 0.1) == pytest.approx(0.5)


def test_partial_roc_auc_refuses_rates_that_are_none() -> None:
    curve = exact_curve(np.arange(4.0), np.array([0, 1, 0, 1]))
    for max_fpr in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(BadConfig, match="max_fpr"):
            partial_roc_auc(curve, max_fpr)


@pytest.mark.parametrize("targets", [np.zeros(3, np.uint8), np.ones(3, np.uint8), np.full(3, 255, np.uint8), None])
def test_metrics_are_nan_where_a_class_is_missing(targets: np.ndarray | None) -> None:
    curve = exact_curve(np.arange(3.0), targets)
    for metric in OF_BOTH_CLASSES:
        assert math.isnan(metric(curve))
        assert np.isnan(bootstrap_interval(curve, metric, draws=3)).all()


def test_log_loss_of_large_log_odds_is_exact_and_of_wrong_infinite_ones_infinite() -> None:
    far = exact_curve(np.array([1000.0, -1000, 700, -700]), np.array([1, 0, 0, 1]))  # the last two cost 700 each
    assert log_loss_skill(far) == pytest.approx(1 - 1400 / (4 * math.log(2)))
    right = exact_curve(np.array([np.inf, -np.inf]), np.array([1, 0]))
    wrong = exact_curve(np.array([np.inf, -np.inf, 0]), np.array([1, 1, 0]))
    assert (log_loss_skill(right), brier_skill(right)) == (1, 1)
    assert log_loss_skill(wrong) == -math.inf and math.isfinite(brier_skill(wrong))
    low, high = bootstrap_interval(wrong, log_loss_skill, draws=100)
    assert low == -math.inf and high < 1


def test_answering_the_prevalence_has_no_skill_and_constant_zero_less() -> None:
    targets = (np.arange(10_000) % 1000 == 0).astype(np.uint8)
    curve = exact_curve(np.arange(10_000) % 7, targets)
    for metric in (brier_skill, log_loss_skill):
        assert metric(curve, lambda z: np.full_like(z, math.log(1 / 999))) == pytest.approx(0, abs=1e-12)
        assert metric(curve, lambda z: np.full_like(z, -40)) < -1e-4
    assert adaptive_calibration_error(curve, lambda z: np.full_like(z, -40)) == pytest.approx(0.001)


def test_log_odds_that_do_not_fit_are_refused() -> None:
    curve = exact_curve(np.arange(4.0), np.array([0, 1, 0, 1]))
    for metric in (brier_skill, log_loss_skill, reliability, adaptive_calibration_error):
        with pytest.raises(BadData, match="NaN in 4 places"):
            metric(curve, lambda z: z * np.nan)
        with pytest.raises(BadData, match=r"shape \[3\]"):
            metric(curve, lambda z: z[1:])


@QUICK
@given(labelled(), st.integers(1, 12))
def test_reliability_bins_are_the_rows_between_two_scores(
    data: tuple[np.ndarray, np.ndarray, np.ndarray | None], bins: int
) -> None:
    scores, targets, weights = data
    each = np.ones(len(scores)) if weights is None else weights
    found = reliability(exact_curve(scores, targets, weights), bins=bins)
    # By brute force: from the highest score down, a bin is full when the next row belongs to the next share of positives.
    expected: list[list[int]] = []
    share = -1
    total = each[targets == 1].sum()
    lowest = scores[targets == 1].min()
    for score in sorted(set(scores.tolist()), reverse=True):
        above = each[(targets == 1) & (scores > score)].sum()
        if abs(above * bins / total - round(above * bins / total)) < 1e-9 and weights is not None:
            return  # which share is a matter of rounding
        mine = math.floor(above * bins / total + 1e-12)
        if score >= lowest and mine != share:
            expected.append([])
            share = mine
        expected[-1] += np.flatnonzero(scores == np.float32(score)).tolist()
    assert len(found) == len(expected) <= bins
    for one, rows in zip(found, reversed(expected), strict=True):
        w, y, p = each[rows], targets[rows], expit(scores[rows].astype(np.float64))
        assert (one.rows, one.positives) == pytest.approx((w.sum(), (w * y).sum()))
        assert (one.predicted, one.observed) == pytest.approx((np.average(p, weights=w), np.average(y, weights=w)))
        assert 0 <= one.low <= one.observed <= one.high <= 1
        if weights is None:
            assert (one.low, one.high) == pytest.approx(clopper_pearson(y.sum(), len(y)))
    gaps = [one.rows * abs(one.predicted - one.observed) for one in found]
    error = adaptive_calibration_error(exact_curve(scores, targets, weights), bins=bins)
    assert error == pytest.approx(sum(gaps) / each.sum())


def test_reliability_by_hand() -> None:
    scores = np.array([5.0, 4, 4, 3, 2, 1, 0, -1])
    targets = np.array([1, 0, 1, 0, 1, 1, 0, 0])
    low, high = reliability(exact_curve(scores, targets), bins=2)
    assert (high.rows, high.positives, low.rows, low.positives) == (3, 2, 5, 2)  # a bin ends at a positive
    assert isinstance(high.rows, int)
    assert low.predicted == pytest.approx(expit([3, 2, 1, 0, -1]).mean())
    assert len(reliability(exact_curve(np.zeros(8), targets))) == 1  # a tie is never split
    assert len(reliability(exact_curve(scores, targets), bins=100)) == 4
    (nothing,) = reliability(exact_curve(scores, np.zeros(8)))
    assert (nothing.observed, nothing.low, nothing.rows) == (0, 0, 8) and nothing.high == pytest.approx(1 - 0.025 ** (1 / 8))
    for curve in (exact_curve(np.zeros(0), np.zeros(0)), exact_curve(scores, None)):
        assert reliability(curve) == () and math.isnan(adaptive_calibration_error(curve))
    for bad in ({"bins": 0}, {"confidence": 1.0}):
        with pytest.raises(BadConfig):
            reliability(exact_curve(scores, targets), **bad)


def test_reliability_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside: dict[bool, list[bool]] = {False: [], True: []}
    for _ in range(40):
        z = rng.normal(-5, 2, 20_000)
        targets = (rng.random(len(z)) < expit(z)).astype(np.uint8)
        # One negative in ten is kept, and stands for ten: the log-odds are the same, from fewer rows.
        kept = (targets == 1) | (rng.random(len(z)) < 0.1)
        weights = np.where(targets == 1, 1.0, 10.0)[kept]
        for weighted, curve in ((False, exact_curve(z, targets)), (True, exact_curve(z[kept], targets[kept], weights))):
            inside[weighted] += [one.low <= one.predicted <= one.high for one in reliability(curve)]
    for weighted in (False, True):
        assert 0.94 <= np.mean(inside[weighted]) <= 0.99, weighted  # Clopper-Pearson keeps more than it promises


def test_adaptive_bins_see_what_cancels_in_the_first_bin_of_equal_width() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-9, 2.5, 300_000).astype(np.float32)
    targets = (rng.random(len(z)) < expit(z)).astype(np.uint8)
    curve, prevalence = exact_curve(z, targets), targets.mean()

    # Half the slope, and the mean kept: low scores are answered too high, high ones too low.
    def flat(x: np.ndarray) -> np.ndarray:
        return x * 0.5 - 3.55

    p = expit(flat(z))
    bins = (p * 15).astype(int)
    usual = np.abs(np.bincount(bins, p) - np.bincount(bins, targets)).sum() / len(z)
    honest, flattened = (adaptive_calibration_error(curve, each) for each in (None, flat))
    assert honest < 0.2 * prevalence < 0.5 * prevalence < flattened
    assert usual < 0.95 * flattened


# The bootstrap.


def test_a_bootstrap_of_average_precision_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    positives, negatives, shift = 100, 5000, 2.0
    t = np.linspace(-8, 12, 100_001)
    tp, fp = positives * norm.sf(t - shift), negatives * norm.sf(t)
    precision, recall = tp / (tp + fp), tp / positives
    truth = float(np.sum((precision[1:] + precision[:-1]) / 2 * -np.diff(recall)))
    targets = np.repeat([1, 0], [positives, negatives])
    covered, widths = 0, []
    for seed in range(100):
        scores = rng.normal(size=positives + negatives) + shift * targets
        curve = exact_curve(scores, targets, cuts="positives")
        low, high = bootstrap_interval(curve, average_precision, draws=200, seed=seed)
        assert low < average_precision(curve) < high
        covered += low <= truth <= high
        widths.append(high - low)
    assert 88 <= covered <= 100  # of 95 expected; 88 or fewer have a chance of 0.3 %
    assert 0.1 < np.mean(widths) < 0.25


def test_a_bootstrap_at_all_cuts_is_as_wide_as_one_by_drawing_rows() -> None:
    rng = np.random.default_rng(1)
    targets = np.repeat([1, 0], [60, 600])
    scores = (rng.normal(size=660) + 1.5 * targets).round(1)
    values = []
    for _ in range(400):
        drawn = np.concatenate((rng.integers(0, 60, 60), rng.integers(60, 660, 600)))
        values.append(roc_auc_score(targets, scores[drawn]))
    expected = np.quantile(values, [0.05, 0.95])
    found = bootstrap_interval(exact_curve(scores, targets), roc_auc, confidence=0.9, draws=400)
    assert found == pytest.approx(expected, abs=0.012)


def test_a_drawn_curve_is_a_curve_of_as_many_rows() -> None:
    rng = np.random.default_rng(2)
    targets = np.repeat([1, 0], [5, 20])
    scores = rng.normal(size=25).round(1) * 3
    seen: set[int] = set()

    def metric(curve: Curve, whole: Curve) -> float:
        assert (curve.positives, curve.negatives) == (5, 20)
        assert (np.diff(curve.alerts, prepend=0) > 0).all(), "a cut without rows is left out"
        assert (np.diff(curve.cuts) < 0).all() and set(curve.cuts.tolist()) <= set(whole.cuts.tolist())
        assert len(curve.cuts) == len(curve.below) and (curve.below < curve.cuts).all()
        assert curve.top >= (curve.cuts[0] if len(curve.cuts) else -math.inf)
        if whole.step == 0:
            assert (curve.tp[-1], curve.fp[-1]) == (5, 20)
        seen.add(len(curve.cuts))
        return brier_skill(curve)

    for limit in (None, 8, 1):
        whole = exact_curve(scores, targets) if limit is None else histogram_curve(scores, targets, limit=limit, bits=2)
        low, high = bootstrap_interval(whole, partial(metric, whole=whole), draws=200, confidence=0.9)
        assert low < brier_skill(whole) < high
        assert len(seen) > 1
    # All rows below the grid: there is one tie, and nothing to vary.
    whole = histogram_curve(scores - 99, targets, limit=1)
    assert bootstrap_interval(whole, brier_skill, draws=9) == (brier_skill(whole),) * 2


@pytest.mark.parametrize("prevalence", [0.002, 0.3])
def test_pooling_many_cuts_leaves_metrics_as_they_are(prevalence: float) -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(100_000) < prevalence).astype(np.uint8)
    scores = rng.normal(size=len(targets)) + 2 * targets
    curve = exact_curve(scores, targets)
    log_odds = partial(np.add, math.log(prevalence / (1 - prevalence)) - 1)
    sizes = []

    def counting(curve: Curve) -> float:
        sizes.append(len(curve.cuts))
        return average_precision(curve)

    bootstrap_interval(curve, counting, draws=2)
    assert len(curve.cuts) > 90_000 and max(sizes) <= 4200
    for metric in (
        average_precision,
        roc_auc,
        partial(brier_skill, log_odds=log_odds),
        partial(log_loss_skill, log_odds=log_odds),
    ):
        low, high = bootstrap_interval(curve, metric, draws=60)
        assert low < metric(curve) < high and high - low < 0.1


def test_a_bootstrap_repeats_itself_and_refuses_what_it_cannot_do() -> None:
    rng = np.random.default_rng(4)
    targets = np.repeat([1, 0], [20, 50])
    curve = exact_curve(rng.normal(size=70) + targets, targets)
    same = [bootstrap_interval(curve, roc_auc, draws=50, seed=seed) for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]
    with pytest.raises(BadData, match="weighted"):
        bootstrap_interval(exact_curve(np.arange(2.0), np.array([0, 1]), np.ones(2)), roc_auc)
    for bad in ({"draws": 0}, {"confidence": 0.0}, {"confidence": 95}):
        with pytest.raises(BadConfig, match=next(iter(bad))):
            bootstrap_interval(curve, roc_auc, **bad)


# Intervals of counts.


@pytest.mark.parametrize("of", [0.3, 1.0, 2.5, 812.75])
@pytest.mark.parametrize("share", [0.0, 1e-17, 0.01, 0.5, 0.999, 1 - 1e-16, 1.0])
def test_clopper_pearson_takes_counts_that_are_not_whole(of: float, share: float) -> None:
    count = share * of
    low, high = clopper_pearson(count, of, 0.9)
    assert 0 <= low <= share <= high <= 1
    if 0.01 <= share <= 0.999:
        expected = beta.ppf(0.05, count, of - count + 1), beta.ppf(0.95, count + 1, of - count)
        assert (low, high) == pytest.approx(expected, rel=1e-9)


def test_clopper_pearson_takes_what_rounding_makes_of_all_and_of_none() -> None:
    assert clopper_pearson(3.0000000000000004, 3.0) == clopper_pearson(3, 3)
    assert clopper_pearson(-1e-17, 3.0) == clopper_pearson(0, 3)
    low, high = clopper_pearson(2.9999999999999996, 3.0)
    assert (low, high) == pytest.approx(clopper_pearson(3, 3))


@pytest.mark.parametrize("count", [0, 1, 7, 2.5, 10_000])
@pytest.mark.parametrize("confidence", [0.95, 0.5, 0.999])
def test_the_poisson_interval_is_that_of_chi_squares(count: float, confidence: float) -> None:
    tail = (1 - confidence) / 2
    expected = (chi2.ppf(tail, 2 * count) / 2 if count else 0.0, chi2.ppf(1 - tail, 2 * count + 2) / 2)
    assert poisson_interval(count, 1, confidence) == pytest.approx(expected, rel=1e-9)
    low, high = poisson_interval(count, 12.5, confidence)
    assert (low * 12.5, high * 12.5) == pytest.approx(expected, rel=1e-9)
    assert poisson_interval(count, 0, confidence) == (0, math.inf)
