"""Calibrators against scikit-learn, brute-force optimisation with scipy, and brute-force refitting."""

import math
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from cutpoint.calibration.calibrator import (
    Calibrator,
    Kind,
    ProbabilityMap,
    fit_calibrator,
    fit_pooled,
    probabilities,
)
from cutpoint.calibration.curve import Curve, exact_curve
from cutpoint.calibration.histogram import ScoreHistogram
from cutpoint.calibration.isotonic import TOLERANCE, isotonic, knots, venn_abers
from cutpoint.errors import BadConfig, BadData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

QUICK = settings(deadline=None, max_examples=60, database=None)
KINDS: tuple[Kind, ...] = get_args(Kind)
FITTED = KINDS[1:]
EXTREMES = [-np.inf, np.inf, 0.0, -0.0, 3.4028235e38, -3.4028235e38, 1e-45, 16.7, -104.0]
WIDE = np.array([-np.inf, -3.4e38, -1e4, -40, -5, -1e-45, 0, 1e-45, 5, 40, 1e4, 3.4e38, np.inf], np.float32)
EXAMPLES = [
    Calibrator(),
    Calibrator(shift=4.5),
    Calibrator(kind="temperature", coefficients=(0.7,), shift=-1),
    Calibrator(kind="temperature", coefficients=(0.0,)),
    Calibrator(kind="platt", coefficients=(1.5, -2.0)),
    Calibrator(kind="platt", coefficients=(0.0, -2.0), shift=0.3),
    Calibrator(kind="beta", coefficients=(0.7, 1.8, -0.5), shift=1.0),
    Calibrator(kind="beta", coefficients=(0.0, 1.8, -0.5)),
    Calibrator(kind="beta", coefficients=(0.5, 0.0, 3.0)),
    Calibrator(kind="isotonic", x=(-3.0, 0.0, 0.5), y=(-5.0, -5.0, 1.0), shift=0.25),
    Calibrator(kind="venn_abers", x=(2.0,), y=(-1.0,)),
]


def rare(rows: int, rate: float = 0.01, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True log-odds, targets, and the logits of a model that exaggerates and was trained on balanced classes."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=rows) * 2
    low, high = -20.0, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(true + middle).mean() < rate else (low, middle)
    true += low
    return true, (rng.random(rows) < expit(true)).astype(np.uint8), (1.4 * true + math.log(99)).astype(np.float32)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    rows = draw(st.integers(0, 30))
    scores = draw(
        st.lists(
            st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50, width=32), st.sampled_from(EXTREMES)),
            min_size=rows,
            max_size=rows,
        )
    )
    targets = draw(hnp.arrays(np.uint8, rows, elements=st.sampled_from([0, 0, 1, 255])))
    weights = draw(st.one_of(st.none(), hnp.arrays(np.float64, rows, elements=st.sampled_from([0.0, 0.25, 1.0, 1e-9, 70.0]))))
    return exact_curve(np.array(scores, np.float32), targets, weights)


