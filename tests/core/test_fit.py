"""Plans, guarantees by group, and what labels with few positives get."""

from typing import Any

import numpy as np
import pytest
from cutpoint.calibration import (
    Calibrator,
    Infeasible,
    LabelPolicy,
    Plan,
    Policy,
    ScoreHistogram,
    Scores,
    exact_curve,
    fit_labels,
    fit_policy,
    parse_objective,
)
from cutpoint.calibration.guarantee import declared_ranks
from cutpoint.errors import BadInput, Uncalibratable
from scipy.stats import binom, binomtest, norm

# Plans.


def test_objectives_of_labels_whose_names_hold_any_sign() -> None:
    plan = Plan.of(
        ["max_fbeta=1", "a:recall_at_least=0.9", "x:y:fpr_at_most=0.01", "k=v:min_cost=50@0.001", "u:max_fbeta=1:max_fbeta=2",
         "é \n: alert_rate_at_most = 0.5 "]
    )  # fmt: skip
    assert plan.objective == "max_fbeta=1"
    assert plan.objectives == {
        "a": "recall_at_least=0.9", "x:y": "fpr_at_most=0.01", "k=v": "min_cost=50@0.001", "u:max_fbeta=1": "max_fbeta=2",
        "é \n": "alert_rate_at_most=0.5",
    }  # fmt: skip
    names = ("k=v", "b", "x:y", "a", "u:max_fbeta=1", "é \n")
    found = [str(objective) for objective in plan.for_labels(names)]
    assert found == [
        "min_cost=50@0.001", "max_fbeta=1", "fpr_at_most=0.01", "recall_at_least=0.9", "max_fbeta=2", "alert_rate_at_most=0.5",
    ]  # fmt: skip
    same = Plan.of("max_fbeta=1", objectives={name: str(text) for name, text in plan.objectives.items()})
    assert same == plan == Plan.of([parse_objective("max_fbeta=1")], objectives=plan.objectives)  # type: ignore[list-item]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "objective is not given; expected one for all labels, and others as LABEL:NAME=VALUE"),
        (["a:max_fbeta=1"], {}, "objective is not given"),
        (["max_fbeta=1", "max_fbeta=1"], {}, r"objective is \['max_fbeta=1', 'max_fbeta=1'\]; expected one for all labels"),
        (["max_fbeta=1", "a:foo=1"], {}, r"objective is \['max_fbeta=1', 'a:foo=1'\]"),
        (["foo=1"], {}, "objective is 'foo=1'; expected one of max_fbeta=VALUE"),
        (["max_fbeta=x"], {}, "objective max_fbeta is 'x'; expected a number"),
        (["max_fbeta=1", "a:recall_at_least=2"], {}, "objective recall_at_least is 2.0; expected"),
        (["max_fbeta=1", "a:max_fbeta=1", "a:max_fbeta=2"], {}, "objective of label 'a' is given twice"),
        (["max_fbeta=1", "a:max_fbeta=1"], {"objectives": {"a": "max_fbeta=3"}}, "objective of label 'a' is given twice"),
        (["max_fbeta=1"], {"objectives": {"a": "foo=3"}}, "objective is 'foo=3'"),
        (
            ["recall_at_least=0.9"],
            {"simultaneous": True},
            "delta is not given; expected a probability, with simultaneous or by_gr",
        ),
        (["recall_at_least=0.9"], {"by_group": True}, "delta is not given"),
        (["recall_at_least=0.9"], {"delta": 1.5}, "calibration: delta is 1.5: "),
        (
            ["max_fbeta=1"],
            {"calibrator": "magic"},
            "^calibration: calibrator is 'magic'; expected one of auto, none, temperature, platt, beta, isotonic, venn_abers$",
        ),
        (["max_fbeta=1"], {"min_positives": -1}, "calibration: min_positives is -1"),
        (["max_fbeta=1"], {"min_positives": 1.5}, "calibration: min_positives is 1.5"),
        (["max_fbeta=1"], {"shrink": -1.0}, "calibration: shrink is -1.0"),
        (["max_fbeta=1"], {"shrink": float("inf")}, "calibration: shrink is inf"),
        (["max_fbeta=1"], {"fallback": "prior"}, "^calibration: fallback is 'prior'; expected one of none, pooled, previous$"),
        (["max_fbeta=1"], {"shrinc": 1}, "calibration: shrinc is not a known key"),
        (["max_fbeta=1"], {"guarantee": {"delta": 0.1}}, "^guarantee for objective is max_fbeta=1"),
        (
            ["recall_at_least=0.9", "a:fpr_at_most=0.1", "b:max_fbeta=1"],
            {"delta": 0.1},
            "^label 'b': guarantee for objective is max_fbeta=1; expected recall_at_least",
        ),
    ],
)
def test_a_bad_plan_names_the_field(texts: list[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Plan.of(texts, **settings)


def test_objectives_of_unknown_labels_are_named() -> None:
    plan = Plan.of("max_fbeta=1", objectives={"b": "max_fbeta=2", "zz": "max_fbeta=2"})
    with pytest.raises(BadInput, match=r"objectives for labels is \['zz'\]; expected labels among \['a', 'b'\]"):
        fit_labels(Scores(np.zeros((2, 2)), np.eye(2), ("a", "b")), plan)


def test_settings_not_given_are_the_defaults_and_a_plan_prints_as_asked() -> None:
    assert Plan.of("max_fbeta=1", shrink=None, fallback=None, calibrator=None, min_positives=None) == Plan.of("max_fbeta=1")
    plan = Plan.of(["recall_at_least=0.90", "a:fpr_at_most=1e-3", "b:recall_at_least=0.9"], delta=0.05, simultaneous=True)
    assert str(plan) == "fpr_at_most=0.001, recall_at_least=0.9 at delta 0.05"
    assert str(Plan.of("max_fbeta=1")) == "max_fbeta=1"
    assert plan.guarantee is not None and (plan.guarantee.family, plan.guarantee.unit) == ("simultaneous", "row")
    by_group = Plan.of("recall_at_least=0.9", delta=0.05, by_group=True).guarantee
    assert by_group is not None and (by_group.family, by_group.unit) == ("per_label", "group")


# Guarantees by group.


def grouped(seed: int, groups: int = 250) -> Scores:
    """Groups of 1 to 5 rows that have something in common; some rows are not labelled."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, groups)
    codes = np.repeat(np.arange(groups), sizes)
    targets = (rng.random((len(codes), 2)) < np.where(rng.random((groups, 2)) < 0.4, 0.6, 0.0)[codes]).astype(np.uint8)
    common = rng.normal(size=(groups, 2))[codes]
    scores = common + rng.normal(size=targets.shape) + 3 * targets
    targets[rng.random(targets.shape) < 0.1] = 255
    order = rng.permutation(len(codes))
    names = np.array([f"event {code}" for code in codes])
    return Scores(np.round(scores, 1).astype(np.float32)[order], targets[order], ("a", "b"), groups=names[order])


def alerting(data: Scores, i: int, at: float, *classes: int) -> set[int]:
    """Groups of which a row of these classes scores `at` or more."""
    scores, targets = data.column(i)
    assert targets is not None and data.groups is not None
    return {int(g) for s, t, g in zip(scores, targets, data.groups, strict=True) if t in classes and s >= np.float32(at)}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("delta", [0.2, 0.02])
@pytest.mark.parametrize(
    "text", ["recall_at_least=0.8", "fpr_at_most=0.1", "alert_rate_at_most=0.15", "precision_at_least=0.5"]
)
def test_a_guarantee_by_group_is_that_of_brute_force(text: str, delta: float, seed: int) -> None:
    data, (name, _, value) = grouped(seed), text.partition("=")
    for i, label in enumerate(fit_labels(data, Plan.of(text, delta=delta, by_group=True, calibrator="none"))):
        scores, targets = data.column(i)
        assert targets is not None and label.threshold is not None and label.guarantee is not None
        classes = {"recall_at_least": (1,), "fpr_at_most": (0,)}.get(name, (0, 1))
        units = len(alerting(data, i, -np.inf, *classes))
        assert (label.guarantee.unit, label.guarantee.counted) == ("group", units)

        def safe(at: float) -> bool:
            count = len(alerting(data, i, at, *classes))  # noqa: B023
            if name == "recall_at_least":
                return bool(binom.cdf(units - count, units, 1 - float(value)) <= delta)  # noqa: B023
            return bool(binom.cdf(count, units, float(value)) <= delta)  # noqa: B023

        at = label.threshold
        alerts = (scores >= np.float32(at)) & (targets != 255)
        assert (label.counts.tp, label.counts.fp) == ((alerts & (targets == 1)).sum(), (alerts & (targets == 0)).sum())
        distinct = np.unique(scores[targets != 255])
        if name == "precision_at_least":
            above = group_precision(data, i, float(value), delta)
            assert at == np.nextafter(np.float32(above), np.float32(np.inf))
            continue
        assert safe(at)
        others = [s for s in distinct if (s > at if name == "recall_at_least" else s < at) and safe(float(s))]
        # Of the other safe cuts none changes which groups alert.
        assert all(alerting(data, i, float(s), *classes) == alerting(data, i, at, *classes) for s in others)


def group_precision(data: Scores, i: int, precision: float, delta: float) -> float:
    """The score above which groups' precision is sure, by the fallback procedure over groups."""
    every = sorted(alerting(data, i, -np.inf, 0, 1))
    scores, targets = data.column(i)
    assert targets is not None and data.groups is not None
    known = targets != 255
    peaks = np.sort([scores[known & (data.groups == g)].max() for g in every])[::-1]
    ranks = declared_ranks(len(every), precision, delta)
    level, found = 0.0, None
    for n, rank in enumerate(ranks):
        level += delta / 2 if n == 0 else delta / 2 / (len(ranks) - 1)
        next_lower = peaks[rank]
        cut = peaks[peaks > next_lower].min()
        m, hits = len(alerting(data, i, cut, 0, 1)), len(alerting(data, i, cut, 1))
        if binomtest(hits, m, precision, alternative="greater").pvalue <= level:
            found = float(next_lower)
        else:
            level = 0.0
    assert found is not None
    return found


@pytest.mark.parametrize("text", ["recall_at_least=0.8", "fpr_at_most=0.1"])
def test_a_histogram_of_groups_gives_the_groups_of_the_scores(text: str) -> None:
    data = grouped(3)
    assert data.targets is not None and data.groups is not None
    histogram = ScoreHistogram(data.labels, grouped=True)
    histogram.update(data.logits, data.targets, groups=data.groups)
    plan = Plan.of(text, delta=0.1, by_group=True, calibrator="none")
    for i, (a, b) in enumerate(zip(fit_labels(data, plan), fit_labels(histogram, plan), strict=True)):
        assert a.threshold is not None and b.threshold is not None and a.guarantee == b.guarantee
        c = 1 if text.startswith("recall") else 0
        one, other = alerting(data, i, a.threshold, c), alerting(data, i, b.threshold, c)
        assert one == other  # scores are tenths, further apart than bins
        assert a.counts == b.counts  # of rows, both


def test_expected_rates_take_groups_as_what_is_independent() -> None:
    data = grouped(4)
    rows = fit_labels(Scores(data.logits, data.targets, data.labels), Plan.of("max_fbeta=1"))
    groups = fit_labels(data, Plan.of("max_fbeta=1"))
    for a, b in zip(rows, groups, strict=True):
        assert a.threshold == b.threshold and a.counts == b.counts
        assert a.expected is not None and b.expected is not None
        assert a.expected.fpr is not None and b.expected.fpr is not None
        assert a.expected.fpr.value == pytest.approx(b.expected.fpr.value)
        assert b.expected.fpr.high - b.expected.fpr.low > a.expected.fpr.high - a.expected.fpr.low


# Few positives.


def few(positives: int, labels: int = 8, rows: int = 400, seed: int = 0, offset: float = 0.3) -> Scores:
    """Log-odds of labels that are alike but for an offset; the first has only `positives`, the others more."""
    rng = np.random.default_rng(seed)
    targets = np.zeros((rows, labels), np.uint8)
    targets[:positives, 0] = 1
    targets[:20, 1:] = 1
    logits = rng.normal(size=(rows, labels)) + 2 * targets - 3 + rng.normal(size=labels) * offset
    return Scores(logits.astype(np.float32), targets, tuple("abcdefgh"[:labels]))


def pooled_by_hand(data: Scores, objective: str, calibrators: list[Calibrator]) -> float:
    """The pooled cut in calibrated log-odds, on all labels' rows on a grid of 1/256."""
    assert data.targets is not None
    odds = [
        calibrators[i].log_odds(((np.floor(data.logits[:, i] * 256)) / 256 + 1 / 512).astype(np.float32))
        for i in range(len(data.labels))
    ]
    curve = exact_curve(np.concatenate(odds), data.targets.T.reshape(-1))
    choice = parse_objective(objective).choose(curve)
    assert not isinstance(choice, Infeasible)
    return curve.threshold(choice)


@pytest.mark.parametrize("objective", ["max_fbeta=1", "max_fbeta=2", "min_cost=20"])
@pytest.mark.parametrize("calibrator", ["none", "temperature", "platt"])
@pytest.mark.parametrize("shrink", [1.0, 4.0, 100.0])
def test_shrinking_moves_a_cut_its_share_of_the_way_to_the_pooled_one(objective: str, calibrator: str, shrink: float) -> None:
    data = few(5)
    assert data.targets is not None
    plain = fit_labels(data, Plan.of(objective, calibrator=calibrator))
    moved = fit_labels(data, Plan.of(objective, calibrator=calibrator, shrink=shrink))
    assert [label.calibrator for label in plain] == [label.calibrator for label in moved]
    cut = pooled_by_hand(data, objective, [label.calibrator for label in plain])
    for i, (before, after) in enumerate(zip(plain, moved, strict=True)):
        n = before.counts.positives
        assert n == (5 if i == 0 else 20)
        towards = before.calibrator.inverse(cut)
        assert before.threshold is not None and after.threshold is not None
        expected = before.threshold + shrink / (n + shrink) * (towards - before.threshold)
        assert after.threshold == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert (after.status, after.guarantee) == ("OK", None)
        share = f"moved {shrink / (n + shrink):.0%} of the way from {before.threshold:.4g} to the pooled"
        assert after.reason.startswith(share)
        check_counts(data, i, after)


def check_counts(data: Scores, i: int, label: LabelPolicy) -> None:
    """Counts and rates are those of the rows at the threshold."""
    scores, targets = data.column(i)
    assert targets is not None and label.threshold is not None and label.expected is not None
    alerts = (scores >= np.float32(label.threshold)) & (targets != 255)
    assert (label.counts.tp, label.counts.fp) == ((alerts & (targets == 1)).sum(), (alerts & (targets == 0)).sum())
    assert label.expected.alert_rate.value == pytest.approx(alerts.sum() / (targets != 255).sum())
    assert (label.expected.precision is None) == (not alerts.any())


@pytest.mark.parametrize(
    "text", ["recall_at_least=0.7", "precision_at_least=0.3", "fpr_at_most=0.05", "alert_rate_at_most=0.1"]
)
def test_what_keeps_a_bound_is_never_moved(text: str) -> None:
    data = few(15)
    for settings in ({}, {"delta": 0.3}):
        fixed = fit_labels(data, Plan.of(text, **settings))  # type: ignore[arg-type]
        assert all(label.threshold is not None for label in fixed) or settings
        for fallback in ("none", "pooled", "previous"):
            again = fit_labels(data, Plan.of(text, shrink=50.0, fallback=fallback, **settings))  # type: ignore[arg-type]
            for one, other in zip(fixed, again, strict=True):
                assert one == other or one.status == "INSUFFICIENT"


def test_a_joint_cut_or_one_label_alone_is_never_moved() -> None:
    data = few(5)
    for text in ("max_micro_fbeta=1", "alert_budget=0.2"):
        assert fit_labels(data, Plan.of(text)) == fit_labels(data, Plan.of(text, shrink=4.0, fallback="pooled"))
    alone = few(5, labels=1)
    assert fit_labels(alone, Plan.of("max_fbeta=1")) == fit_labels(alone, Plan.of("max_fbeta=1", shrink=4.0))


@pytest.mark.parametrize("text", ["max_fbeta=1", "recall_at_least=0.9", "precision_at_least=0.3", "min_cost=20"])
@pytest.mark.parametrize("positives", [0, 3])
def test_a_label_with_too_few_positives_falls_back_to_the_pooled_cut(text: str, positives: int) -> None:
    data = few(positives)
    with_none = fit_labels(data, Plan.of(text, min_positives=5))
    assert (with_none[0].status, with_none[0].threshold) == ("INSUFFICIENT", None)
    fitted = fit_labels(data, Plan.of(text, min_positives=5, fallback="pooled"))
    assert fitted[1:] == with_none[1:]
    label = fitted[0]
    reason = f"the cut of all labels together: {positives} labelled positives; needs at least 5"
    assert (label.status, label.needs, label.guarantee, label.reason) == ("FALLBACK", None, None, reason)
    cut = pooled_by_hand(data, text, [each.calibrator for each in with_none])
    assert label.threshold == pytest.approx(with_none[0].calibrator.inverse(cut), rel=1e-6)
    check_counts(data, 0, label)


def test_the_pooled_cut_counts_what_is_below_a_histograms_grid() -> None:
    scores = np.array([0.9, 0.8, 0.5, -0.5, -7, -7, -7, -8, -9], np.float32)  # of whose positives three are below -1
    targets = np.array([1, 1, 0, 0, 1, 1, 1, 0, 0])
    histogram = ScoreHistogram(("a", "b", "c"), limit=1)
    histogram.update(np.stack([scores] * 3, 1), np.stack([np.zeros(9), targets, targets], 1))
    for share, threshold in ((0.4, 0.65234375), (0.9, -0.75)):  # 2 of 5; all that are on the grid, which is not enough
        plan = Plan.of([f"recall_at_least={share}", "c:alert_rate_at_most=0.5"], fallback="pooled", calibrator="none")
        label = fit_labels(histogram, plan)[0]
        assert label.status == "FALLBACK" and label.threshold == pytest.approx(threshold, abs=0.01)


def test_a_fallback_that_alerts_on_nothing_still_says_where_it_comes_from() -> None:
    data = few(3)
    low = Scores(data.logits - np.array([50] + [0] * 7, np.float32), data.targets, data.labels)
    label = fit_labels(low, Plan.of("max_fbeta=1", min_positives=5, fallback="pooled", calibrator="none"))[0]
    assert label.status == "FALLBACK" and label.counts.alerts == 0
    assert label.reason.startswith("the cut of all labels together: 3 labelled positives")
    check_counts(low, 0, label)


def a_policy(data: Any, plan: Plan, previous: Policy | None = None) -> Policy:
    return fit_policy(
        data, plan, model="m", model_version=1, model_digest="d", created="2026-01-01T00:00:00+00:00", author="me",
        previous=previous,
    )  # fmt: skip


def test_a_label_with_too_few_positives_keeps_its_previous_cut() -> None:
    before = a_policy(few(20, seed=1), Plan.of("recall_at_least=0.9")).model_copy(update={"version": 7})
    data, plan = few(3), Plan.of("recall_at_least=0.9", min_positives=5, fallback="previous")
    policy = a_policy(data, plan, before)
    label, old = policy.labels[0], before.labels[0]
    reason = "the cut of policy 7: 3 labelled positives; needs at least 5"
    assert (label.status, label.threshold, label.reason) == ("FALLBACK", old.threshold, reason)
    assert (label.calibrator, label.objective, policy.parent) == (old.calibrator, "recall_at_least=0.9", 7)
    check_counts(data, 0, label)
    assert policy.labels[1:] == fit_labels(data, Plan.of("recall_at_least=0.9", min_positives=5))[1:]
    # Without rows of the label the rates of the previous policy are kept too.
    assert data.targets is not None
    masked = data.targets.copy()
    masked[:, 0] = 255
    kept = fit_labels(Scores(data.logits, masked, data.labels), plan, before)[0]
    assert (kept.threshold, kept.expected, kept.counts.rows) == (old.threshold, old.expected, 0)
    # With no previous policy, none for this label, or one for another objective there is no cut.
    renamed = before.model_copy(update={"labels": before.labels[1:]})
    other = a_policy(few(20, seed=1), Plan.of("max_fbeta=1"))
    for previous in (None, renamed, other):
        assert fit_labels(data, plan, previous)[0].status == "INSUFFICIENT"


@pytest.mark.parametrize("threshold", [-9.0, -3.3, -1.0, -0.7128906, 0.0, 30.0])
def test_a_previous_cut_on_a_histogram_is_at_what_it_offers_and_counts_what_alerts(threshold: float) -> None:
    before = a_policy(few(20, seed=1), Plan.of("max_fbeta=1"))
    first = before.labels[0].model_copy(update={"threshold": float(np.float32(threshold))})
    before = before.model_copy(update={"labels": (first, *before.labels[1:])})
    data, plan = few(3), Plan.of("max_fbeta=1", min_positives=5, fallback="previous")
    histogram = ScoreHistogram(data.labels, bits=2)
    histogram.update(data.logits, data.targets)
    label = fit_labels(histogram, plan, before)[0]
    assert label.status == "FALLBACK" and label.threshold is not None
    check_counts(data, 0, label)
    if threshold in (-9.0, 30.0, -1.0):  # beyond all scores, or at an edge
        assert label.threshold == threshold
    assert 0 <= label.threshold - threshold <= 0.5


def test_infeasible_labels_fall_back_on_nothing() -> None:
    data = few(10)
    assert data.targets is not None
    reversed_ = data.targets.copy()
    reversed_[:, 0] = (np.argsort(np.argsort(data.logits[:, 0])) < 10).astype(np.uint8)  # the lowest are positive
    plan = Plan.of("precision_at_least=0.3", fallback="pooled", shrink=4.0)
    label = fit_labels(Scores(data.logits, reversed_, data.labels), plan)[0]
    assert (label.status, label.threshold) == ("INFEASIBLE", None)


def test_nothing_to_fall_back_on_is_uncalibratable() -> None:
    scores, targets = np.zeros((5, 2)), np.zeros((5, 2))
    with pytest.raises(Uncalibratable, match=r"max_fbeta=1 can be met for no label: a: INSUFFICIENT"):
        fit_labels(Scores(scores, targets, ("a", "b")), Plan.of("max_fbeta=1", fallback="pooled", shrink=4.0))


def test_shrinking_finds_better_cuts_at_five_positives() -> None:
    """As measured once: test macro-F1 .290 with, .266 to .257 without, at offsets of sd .2 to .5 between labels."""
    labels, rows, positives, rate, distance = 64, 500, 5, 0.01, 2.0
    gains = []
    for seed, sd in ((0, 0.2), (1, 0.5), (2, 0.3), (3, 0.4)):
        rng = np.random.default_rng(seed)
        offsets = rng.normal(size=labels) * sd
        targets = np.zeros((rows, labels), np.uint8)
        targets[:positives] = 1
        logits = (distance * (rng.normal(size=(rows, labels)) + distance * (targets - 0.5)) + np.log(rate) + offsets).astype(
            np.float32
        )

        def macro_f1(shrink: float) -> float:
            fitted = fit_labels(Scores(logits, targets, tuple(map(str, range(labels)))), Plan.of("max_fbeta=1", shrink=shrink))  # noqa: B023
            thresholds = np.array([label.threshold for label in fitted])
            z = (thresholds - np.log(rate) - offsets) / distance  # noqa: B023
            recall, fpr = norm.sf(z - distance / 2), norm.sf(z + distance / 2)
            return float(np.mean(2 * rate * recall / (rate * recall + (1 - rate) * fpr + rate)))

        gains.append(macro_f1(4.0) - macro_f1(0.0))
    assert min(gains) > 0 and np.mean(gains) > 0.01, gains


@pytest.mark.parametrize("counted", [False, True])
def test_a_label_without_rows_gets_no_pooled_cut_and_costs_the_others_nothing(counted: bool) -> None:
    data = few(20)
    assert data.targets is not None
    masked = data.targets.copy()
    masked[:, 1] = 255
    source: Scores | ScoreHistogram = Scores(data.logits, masked, data.labels)
    if counted:
        source = ScoreHistogram(data.labels)
        source.update(data.logits, masked)
    fitted = fit_labels(source, Plan.of("max_fbeta=1", fallback="pooled"))
    assert (fitted[1].status, fitted[1].reason) == ("INSUFFICIENT", "no labelled rows")
    assert all(label.status == "OK" for i, label in enumerate(fitted) if i != 1)


@pytest.mark.parametrize(("least", "needs"), [(5, 22), (22, 22), (50, 50)])
def test_of_what_the_objective_and_the_guarantee_take_the_greater_is_said(least: int, needs: int) -> None:
    plan = Plan.of("recall_at_least=0.9", delta=0.1, min_positives=least)
    data = few(3)
    assert data.targets is not None
    targets = data.targets.copy()
    targets[:60, 1:] = 1
    label = fit_labels(Scores(data.logits, targets, data.labels), plan)[0]
    assert label.status == "INSUFFICIENT" and label.needs is not None
    assert (label.needs.count, label.needs.of) == (needs, "positives")
    assert label.reason.startswith("3 positives; at delta 0.1" if needs > least else "3 labelled positives; needs at least")


@pytest.mark.parametrize("shrink", [1.0, 20.0])
def test_of_weighted_rows_effective_positives_hold_a_cut_against_the_pooled_one(shrink: float) -> None:
    data = few(5)
    assert data.targets is not None
    weights = np.random.default_rng(5).choice([0.25, 1.0, 4.0], 400)
    weighed = Scores(data.logits, data.targets, data.labels, weights=weights)
    plain = fit_labels(weighed, Plan.of("max_fbeta=1", calibrator="none"))
    moved = fit_labels(weighed, Plan.of("max_fbeta=1", calibrator="none", shrink=shrink))
    at = (np.floor(data.logits * 256) / 256 + 1 / 512).astype(np.float32)
    curve = exact_curve(at.T.reshape(-1), data.targets.T.reshape(-1), np.tile(weights, 8))
    choice = parse_objective("max_fbeta=1").choose(curve)
    assert not isinstance(choice, Infeasible)
    towards = curve.threshold(choice)
    for i, (before, after) in enumerate(zip(plain, moved, strict=True)):
        of = weights[data.targets[:, i] == 1]
        n = of.sum() ** 2 / (of**2).sum()
        assert n < 0.8 * before.counts.positives  # their sum, which is more
        assert before.threshold is not None
        expected = before.threshold + shrink / (n + shrink) * (towards - before.threshold)
        assert after.threshold == pytest.approx(expected, rel=1e-6, abs=1e-6)
