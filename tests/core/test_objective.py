"""Every objective against brute force over all cuts, and what is said where no cut will do."""

import math
from fractions import Fraction

import numpy as np
import pytest
from cutpoint.calibration import (
    NEVER,
    OBJECTIVES,
    Curve,
    Infeasible,
    LabelPolicy,
    Objective,
    Plan,
    ScoreHistogram,
    Scores,
    exact_curve,
    fit_labels,
    parse_objective,
)
from cutpoint.errors import BadInput
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, precision_score, recall_score

QUICK = settings(deadline=None, max_examples=150, database=None)

SHARES = st.sampled_from(["0.1", "0.3", "0.5", "0.9", "0.95", "0.999", "1", "0.3333"])
ROWS = st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0, 0, 1, 255])), max_size=30)


def fit_label(scores: np.ndarray, targets: np.ndarray, text: str, min_positives: int = 0) -> LabelPolicy:
    """One label as `fit_labels` gives it, beside another that can always be fitted."""
    rows = np.arange(len(scores), dtype=np.float32)
    plan = Plan.of(["alert_rate_at_most=0.99", f"a:{text}"], min_positives=0, calibrator="none")
    plan = plan.model_copy(update={"min_positives": min_positives}) if min_positives else plan
    known = np.tile([0, 1], len(rows))[: len(rows)]
    return fit_labels(Scores(np.stack([scores, rows], 1), np.stack([targets, known], 1), ("a", "b")), plan)[0]


def arrays(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in rows], np.float32), np.array([t for _, t in rows], np.uint8)


def all_cuts(scores: np.ndarray, targets: np.ndarray) -> list[tuple[float, int, int]]:
    """(cut, true positives, false positives) for every distinct score, highest first, by counting."""
    known = targets != 255
    found = []
    for cut in sorted({float(s) for s in scores[known]}, reverse=True):
        alerts = known & (scores >= cut)
        found.append((cut, int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())))
    return found


def both_classes(targets: np.ndarray) -> bool:
    return bool((targets == 1).any() and (targets == 0).any())


def chosen(text: str, scores: np.ndarray, targets: np.ndarray) -> tuple[float, int, int] | None:
    curve = exact_curve(scores, targets)
    choice = parse_objective(text).choose(curve)
    if isinstance(choice, Infeasible):
        return None
    return float(curve.cuts[choice]), int(curve.tp[choice]), int(curve.fp[choice])


@QUICK
@given(ROWS, st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(2), Fraction(3)]))
def test_max_fbeta_is_the_best_of_all_cuts_and_the_highest_of_equals(rows: list[tuple[int, int]], beta: Fraction) -> None:
    scores, targets = arrays(rows)
    found = chosen(f"max_fbeta={float(beta)}", scores, targets)
    if not both_classes(targets):
        assert found is None
        return
    positives, square = int((targets == 1).sum()), beta * beta
    values = [(1 + square) * tp / (tp + fp + square * positives) for _, tp, fp in all_cuts(scores, targets)]
    assert found == all_cuts(scores, targets)[values.index(max(values))]
    known = targets != 255
    by_sklearn = fbeta_score(targets[known], scores[known] >= found[0], beta=float(beta))
    assert by_sklearn == pytest.approx(float(max(values)))


@QUICK
@given(ROWS, SHARES)
def test_precision_at_least_has_the_largest_recall_of_all_that_meet_it(rows: list[tuple[int, int]], share: str) -> None:
    scores, targets = arrays(rows)
    found = chosen(f"precision_at_least={share}", scores, targets)
    meeting = [(c, tp, fp) for c, tp, fp in all_cuts(scores, targets) if tp and Fraction(tp, tp + fp) >= Fraction(share)]
    if not both_classes(targets) or not meeting:
        assert found is None
        return
    most = max(tp for _, tp, _ in meeting)
    assert found == next(cut for cut in meeting if cut[1] == most)