@QUICK
@given(curves(), st.sampled_from([*FITTED, "auto"]), st.sampled_from([0.0, 0.5, 5.0]), st.sampled_from([0.0, -4.6]))
def test_a_fit_is_monotone_and_within_bounds_whatever_the_data(curve: Curve, kind: Kind, shrink: float, shift: float) -> None:
    made = fit_calibrator(curve, kind, shift=shift, shrink=shrink)
    assert made.shift == shift and made.why
    logits = np.sort(np.concatenate([WIDE, curve.cuts, np.linspace(-60, 60, 200, dtype=np.float32)]))
    odds = made.log_odds(logits)
    assert not np.isnan(odds).any()
    # Finite values may fall by rounding alone.
    finite = np.isfinite(odds)
    assert (np.diff(odds[finite]) >= -1e-12 * np.abs(odds[finite][1:])).all()
    assert (np.diff(finite.astype(int), prepend=0) > 0).sum() <= 1, "infinite at the ends only"
    served = ProbabilityMap([made])(logits[:, None])[:, 0]
    assert served.min() >= 0 and served.max() <= 1 and (np.diff(served) >= 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_without_shrinking_platt_and_temperature_are_scikit_learns(weighted: bool) -> None:
    _, targets, raw = rare(4000)
    weights = np.random.default_rng(1).random(4000) if weighted else None
    curve, z = exact_curve(raw, targets, weights), raw[:, None].astype(np.float64) - 4
    for kind, intercept in (("temperature", False), ("platt", True)):
        oracle = LogisticRegression(C=np.inf, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12)
        oracle.fit(z, targets, sample_weight=weights)
        expected = [*oracle.coef_[0], *oracle.intercept_][: 1 + intercept]
        made = fit_calibrator(curve, kind, shift=4, shrink=0)
        assert made.coefficients == pytest.approx(expected, abs=1e-5)
        expected_odds = oracle.decision_function(z)
        np.testing.assert_allclose(made.log_odds(raw), expected_odds, atol=1e-4)


def beta_loss(c: np.ndarray, z: np.ndarray, targets: np.ndarray) -> float:
    f = c[0] * log_expit(z) - c[1] * log_expit(-z) + c[2]
    return -float(np.sum(np.where(targets, log_expit(f), log_expit(-f))))


@pytest.mark.parametrize("case", ["plain", "left slope 0", "right slope 0", "both 0"])
def test_beta_without_shrinking_is_the_best_with_slopes_from_0(case: str) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=3000).astype(np.float32) * 2
    true = {"plain": 1.5 * z - 1, "left slope 0": np.abs(z) - 1, "right slope 0": -np.abs(z) + 1, "both 0": -z}[case]
    targets = rng.random(3000) < expit(true)
    made = fit_calibrator(exact_curve(z, targets), "beta", shrink=0)
    double = z.astype(np.float64)
    best = minimize(
        beta_loss,
        np.array([1.0, 1, 0]),
        (double, targets),
        "L-BFGS-B",
        bounds=[(0, None), (0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-8},
    )
    assert made.coefficients == pytest.approx(best.x, abs=2e-3)
    assert beta_loss(np.array(made.coefficients), double, targets) <= best.fun + 1e-6
    assert [c == 0 for c in made.coefficients[:2]] == [c < 1e-9 for c in best.x[:2]]


def test_shrinking_is_the_penalty_that_is_stated() -> None:
    _, targets, raw = rare(3000)
    z = raw.astype(np.float64) - 4
    pooled = Calibrator(kind="platt", coefficients=(0.6, 0.3), shift=99.0)
    centre, spread = z[targets == 1].mean(), z.var()

    def loss(c: np.ndarray) -> float:
        f = c[0] * z + c[1]
        level = c[0] * centre + c[1] - (0.6 * centre + 0.3)
        return -float(np.sum(log_expit(np.where(targets, f, -f)))) + 7 / 2 * (level**2 + spread * (c[0] - 0.6) ** 2)

    best = minimize(loss, np.array([1.0, 0.0]), method="BFGS", options={"gtol": 1e-6})
    made = fit_calibrator(exact_curve(raw, targets), "platt", shift=4, pooled=pooled, shrink=7)
    assert made.coefficients == pytest.approx(best.x, abs=1e-4)
    assert "7 positives' worth towards the pooled fit (platt)" in made.why


@pytest.mark.parametrize("kind", FITTED[:-1])
@pytest.mark.parametrize("pooled", [None, *(each for each in EXAMPLES if each.kind in ("temperature", "platt", "beta"))])
def test_an_endless_shrink_gives_the_pooled_fit_where_the_kind_holds_it(kind: Kind, pooled: Calibrator | None) -> None:
    _, targets, raw = rare(2000)
    made = fit_calibrator(exact_curve(raw, targets), kind, shift=2, pooled=pooled, shrink=1e9)
    assert made.shift == 2
    holds = {"temperature": 1, "platt": 2, "beta": 3, "isotonic": 4}
    if pooled is None or holds[kind] >= holds[pooled.kind]:
        target = replace_shift(pooled or Calibrator(), 2)
        atol = 1e-3 if kind != "isotonic" else 2 * TOLERANCE
        np.testing.assert_allclose(made.log_odds(raw), target.log_odds(raw), atol=atol)


def replace_shift(calibrator: Calibrator, shift: float) -> Calibrator:
    return calibrator.model_copy(update={"shift": shift})


def test_shrinking_draws_towards_the_pooled_fit() -> None:
    _, targets, raw = rare(3000)
    curve, pooled = exact_curve(raw, targets), Calibrator(kind="platt", coefficients=(0.2, -6.0))
    for kind in ("temperature", "platt", "beta", "isotonic"):
        target = pooled.log_odds(raw[targets == 1])
        away = [
            np.mean((fit_calibrator(curve, kind, pooled=pooled, shrink=k).log_odds(raw[targets == 1]) - target) ** 2)
            for k in (0, 5, 50, 5000)
        ]
        assert away == sorted(away, reverse=True) and away[-1] < away[0]
        assert kind == "temperature" or away[-1] < away[0] / 2, "temperature has no level of its own to move"


@pytest.mark.parametrize("kind", FITTED)
def test_three_positives_perfectly_separated_converge(kind: Kind) -> None:
    scores = np.concatenate([np.linspace(-9, -3, 500), [2, 2.5, 6]]).astype(np.float32)
    curve = exact_curve(scores, np.arange(503) >= 500)
    made = fit_calibrator(curve, kind)
    odds = made.log_odds(scores)
    assert (odds[-3:] > 0).all() and (odds[:400] < -1).all() and np.abs(odds).max() < 40
    if made.coefficients:
        assert 0.5 < made.coefficients[0] < 3, "held near 1"
    steep = fit_calibrator(curve, kind, shrink=0).log_odds(scores)
    assert np.isfinite(steep).all() and (np.diff(steep) >= -1e-12).all()


def test_one_positive_far_from_where_it_is_expected_converges() -> None:
    # Whole Newton steps diverge here.
    scores = np.concatenate([np.random.default_rng(3).normal(-8, 2, 20_000), [-25.0]]).astype(np.float32)
    for kind in ("platt", "beta"):
        made = fit_calibrator(exact_curve(scores, np.arange(20_001) == 20_000), kind, shift=-15)
        assert expit(made.log_odds(scores)).sum() == pytest.approx(1, abs=2)


def isotonic_oracle(scores: np.ndarray, hits: np.ndarray, misses: np.ndarray, at: np.ndarray) -> np.ndarray:
    x, y = np.concatenate([scores, scores]), np.repeat([1.0, 0.0], len(scores))
    weights = np.concatenate([hits, misses])
    used = weights > 0
    return IsotonicRegression(out_of_bounds="clip").fit(x[used], y[used], sample_weight=weights[used]).predict(at)


def test_isotonic_is_scikit_learns_within_its_bounds_and_tolerance() -> None:
    _, targets, raw = rare(3000)
    raw = raw.round(1)  # ties
    made = fit_calibrator(exact_curve(raw, targets), "isotonic", shrink=0)
    at = np.unique(raw)
    expected = IsotonicRegression().fit(raw, targets).predict(at)
    least = 0.5 / 3001
    expected = np.clip(expected, least, 1 - least)
    np.testing.assert_allclose(made.log_odds(at), np.log(expected / (1 - expected)), atol=TOLERANCE + 1e-9)
    assert len(made.x) < len(at) / 2, "knots are spared"
    shrunk = fit_calibrator(exact_curve(raw, targets), "isotonic", shrink=5)
    positives = targets.sum()
    mixed = (positives * np.log(expected / (1 - expected)) + 5 * at) / (positives + 5)
    np.testing.assert_allclose(shrunk.log_odds(at), mixed, atol=TOLERANCE + 1e-9)


@QUICK
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=25), st.sampled_from([1.0, 0.3, 5.5]))
def test_venn_abers_is_refitting_with_every_score_added(counts: list[tuple[int, int]], weight: float) -> None:
    counts = [each for each in counts if sum(each)] or [(1, 1)]
    hits, misses = np.array(counts, np.float64).T * weight
    scores = np.arange(len(hits)) * 0.5 - 3
    p0, p1 = venn_abers(scores, hits, misses)
    for i, score in enumerate(scores):
        one = np.where(np.arange(len(hits)) == i, 1.0, 0.0)
        assert p1[i] == pytest.approx(isotonic_oracle(scores, hits + one, misses, np.array([score]))[0], abs=1e-9)
        assert p0[i] == pytest.approx(isotonic_oracle(scores, hits, misses + one, np.array([score]))[0], abs=1e-9)
    assert (np.diff(p0) >= 0).all() and (np.diff(p1) >= 0).all() and (p0 <= p1 + 1e-9).all()
    assert p0[-1] < 1 and p1[0] > 0


