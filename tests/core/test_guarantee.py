"""Guarantees: their arithmetic against scipy's binomials by brute force, and the cuts that follow from it.

Whether they hold on new data is simulated elsewhere (tests/validity.py).
"""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from cutpoint.calibration import (
    Curve,
    Infeasible,
    LabelPolicy,
    Plan,
    ScoreHistogram,
    Scores,
    exact_curve,
    fit_labels,
    parse_objective,
)
from cutpoint.calibration.guarantee import declared_ranks, least_hits, least_needed, most_allowed, sure_precision
from cutpoint.errors import BadData, BadInput
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

QUICK = settings(deadline=None, max_examples=100, database=None)
BOUNDS = ["recall_at_least=0.8", "fpr_at_most=0.05", "alert_rate_at_most=0.1", "precision_at_least=0.4"]


@QUICK
@given(st.integers(0, 300), st.floats(0.001, 0.999), st.floats(1e-6, 0.9))
def test_most_allowed_is_the_largest_whose_tail_is_small(n: int, rate: float, delta: float) -> None:
    tails = binom.cdf(np.arange(n + 1), n, rate) if n else np.ones(1)
    # A tail that is delta to rounding may count or not: which, the examples met exactly say.
    least, most = (int((tails <= delta * (1 + by)).sum()) - 1 for by in (-1e-9, 1e-9))
    assert least <= most_allowed(n, rate, delta) <= most


@pytest.mark.parametrize("n", [0, 1, 50])
def test_at_the_ends_nothing_or_all_but_one_is_allowed(n: int) -> None:
    assert most_allowed(n, 0.0, 0.05) == -1
    assert most_allowed(n, 1.0, 0.05) == n - 1


@pytest.mark.parametrize(
    ("rate", "counts"),
    [
        (0.2, (11, 14, 39, 42)),
        (0.1, (22, 29, 82, 88)),
        (0.05, (45, 59, 167, 181)),
        (0.01, (230, 299, 850, 919)),
        (0.001, (2302, 2995, 8537, 9230)),
        (1e-4, (23025, 29956, 85405, 92336)),
    ],
)
def test_minimum_counts_are_those_of_the_table(rate: float, counts: tuple[int, ...]) -> None:
    for delta, least in zip((0.1, 0.05, 0.1 / 512, 0.05 / 512), counts, strict=True):
        assert least_needed(rate, delta) == least
        assert most_allowed(least, rate, delta) == 0
        assert most_allowed(least - 1, rate, delta) == -1


@pytest.mark.parametrize(
    ("rate", "delta", "least"), [(0.1, 0.81, 2), (0.2, 0.64, 2), (0.3, 0.343, 3), (0.1, 0.9, 1), (0.5, 0.0625, 4)]
)
def test_a_delta_met_exactly_is_met_whatever_floats_make_of_it(rate: float, delta: float, least: int) -> None:
    assert least_needed(rate, delta) == least and most_allowed(least, rate, delta) == 0


@pytest.mark.parametrize("n", [1, 3, 61, 299])
def test_half_of_an_odd_number_is_half_of_the_tail(n: int) -> None:
    assert most_allowed(n, 0.5, 0.5) == (n - 1) // 2


@QUICK
@given(st.floats(0.002, 0.9), st.floats(1e-4, 0.9))
def test_least_needed_is_the_first_that_allows_none_missed(rate: float, delta: float) -> None:
    least = least_needed(rate, delta)
    assert least == next(n for n in range(1, 10_000) if binom.cdf(0, n, rate) <= delta * (1 + 1e-12))
    assert least_needed(0.0, delta) is None and least_needed(1.0, delta) == 1


@settings(QUICK, max_examples=30)
@given(st.floats(0.01, 0.9), st.floats(1e-4, 0.9), st.integers(0, 20))
def test_least_needed_is_the_first_that_allows_as_many(rate: float, delta: float, allowed: int) -> None:
    least = least_needed(rate, delta, allowed)
    assert least is not None
    assert most_allowed(least, rate, delta) >= allowed > most_allowed(least - 1, rate, delta)