@QUICK
@given(ROWS, SHARES)
def test_recall_at_least_has_the_fewest_alerts_of_all_that_meet_it(rows: list[tuple[int, int]], share: str) -> None:
    scores, targets = arrays(rows)
    found = chosen(f"recall_at_least={share}", scores, targets)
    if not both_classes(targets):
        assert found is None
        return
    positives = int((targets == 1).sum())
    meeting = [cut for cut in all_cuts(scores, targets) if Fraction(cut[1], positives) >= Fraction(share)]
    assert found == min(meeting, key=lambda cut: cut[1] + cut[2])


@QUICK
@given(ROWS, st.sampled_from(["0.1", "0.25", "0.3", "0.5", "0.7", "0.99"]))
def test_alert_rate_at_most_spends_the_budget_and_needs_no_positive(rows: list[tuple[int, int]], share: str) -> None:
    scores, targets = arrays(rows)
    found = chosen(f"alert_rate_at_most={share}", scores, targets)
    cuts = all_cuts(scores, targets)
    known = int((targets != 255).sum())
    meeting = [cut for cut in cuts if Fraction(cut[1] + cut[2], known) <= Fraction(share)]
    assert found == (meeting[-1] if meeting else None)


@pytest.mark.parametrize("positives", range(1, 200))
def test_shares_of_whole_rows_are_exact_whatever_floats_make_of_them(positives: int) -> None:
    scores = np.arange(2 * positives, dtype=np.float32)
    targets = np.arange(2 * positives) % 2
    curve = exact_curve(scores, targets)
    for hundredths in (1, 7, 10, 29, 57, 58, 90, 93, 99, 100):
        found = parse_objective(f"recall_at_least={hundredths / 100}").choose(curve)
        assert not isinstance(found, Infeasible)
        assert curve.tp[found] == max(1, math.ceil(Fraction(hundredths * positives, 100)))
        if hundredths < 100:
            budget = parse_objective(f"alert_rate_at_most={hundredths / 100}").choose(curve)
            alerts = hundredths * 2 * positives // 100
            assert (0 if isinstance(budget, Infeasible) else budget + 1) == alerts


@QUICK
@given(ROWS, st.sampled_from([1, 2, 5]), st.sampled_from(["max_fbeta=1", "recall_at_least=0.9", "precision_at_least=0.01"]))
def test_too_few_positives_say_how_many_and_that_many_will_do(rows: list[tuple[int, int]], least: int, text: str) -> None:
    scores, targets = arrays(rows)
    objective = parse_objective(text)
    choice = objective.choose(exact_curve(scores, targets), least)
    have = int((targets == 1).sum())
    if have >= least:
        return
    assert isinstance(choice, Infeasible)
    assert (choice.status, choice.needs) == ("INSUFFICIENT", least)
    more_scores = np.append(np.append(scores, np.zeros(least - have, np.float32)), np.float32(-9))
    more_targets = np.append(np.append(targets, np.ones(least - have, np.uint8)), np.uint8(0))
    assert not isinstance(objective.choose(exact_curve(more_scores, more_targets), least), Infeasible)


@QUICK
@given(ROWS, st.sampled_from(["0.5", "0.75", "0.9", "0.95", "0.99"]))
def test_unmet_precision_says_how_many_positives_and_that_many_will_do(rows: list[tuple[int, int]], share: str) -> None:
    scores, targets = arrays(rows)
    objective = parse_objective(f"precision_at_least={share}")
    curve = exact_curve(scores, targets)
    choice = objective.choose(curve)
    if not both_classes(targets) or not isinstance(choice, Infeasible):
        return
    assert choice.status == "INFEASIBLE"
    assert choice.needs is not None
    more = choice.needs - curve.positives
    assert more > 0
    assert f"; {more} more positives above those negatives would do" in choice.reason

    def feasible_with(extra: int, at: float) -> bool:
        longer = np.append(scores, np.full(extra, at, np.float32))
        marked = np.append(targets, np.ones(extra, np.uint8))
        return not isinstance(objective.choose(exact_curve(longer, marked)), Infeasible)

    # Beside the negatives of some cut, as many as stated are enough, and one fewer is not at any of them.
    assert any(feasible_with(more, float(cut)) for cut in curve.cuts)
    assert not any(feasible_with(more - 1, float(cut)) for cut in curve.cuts)