def test_venn_abers_of_many_scores_and_its_calibrator() -> None:
    rng = np.random.default_rng(4)
    scores = np.sort(rng.normal(size=400).astype(np.float32)).astype(np.float64)
    targets = rng.random(400) < expit(2.0 * scores - 2)
    p0, p1 = venn_abers(scores, targets, ~targets)
    for i in range(0, 400, 37):
        for label, p in ((0, p0), (1, p1)):
            x, y = np.append(scores, scores[i]), np.append(targets, label)
            assert p[i] == pytest.approx(IsotonicRegression().fit(x, y).predict([scores[i]])[0], abs=1e-9)
    made = fit_calibrator(exact_curve(scores, targets), "venn_abers")
    np.testing.assert_allclose(expit(made.log_odds(scores)), p1 / (1 - p0 + p1), rtol=TOLERANCE)
    assert "not shrunk" in made.why


def test_no_scores_and_bad_scores_for_venn_abers() -> None:
    nothing = np.zeros(0)
    assert [len(each) for each in venn_abers(nothing, nothing, nothing)] == [0, 0]
    assert len(isotonic(nothing, nothing)) == 0
    with pytest.raises(BadData, match="three lists, as long"):
        venn_abers(np.zeros(2), np.zeros(1), np.zeros(2))
    with pytest.raises(BadData, match=r"scores is \[1.0, 1.0\]; expected strictly ascending"):
        venn_abers(np.ones(2), np.ones(2), np.ones(2))
    with pytest.raises(BadData, match="negatives is"):
        venn_abers(np.arange(2), np.ones(2), -np.ones(2))