@QUICK
@given(st.integers(2, 100_000), st.floats(0.05, 0.98), st.floats(1e-4, 0.6))
def test_declared_ranks_depend_on_the_number_of_rows_alone(rows: int, precision: float, delta: float) -> None:
    ranks = declared_ranks(rows, precision, delta)
    fewest = math.ceil(math.log(delta) / math.log(precision) - 1e-9)
    if fewest > rows - 1:
        assert len(ranks) == 0
        return
    assert (np.diff(ranks) > 0).all() and ranks[-1] == rows - 1
    assert ranks[0] == min(rows - 1, max(2 * fewest, math.ceil(math.log(delta / 2) / math.log(precision) - 1e-9)))
    assert (ranks[1:] <= (ranks[:-1] + 1) * 1.15).all()  # no gap is wider
    for seed in (0, 1):  # whatever is at the rows, the same are tested
        rng = np.random.default_rng(seed)
        curve = exact_curve(rng.normal(size=min(rows, 500)), (rng.random(min(rows, 500)) < 0.5).astype(int))
        np.testing.assert_array_equal(
            declared_ranks(int(curve.rows), precision, delta), declared_ranks(min(rows, 500), precision, delta)
        )


def by_hand(scores: np.ndarray, targets: np.ndarray, precision: float, delta: float) -> float | None:
    """The score above which the precision is sure, by the fallback procedure, rank by rank; None for none."""
    ranks = declared_ranks(len(scores), precision, delta)
    descending = np.sort(scores)[::-1]
    level, found = 0.0, None
    for i, rank in enumerate(ranks):
        own = delta if len(ranks) == 1 else delta / 2 if i == 0 else delta / 2 / (len(ranks) - 1)
        level += own
        above = scores > descending[rank]  # the next lower score: at most `rank` rows are above it
        assert above.sum() <= rank
        hits, m = int((targets[above] == 1).sum()), int(above.sum())
        p_value = binomtest(hits, m, precision, alternative="greater").pvalue if m else 1.0
        if p_value <= level:
            found = float(descending[rank])
        else:
            level = 0.0
    return found


@settings(QUICK, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([0.05, 0.2]), st.booleans())
def test_sure_precision_is_the_last_rank_that_passes(seed: int, precision: float, delta: float, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(10, 600))
    targets = (rng.random(rows) < rng.uniform(0.05, 0.7)).astype(np.uint8)
    scores = (rng.normal(size=rows) + rng.uniform(0, 3) * targets).astype(np.float32)
    scores = np.round(scores * 3) / 3 if tied else scores
    curve = exact_curve(scores, targets)
    index, above = sure_precision(curve, precision, delta), by_hand(scores, targets, precision, delta)
    assert (index >= 0) == (above is not None)
    if above is not None:
        assert float(curve.below[index]) == pytest.approx(above)
        assert curve.lowest_threshold(index) > above
        assert curve.alerts[index] == (scores > np.float32(above)).sum()


def curve_of(hits: list[int]) -> Curve:
    """Rows of falling scores, with these classes."""
    return exact_curve(-np.arange(len(hits), dtype=np.float32), np.array(hits))


def test_the_fallback_procedure_by_hand() -> None:
    # precision .5, delta .2: 3 true alerts show it (1/8), so the ranks begin at 6.
    assert declared_ranks(9, 0.5, 0.2).tolist() == [6, 7, 8]
    # Levels: .1 at rank 6, and .05 each at 7 and 8, and what one that passes had. p-values of h of m: binomial tails of 1/2.
    tail = {(h, m): binom.sf(h - 1, m, 0.5) for m in (6, 7, 8) for h in range(m + 1)}
    assert tail[5, 6] == pytest.approx(0.109375) and tail[6, 6] == pytest.approx(0.015625)
    # 5 of 6 is not sure; then at 7 the level is .05: 6 of 7 (.0625) is not, and at 8 .05: 7 of 8 (.0352) is.
    assert sure_precision(curve_of([1, 1, 1, 1, 1, 0, 1, 1, 0]), 0.5, 0.2) == 7
    assert sure_precision(curve_of([1, 1, 1, 1, 1, 0, 1, 0, 0]), 0.5, 0.2) == -1
    # 6 of 6 passes and hands on .1: 6 of 7 (.0625) passes at .15 and hands that on: 6 of 8 (.1445) passes at .2.
    assert tail[6, 8] == pytest.approx(0.14453125)
    assert sure_precision(curve_of([1, 1, 1, 1, 1, 1, 0, 0, 0]), 0.5, 0.2) == 7
    # Ties: with ranks 6, 7 and 8 within one tie of four, the cut is above it, and five rows of which all are true.
    tied = exact_curve(np.array([9, 8, 7, 6, 5, 1, 1, 1, 1.0]), np.array([1, 1, 1, 1, 1, 0, 0, 1, 0]))
    assert sure_precision(tied, 0.5, 0.2) == 4