def test_precision_1_behind_a_negative_says_what_it_takes() -> None:
    choice = parse_objective("precision_at_least=1").choose(exact_curve(np.array([3.0, 2, 1]), np.array([0, 1, 0])))
    assert choice == Infeasible(
        "INFEASIBLE", "the best precision of any cut is 1/2 = 0.5; it needs a positive that scores above every negative"
    )


@pytest.mark.parametrize("text", ["max_fbeta=1", "precision_at_least=0.1", "recall_at_least=0.1"])
def test_one_class_is_insufficient_never_a_threshold(text: str) -> None:
    scores = np.arange(5.0)
    for targets, lacking in ((np.zeros(5), "0 labelled positives"), (np.ones(5), "0 labelled negatives")):
        label = fit_label(scores, targets, text)
        assert (label.status, label.threshold, label.expected) == ("INSUFFICIENT", None, None)
        assert lacking in label.reason
    unlabelled = fit_label(scores, np.full(5, 255), text)
    assert (unlabelled.status, unlabelled.reason) == ("INSUFFICIENT", "no labelled rows")


def test_alert_rate_works_without_positives_unless_they_are_asked_for() -> None:
    label = fit_label(np.arange(10.0), np.zeros(10), "alert_rate_at_most=0.2")
    assert (label.status, label.threshold) == ("OK", 7.5)
    assert label.expected is not None and label.expected.recall is None
    assert fit_label(np.arange(10.0), np.zeros(10), "alert_rate_at_most=0.2", min_positives=1).status == "INSUFFICIENT"


def test_an_alert_budget_below_the_ties_at_the_top_says_how_many_rows() -> None:
    label = fit_label(np.array([1.0, 1, 1, 0]), np.array([1, 0, 0, 0]), "alert_rate_at_most=0.3")
    assert (label.status, label.threshold) == ("INFEASIBLE", None)
    assert "alerts on 3 of 4 rows; it needs at least 10 rows" in label.reason
    assert fit_label(np.array([1.0] * 3 + [0] * 7), np.zeros(10), "alert_rate_at_most=0.3").status == "OK"


def test_a_cut_at_minus_infinity_is_infeasible_not_a_threshold() -> None:
    label = fit_label(np.array([-np.inf, 1.0]), np.array([1, 0]), "recall_at_least=1")
    assert (label.status, label.threshold) == ("INFEASIBLE", None)
    assert "-inf" in label.reason


def test_a_cut_at_plus_infinity_is_finite() -> None:
    label = fit_label(np.array([np.inf, 1.0]), np.array([1, 0]), "recall_at_least=1")
    assert (label.status, label.threshold) == ("OK", 1.5)


@pytest.mark.parametrize(
    "text", ["max_fbeta=1", "max_fbeta=0.5", "precision_at_least=0.9", "recall_at_least=1", "alert_rate_at_most=1e-05"]
)
def test_the_notation_reads_back_as_written(text: str) -> None:
    objective = parse_objective(text)
    assert str(objective) == text
    assert parse_objective(str(objective)) == objective


