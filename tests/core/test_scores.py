"""Scores in memory: columns, rows that are windows, groups as units, digests."""

from typing import Any

import numpy as np
import pytest
from cutpoint.calibration import Curve, ScoreHistogram, Scores, clopper_pearson, exact_curve, group_scores
from cutpoint.calibration.expected import expected_of_groups
from cutpoint.calibration.scores import group_curve, group_peaks
from cutpoint.errors import BadData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

QUICK = settings(deadline=None, max_examples=100, database=None)
ROWS = st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0, 1, 255]), st.integers(0, 5)), max_size=15)


def data(rows: int = 300, labels: int = 37, seed: int = 0) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    targets = rng.choice(np.array([0, 0, 0, 1, 255], np.uint8), (rows, labels))
    return rng.normal(size=(rows, labels)).astype(np.float32), targets, tuple(f"label {i}" for i in range(labels))


def same(one: Curve, other: Curve) -> None:
    for name in ("cuts", "tp", "fp", "below"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("positives", "negatives", "top", "labelled", "effective", "step"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("labels", [1, 15, 16, 17, 37])
@pytest.mark.parametrize("kind", ["plain", "weighted", "unlabelled", "float64, Fortran order"])
def test_blocks_of_columns_in_threads_give_what_single_columns_give(
    labels: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, targets, names = data(labels=labels)
    weights = np.random.default_rng(1).uniform(0, 2, len(logits)) if kind == "weighted" else None
    given_: Any = logits if "float64" not in kind else np.asfortranarray(logits.astype(np.float64))
    classes = None if kind == "unlabelled" else targets
    scores = Scores(given_, classes, names, weights=weights)
    cuts = ["all" if i % 3 else "positives" for i in range(labels)]
    for cores in (1, 2, 5):
        monkeypatch.setattr("cutpoint.calibration.scores.cores", lambda n=cores: n)
        found = list(scores.map_curves(lambda i, curve: (i, curve), cuts))  # type: ignore[arg-type]
        assert [i for i, _ in found] == list(range(labels))
        for i, curve in found:
            same(curve, scores.curve(i, cuts[i]))  # type: ignore[arg-type]
            same(curve, exact_curve(logits[:, i], None if classes is None else targets[:, i], weights, cuts[i]))  # type: ignore[arg-type]


def test_an_error_in_a_thread_is_raised_with_the_labels_name() -> None:
    logits, targets, names = data(labels=40)
    logits[3, 35], targets[3, 35] = np.nan, 1
    logits[4, 2], targets[4, 2] = np.nan, 255  # not labelled: no matter
    scores = Scores(logits, targets, names)
    labelled = int((targets[:, 35] != 255).sum())
    for call in (lambda: list(scores.map_curves(lambda i, c: i, ["all"] * 40)), lambda: scores.curve(35)):
        with pytest.raises(BadData, match=rf"label 'label 35': scores is NaN in 1 of {labelled} labelled rows"):
            call()
    assert scores.curve(2).rows == (targets[:, 2] != 255).sum()
    wrong = targets.copy()
    wrong[0, 20] = 7
    with pytest.raises(BadData, match=r"targets is \[7\]"):
        list(Scores(np.nan_to_num(logits), wrong, names).map_curves(lambda i, c: i, ["all"] * 40))


def test_of_windows_weights_and_groups_may_be_of_each_or_of_the_sequence() -> None:
    logits, targets, names = data(60, 3)
    windows, classes = logits.reshape(12, 5, 3), targets.reshape(12, 5, 3)
    weights, groups = np.arange(12.0), np.array([f"g{i % 4}" for i in range(12)])
    of_sequences = Scores(windows, classes, names, weights=weights, groups=groups)
    each = Scores(
        windows, classes, names, weights=np.repeat(weights, 5).reshape(12, 5), groups=np.repeat(groups, 5).reshape(12, 5)
    )
    flat = Scores(logits, targets, names, weights=np.repeat(weights, 5), groups=np.repeat(groups, 5))
    for scores in (of_sequences, each, flat):
        assert scores.weights is not None and scores.groups is not None
        np.testing.assert_array_equal(scores.weights, np.repeat(weights, 5))
        np.testing.assert_array_equal(scores.groups, np.repeat(np.arange(12) % 4, 5))
        assert (scores.rows, scores.group_count, scores.weighted) == (60, 4, True)
        same(scores.curve(1), flat.curve(1))
    assert of_sequences.digest() == each.digest() != flat.digest()  # the shape tells windows from rows


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights": np.ones(5)}, r"shape of weights is \[5\]; expected \[4, 3\] or \[4\]"),
        ({"groups": np.ones((3, 4))}, r"shape of groups is \[3, 4\]; expected \[4, 3\] or \[4\]"),
        ({"weights": np.array([1, 1, 1, -1.0])}, r"weights is \[-1.0, -1.0, -1.0\]; expected finite numbers from 0"),
        ({"weights": np.array([1, 1, 1, np.nan])}, "weights is"),
        ({"logits": np.full((4, 3, 2), "x")}, "dtype of logits is <U1; expected numbers"),
        (
            {"labels": ("a",)},
            r"shapes of logits and targets is \[4, 3, 2\] and \[4, 3, 2\]; expected the same, \[..., 1 labels\]",
        ),
        ({"targets": np.zeros((4, 3))}, "shapes of logits and targets"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    fields: dict[str, Any] = {"logits": np.zeros((4, 3, 2)), "targets": np.zeros((4, 3, 2)), "labels": ("a", "b"), **changes}
    with pytest.raises(BadData, match=text):
        Scores(fields.pop("logits"), fields.pop("targets"), fields.pop("labels"), **fields)


def test_a_digest_tells_any_change_and_no_dtype() -> None:
    logits, targets, names = data(40, 2)
    weights, groups = np.arange(40.0), np.arange(40) // 4

    def digest(**changes: Any) -> str:
        fields: dict[str, Any] = {"logits": logits, "targets": targets, "weights": weights, "groups": groups, **changes}
        return Scores(fields.pop("logits"), fields.pop("targets"), names, **fields).digest()

    own = digest()
    assert own == digest(logits=logits.astype(np.float64), targets=targets.astype(np.float64)) == digest(weights=np.arange(40))
    assert own == digest(logits=np.asfortranarray(logits), groups=np.array([f"{c:02}" for c in groups]))

    def with_one(array: np.ndarray, value: Any) -> np.ndarray:
        changed = array.copy()
        changed.reshape(-1)[7] = value
        return changed

    others = [
        digest(logits=with_one(logits, np.nextafter(logits.reshape(-1)[7], np.float32(9)))),
        digest(targets=with_one(targets, (int(targets.reshape(-1)[7]) + 1) % 2)),
        digest(weights=with_one(weights, 7.5)),
        digest(groups=with_one(groups, 0)),
        digest(targets=None), digest(weights=None), digest(groups=None),
        digest(weights=None, groups=None),
        digest(logits=logits.reshape(20, 2, 2), targets=targets.reshape(20, 2, 2), weights=weights[:20], groups=groups[:20]),
        digest(logits=logits[::-1], targets=targets[::-1]),
    ]  # fmt: skip
    assert len({own, *others}) == len(others) + 1


@QUICK
@given(ROWS)
def test_group_peaks_and_units_are_those_of_a_loop(rows: list[tuple[int, int, int]]) -> None:
    scores = np.array([s for s, _, _ in rows], np.float64)
    targets = np.array([t for _, t, _ in rows], np.uint8)
    names = [f"g{g}" for _, _, g in rows]
    order = sorted(set(names))
    codes = np.array([order.index(name) for name in names], np.int64)
    peaks = group_peaks(scores, targets, codes, len(order))
    units, classes = group_scores(scores[:, None], targets[:, None], np.array(names, "U4"))
    assert units.shape == classes.shape == (2 * len(order), 1) and (units.dtype, classes.dtype) == (np.float32, np.uint8)
    for g, name in enumerate(order):
        for c, peak, has, unit in ((1, peaks[0], peaks[2], g), (0, peaks[1], peaks[3], len(order) + g)):
            members = [s for s, t, k in zip(scores, targets, names, strict=True) if k == name and t == c]
            assert has[g] == bool(members)
            assert peak[g] == max(members, default=-np.inf)
            assert classes[unit, 0] == (c if members else 255)
            assert not members or units[unit, 0] == max(members)
    unknown = group_peaks(scores, None, codes, len(order))
    for g, name in enumerate(order):
        assert unknown[1][g] == max(s for s, k in zip(scores, names, strict=True) if k == name)
        assert not unknown[2][g] and unknown[3][g]


@QUICK
@given(ROWS, st.sampled_from(["recall", "fpr", "alert_rate", "precision"]))
def test_a_group_curve_counts_groups_as_a_loop_does(rows: list[tuple[int, int, int]], rate: str) -> None:
    scores = np.array([s for s, _, _ in rows], np.float32)
    targets, groups = np.array([t for _, t, _ in rows], np.uint8), np.array([g for _, _, g in rows], np.int64)
    curve = group_curve(group_peaks(scores, targets, groups, 6), rate)

    def having(least: float, *classes: int) -> set[int]:
        """Groups with a row of one of the classes that scores at least this."""
        return {int(g) for s, t, g in zip(scores, targets, groups, strict=True) if s >= least and t in classes}

    if rate in ("recall", "fpr"):
        assert (curve.positives, curve.negatives) == (len(having(-9, 1)), len(having(-9, 0)))
    elif rate == "precision":
        assert (curve.rows, curve.positives) == (len(having(-9, 0, 1)), len(having(-9, 1)))
    else:
        assert curve.rows == len(having(-9, 0, 1)) and not curve.labelled
    for i, cut in enumerate(curve.cuts):
        if rate in ("recall", "fpr"):
            assert (curve.tp[i], curve.fp[i]) == (len(having(cut, 1)), len(having(cut, 0)))
        else:
            assert curve.alerts[i] == len(having(cut, 0, 1))
            assert rate == "alert_rate" or curve.tp[i] == len(having(cut, 1))


def test_a_histogram_of_group_units_has_the_group_curve() -> None:
    logits, targets, names = data(300, 2)
    logits = np.floor(logits * 4) / 4  # on the grid, so that both are exact
    groups = np.arange(300) // 7
    histogram = ScoreHistogram(names, grouped=True)
    histogram.update(logits, targets, groups=groups)
    for i in range(2):
        one, other = (
            group_curve(group_peaks(logits[:, i], targets[:, i], groups, 43), "recall"),
            histogram.unit_curve(i, "recall"),
        )
        for name in ("cuts", "tp", "fp"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.positives, one.negatives) == (other.positives, other.negatives)


def test_groups_of_one_row_have_nearly_clopper_and_pearsons_interval() -> None:
    logits, targets, _ = data(2000, 1)
    own = expected_of_groups(logits[:, 0], targets[:, 0], None, np.arange(2000), 0.5)
    alerts, known = logits[:, 0] >= 0.5, targets[:, 0] != 255
    positive = targets[:, 0] == 1
    for rate, part, whole in (
        (own.precision, alerts & positive, alerts & known),
        (own.recall, alerts & positive, positive),
        (own.fpr, alerts & known & ~positive, known & ~positive),
        (own.alert_rate, alerts & known, known),
    ):
        assert rate is not None
        low, high = clopper_pearson(int(part.sum()), int(whole.sum()))
        assert rate.value == part.sum() / whole.sum()
        assert rate.high - rate.low == pytest.approx(high - low, rel=0.02)
        assert rate.low == pytest.approx(low, rel=0.02) and rate.high == pytest.approx(high, rel=0.02)


def test_rows_copied_within_groups_say_no_more_than_one_of_each() -> None:
    logits, targets, _ = data(400, 1)
    scores, classes = logits[:, 0], targets[:, 0]
    one = expected_of_groups(scores, classes, None, np.arange(400), 0.5)
    copied = expected_of_groups(np.repeat(scores, 4), np.repeat(classes, 4), None, np.repeat(np.arange(400), 4), 0.5)
    as_rows = expected_of_groups(np.repeat(scores, 4), np.repeat(classes, 4), None, np.arange(1600), 0.5)
    for name in ("precision", "recall", "fpr", "alert_rate"):
        a, b, c = getattr(one, name), getattr(copied, name), getattr(as_rows, name)
        assert a.value == b.value == c.value
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.02)
        assert 1.8 < (b.high - b.low) / (c.high - c.low) < 2.2


def test_a_rate_of_0_or_1_is_as_sure_as_the_number_of_groups() -> None:
    scores, targets, groups = np.zeros(40), np.tile([0, 1], 20), np.repeat(np.arange(4), 10)
    none, every = (expected_of_groups(scores, targets, None, groups, t) for t in (1.0, -1.0))
    assert none.recall is not None and every.recall is not None
    assert (none.recall.low, none.recall.value) == (0, 0) and none.recall.high == pytest.approx(1 - 0.025**0.25)
    assert (every.recall.high, every.recall.value) == (1, 1) and every.recall.low == pytest.approx(0.025**0.25)
    assert none.precision is None


def test_groups_of_masked_unlabelled_or_weighted_rows_count_what_counts() -> None:
    scores, groups = np.array([3.0, 2, 1, 0, np.nan]), np.array([0, 0, 1, 1, 2])
    masked = expected_of_groups(scores, np.array([1, 0, 0, 0, 255]), None, groups, 1.5)
    assert (masked.alert_rate.value, masked.recall and masked.recall.value, masked.fpr and masked.fpr.value) == (0.5, 1, 1 / 3)
    unlabelled = expected_of_groups(scores[:4], None, None, groups[:4], 1.5)
    assert unlabelled.alert_rate == masked.alert_rate
    assert (unlabelled.precision, unlabelled.recall, unlabelled.fpr) == (None, None, None)
    weighted = expected_of_groups(scores[:4], np.array([1, 0, 0, 0]), np.array([1.0, 0, 2, 1]), groups[:4], 1.5)
    assert (weighted.alert_rate.value, weighted.precision and weighted.precision.value) == (0.25, 1)
    with pytest.raises(BadData, match="rows is none with a weight"):
        expected_of_groups(scores[:4], np.array([1, 0, 0, 0]), np.zeros(4), groups[:4], 1.5)


@pytest.mark.parametrize(("groups", "size", "correlation", "rate"), [(5, 20, 0.3, 0.3), (10, 20, 0.3, 0.3), (40, 10, 0.5, 0.1)])
def test_the_interval_by_groups_covers_the_rate_and_that_of_rows_does_not(
    groups: int, size: int, correlation: float, rate: float
) -> None:
    rng, codes, cut = np.random.default_rng(0), np.repeat(np.arange(groups), size), norm.ppf(1 - rate)
    covered = np.zeros(2)
    for _ in range(300):
        common = rng.normal(size=groups)[codes]
        scores = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * rng.normal(size=len(codes))
        for i, of in enumerate((codes, np.arange(len(codes)))):
            found = expected_of_groups(scores, None, None, of, cut).alert_rate
            covered[i] += (found.low <= rate <= found.high) / 300
    assert covered[0] > 0.93 and covered[1] < 0.9