@QUICK
@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 3)))
def test_knots_keep_the_line_to_within_the_tolerance(rises: np.ndarray) -> None:
    x, y = np.arange(len(rises)) * 0.25, np.cumsum(np.where(rises < 2, 0.002 * rises, rises))
    few_x, few_y = knots(x, y)
    assert np.abs(np.interp(x, few_x, few_y) - y).max() <= TOLERANCE
    assert set(zip(few_x, few_y, strict=True)) <= set(zip(x, y, strict=True))
    straight = knots(np.arange(1000.0), np.arange(1000.0) / 3)
    assert len(straight[0]) == 2


def test_auto_goes_by_the_number_of_positives() -> None:
    _, targets, raw = rare(40_000)
    positive, negative = raw[targets == 1], raw[targets == 0]
    pooled = Calibrator(kind="platt", coefficients=(0.8, 0.1), shift=77)
    for count, kind in ((0, "none"), (9, "none"), (10, "temperature"), (29, "temperature"), (30, "platt"), (100, "beta")):
        scores = np.concatenate([positive[:count], negative])
        curve = exact_curve(scores, np.arange(len(scores)) < count)
        made = fit_calibrator(curve, shift=4.5)
        assert (made.kind, made.shift) == (kind, 4.5)
        assert f"{count} positives and {len(negative)} negatives" in made.why
        held = fit_calibrator(curve, shift=4.5, pooled=pooled)
        assert held.shift == 4.5 and (kind != "none" or held.coefficients == pooled.coefficients)
        if kind != "none":
            # Weights of equal size change nothing; of unequal size they count as fewer.
            weighted = fit_calibrator(exact_curve(scores, np.arange(len(scores)) < count, np.full(len(scores), 0.1)), shift=4.5)
            assert weighted.coefficients == pytest.approx(made.coefficients, abs=1e-6)
    scores = np.concatenate([positive[:30], negative])
    weights = np.where(np.arange(len(scores)) < 20, 0.01, 1.0)
    assert fit_calibrator(exact_curve(scores, np.arange(len(scores)) < 30, weights)).kind == "temperature"