@QUICK
@given(st.sampled_from(sorted(OBJECTIVES)), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_any_value_reads_back_exactly(name: str, value: float) -> None:
    objective = OBJECTIVES[name](value)
    assert parse_objective(f" {name} = {value!r} ") == objective
    again = parse_objective(str(objective))
    assert (again.value, type(again)) == (value, type(objective))


@pytest.mark.parametrize("text", ["", "foo=1", "=1", "max_f1", "recall at least 0.9", "Recall_At_Least=0.9"])
def test_an_unknown_objective_lists_what_is_known(text: str) -> None:
    with pytest.raises(
        BadInput, match=r"max_fbeta=VALUE, precision_at_least=VALUE, recall_at_least=VALUE, fpr_at_most=VALUE, alert_rate"
    ):
        parse_objective(text)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-inf", "-0.1", "0", "1e309", "0.1=2"])
def test_a_value_out_of_range_names_the_objective_and_the_range(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=rf"objective {name} is .*; expected a number, more than 0"):
        parse_objective(f"{name}={value}")


@pytest.mark.parametrize("value", [1e-200, 1e-9, 1000.0])
def test_extreme_betas_still_choose_by_precision_or_by_recall(value: float) -> None:
    curve = exact_curve(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]))
    assert parse_objective(f"max_fbeta={value!r}").choose(curve) == (0 if value < 1 else 2)


def test_objectives_are_known_by_their_names() -> None:
    assert {kind.name for kind in OBJECTIVES.values()} == set(OBJECTIVES)
    assert all(issubclass(kind, Objective) for kind in OBJECTIVES.values())


# Whatever rows count, and wherever: one reference for weighted rows, infinite scores and histograms.

QUARTERS = st.sampled_from([0, 1, 2, 3, 4, 4, 4, 10, 4000])
EXTREME_SCORES = st.one_of(st.integers(-4, 4), st.sampled_from([-math.inf, math.inf, -3e38, 3e38, -0.25, 0.75]))
CLASSES = st.sampled_from([0, 0, 1, 255])
WEIGHTED_ROWS = st.lists(st.tuples(EXTREME_SCORES, CLASSES, QUARTERS), max_size=25)
ANY_OBJECTIVE = st.sampled_from(
    [
        *(f"max_fbeta={beta}" for beta in (1, 0.5, 2)),
        *(f"precision_at_least={share}" for share in (0.3, 0.5, 0.9, 1)),
        *(f"recall_at_least={share}" for share in (0.3, 0.9, 1)),
        *(f"fpr_at_most={share}" for share in (0.1, 0.3, 0.5)),
        *(f"alert_rate_at_most={share}" for share in (0.1, 0.3, 0.7)),
        *(f"min_cost={ratio}" for ratio in (0.25, 1, 2, 50)),
    ]
)
Cut = tuple[float, Fraction, Fraction]


def weighted_cuts(scores: list[float], targets: list[int], weights: list[Fraction]) -> tuple[list[Cut], Fraction, Fraction]:
    """(cut, TP, FP) of every distinct score, highest first, and the positives and negatives, by counting."""
    rows = [(s, t, w) for s, t, w in zip(scores, targets, weights, strict=True) if t != 255 and w > 0]

    def total(chosen: list[tuple[float, int, Fraction]], c: int) -> Fraction:
        return sum((w for _, t, w in chosen if t == c), Fraction(0))

    cuts = [
        (cut, total([row for row in rows if row[0] >= cut], 1), total([row for row in rows if row[0] >= cut], 0))
        for cut in sorted({s for s, _, _ in rows}, reverse=True)
    ]
    return cuts, total(rows, 1), total(rows, 0)


