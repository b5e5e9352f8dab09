"""Joint objectives against all combinations of cuts, and what sharing between labels gains."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from cutpoint.calibration import (
    NEVER,
    Curve,
    Infeasible,
    Plan,
    ScoreHistogram,
    Scores,
    exact_curve,
    fit_labels,
    parse_objective,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, fbeta_score

QUICK = settings(deadline=None, max_examples=120, database=None)
ROWS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 0, 1, 255])), max_size=10)
LABELS = st.lists(ROWS, min_size=3, max_size=3)


def curves_of(labels: list[list[tuple[int, int]]]) -> list[Curve]:
    return [
        exact_curve(np.array([s for s, _ in rows], np.float32), np.array([t for _, t in rows], np.uint8)) for rows in labels
    ]


def taking_part(curves: list[Curve]) -> list[int]:
    return [i for i, curve in enumerate(curves) if curve.positives and curve.negatives]


def counted(curves: list[Curve], choices: tuple[int, ...]) -> list[tuple[int, int]]:
    return [tuple(map(int, curve.counts_at(i))) for curve, i in zip(curves, choices, strict=True)]  # type: ignore[misc]


def combinations(curves: list[Curve]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(NEVER, len(curve.cuts)) for curve in curves))


def chosen(text: str, curves: list[Curve]) -> list[int]:
    """The choices of the labels that take part; the others must say what they lack."""
    found = parse_objective(text).choose_jointly(curves)
    of = taking_part(curves)
    assert len(found) == len(curves)
    for i, choice in enumerate(found):
        assert isinstance(choice, Infeasible) == (i not in of)
        assert not isinstance(choice, Infeasible) or choice.status == "INSUFFICIENT"
    return [choice for i in of if not isinstance(choice := found[i], Infeasible)]


@QUICK
@given(LABELS, st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3)]))
def test_max_micro_fbeta_is_the_best_of_all_combinations_of_cuts(labels: list[list[tuple[int, int]]], beta: Fraction) -> None:
    curves = curves_of(labels)
    found = chosen(f"max_micro_fbeta={float(beta)}", curves)
    some = [curves[i] for i in taking_part(curves)]
    if not some:
        return
    square, positives = beta * beta, sum(int(curve.positives) for curve in some)

    def micro(choices: tuple[int, ...]) -> Fraction:
        counts = counted(some, choices)
        tp, alerts = sum(tp for tp, _ in counts), sum(tp + fp for tp, fp in counts)
        return (1 + square) * tp / (alerts + square * positives)

    assert micro(tuple(found)) == max(micro(choices) for choices in combinations(some))


@settings(QUICK, max_examples=12)
@given(st.lists(st.tuples(*[st.tuples(st.integers(-3, 3), st.sampled_from([0, 1]))] * 3), min_size=2, max_size=12))
def test_max_micro_f1_is_scikit_learns_at_the_cuts(rows: list[tuple[tuple[int, int], ...]]) -> None:
    cells = np.array(rows)
    scores, targets = cells[:, :, 0].astype(np.float32), cells[:, :, 1]
    if not all(0 < total < len(rows) for total in targets.sum(axis=0)):
        return
    for beta in (1.0, 2.0):
        fitted = fit_labels(Scores(scores, targets, ("a", "b", "c")), Plan.of(f"max_micro_fbeta={beta}", calibrator="none"))
        thresholds = np.array([label.threshold for label in fitted], np.float32)
        found = fbeta_score(targets, scores >= thresholds, beta=beta, average="micro", zero_division=0)
        tp, fp = sum(label.counts.tp for label in fitted), sum(label.counts.fp for label in fitted)
        assert found == pytest.approx((1 + beta**2) * tp / (tp + fp + beta**2 * targets.sum()))
        candidates = [sorted({*column, np.inf}) for column in scores.T]
        every = [
            fbeta_score(targets, scores >= np.array(cuts), beta=beta, average="micro", zero_division=0)
            for cuts in itertools.islice(itertools.product(*candidates), 0, None, 17)  # some of them: the test before has all
        ]
        assert found >= max(every) - 1e-12


def test_of_one_label_the_joint_objectives_are_its_own() -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random(500) < 0.1).astype(np.uint8)
    curve = exact_curve(rng.normal(size=500) + targets, targets)
    for beta in ("1", "2"):
        joint = parse_objective(f"max_micro_fbeta={beta}")
        assert joint.choose(curve) == parse_objective(f"max_fbeta={beta}").choose(curve) == joint.choose_jointly([curve])[0]


@QUICK
@given(LABELS, st.sampled_from([Fraction(1, 10), Fraction(1, 4), Fraction(1, 2), Fraction(1), Fraction(3, 2), Fraction(4)]))
def test_a_shared_budget_is_kept_and_nearly_best_of_all(labels: list[list[tuple[int, int]]], budget: Fraction) -> None:
    curves = curves_of(labels)
    found = chosen(f"alert_budget={float(budget)}", curves)
    some = [curves[i] for i in taking_part(curves)]
    if not some:
        return

    def shares(choices: tuple[int, ...]) -> tuple[Fraction, Fraction]:
        """Alerts, and positives found, a row."""
        each = [(Fraction(tp, int(curve.rows)), Fraction(fp, int(curve.rows)))
                for (tp, fp), curve in zip(counted(some, choices), some, strict=True)]  # fmt: skip
        return sum((tp + fp for tp, fp in each), Fraction(0)), sum((tp for tp, _ in each), Fraction(0))

    spent, hits = shares(tuple(found))
    assert spent <= budget
    every = [shares(choices) for choices in combinations(some)]
    best = max(h for s, h in every if s <= budget)
    steps = [(gain, slope, cost) for curve in some for gain, slope, cost in hull_steps(curve)]
    assert best >= hits >= best - max(gain for gain, _, _ in steps)
    # Where the budget is spent exactly on the steepest steps nothing finds more.
    steepest = sorted(steps, key=lambda step: -step[1])
    for n in range(1, len(steepest) + 1):
        exact = sum((cost for _, _, cost in steepest[:n]), Fraction(0))
        if n < len(steepest) and steepest[n][1] == steepest[n - 1][1]:
            continue  # which of them is taken is open
        again = chosen(f"alert_budget={float(exact)!r}", curves)
        spent, hits = shares(tuple(again))
        assert spent <= exact * (1 + Fraction(1, 10**12))
        assert hits == sum((gain for gain, _, _ in steepest[:n]), Fraction(0)) == max(h for s, h in every if s <= exact)


def test_a_budget_is_kept_where_steps_have_one_slope() -> None:
    targets = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1] + [0] * 14)
    curve = exact_curve(np.arange(23.0)[::-1], targets)
    (index,) = parse_objective(f"alert_budget={6 / 23!r}").choose_jointly([curve])
    assert isinstance(index, int) and curve.counts_at(index) == (5, 1)


@pytest.mark.parametrize("seed", range(5))
def test_of_random_labels_no_budget_is_exceeded_and_no_more_than_a_step_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for draw in range(100):
        labels = int(rng.integers(1, 5))
        curves = []
        for _ in range(labels):  # of differing numbers of rows, the fewer the more labels there are
            rows = int(rng.integers(2, (80, 14, 9, 7)[labels - 1]))
            targets = rng.permutation(np.arange(rows) < rng.integers(1, rows))
            scores = rng.integers(-5, 6, rows) if draw % 2 else rng.permutation(rows)
            curves.append(exact_curve(scores.astype(np.float32), targets.astype(np.uint8)))
        spent, hits = np.zeros(1), np.zeros(1)  # of all combinations
        for curve in curves:
            spent = np.add.outer(spent, np.append(0, curve.alerts / curve.rows)).reshape(-1)
            hits = np.add.outer(hits, np.append(0, curve.tp / curve.rows)).reshape(-1)
        some = float(rng.choice(spent[spent > 0]))  # a budget that can be spent exactly, or one between
        budget = some if draw % 3 else some * float(rng.uniform(0.5, 1.5))
        found = chosen(f"alert_budget={budget!r}", curves)
        counts = counted(curves, tuple(found))
        alerts = sum((tp + fp) / curve.rows for (tp, fp), curve in zip(counts, curves, strict=True))
        positives = sum(tp / curve.rows for (tp, _), curve in zip(counts, curves, strict=True))
        assert alerts <= budget + 1e-9, (draw, budget)
        largest = max(float(gain) for curve in curves for gain, _, _ in hull_steps(curve))
        assert positives >= hits[spent <= budget + 1e-12].max() - largest - 1e-9, (draw, budget)


def hull_steps(curve: Curve) -> list[tuple[Fraction, Fraction, Fraction]]:
    """(gain, slope, cost) of each edge of the concave hull, by taking the steepest line to any later cut."""
    rows, tp, alerts = int(curve.rows), [0, *curve.tp.tolist()], [0, *curve.alerts.tolist()]
    steps, at = [], 0
    while True:
        later = [(Fraction(tp[i] - tp[at], alerts[i] - alerts[at]), i) for i in range(at + 1, len(tp))]
        if not later or max(later)[0] <= 0:
            return steps
        slope, i = max(later)
        steps.append((Fraction(tp[i] - tp[at], rows), slope, Fraction(alerts[i] - alerts[at], rows)))
        at = i


def test_labels_without_a_class_take_no_part_and_say_so() -> None:
    scores = np.array([[4.0, 4, 4], [3, 3, 3], [2, 2, 2], [1, 1, 1]])
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    for text in ("max_micro_fbeta=1", "alert_budget=0.75"):
        a, b, c = fit_labels(Scores(scores, targets, ("a", "b", "c")), Plan.of(text, calibrator="none"))
        alone = fit_labels(Scores(scores[:, :1], targets[:, :1], ("a",)), Plan.of(text, calibrator="none"))
        assert (a,) == alone and (a.status, a.threshold) == ("OK", 1.5)
        assert (b.status, b.reason) == ("INSUFFICIENT", "0 labelled positives; needs at least 1")
        assert (c.status, c.reason) == ("INSUFFICIENT", "0 labelled negatives; needs at least 1")
    few = fit_labels(Scores(scores, targets, ("a", "b", "c")), Plan.of(["alert_rate_at_most=0.5", "a:alert_budget=1"]))
    assert few[0].counts.tp == 2


def test_a_label_whose_alerts_cost_the_others_more_than_they_bring_gives_none() -> None:
    scores = np.stack([np.arange(40.0), np.arange(40.0)], 1)
    targets = np.zeros((40, 2))
    targets[-10:, 0] = 1  # found by the ten highest
    targets[3, 1] = 1  # found by 37 alerts
    good, poor = fit_labels(Scores(scores, targets, ("good", "poor")), Plan.of("max_micro_fbeta=1", calibrator="none"))
    assert (good.counts.tp, good.counts.fp) == (10, 0)
    assert (poor.status, poor.threshold, poor.reason, poor.counts.tp) == ("OK", 39.5, "best without any alert", 0)
    alone = fit_labels(Scores(scores, targets, ("good", "poor")), Plan.of("max_fbeta=1", calibrator="none"))[1]
    assert (alone.counts.tp, alone.counts.fp) == (1, 36)


def test_labels_of_one_objective_share_it_apart_from_those_of_another() -> None:
    scores, targets = simulated(8, 500, seed=2)
    names = tuple("abcdefgh")
    texts = ["alert_budget=0.1", *(f"{name}:alert_budget=0.04" for name in "abc"), "d:recall_at_least=0.5"]
    fitted = fit_labels(Scores(scores, targets, names), Plan.of(texts, calibrator="none"))
    one = fit_labels(Scores(scores[:, :3], targets[:, :3], names[:3]), Plan.of("alert_budget=0.04", calibrator="none"))
    other = fit_labels(Scores(scores[:, 4:], targets[:, 4:], names[4:]), Plan.of("alert_budget=0.1", calibrator="none"))
    assert fitted[:3] == one and fitted[4:] == other
    assert sum(label.counts.alerts for label in one) <= 0.04 * 500
    assert sum(label.counts.alerts for label in other) <= 0.1 * 500
    assert fitted[3].objective == "recall_at_least=0.5"


def test_of_histograms_and_of_weighted_rows_the_budget_is_kept_too() -> None:
    scores, targets = simulated(6, 2000, seed=3)
    names = tuple("abcdef")
    weights = np.random.default_rng(4).uniform(0.5, 2, 2000)
    histogram = ScoreHistogram(names)
    histogram.update(scores, targets)
    exact = fit_labels(Scores(scores, targets, names), Plan.of("alert_budget=0.05"))
    binned = fit_labels(histogram, Plan.of("alert_budget=0.05"))
    weighed = fit_labels(Scores(scores, targets, names, weights=weights), Plan.of("alert_budget=0.05"))
    for fitted, rows in ((exact, 2000), (binned, 2000), (weighed, weights.sum())):
        assert sum(label.counts.alerts for label in fitted) <= 0.05 * rows * (1 + 1e-12)
    found = [sum(label.counts.tp for label in fitted) for fitted in (exact, binned)]
    assert found[0] >= found[1] > 0.9 * found[0]
    micro = [
        sum(2 * label.counts.tp for label in fitted) / (sum(label.counts.alerts for label in fitted) + targets.sum())
        for fitted in (
            fit_labels(Scores(scores, targets, names), Plan.of("max_micro_fbeta=1")),
            fit_labels(histogram, Plan.of("max_micro_fbeta=1")),
        )
    ]
    assert micro[0] >= micro[1] > 0.98 * micro[0]


def simulated(labels: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of different rarity (0.1 to 5 %) and difficulty, on scores that are no log-odds."""
    rng = np.random.default_rng(seed)
    rates = np.exp(rng.uniform(np.log(0.001), np.log(0.05), labels))
    targets = (rng.random((rows, labels)) < rates).astype(np.uint8)
    targets[0], targets[1] = 0, 1  # some of both
    return (rng.normal(size=(rows, labels)) + rng.uniform(0.5, 3, labels) * targets).astype(np.float32), targets


def test_sharing_finds_more_than_equal_quotas_and_micro_f_more_than_macro_cuts() -> None:
    """Once measured on 512 labels of 20 000 rows: recall .409 of a shared budget, .261 of equal quotas; micro-F1 .41, .34."""
    scores, targets = simulated(96, 4000, seed=0)
    names = tuple(str(i) for i in range(96))
    data, budget = Scores(scores, targets, names), float(targets.sum() / 4000)  # as many alerts as positives

    def recall(text: str) -> float:
        fitted = fit_labels(data, Plan.of(text, calibrator="none"))
        assert sum(label.counts.alerts for label in fitted) <= budget * 4000
        return sum(label.counts.tp for label in fitted) / targets.sum()

    shared, equal = recall(f"alert_budget={budget!r}"), recall(f"alert_rate_at_most={budget / 96!r}")
    assert shared > 1.2 * equal

    def micro(text: str) -> float:
        thresholds = np.array([label.threshold for label in fit_labels(data, Plan.of(text, calibrator="none"))], np.float32)
        return float(f1_score(targets, scores >= thresholds, average="micro"))

    assert micro("max_micro_fbeta=1") > micro("max_fbeta=1") + 0.02