@pytest.mark.parametrize("kind", FITTED)
def test_without_one_of_the_classes_it_is_the_pooled_fit_or_none(kind: Kind) -> None:
    scores, pooled = np.arange(20.0), Calibrator(kind="temperature", coefficients=(2.0,))
    nothing = exact_curve(np.zeros(0), np.zeros(0))
    no_cuts = replace(nothing, positives=3, negatives=9)  # all under a histogram's grid
    for curve in (
        exact_curve(scores, np.ones(20)),
        exact_curve(scores, np.zeros(20)),
        exact_curve(scores, None),
        nothing,
        no_cuts,
    ):
        for asked in (kind, "auto"):
            plain, held = fit_calibrator(curve, asked, shift=1), fit_calibrator(curve, asked, shift=1, pooled=pooled)
            assert (plain.kind, plain.shift, held.coefficients, held.shift) == ("none", 1, (2.0,), 1)
            assert "where a fit takes" in plain.why and "the pooled fit (temperature)" in held.why
    assert fit_calibrator(exact_curve(scores, scores > 9), "none", shift=3).shift == 3


@pytest.mark.parametrize("kind", FITTED)
def test_a_histogram_gives_what_the_scores_give(kind: Kind) -> None:
    _, targets, raw = rare(20_000)
    histogram = ScoreHistogram(["a"])
    histogram.update(raw[:, None], targets[:, None])
    exact, binned = fit_calibrator(exact_curve(raw, targets), kind), fit_calibrator(histogram.curve(0), kind)
    middle = np.quantile(raw, [0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(binned.log_odds(middle), exact.log_odds(middle), atol=0.05 if exact.x else 1e-2)
    if exact.coefficients:
        assert binned.coefficients == pytest.approx(exact.coefficients, abs=1e-2)


def test_rows_under_a_histograms_grid_count() -> None:
    _, targets, raw = rare(20_000)
    raw = raw - 4
    low = raw < -8
    curve = exact_curve(raw[~low], targets[~low])
    clipped = replace(curve, positives=int(targets.sum()), negatives=int((1 - targets).sum()), step=2.0**-8)
    made, expected = (
        fit_calibrator(each, "platt", shrink=0) for each in (clipped, exact_curve(np.maximum(raw, -8.0), targets))
    )
    assert made.coefficients == pytest.approx(expected.coefficients, abs=1e-2)


def test_a_million_scores_are_pooled() -> None:
    _, targets, raw = rare(300_000)
    curve = exact_curve(raw, targets)
    made = fit_calibrator(curve, "platt", shrink=0)
    oracle = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(raw[:, None].astype(float), targets)
    assert made.coefficients == pytest.approx([oracle.coef_[0, 0], oracle.intercept_[0]], abs=1e-3)
    spread = exact_curve(raw * np.float32(500), targets)  # beyond what a grid of 1/256 holds
    assert fit_calibrator(spread, "platt", shrink=0).coefficients[0] == pytest.approx(made.coefficients[0] / 500, rel=0.05)


def test_pooling_undoes_each_labels_shift() -> None:
    parts = [rare(5000, seed=seed) for seed in range(4)]
    shifts = [0.0, 1.5, -2.0, 4.0]
    shifted = [exact_curve(raw + np.float32(s), targets) for (_, targets, raw), s in zip(parts, shifts, strict=True)]
    together = exact_curve(np.concatenate([raw for _, _, raw in parts]), np.concatenate([y for _, y, _ in parts]))
    pooled = fit_pooled(iter(shifted), "platt", shifts=shifts)
    assert pooled.coefficients == pytest.approx(fit_calibrator(together, "platt").coefficients, abs=1e-3)
    assert pooled.shift == 0 and pooled.why.startswith("4 labels together: platt: fitted to")
    assert fit_pooled(shifted, shifts=4.5).shift == 4.5
    assert fit_pooled(shifted).kind == "beta"
    assert fit_pooled([]).kind == "none" == fit_pooled([exact_curve(np.zeros(3), None)]).kind
    for wrong in ([1.0], [1.0] * 5):
        with pytest.raises(BadData, match="shifts is"):
            fit_pooled(shifted, shifts=wrong)


def test_wrong_arguments_are_named() -> None:
    curve = exact_curve(np.zeros(2), np.arange(2))
    with pytest.raises(BadConfig, match="calibrator is 'plat'; expected auto or none or temperature"):
        fit_calibrator(curve, "plat")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="shift is inf"):
        fit_calibrator(curve, shift=math.inf)
    with pytest.raises(BadConfig, match="shrink is -1"):
        fit_pooled([curve], shrink=-1)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "platt", "coefficients": (1.0,)}, "expected 2 numbers for kind platt"),
        ({"coefficients": (1.0,)}, "expected 0 numbers for kind none"),
        ({"kind": "beta", "coefficients": (1.0, -0.1, 2.0)}, "expected slopes from 0"),
        ({"kind": "temperature", "coefficients": (-1.0,)}, "expected slopes from 0"),
        ({"kind": "isotonic"}, "expected as many of each, at least one"),
        ({"kind": "isotonic", "x": (1.0, 2.0), "y": (1.0,)}, "2 and 1 knots"),
        ({"kind": "none", "x": (1.0,), "y": (1.0,)}, "expected none for kind none"),
        ({"kind": "venn_abers", "x": (1.0, 1.0), "y": (1.0, 2.0)}, "strictly ascending"),
        ({"kind": "venn_abers", "x": (1.0, 2.0), "y": (1.0, 0.5)}, "do not decrease"),
        ({"kind": "platt", "coefficients": (1.0, math.inf)}, "finite"),
        ({"shift": math.nan}, "finite"),
        ({"kind": "beta", "coefficients": (1.0, 1.0, 0.0), "slope": 1}, "Extra"),
    ],
)
def test_what_is_no_calibrator_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Calibrator.model_validate(fields)
    Calibrator(kind="platt", coefficients=(0.0, -1.0))  # only slopes are held from 0