def best_of(text: str, cuts: list[Cut], positives: Fraction, negatives: Fraction) -> Cut | int | None:
    """What the objective's words say of these cuts: the cut, NEVER, or None where none will do."""
    name, _, given_ = text.partition("=")
    value = Fraction(given_)
    if name == "fpr_at_most":
        meeting = [cut for cut in cuts if negatives and cut[2] <= value * negatives]
        return meeting[-1] if meeting else None
    if name == "alert_rate_at_most":
        meeting = [cut for cut in cuts if cut[1] + cut[2] <= value * (positives + negatives)]
        return meeting[-1] if meeting else None
    if not positives or not negatives or not cuts or cuts[-1][1] == 0:
        return None
    if name == "max_fbeta":
        return max(cuts, key=lambda cut: ((1 + value**2) * cut[1] / (cut[1] + cut[2] + value**2 * positives), cut[0]))
    if name == "precision_at_least":
        meeting = [cut for cut in cuts if cut[1] and cut[1] >= value * (cut[1] + cut[2])]
        return max(meeting, key=lambda cut: (cut[1], cut[0])) if meeting else None
    if name == "recall_at_least":
        meeting = [cut for cut in cuts if cut[1] >= value * positives]
        return min(meeting, key=lambda cut: cut[1] + cut[2]) if meeting else None
    assert name == "min_cost"
    best = min(cuts, key=lambda cut: (cut[2] + value * (positives - cut[1]), -cut[0]))
    return best if best[2] + value * (positives - best[1]) < value * positives else NEVER


def what_is_chosen(text: str, curve: Curve) -> Cut | int | None:
    choice = parse_objective(text).choose(curve)
    if isinstance(choice, Infeasible):
        return None
    if choice == NEVER:
        return NEVER
    return float(curve.cuts[choice]), Fraction(float(curve.tp[choice])), Fraction(float(curve.fp[choice]))


@settings(QUICK, max_examples=150)
@given(WEIGHTED_ROWS, ANY_OBJECTIVE)
def test_of_weighted_rows_the_best_of_all_cuts_is_chosen(rows: list[tuple[float, int, int]], text: str) -> None:
    scores, targets = [float(np.float32(s)) for s, _, _ in rows], [t for _, t, _ in rows]
    weights = [Fraction(w, 4) for _, _, w in rows]
    curve = exact_curve(np.array(scores, np.float32), np.array(targets, np.uint8), np.array(weights, np.float64))
    assert what_is_chosen(text, curve) == best_of(text, *weighted_cuts(scores, targets, weights))


@settings(QUICK, max_examples=150)
@given(WEIGHTED_ROWS, ANY_OBJECTIVE)
def test_with_infinite_scores_the_best_of_all_cuts_is_chosen(rows: list[tuple[float, int, int]], text: str) -> None:
    scores, targets = [float(np.float32(s)) for s, _, _ in rows], [t for _, t, _ in rows]
    expected = best_of(text, *weighted_cuts(scores, targets, [Fraction(1)] * len(rows)))
    array, classes = np.array(scores, np.float32), np.array(targets, np.uint8)
    objective = parse_objective(text)
    for cuts in ("all", "positives") if objective.cuts == "positives" else ("all",):
        assert what_is_chosen(text, exact_curve(array, classes, cuts=cuts)) == expected


@settings(QUICK, max_examples=150)
@given(WEIGHTED_ROWS, ANY_OBJECTIVE, st.booleans())
def test_of_a_histogram_the_best_of_the_cuts_it_offers_is_chosen(
    rows: list[tuple[float, int, int]], text: str, weighted: bool
) -> None:
    scores, targets = [float(np.float32(s)) for s, _, _ in rows], [t for _, t, _ in rows]
    weights = [Fraction(w, 4) if weighted else Fraction(1) for _, _, w in rows]
    made = ScoreHistogram(("a",), limit=2, bits=1, weighted=weighted)
    made.update(
        np.array(scores, np.float32).reshape(-1, 1),
        np.array(targets, np.uint8).reshape(-1, 1),
        np.array(weights, np.float64) if weighted else None,
    )
    floored = [-2.5 if s < -2 else 2.0 if s >= 2 else math.floor(s * 2) / 2 for s in scores]
    cuts, positives, negatives = weighted_cuts(floored, targets, weights)
    offered = [cut for cut in cuts if cut[0] >= -2]
    assert what_is_chosen(text, made.curve(0)) == best_of(text, offered, positives, negatives)


