"""Every objective against brute force over all cuts, and what is said where no cut will do."""

import math
from fractions import Fraction

import numpy as np
import pytest
from cutpoint.calibration import OBJECTIVES, Infeasible, Objective, exact_curve, fit_label, parse_objective
from cutpoint.errors import BadInput
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score

QUICK = settings(deadline=None, max_examples=150, database=None)

SHARES = st.sampled_from(["0.1", "0.3", "0.5", "0.9", "0.95", "0.999", "1", "0.3333"])
ROWS = st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0, 0, 1, 255])), max_size=30)


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
    assert (choice.status, choice.needs_positives) == ("INSUFFICIENT", least)
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
    assert choice.needs_positives is not None
    more = choice.needs_positives - curve.positives
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
        label = fit_label(exact_curve(scores, targets), "a", parse_objective(text))
        assert (label.status, label.threshold, label.expected) == ("INSUFFICIENT", None, None)
        assert lacking in label.reason
    unlabelled = fit_label(exact_curve(scores, np.full(5, 255)), "a", parse_objective(text))
    assert (unlabelled.status, unlabelled.reason) == ("INSUFFICIENT", "no labelled rows")


def test_alert_rate_works_without_positives_unless_they_are_asked_for() -> None:
    curve = exact_curve(np.arange(10.0), np.zeros(10))
    objective = parse_objective("alert_rate_at_most=0.2")
    label = fit_label(curve, "a", objective)
    assert (label.status, label.threshold) == ("OK", 7.5)
    assert label.expected is not None and label.expected.recall is None
    assert fit_label(curve, "a", objective, min_positives=1).status == "INSUFFICIENT"


def test_an_alert_budget_below_the_ties_at_the_top_says_how_many_rows() -> None:
    label = fit_label(
        exact_curve(np.array([1.0, 1, 1, 0]), np.array([1, 0, 0, 0])), "a", parse_objective("alert_rate_at_most=0.3")
    )
    assert (label.status, label.threshold) == ("INFEASIBLE", None)
    assert "alerts on 3 of 4 rows; it needs at least 10 rows" in label.reason
    enough = exact_curve(np.array([1.0] * 3 + [0] * 7), np.zeros(10))
    assert fit_label(enough, "a", parse_objective("alert_rate_at_most=0.3")).status == "OK"


def test_a_cut_at_minus_infinity_is_infeasible_not_a_threshold() -> None:
    label = fit_label(exact_curve(np.array([-np.inf, 1.0]), np.array([1, 0])), "a", parse_objective("recall_at_least=1"))
    assert (label.status, label.threshold) == ("INFEASIBLE", None)
    assert "-inf" in label.reason


def test_a_cut_at_plus_infinity_is_finite() -> None:
    label = fit_label(exact_curve(np.array([np.inf, 1.0]), np.array([1, 0])), "a", parse_objective("recall_at_least=1"))
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
    with pytest.raises(BadInput, match=r"max_fbeta=VALUE, precision_at_least=VALUE, recall_at_least=VALUE, alert_rate"):
        parse_objective(text)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-inf", "-0.1", "0", "1e309", "0.1=2", "1001"])
def test_a_value_out_of_range_names_the_objective_and_the_range(name: str, value: str) -> None:
    with pytest.raises(BadInput, match=rf"objective {name} is .*; expected a number, more than 0"):
        parse_objective(f"{name}={value}")


@pytest.mark.parametrize("value", [1e-200, 1e-9, 1000.0])
def test_extreme_betas_still_choose_by_precision_or_by_recall(value: float) -> None:
    curve = exact_curve(np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0]))
    assert parse_objective(f"max_fbeta={value!r}").choose(curve) == (0 if value < 1 else 2)


def test_an_objective_is_one_of_the_four() -> None:
    assert {kind.name for kind in OBJECTIVES.values()} == set(OBJECTIVES)
    assert all(issubclass(kind, Objective) for kind in OBJECTIVES.values())