@pytest.mark.parametrize("made", EXAMPLES, ids=str)
def test_the_map_by_its_definition_and_at_infinity(made: Calibrator) -> None:
    z = np.linspace(-20, 20, 81) - made.shift
    with np.errstate(all="ignore"):
        expected = {
            "none": lambda: z,
            "temperature": lambda: made.coefficients[0] * z,
            "platt": lambda: made.coefficients[0] * z + made.coefficients[1],
            "beta": lambda: made.coefficients[0] * log_expit(z) - made.coefficients[1] * log_expit(-z) + made.coefficients[2],
            "isotonic": lambda: np.interp(z, made.x, made.y),
            "venn_abers": lambda: np.interp(z, made.x, made.y),
        }[made.kind]()
    np.testing.assert_allclose(made.log_odds(np.linspace(-20, 20, 81)), expected, atol=1e-9)
    ends, far = made.log_odds(np.array([-np.inf, np.inf])), made.log_odds(np.array([-1e300, 1e300]))
    np.testing.assert_allclose(ends, np.where(np.abs(far) > 1e200, np.copysign(np.inf, far), far), atol=1e-9)
    assert np.isnan(made.log_odds(np.nan))
    assert made.log_odds(np.zeros((2, 3), np.float32)).shape == (2, 3)