@settings(QUICK, max_examples=100)
@given(WEIGHTED_ROWS, st.sampled_from(["0.25", "1", "20", "1000"]), st.sampled_from(["0.001", "0.02", "0.5", "0.999"]))
def test_min_cost_at_a_prevalence_is_the_least_expected_cost(rows: list[tuple[float, int, int]], ratio: str, at: str) -> None:
    scores, targets = [float(np.float32(s)) for s, _, _ in rows], [t for _, t, _ in rows]
    weights, q = [Fraction(w, 4) for _, _, w in rows], Fraction(at)
    curve = exact_curve(np.array(scores, np.float32), np.array(targets, np.uint8), np.array(weights, np.float64))
    cuts, positives, negatives = weighted_cuts(scores, targets, weights)
    found = what_is_chosen(f"min_cost={ratio}@{at}", curve)
    if not positives or not negatives:
        assert found is None
        return

    def cost(cut: Cut | int) -> Fraction:
        tp, fp = (Fraction(0), Fraction(0)) if isinstance(cut, int) else cut[1:]
        return fp / negatives * (1 - q) + Fraction(ratio) * (1 - tp / positives) * q

    assert found is not None
    least = min(cost(cut) for cut in (*cuts, NEVER))
    assert float(cost(found)) == pytest.approx(float(least), rel=1e-12)


def test_a_higher_prevalence_or_a_dearer_miss_never_alerts_less() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(3000) < 0.03).astype(np.uint8)
    scores = rng.normal(size=3000) + 1.5 * targets
    targets[scores.argmax()] = 0  # no alert is free
    curve = exact_curve(scores, targets)
    own = curve.positives / curve.rows
    for texts in (
        [f"min_cost={ratio}" for ratio in (0.01, 1, 5, 30, 1000, 1e9)],
        [f"min_cost=20@{q}" for q in (1e-9, 0.001, own, 0.2, 0.999)],
    ):
        found = [parse_objective(text).choose(curve) for text in texts]
        assert found == sorted(found)  # type: ignore[type-var]
        assert found[0] == NEVER and curve.tp[found[-1]] > 0.9 * curve.positives  # type: ignore[index]
    assert parse_objective(f"min_cost=20@{own!r}").choose(curve) == parse_objective("min_cost=20").choose(curve)


def test_where_no_alert_is_best_the_threshold_is_above_every_score() -> None:
    scores, targets = np.array([3.0, 2, 1, 1]), np.array([0, 1, 0, 0])
    assert parse_objective("min_cost=1").choose(exact_curve(scores, targets)) == NEVER  # as dear as one alert, and no dearer
    label = fit_label(scores, targets, "min_cost=1")
    assert (label.status, label.threshold, label.reason) == ("OK", 3.5, "best without any alert")
    assert (label.counts.tp, label.counts.fp) == (0, 0)
    assert label.expected is not None and label.expected.precision is None
    assert (label.expected.alert_rate.value, label.expected.recall and label.expected.recall.value) == (0, 0)
    dearer = fit_label(scores, targets, "min_cost=1.5")
    assert (dearer.threshold, dearer.reason, dearer.counts.tp, dearer.counts.fp) == (1.5, "", 1, 1)
    infinite = fit_label(np.array([np.inf, 2, 1, 1]), targets, "min_cost=1")
    assert (infinite.status, infinite.threshold) == ("INFEASIBLE", None)
    assert "no finite threshold" in infinite.reason