def test_no_rank_takes_in_the_last_row_below_which_there_is_none() -> None:
    curve = curve_of([1] * 9)
    assert sure_precision(curve, 0.5, 0.2) == 7
    assert sure_precision(curve_of([]), 0.5, 0.2) == sure_precision(curve_of([1, 1, 1]), 0.5, 0.2) == -1
    assert sure_precision(curve_of([1, 1, 1, 1]), 0.5, 0.2) == 2


def test_a_precision_is_decided_at_the_lowest_threshold_of_its_cut() -> None:
    """The test says something of the scores above the next lower one together: higher thresholds may be less precise."""
    targets = np.array([1] * 8 + [0] * 8)
    scores = np.arange(16.0)[::-1]
    (label,) = fit_labels(Scores(scores[:, None], targets[:, None], ("a",)), Plan.of("precision_at_least=0.5", delta=0.2))
    assert label.guarantee is not None and label.threshold is not None
    at = int(label.counts.alerts)
    below = np.float32(scores[at])
    assert label.threshold == np.nextafter(below, np.float32(np.inf))
    assert at in declared_ranks(16, 0.5, 0.2)


def simulated(rows: int = 3000, labels: int = 4, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < 0.1).astype(np.uint8)
    scores = (rng.normal(size=(rows, labels)) + 2.5 * targets).astype(np.float32)
    targets[rng.random((rows, labels)) < 0.05] = 255
    return Scores(scores, targets, tuple("abcdefgh"[:labels]), groups=np.arange(rows) // 3)


def brute_force(data: Scores, i: int, text: str, delta: float) -> tuple[int, int]:
    """(TP, FP) at the guaranteed cut of rows for recall, fpr and alert rate, over all cuts and by scipy's binomial."""
    scores, targets = data.column(i)
    assert targets is not None
    name, _, given_ = text.partition("=")
    known = targets != 255
    positives, negatives = scores[targets == 1], scores[targets == 0]
    kept = None
    for cut in np.unique(scores[known])[::-1]:
        tp, fp = int((positives >= cut).sum()), int((negatives >= cut).sum())
        if name == "recall_at_least":
            # Safe if so few misses would be rare were the recall any less.
            if binom.cdf(len(positives) - tp, len(positives), 1 - float(given_)) <= delta:
                return tp, fp
        else:
            alerts, of = (fp, len(negatives)) if name == "fpr_at_most" else (tp + fp, int(known.sum()))
            if binom.cdf(alerts, of, float(given_)) <= delta:
                kept = (tp, fp)
    assert kept is not None
    return kept


@pytest.mark.parametrize("text", BOUNDS[:3])
def test_guaranteed_cuts_are_those_of_brute_force(text: str) -> None:
    data = simulated(400, 2)
    for delta in (0.2, 0.02):
        fitted = fit_labels(data, Plan.of(text, delta=delta, calibrator="none"))
        for i, label in enumerate(fitted):
            assert (label.counts.tp, label.counts.fp) == brute_force(data, i, text, delta)
            counted = {"r": label.counts.positives, "f": label.counts.negatives, "a": label.counts.rows}[text[0]]
            assert label.guarantee is not None
            assert (label.guarantee.rate, label.guarantee.bound) == (
                text.split("_at_", maxsplit=1)[0],
                float(text.partition("=")[2]),
            )
            assert (label.guarantee.delta, label.guarantee.unit, label.guarantee.counted) == (delta, "row", counted)


@pytest.mark.parametrize("text", BOUNDS)
def test_a_guaranteed_cut_is_never_less_careful_than_the_plain_one(text: str) -> None:
    data = simulated()
    plain = fit_labels(data, Plan.of(text, calibrator="none"))
    cuts = [plain]
    cuts += [fit_labels(data, Plan.of(text, delta=delta, calibrator="none")) for delta in (0.4, 0.1, 0.01, 0.001)]
    for one, stricter in itertools.pairwise(cuts):
        for a, b in zip(one, stricter, strict=True):
            assert a.threshold is not None and b.threshold is not None
            if text.startswith("recall"):
                assert b.threshold <= a.threshold and b.counts.tp >= a.counts.tp
            elif not text.startswith("precision") or one is plain:
                assert b.threshold >= a.threshold and b.counts.alerts <= a.counts.alerts


@pytest.mark.parametrize("text", BOUNDS)
def test_delta_is_for_each_label_or_for_all_at_once(text: str) -> None:
    data = simulated()
    each = fit_labels(data, Plan.of(text, delta=0.1, calibrator="none"))
    assert [label.guarantee.delta for label in each if label.guarantee] == [0.1] * 4
    at_once = fit_labels(data, Plan.of(text, delta=0.1, simultaneous=True, calibrator="none"))
    assert at_once == fit_labels(data, Plan.of(text, delta=0.1 / 4, calibrator="none"))
    assert [label.guarantee.delta for label in at_once if label.guarantee] == [0.025] * 4


@pytest.mark.parametrize("text", ["max_fbeta=1", "min_cost=10", "max_micro_fbeta=1", "alert_budget=0.1"])
def test_what_has_no_bound_has_no_guarantee(text: str) -> None:
    for texts in ([text], ["recall_at_least=0.9", f"a:{text}"]):
        with pytest.raises(BadInput, match=r"guarantee for objective is .*nothing else has a bound to keep"):
            Plan.of(texts, delta=0.1)
        plan = Plan.of(texts).model_copy(update={"guarantee": Plan.of("recall_at_least=0.9", delta=0.1).guarantee})
        with pytest.raises(BadInput, match="guarantee for objective"):
            fit_labels(simulated(100, 2), plan)
    with pytest.raises(BadInput, match="guarantee for objective"):
        parse_objective(text).choose_surely(simulated(100, 1).curve(0), 0.1)


@pytest.mark.parametrize("text", BOUNDS)
def test_weighted_rows_have_no_guarantee(text: str) -> None:
    data = simulated(300, 2)
    weighted = Scores(data.logits, data.targets, data.labels, weights=np.ones(300))
    with pytest.raises(BadInput, match=r"weights is given; expected none with a guarantee"):
        fit_labels(weighted, Plan.of(text, delta=0.1))
    with pytest.raises(BadInput, match="the rows are weighted"):
        parse_objective(text).choose_surely(weighted.curve(0), 0.1)
    histogram = ScoreHistogram(data.labels, weighted=True)
    histogram.update(data.logits, data.targets, np.ones(300))
    with pytest.raises(BadInput, match="weights is given"):
        fit_labels(histogram, Plan.of(text, delta=0.1))


@pytest.mark.parametrize("text", BOUNDS)
def test_a_guarantee_by_group_takes_groups(text: str) -> None:
    data = simulated(300, 2)
    plan = Plan.of(text, delta=0.1, by_group=True)
    with pytest.raises(BadData, match="groups is not given; expected one for each row, for a guarantee by group"):
        fit_labels(Scores(data.logits, data.targets, data.labels), plan)
    for grouped in (False, True):
        histogram = ScoreHistogram(data.labels, grouped=grouped)
        histogram.update(data.logits, data.targets, groups=np.arange(300) if grouped else None)
        if not grouped:
            with pytest.raises(BadData, match="groups is not given"):
                fit_labels(histogram, plan)
        elif text.startswith(("recall", "fpr")):
            found = fit_labels(histogram, plan)[0].guarantee
            assert found is not None and found.unit == "group"
        else:
            with pytest.raises(BadInput, match="others need the scores"):
                fit_labels(histogram, plan)


@pytest.mark.parametrize("delta", [0.3, 0.05, 0.001])
@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize(
    ("text", "of"),
    [
        ("recall_at_least=0.8", "positives"),
        ("fpr_at_most=0.1", "negatives"),
        ("alert_rate_at_most=0.3", "rows"),
        ("precision_at_least=0.5", "positives"),
    ],
)
def test_too_few_says_how_many_and_as_many_are_enough(text: str, of: str, by_group: bool, delta: float) -> None:
    """The units counted score apart from the others, whose number does not matter."""

    def fitted(units: int) -> LabelPolicy:
        positives, negatives = (units, 500) if of == "positives" else (1, units - 1 if of == "rows" else units)
        scores = np.arange(positives + negatives, dtype=np.float32)[::-1].copy()
        targets = np.array([1] * positives + [0] * negatives)
        if by_group:  # two rows a group: the other one scores lower
            scores, targets = np.append(scores, scores - 0.5), np.append(targets, targets)
        groups = np.tile(np.arange(positives + negatives), 2)[: len(scores)]
        data = Scores(np.stack([scores, scores], 1), np.stack([targets, targets], 1), ("a", "b"), groups=groups)
        plan = Plan.of(["recall_at_least=1e-9", f"a:{text}"], delta=delta, by_group=by_group, calibrator="none")
        return fit_labels(data, plan)[0]

    few = fitted(2)
    assert (few.status, few.threshold, few.guarantee) == ("INSUFFICIENT", None, None)
    assert few.needs is not None
    unit = (
        {"positives": "groups with positives", "negatives": "groups with negatives", "rows": "groups"}[of] if by_group else of
    )
    assert few.needs.of == unit
    assert f"2 {unit}; at delta {delta:g} it takes at least {few.needs.count}" in few.reason
    one_fewer, enough = fitted(few.needs.count - 1), fitted(few.needs.count)
    assert (one_fewer.status, one_fewer.needs) == ("INSUFFICIENT", few.needs)
    assert enough.status == "OK" and enough.guarantee is not None
    assert enough.guarantee.unit == ("group" if by_group else "row")


def test_a_bound_of_1_is_never_sure_and_says_so() -> None:
    data = simulated(300, 2)
    for text, words in (("recall_at_least=1", "no number is enough"), ("precision_at_least=1", "no number of rows")):
        label = fit_labels(data, Plan.of(["fpr_at_most=0.5", f"a:{text}"], delta=0.1))[0]
        assert label.threshold is None and words in label.reason and label.needs is None
    assert least_hits(1.0, 0.1) is None


@QUICK
@given(st.floats(0.05, 0.95), st.floats(0.001, 0.8))
def test_least_hits_above_all_others_are_sure_and_one_fewer_is_not(precision: float, delta: float) -> None:
    least = least_hits(precision, delta)
    assert least is not None
    for hits, sure in ((least, True), (least - 1, False)):
        curve = curve_of([1] * hits + [0] * 5000)
        assert (sure_precision(curve, precision, delta) >= 0) == sure
        choice = parse_objective(f"precision_at_least={precision!r}").choose_surely(curve, delta)
        assert isinstance(choice, Infeasible) != sure
        if isinstance(choice, Infeasible):
            assert (choice.status, choice.needs) == ("INSUFFICIENT", least)


def test_enough_positives_that_show_no_precision_are_infeasible() -> None:
    rng = np.random.default_rng(0)
    curve = exact_curve(rng.normal(size=2000), rng.integers(0, 2, 2000))
    choice = parse_objective("precision_at_least=0.9").choose_surely(curve, 0.1)
    assert isinstance(choice, Infeasible) and choice.status == "INFEASIBLE"
    assert "at no declared rank is sure at delta 0.1" in choice.reason


def test_a_highest_score_of_many_rows_is_more_than_allowed_and_says_so() -> None:
    def choice_of(rows: int) -> int | Infeasible:
        scores = np.append(np.zeros(50), np.full(rows - 50, -1.0))
        return parse_objective("fpr_at_most=0.5").choose_surely(exact_curve(scores, np.zeros(rows)), 0.1)

    choice = choice_of(50)
    assert isinstance(choice, Infeasible) and choice.needs is not None
    reason = f"50 negatives; at delta 0.1 it takes at least {choice.needs}, since the highest score alone alerts on 50"
    assert (choice.status, choice.reason) == ("INSUFFICIENT", reason)
    assert choice_of(choice.needs) == 0 and isinstance(choice_of(choice.needs - 1), Infeasible)
    made = ScoreHistogram(("a",), limit=1)
    made.update(np.full((99, 1), -2.0), np.zeros((99, 1)))
    below = parse_objective("fpr_at_most=0.5").choose_surely(made.curve(0), 0.1)
    assert below == Infeasible("INFEASIBLE", "every score is below the lowest cut offered")


@pytest.mark.parametrize("text", BOUNDS)
@pytest.mark.parametrize("bits", [2, 8])
def test_from_a_histogram_the_cut_is_on_the_safe_side(text: str, bits: int) -> None:
    data = simulated(seed=3)
    histogram = ScoreHistogram(data.labels, bits=bits)
    histogram.update(data.logits, data.targets)
    plan = Plan.of(text, delta=0.05, calibrator="none")
    for i, (exact, binned) in enumerate(zip(fit_labels(data, plan), fit_labels(histogram, plan), strict=True)):
        assert exact.threshold is not None and binned.threshold is not None
        scores, targets = data.column(i)
        assert targets is not None
        alerts = scores >= np.float32(binned.threshold)
        assert (binned.counts.tp, binned.counts.fp) == ((alerts & (targets == 1)).sum(), (alerts & (targets == 0)).sum())
        if text.startswith("recall"):
            assert binned.counts.tp >= exact.counts.tp
        elif not text.startswith("precision"):
            assert binned.counts.alerts <= exact.counts.alerts
        assert binned.guarantee == exact.guarantee


@pytest.mark.parametrize(
    ("change", "text"),
    [({"delta": 0}, "delta"), ({"delta": 1}, "delta"), ({"delta": "x"}, "delta"), ({"delta": float("nan")}, "delta")],
)
def test_a_delta_out_of_range_names_itself(change: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=rf"calibration: {text} is "):
        Plan.of("recall_at_least=0.9", **change)