@pytest.mark.parametrize("made", EXAMPLES, ids=str)
def test_the_inverse_is_the_lowest_logit_that_reaches(made: Calibrator) -> None:
    for wanted in (-np.inf, -8.0, -5.0, -2.0, -1.0, 0.0, 0.123, 1.0, 2.9, 5.0, np.inf):
        lowest = np.float32(made.inverse(wanted))
        assert made.log_odds(lowest) >= wanted or lowest == np.inf
        if lowest > -np.inf:
            assert made.log_odds(np.nextafter(lowest, np.float32(-np.inf))) < wanted
    assert Calibrator(shift=1.0).inverse(2.0) == 3.0
    assert Calibrator(kind="isotonic", x=(0.0, 1.0), y=(0.0, 2.0)).inverse(2.1) == np.inf
    assert Calibrator(kind="isotonic", x=(0.0, 1.0), y=(0.0, 2.0)).inverse(-0.1) == -np.inf
    assert Calibrator(kind="isotonic", x=(0.0, 1.0), y=(0.0, 2.0)).inverse(1.0) == 0.5


def test_all_labels_at_once_are_the_labels_one_by_one() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(7, 3, len(EXAMPLES))).astype(np.float32) * 8
    logits[0, 0], logits[0, 1], logits[1, 0], logits[1, 1] = np.inf, -np.inf, 3.4e38, -3.4e38
    served = ProbabilityMap(EXAMPLES)(logits)
    assert served.dtype == np.float32 and served.shape == logits.shape
    for i, each in enumerate(EXAMPLES):
        np.testing.assert_allclose(served[..., i], expit(each.log_odds(logits[..., i])), rtol=1e-5, atol=1e-30)
    plain = ProbabilityMap([Calibrator()] * 3)(logits[..., :3])
    np.testing.assert_array_equal(plain, probabilities(logits[..., :3]))
    assert ProbabilityMap([])(np.zeros((2, 0), np.float32)).shape == (2, 0)
    for wrong in (np.zeros((2, 5)), np.float32(1)):
        with pytest.raises(BadData, match="shape of logits"):
            ProbabilityMap(EXAMPLES)(np.asarray(wrong))


@pytest.mark.parametrize("made", EXAMPLES, ids=str)
def test_json_gives_an_equal_calibrator(made: Calibrator) -> None:
    assert Calibrator.model_validate_json(made.model_dump_json()) == made


def test_reading_one_takes_no_scipy() -> None:
    code = (
        "import sys, cutpoint.calibration.calibrator as c; c.ProbabilityMap([c.Calibrator(kind='isotonic', x=(0,), y=(1,))]); "
        "assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_skill_on_rare_events_is_as_the_notes_measured() -> None:
    """Log-loss skill against the base rate: 10 positives repair a model whose shift is known; temperature alone never does."""
    true, targets, raw = rare(200_000, seed=100)
    shift = math.log(99)

    def loss(odds: np.ndarray) -> float:
        return float(np.mean(np.logaddexp(0, odds) - targets * odds))

    rate = targets.mean()
    base = loss(np.full(len(targets), math.log(rate / (1 - rate))))

    def skill(made: Calibrator) -> float:
        return 1 - loss(made.log_odds(raw)) / base

    oracle = 1 - loss(true) / base
    found: dict[int, float] = {}
    for positives in (10, 100, 1000):
        each = []
        for seed in range(5):
            _, labels, scores = rare(positives * 150, seed=seed)
            keep = np.cumsum(labels) <= positives  # exactly that many, in rows as they come
            each.append(exact_curve(scores[keep], labels[keep]))
        assert all(curve.positives == positives for curve in each)
        found[positives] = float(np.mean([skill(fit_calibrator(curve, shift=shift)) for curve in each]))
        alone = np.mean([skill(fit_calibrator(curve, "temperature")) for curve in each])
        assert found[positives] > alone + 1, "temperature cannot move a prior"
    assert found[10] > 0.2 and found[10] > skill(Calibrator(shift=shift))
    assert found[10] < found[100] < found[1000] + 0.002
    assert found[1000] > oracle - 0.02