@settings(QUICK, max_examples=25)
@given(st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0, 1]), QUARTERS), min_size=2, max_size=25))
def test_weighted_rates_at_the_cut_are_scikit_learns(rows: list[tuple[int, int, int]]) -> None:
    scores, targets, weights = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    weights = weights / 4
    if not (weights[targets == 1].any() and weights[targets == 0].any()):
        return
    data = Scores(scores[:, None], targets[:, None], ("a",), weights=weights)
    for text, beta in (
        ("max_fbeta=1", 1.0),
        ("max_fbeta=2", 2.0),
        ("recall_at_least=0.7", 1.0),
        ("alert_rate_at_most=0.9", 1.0),
    ):
        (label,) = fit_labels_or_none(data, text) or (None,)
        if label is None:
            assert text == "alert_rate_at_most=0.9"
            continue
        assert label.threshold is not None and label.expected is not None and label.expected.recall is not None
        alerts = scores >= label.threshold
        by = {"y_true": targets, "y_pred": alerts, "sample_weight": weights, "zero_division": 0}
        precision, recall = precision_score(**by), recall_score(**by)
        assert label.expected.recall.value == pytest.approx(recall)
        assert label.expected.alert_rate.value == pytest.approx(np.average(alerts, weights=weights))
        assert label.expected.fpr is not None
        assert label.expected.fpr.value == pytest.approx(np.average(alerts[targets == 0], weights=weights[targets == 0]))
        assert label.expected.precision is not None  # rows of some weight alert
        assert label.expected.precision.value == pytest.approx(precision)
        for rate in (label.expected.recall, label.expected.fpr, label.expected.precision, label.expected.alert_rate):
            assert rate is not None and 0 <= rate.low <= rate.value <= rate.high <= 1
        if text.startswith("max"):
            every = [
                fbeta_score(targets, scores >= cut, beta=beta, sample_weight=weights, zero_division=0) for cut in set(scores)
            ]
            found = fbeta_score(targets, alerts, beta=beta, sample_weight=weights, zero_division=0)
            assert found == pytest.approx(max(every))


def fit_labels_or_none(data: Scores, text: str) -> tuple[LabelPolicy, ...] | None:
    try:
        return fit_labels(data, Plan.of(text, calibrator="none"))
    except BadInput as error:
        assert "INFEASIBLE" in str(error)
        return None


def test_whole_weights_are_rows_repeated() -> None:
    rng = np.random.default_rng(4)
    targets = (rng.random(300) < 0.2).astype(np.uint8)
    scores = (rng.normal(size=300) + targets).astype(np.float32)
    weights = rng.integers(0, 4, 300)
    weighted = exact_curve(scores, targets, weights)
    repeated = exact_curve(np.repeat(scores, weights), np.repeat(targets, weights))
    for text in ("max_fbeta=2", "precision_at_least=0.5", "recall_at_least=0.9", "fpr_at_most=0.03", "alert_rate_at_most=0.05",
                 "min_cost=7", "min_cost=30@0.001", "max_micro_fbeta=1", "alert_budget=0.1"):  # fmt: skip
        assert parse_objective(text).choose(weighted) == parse_objective(text).choose(repeated) != NEVER, text


@QUICK
@given(ROWS, st.sampled_from(["0.01", "0.1", "0.25", "0.3", "0.5", "0.9"]))
def test_fpr_at_most_says_how_many_negatives_it_takes_and_that_many_will_do(rows: list[tuple[int, int]], share: str) -> None:
    scores, targets = arrays(rows)
    objective = parse_objective(f"fpr_at_most={share}")
    choice = objective.choose(exact_curve(scores, targets))
    if not isinstance(choice, Infeasible):
        return
    negatives = int((targets == 0).sum())
    assert (choice.of, choice.status) == ("negatives", "INFEASIBLE" if negatives else "INSUFFICIENT")
    assert choice.needs is not None and choice.needs > negatives
    if not negatives:
        return

    def feasible_with(count: int) -> bool:  # of negatives below all
        more = count - negatives
        longer = np.append(scores, np.full(more, -9, np.float32))
        return not isinstance(objective.choose(exact_curve(longer, np.append(targets, np.zeros(more, np.uint8)))), Infeasible)

    assert feasible_with(choice.needs) and not feasible_with(choice.needs - 1)


def test_without_classes_an_alert_rate_can_be_chosen_for_and_nothing_else() -> None:
    scores = np.array([4.0, 3, 3, 2, 1])
    curve = exact_curve(scores, None)
    assert parse_objective("alert_rate_at_most=0.6").choose(curve) == 1
    assert parse_objective("alert_rate_at_most=0.59").choose(curve) == 0
    for name in sorted(set(OBJECTIVES) - {"alert_rate_at_most"}):
        choice = parse_objective(f"{name}=0.5").choose(curve)
        assert isinstance(choice, Infeasible) and choice.status == "INSUFFICIENT"
        lacking = "negatives" if name == "fpr_at_most" else "positives (no classes are known)"
        assert choice.reason == f"0 labelled {lacking}; needs at least 1"
    (label,) = fit_labels(Scores(scores[:, None], None, ("a",)), Plan.of("alert_rate_at_most=0.6"))
    assert (label.status, label.threshold, label.calibrator.kind) == ("OK", 2.5, "none")
    assert (label.counts.unlabelled, label.counts.unlabelled_alerts, label.counts.positives, label.counts.fp) == (5, 3, 0, 0)
    assert label.expected is not None and label.expected.alert_rate.value == 0.6
    assert (label.expected.precision, label.expected.recall, label.expected.fpr) == (None, None, None)
    with pytest.raises(BadInput, match="no classes are known"):
        fit_labels(Scores(scores[:, None], None, ("a",)), Plan.of("max_fbeta=1"))


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"fpr_at_most", "alert_rate_at_most"}))
def test_positives_below_a_histograms_grid_are_found_by_no_cut(name: str) -> None:
    for scores in ([-3.0, -2, -1.5], [-3.0, 0.2, 0.5]):  # all below -1, or the only positive
        made = ScoreHistogram(("a",), limit=1)
        made.update(np.array(scores)[:, None], np.array([1, 0, 0])[:, None])
        choice = parse_objective(f"{name}=0.5").choose(made.curve(0))
        reason = "the lowest cut offered finds 0 of 1 positives: others score below it"
        assert choice == Infeasible("INFEASIBLE", reason)


def test_weights_so_uneven_that_they_are_few_rows_are_insufficient() -> None:
    curve = exact_curve(np.array([5.0, 4, 3, 1]), np.array([1, 1, 1, 0]), np.array([1000.0, 1, 1, 5]))
    choice = parse_objective("max_fbeta=1").choose(curve, 2)
    assert isinstance(choice, Infeasible) and (choice.status, choice.needs) == ("INSUFFICIENT", 2)
    assert "1.004" in choice.reason
    assert parse_objective("max_fbeta=1").choose(curve, 1) == 2
    even = exact_curve(np.array([5.0, 4, 3, 1]), np.array([1, 1, 1, 0]), np.full(4, 0.1))
    assert not isinstance(parse_objective("max_fbeta=1").choose(even, 3), Infeasible)


@pytest.mark.parametrize("text", ["min_cost=50", "min_cost=50@0.001", "min_cost=1e+09@0.5"])
def test_min_cost_reads_back_with_its_prevalence(text: str) -> None:
    assert str(parse_objective(text)) == text
    assert parse_objective(f" {text.replace('@', ' @ ')} ") == parse_objective(text)


@pytest.mark.parametrize("value", ["50@2", "0@0.5", "50@x", "x@0.1", "50@", "50@0.1@0.2"])
def test_min_cost_names_the_whole_value_and_both_ranges(value: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_objective(f"min_cost={value}")
    found, expected = str(raised.value).split("; ")
    assert found.replace("'", "") == f"objective min_cost is {value}"
    assert "more than 0 and at most 1e9" in expected and "more than 0 and less than 1" in expected


@pytest.mark.parametrize("value", ["50@", "@0.1", "50@0", "50@1", "50@x", "50@-0.1", "50@nan", "50@0.1@0.2", "2e9"])
def test_min_cost_refuses_other_prevalences(value: str) -> None:
    with pytest.raises(BadInput, match=r"objective min_cost is .*; expected a number, more than 0"):
        parse_objective(f"min_cost={value}")
