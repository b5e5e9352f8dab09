"""Score histograms against counting the float32 scores themselves."""

import functools
import hashlib
import json
import math
import random
import tracemalloc
import zlib

import numpy as np
import pytest
from cutpoint.calibration import Curve, encoding, exact_curve, group_scores
from cutpoint.calibration import histogram as histograms
from cutpoint.calibration.histogram import ScoreHistogram, merge_histograms
from cutpoint.errors import BadData, BadInput
from hypothesis import given, settings
from hypothesis import strategies as st

QUICK = settings(deadline=None, max_examples=40, database=None)
GRIDS = [(1, 0), (1, 2), (3, 1), (4, 8)]
EXTREMES = [-np.inf, np.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4028235e38, -3.4028235e38, 1e-38, -1e-38]
LABELS = ("a", "b", "c")

Data = tuple[int, int, np.ndarray, np.ndarray]


def beside(x: float, way: int, dtype: type = np.float32) -> float:
    """`x`, or the float next to it."""
    with np.errstate(over="ignore"):
        return float(np.nextafter(dtype(x), dtype(way * np.inf))) if way else float(dtype(x))


@st.composite
def binned(draw: st.DrawFn, labels: int = 1, max_rows: int = 30) -> Data:
    """A grid, scores [row, label] and targets: at edges and beside them, at the limits, and as float64 too."""
    limit, bits = draw(st.sampled_from(GRIDS))
    top = limit << bits
    index = st.one_of(st.integers(-3, 3), st.sampled_from([-top - 1, -top, 1 - top, top - 1, top, top + 1]))
    edges = st.builds(lambda i, way, half: beside((i + half) / (1 << bits), way), index, st.integers(-1, 1), st.just(0.0))
    inside = st.builds(lambda i, part: (i + part) / (1 << bits), index, st.floats(0, 1))
    any_float = st.floats(width=32, allow_nan=False)
    double = draw(st.booleans())
    elements = [edges, inside, any_float, st.sampled_from(EXTREMES)]
    if double:  # beside an edge in float64 it is at the edge in float32
        elements.append(st.builds(lambda i, way: beside(i / (1 << bits), way, np.float64), index, st.integers(-1, 1)))
    count = draw(st.integers(0, max_rows)) * labels
    values = draw(st.lists(st.one_of(elements), min_size=count, max_size=count))
    scores = np.array(values, np.float64 if double else np.float32).reshape(-1, labels)
    targets = draw(st.lists(st.sampled_from([0, 0, 1, 255]), min_size=count, max_size=count))
    return limit, bits, scores, np.array(targets, np.uint8).reshape(-1, labels)


def made(data: Data, **options: bool) -> ScoreHistogram:
    limit, bits, scores, targets = data
    histogram = ScoreHistogram(LABELS[: scores.shape[1]], limit=limit, bits=bits, **options)
    histogram.update(scores, targets)
    return histogram


def curves_of(histogram: ScoreHistogram) -> list[Curve]:
    return list(histogram.map_curves(lambda label, curve: curve))


def edge_of(score: float, limit: int, bits: int) -> float:
    """The lower edge of a score's bin; -inf under the grid."""
    if score < -limit:
        return -math.inf
    return float(limit) if score >= limit else math.floor(score * 2**bits) / 2**bits


def counts_at(scores: np.ndarray, targets: np.ndarray, threshold: float) -> tuple[int, int]:
    alerts = scores.astype(np.float32) >= np.float32(threshold)
    return int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())


def thresholds_of(curve: Curve, i: int) -> list[float]:
    """What stands for a cut: from its lowest threshold to itself."""
    cut, lowest, middle = float(curve.cuts[i]), curve.lowest_threshold(i), curve.threshold(i)
    assert lowest <= middle <= cut and float(np.float32(lowest)) == lowest and float(np.float32(middle)) == middle
    parts = [float(np.float32(lowest + (cut - lowest) * part)) for part in (0.01, 0.3, 0.5, 0.77, 0.999)]
    near = [beside(lowest, 1), beside(middle, -1), beside(middle, 1), beside(cut, -1)]
    return [t for t in (lowest, middle, cut, *parts, *near) if lowest <= t <= cut]


@settings(QUICK, max_examples=100)
@given(binned())
def test_counts_are_those_of_the_scores_at_every_threshold_offered(data: Data) -> None:
    limit, bits, scores, targets = data
    known = targets != 255
    curve = made(data).curve(0)
    edges = {edge_of(float(s), limit, bits) for s in scores[known].astype(np.float32)}
    assert curve.cuts.tolist() == sorted(edges - {-math.inf}, reverse=True)
    assert (curve.positives, curve.negatives) == ((targets == 1).sum(), (targets == 0).sum())  # under -limit too
    assert (curve.step, curve.labelled, curve.effective) == (2.0**-bits, True, None)
    assert (curve.cuts.dtype, curve.tp.dtype, curve.fp.dtype, curve.below.dtype) == (
        np.float32, np.int64, np.int64, np.float32,
    )  # fmt: skip
    for i in range(len(curve.cuts)):
        for t in thresholds_of(curve, i):
            assert (curve.tp[i], curve.fp[i]) == counts_at(scores, targets, t)
            assert curve.index_at(t) == i
        assert curve.threshold(i) >= -limit or i == len(curve.cuts) - 1
    if len(curve.cuts) and (scores[known].astype(np.float32) < -limit).any():
        assert curve.lowest_threshold(len(curve.cuts) - 1) >= -limit


@QUICK
@given(binned(), st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([-32.0, -1.0, 1.0, 32.0, 0.3, *EXTREMES])))
def test_at_any_threshold_no_more_is_counted_than_alerts(data: Data, threshold: float) -> None:
    _, _, scores, targets = data
    curve = made(data).curve(0)
    at = curve.index_at(threshold)
    tp, fp = counts_at(scores, targets, threshold)
    assert at < 0 or (curve.tp[at] <= tp and curve.fp[at] <= fp and curve.cuts[at] >= threshold)
    assert at + 1 == len(curve.cuts) or curve.cuts[at + 1] < threshold


def test_thresholds_by_hand() -> None:
    histogram = ScoreHistogram(["a"], limit=4, bits=1)
    histogram.update(
        np.array([[9.0], [4], [2.2], [2.4], [1.9], [0.1], [-4], [-4.01]]), np.array([[1], [0], [1], [0], [0], [0], [1], [1]])
    )
    curve = histogram.curve(0)
    assert curve.cuts.tolist() == [4, 2, 1.5, 0, -4]
    assert (curve.tp.tolist(), curve.fp.tolist()) == ([1, 2, 2, 2, 3], [1, 2, 3, 4, 4])
    assert (curve.positives, curve.negatives) == (4, 4)
    assert [curve.lowest_threshold(i) for i in range(5)] == [2.5, 2.0, 0.5, -3.5, -4.0]
    assert [curve.threshold(i) for i in range(5)] == [3.25, 2.0, 1.0, -1.75, -4.0]
    histogram = ScoreHistogram(["a"], limit=4, bits=1)
    histogram.update(np.array([[3.0], [0.7]]), np.array([[1], [0]]))
    assert [histogram.curve(0).threshold(i) for i in range(2)] == [2.0, 0.0]  # below the lowest: half of at most 1


def test_what_scores_under_the_grid_is_no_cut_but_counts() -> None:
    histogram = ScoreHistogram(["a"], limit=2)
    histogram.update(np.array([[-2.1], [-np.inf], [-3e38]]), np.array([[1], [0], [0]]))
    curve = histogram.curve(0)
    assert (len(curve.cuts), curve.positives, curve.negatives, curve.rows) == (0, 1, 2, 3)
    assert curve.index_at(-5.0) == -1
    assert histogram.totals.tolist() == [[2, 1]]


def test_a_curve_of_fine_bins_is_the_exact_one() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=3000) * 256).astype(np.float32) / 256  # at edges only
    targets = rng.choice([0, 1, 255], 3000).astype(np.uint8)
    histogram = ScoreHistogram(["a"])
    histogram.update(scores[:, None], targets[:, None])
    curve, exact = histogram.curve(0), exact_curve(scores, targets)
    for name in ("cuts", "tp", "fp"):
        np.testing.assert_array_equal(getattr(curve, name), getattr(exact, name))
    for name in ("cuts", "tp", "fp"):
        np.testing.assert_array_equal(getattr(curve.at_positives(), name), getattr(exact.at_positives(), name))


def test_labels_are_counted_apart_and_leading_axes_are_rows() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(0, 20, (7, 5, 3)).astype(np.float32)
    targets = rng.choice([0, 1, 255], scores.shape)
    histogram = ScoreHistogram(LABELS)
    histogram.update(scores, targets)
    for label, curve in enumerate(curves_of(histogram)):
        one = ScoreHistogram([LABELS[label]])
        one.update(scores[..., label, None], targets[..., label, None].astype(np.float64))
        alone = one.curve(0)
        for name in ("cuts", "tp", "fp", "below"):
            np.testing.assert_array_equal(getattr(curve, name), getattr(alone, name))
        assert curve.rows == (targets[..., label] != 255).sum()
    by_row = ScoreHistogram(LABELS)
    for s, t in zip(scores.reshape(-1, 3), targets.reshape(-1, 3), strict=True):
        by_row.update(s, t)  # [label]: one row
    assert by_row == histogram
    assert histogram.totals.tolist() == [[int((targets[..., i] == c).sum()) for c in (0, 1)] for i in range(3)]


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_given_is_not_changed(labels: int, order: str) -> None:
    for rows in (1, 5):
        scores = np.array(np.linspace(-3, 3, rows * labels).reshape(rows, labels), np.float32, order=order)  # type: ignore[call-overload]
        targets = np.array(np.arange(rows * labels).reshape(rows, labels) % 2, np.uint8, order=order)  # type: ignore[call-overload]
        targets[0, 0] = 255
        weights = np.linspace(0, 1, rows)
        kept = scores.copy(), targets.copy(), weights.copy()
        for given_ in (scores, targets, weights):
            given_.flags.writeable = False
        ScoreHistogram(LABELS[:labels]).update(scores, targets)
        ScoreHistogram(LABELS[:labels], weighted=True).update(scores, targets, weights)
        ScoreHistogram(LABELS[:labels], labelled=False).update(scores, None)
        for now, before in zip((scores, targets, weights), kept, strict=True):
            np.testing.assert_array_equal(now, before)


def test_layout_and_dtype_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(0, 3, (40, 3)).astype(np.float16)
    targets = rng.integers(0, 2, (40, 3))
    first = ScoreHistogram(LABELS)
    first.update(scores, targets)
    strided = np.zeros((80, 6), np.float64)
    strided[::2, ::2] = scores
    for s in (scores.astype(np.float32), scores.astype(np.float64), np.asfortranarray(scores), strided[::2, ::2]):
        for t in (targets.astype(np.uint8), targets.astype(bool), targets.astype(np.int8), np.asfortranarray(targets * 1.0)):
            again = ScoreHistogram(LABELS)
            again.update(s, t)
            assert again == first


@QUICK
@given(binned(labels=2), st.randoms(use_true_random=False), st.booleans())
def test_shards_merged_in_any_order_and_grouping_are_one_pass(data: Data, chance: random.Random, labelled: bool) -> None:
    limit, bits, scores, targets = data

    def count(rows: list[int]) -> ScoreHistogram:
        histogram = ScoreHistogram(LABELS[:2], limit=limit, bits=bits, labelled=labelled)
        cut = chance.randint(0, len(rows))
        for part in (rows[:cut], rows[cut:]):  # in two updates
            histogram.update(scores[part], targets[part] if labelled else None)
        return histogram

    whole = count(list(range(len(scores))))
    rows = list(range(len(scores)))
    chance.shuffle(rows)
    bounds = sorted(chance.randint(0, len(rows)) for _ in range(4))
    shards = [count(rows[a:b]) for a, b in zip([0, *bounds], [*bounds, len(rows)], strict=True)]
    before = [shard.digest() for shard in shards]
    merged = [merge_histograms(shards), merge_histograms(shards[::-1]), functools.reduce(ScoreHistogram.merge, shards)]
    tree = list(shards)
    while len(tree) > 1:
        chance.shuffle(tree)
        tree.append(tree.pop().merge(tree.pop()))
    for one in (*merged, *tree):
        assert one == whole and one.digest() == whole.digest() and one.to_bytes() == whole.to_bytes()
        for a, b in zip(curves_of(one), curves_of(whole), strict=True):
            for name in ("cuts", "tp", "fp", "below"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert (a.positives, a.negatives, a.labelled) == (b.positives, b.negatives, labelled)
    assert [shard.digest() for shard in shards] == before


def test_other_counts_are_not_equal() -> None:
    def count(score: float, target: int = 0, **options: object) -> ScoreHistogram:
        histogram = ScoreHistogram(["a"], **{"limit": 8, "bits": 2, **options})  # type: ignore[arg-type]
        groups = np.array([0]) if histogram.has_groups else None
        histogram.update(np.array([[score]]), np.array([[target]]), groups=groups)
        return histogram

    one = count(0.1)
    assert one == count(0.2) and one.digest() == count(0.2).digest()  # the same bin
    for other in (count(0.3), count(0.1, 1), one.merge(one), count(0.1, limit=9), count(0.1, bits=3), count(0.1, grouped=True)):
        assert one != other and one.digest() != other.digest()
    assert one != "a histogram"
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_a_merged_histogram_is_a_new_one() -> None:
    data = (4, 2, np.array([[1.0], [-2]]), np.array([[1], [0]]))
    one = made(data)
    copy = merge_histograms([one])
    assert copy == one
    copy.update(np.array([[3.0]]), np.array([[1]]))
    assert copy != one and one == made(data)


@pytest.mark.parametrize(
    ("name", "option", "shown"),
    [
        ("labels", {"labels": ["a", "z"]}, "'z'"),
        ("limit", {"limit": 16}, "16"),
        ("bits", {"bits": 4}, "4"),
        ("weighted", {"weighted": True}, "True"),
        ("labelled", {"labelled": False}, "False"),
        ("has_groups", {"grouped": True}, "True"),
    ],
)
def test_histograms_of_another_kind_do_not_merge(name: str, option: dict[str, object], shown: str) -> None:
    one, other = ScoreHistogram(["a", "b"]), ScoreHistogram(**{"labels": ["a", "b"], **option})  # type: ignore[arg-type]
    with pytest.raises(BadData, match=f"histogram 2: {name} is .*{shown}.* as in histogram 0"):
        merge_histograms([one, one, other])
    with pytest.raises(BadData, match=name):
        one.merge(other)


def test_no_histograms_do_not_merge() -> None:
    with pytest.raises(BadData, match="histograms is none"):
        merge_histograms([])


@QUICK
@given(binned(labels=2), st.randoms(use_true_random=False))
def test_whole_weights_count_exactly(data: Data, chance: random.Random) -> None:
    limit, bits, scores, targets = data
    weights = np.array([chance.randint(0, 5) for _ in scores], np.float64)
    histogram = ScoreHistogram(LABELS[:2], limit=limit, bits=bits, weighted=True)
    cut = chance.randint(0, len(scores))
    for part in (slice(0, cut), slice(cut, None)):
        histogram.update(scores[part], targets[part], weights[part])
    times = weights.astype(int)
    repeated = made((limit, bits, scores.repeat(times, axis=0), targets.repeat(times, axis=0)))
    for label, (a, b) in enumerate(zip(curves_of(histogram), curves_of(repeated), strict=True)):
        for name in ("cuts", "tp", "fp", "below"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert (a.positives, a.negatives, a.tp.dtype) == (b.positives, b.negatives, np.float64)
        for c, number in zip((1, 0), a.effective or (), strict=True):
            chosen = weights[targets[:, label] == c]
            assert number == pytest.approx(chosen.sum() ** 2 / (chosen**2).sum() if chosen.any() else 0.0)
    assert ScoreHistogram.from_bytes(histogram.to_bytes()) == histogram


@QUICK
@given(binned(labels=2), st.randoms(use_true_random=False))
def test_weighted_shards_merge_to_rounding(data: Data, chance: random.Random) -> None:
    limit, bits, scores, targets = data
    weights = np.array([chance.choice([0.0, chance.uniform(1e-3, 1e3)]) for _ in scores])
    kind = functools.partial(ScoreHistogram, LABELS[:2], limit=limit, bits=bits, weighted=True)
    shards = []
    cut = chance.randint(0, len(scores))
    for part in (slice(0, cut), slice(cut, None)):
        shards.append(kind())
        shards[-1].update(scores[part], targets[part], weights[part])
    for histogram in (merge_histograms(shards), merge_histograms(shards[::-1])):
        for label, curve in enumerate(curves_of(histogram)):
            column, classes = scores[:, label].astype(np.float32), targets[:, label]
            counted = (classes != 255) & (weights > 0)
            edges = {edge_of(float(s), limit, bits) for s in column[counted]}
            assert curve.cuts.tolist() == sorted(edges - {-math.inf}, reverse=True)
            for i in range(len(curve.cuts)):
                for t in thresholds_of(curve, i):
                    alerts = column >= np.float32(t)
                    sums = [math.fsum(weights[alerts & (classes == c)]) for c in (1, 0)]
                    assert (curve.tp[i], curve.fp[i]) == pytest.approx(sums, rel=1e-12)
            exact = exact_curve(column, classes, weights)
            assert curve.effective == pytest.approx(exact.effective)
            assert (curve.positives, curve.negatives) == pytest.approx((exact.positives, exact.negatives))


def test_weights_have_the_shape_of_the_rows() -> None:
    scores, targets = np.arange(12.0).reshape(2, 3, 2), np.tile([0, 1], (2, 3, 1))
    histogram = ScoreHistogram(LABELS[:2], weighted=True)
    histogram.update(scores, targets, np.arange(6).reshape(2, 3))
    assert histogram.totals.tolist() == [[15, 0], [0, 15]]
    histogram.update(np.zeros(2), np.ones(2), 2.5)  # type: ignore[arg-type]
    assert histogram.totals.tolist() == [[15, 2.5], [0, 17.5]]


def test_huge_and_tiny_weights_are_kept() -> None:
    histogram = ScoreHistogram(["a"], weighted=True)
    histogram.update(np.array([[0.0], [1], [2]]), np.ones((3, 1)), np.array([1e30, 1, 1e-30]))
    assert histogram.curve(0).tp.tolist() == [1e-30, 1.0, 1e30]
    assert ScoreHistogram.from_bytes(histogram.to_bytes()) == histogram


def test_entries_that_are_not_labelled_may_be_anything() -> None:
    scores = np.array([[np.nan, 1], [np.inf, np.nan], [2, -np.inf], [np.nan, np.nan]], np.float32)
    targets = np.array([[255, 1], [255, 255], [0, 255], [255, 255]])
    for weights in (None, np.array([2.0, 1, 3, 1])):
        histogram = ScoreHistogram(["a", "b"], weighted=weights is not None)
        histogram.update(scores, targets, weights)
        a, b = curves_of(histogram)
        unit = (1, 1) if weights is None else (3, 2)
        assert (a.cuts.tolist(), a.fp.tolist(), a.tp.tolist()) == ([2], [unit[0]], [0])
        assert (b.cuts.tolist(), b.fp.tolist(), b.tp.tolist()) == ([1], [0], [unit[1]])
    nothing = ScoreHistogram(["a", "b"])
    nothing.update(scores, np.full((4, 2), 255))
    assert nothing == ScoreHistogram(["a", "b"]) and nothing.digest() == ScoreHistogram(["a", "b"]).digest()
    nothing.update(scores + 7, targets)
    nothing.update(scores, np.full((4, 2), 255.0))
    assert nothing.totals.tolist() == [[1, 0], [0, 1]]


@QUICK
@given(binned(labels=2))
def test_rows_of_unknown_class_are_counted_as_they_alert(data: Data) -> None:
    limit, bits, scores, _ = data
    histogram = ScoreHistogram(LABELS[:2], limit=limit, bits=bits, labelled=False)
    histogram.update(scores, None)
    for label, curve in enumerate(curves_of(histogram)):
        assert (curve.labelled, curve.positives, curve.rows, curve.negatives) == (False, 0, len(scores), len(scores))
        for i in range(len(curve.cuts)):
            for t in thresholds_of(curve, i):
                alerts = int((scores[:, label].astype(np.float32) >= np.float32(t)).sum())
                assert (curve.tp[i], curve.fp[i], curve.alerts[i]) == (0, alerts, alerts)


def test_weighted_rows_of_unknown_class() -> None:
    histogram = ScoreHistogram(["a"], weighted=True, labelled=False)
    histogram.update(np.array([[1.0], [3], [1]]), None, np.array([0.5, 2, 1]))
    curve = histogram.curve(0)
    assert (curve.cuts.tolist(), curve.fp.tolist(), curve.tp.tolist()) == ([3, 1], [2, 3.5], [0, 0])
    assert curve.effective == pytest.approx((0, 3.5**2 / 5.25))


BAD_UPDATES = [
    ({"scores": np.zeros((2, 3))}, r"shape of scores is \[2, 3\]; expected \[..., 2 labels\]"),
    ({"scores": np.float32(1)}, r"shape of scores is \[\]"),
    ({"targets": np.zeros((1, 2))}, r"shape of targets is \[1, 2\]; expected \[2, 2\]"),
    ({"targets": np.zeros(4)}, "shape of targets"),
    ({"targets": None}, "targets is missing"),
    ({"targets": np.array([[0, 2], [1, 0]])}, r"targets is \[2\]; expected 0, 1, or 255"),
    ({"targets": np.array([[0, 2], [1, 0]], np.uint8)}, r"targets is \[2\]"),
    ({"targets": np.array([[0, -1], [1, 255]])}, r"targets is \[-1\]"),
    ({"targets": np.array([[0, -1], [1, 0]], np.int8)}, r"targets is \[-1\]"),
    ({"targets": np.array([[0, 0.5], [1, np.nan]])}, r"targets is \[0.5, nan\]"),
    ({"scores": np.array([[0, np.nan], [1, np.nan]])}, "scores of label 'b' is NaN in 2 entries"),
    ({"scores": np.array([[np.nan, 7], [1, 0]]), "targets": np.array([[1, 255], [0, 0]])}, "scores of label 'a' is NaN in 1"),
    ({"weights": np.ones(2)}, "weights is given"),
]
BAD_WEIGHTS = [
    (None, "weights is missing"),
    (np.ones(3), r"weights is float64 \[3\]; expected numbers \[2\]"),
    (np.ones((2, 2)), "weights"),
    (np.array([1, -1.0]), r"weights is \[-1.0\]"),
    (np.array([np.nan, 1]), r"weights is \[nan\]"),
    (np.array([np.inf, 1]), r"weights is \[inf\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_UPDATES)
def test_a_refused_update_counts_nothing(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"scores": np.array([[1, 2], [-3, 99.0]]), "targets": np.array([[1, 0], [255, 1]])}
    histogram, untouched = ScoreHistogram(["a", "b"]), ScoreHistogram(["a", "b"])
    for _ in range(2):  # an empty one, and one that has counts
        with pytest.raises(BadData, match=message):
            histogram.update(**{**good, **change})  # type: ignore[arg-type]
        assert histogram == untouched and histogram.digest() == untouched.digest()
        assert (histogram.nbytes, histogram.totals.tolist()) == (untouched.nbytes, untouched.totals.tolist())
        histogram.update(**good)  # type: ignore[arg-type]
        untouched.update(**good)  # type: ignore[arg-type]
        assert histogram == untouched


@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS)
def test_a_weighted_update_that_is_refused_counts_nothing(weights: np.ndarray | None, message: str) -> None:
    histogram = ScoreHistogram(["a", "b"], weighted=True)
    histogram.update(np.ones((2, 2)), np.ones((2, 2)), np.array([2, 0.5]))
    before = histogram.digest()
    with pytest.raises(BadData, match=message):
        histogram.update(np.ones((2, 2)), np.ones((2, 2)), weights)
    with pytest.raises(BadData, match="NaN"):
        histogram.update(np.full((2, 2), np.nan), np.ones((2, 2)), np.ones(2))
    assert histogram.digest() == before


def test_targets_given_to_one_without_classes_are_refused() -> None:
    with pytest.raises(BadData, match="targets is given"):
        ScoreHistogram(["a"], labelled=False).update(np.zeros((1, 1)), np.zeros((1, 1)))


def test_an_error_far_into_a_large_update_counts_nothing() -> None:
    scores, targets = np.zeros((40_000, 2), np.float32), np.zeros((40_000, 2), np.uint8)
    scores[39_999, 1] = np.nan
    targets[5, 0] = 255
    histogram = ScoreHistogram(["a", "b"])
    with pytest.raises(BadData, match="label 'b' is NaN in 1 entries"):
        histogram.update(scores, targets)
    scores[39_999, 1], targets[39_999, 0] = 0, 7
    with pytest.raises(BadData, match=r"targets is \[7\]"):
        histogram.update(scores, targets)
    assert histogram == ScoreHistogram(["a", "b"])


@pytest.mark.parametrize(
    "options",
    [
        {"labels": []}, {"labels": ["a", "a"]}, {"limit": 0}, {"limit": -4}, {"bits": -1}, {"bits": 17},
        {"limit": 64, "bits": 16}, {"limit": (1 << 21) + 1, "bits": 0},
    ],
)  # fmt: skip
def test_a_grid_that_is_none_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadData, match="histogram"):
        ScoreHistogram(**{"labels": ["a"], **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", [1, 3])
def test_small_and_large_updates_give_the_same(labels: int, weighted: bool) -> None:
    rng = np.random.default_rng(3)
    rows = 2 * 16_384 + 1_234
    scores = rng.normal(0, 8, (rows, labels)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.01] = -np.inf
    targets = (rng.random(scores.shape) < 0.05).astype(np.uint8)
    targets[rng.random(scores.shape) < 0.1] = 255
    scores[(targets == 255) & (rng.random(scores.shape) < 0.5)] = np.nan
    weights = rng.integers(0, 4, rows) if weighted else None
    whole = ScoreHistogram(LABELS[:labels], weighted=weighted)
    whole.update(scores, targets, weights)
    parts = ScoreHistogram(LABELS[:labels], weighted=weighted)
    for start, stop in [(0, 1), (1, 20), (20, 20), (20, 16_384), (16_384, 16_385), (16_385, rows)]:
        parts.update(scores[start:stop], targets[start:stop], None if weights is None else weights[start:stop])
    assert whole == parts and whole.digest() == parts.digest()
    each = np.ones(rows) if weights is None else weights
    for label, curve in enumerate(curves_of(whole)):
        column, classes = scores[:, label], targets[:, label]
        assert (curve.positives, curve.negatives) == tuple(each[classes == c].sum() for c in (1, 0))
        for i in range(0, len(curve.cuts), 301):
            alerts = column >= np.float32(curve.threshold(i))
            assert (curve.tp[i], curve.fp[i]) == tuple(each[alerts & (classes == c)].sum() for c in (1, 0))


def test_counts_outgrow_int32_without_loss() -> None:
    most = np.iinfo(np.int32).max
    histogram = ScoreHistogram(["a", "b"])
    histogram.update(np.array([[1.0, 2]]), np.array([[0, 1]]))
    histogram._counts[histogram._counts > 0] = most - 3
    histogram._most = most - 3
    histogram.update(np.array([[1.0, 2]] * 3), np.array([[0, 1]] * 3))
    assert (histogram._counts.dtype, histogram.totals.tolist()) == (np.int32, [[most, 0], [0, most]])
    full = histogram.to_bytes()
    histogram.update(np.array([[1.0, 2]] * 5), np.array([[0, 1]] * 5))
    assert histogram.totals.tolist() == [[most + 5, 0], [0, most + 5]]
    curve = histogram.curve(0)
    assert (curve.fp.tolist(), curve.rows) == ([most + 5], most + 5)
    # Two that are full, each int32, and what was read back.
    one = ScoreHistogram.from_bytes(full)
    four = merge_histograms([one, one, histogram, ScoreHistogram.from_bytes(histogram.to_bytes())])
    assert four.totals.tolist() == [[4 * most + 10, 0], [0, 4 * most + 10]]
    back = ScoreHistogram.from_bytes(four.to_bytes())  # more than 2**32
    assert back == four and back.digest() == four.digest()
    back.update(np.array([[1.0, 2]]), np.array([[1, 1]]))
    assert back.curve(0).tp.tolist() == [1] and back.curve(1).tp.tolist() == [4 * most + 11]
    one.update(np.array([[1.0, 2]]), np.array([[0, 1]]))  # read at the limit of int32
    assert one.totals.tolist() == [[most + 1, 0], [0, most + 1]]


@QUICK
@given(binned(labels=2))
def test_bytes_make_an_equal_histogram(data: Data) -> None:
    histogram = made(data)
    back = ScoreHistogram.from_bytes(histogram.to_bytes())
    assert back == histogram and (back.digest(), back.to_bytes()) == (histogram.digest(), histogram.to_bytes())
    for a, b in zip(curves_of(back), curves_of(histogram), strict=True):
        for name in ("cuts", "tp", "fp", "below"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    back.update(data[2], data[3])
    assert back == histogram.merge(histogram)


@pytest.mark.parametrize("count", [1, 255, 256, 65_535, 65_536])
def test_bytes_keep_counts_of_any_width(count: int) -> None:
    histogram = ScoreHistogram(["ä\n\"'"], labelled=False)
    histogram.update(np.zeros((count, 1), np.float32), None)
    back = ScoreHistogram.from_bytes(histogram.to_bytes())
    assert back == histogram and back.curve(0).fp.tolist() == [count]
    assert (back.labels, back.has_groups, back.labelled, back.weighted) == (("ä\n\"'",), False, False, False)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_bytes_of_empty_and_weighted_ones(weighted: bool, labelled: bool) -> None:
    histogram = ScoreHistogram(["a", "b"], limit=5, bits=3, weighted=weighted, labelled=labelled)
    assert ScoreHistogram.from_bytes(histogram.to_bytes()) == histogram
    for _ in range(2):
        targets, weights = np.array([[1, 0], [0, 255]]), np.array([0.1, 1 / 3])
        histogram.update(np.array([[0.1, np.inf], [-9, 3]]), targets if labelled else None, weights if weighted else None)
    back = ScoreHistogram.from_bytes(histogram.to_bytes())
    assert back == histogram and back.digest() == histogram.digest()
    assert (back.limit, back.bits, back.weighted, back.labelled) == (5, 3, weighted, labelled)
    assert [curve.effective for curve in curves_of(back)] == [curve.effective for curve in curves_of(histogram)]


def sample() -> ScoreHistogram:
    return made((4, 3, np.array([[1.0, 0], [-2, 3], [9, 0.5]]), np.array([[1, 0], [0, 255], [1, 1]], np.uint8)))


def reframed(header: dict[str, object], counts: bytes) -> bytes:
    """Bytes as `to_bytes` frames them, of any header and counts: what somebody else may write."""
    text = json.dumps(header).encode()
    body = b"cutpoint-histogram\n" + len(text).to_bytes(4, "little") + text + zlib.compress(counts)
    return body + hashlib.sha256(body).digest()


def unframed(data: bytes) -> tuple[dict[str, object], bytes]:
    begin = len(b"cutpoint-histogram\n") + 4
    end = begin + int.from_bytes(data[begin - 4 : begin], "little")
    return json.loads(data[begin:end]), zlib.decompress(data[end:-32])


def test_damaged_and_foreign_bytes_are_refused() -> None:
    data = sample().to_bytes()
    assert ScoreHistogram.from_bytes(reframed(*unframed(data))) == sample()
    for length in range(len(data)):
        with pytest.raises(BadData, match="histogram"):
            ScoreHistogram.from_bytes(data[:length])
    for i in range(len(data)):
        with pytest.raises(BadData, match="histogram"):
            ScoreHistogram.from_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
    for foreign in (b"", b"PK\x03\x04" + bytes(100), b"{}", data + b"\0", b"\0" + data, data[:-32]):
        with pytest.raises(BadData, match="histogram"):
            ScoreHistogram.from_bytes(foreign)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": []}, {"labels": ["a", "a"]}, {"labels": ["a"]}, {"labels": None}, {"labels": ["a", "b", "c"]}, {"limit": 1},
        {"limit": 1e300}, {"bits": "3"}, {"bits": 60}, {"weighted": True}, {"first": -1000}, {"first": 30}, {"first": "x"},
        {"width": -1}, {"width": 1 << 40}, {"width": 3}, {"dtype": "O"}, {"dtype": "<U1"}, {"dtype": "no"}, {"dtype": "<i8"},
        {"first": None}, {"first": math.inf}, {"width": 0}, {"dtype": "<f8"}, {"dtype": "<u8"}, {"dtype": None},
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    header, counts = unframed(sample().to_bytes())
    assert header["dtype"] in ("|u1", "<u1")
    with pytest.raises(BadData, match="histogram"):
        ScoreHistogram.from_bytes(reframed({**header, **change}, counts))
    for name in ("format", "labels", "limit", "bits", "first", "width", "dtype"):
        with pytest.raises(BadData, match="histogram"):
            ScoreHistogram.from_bytes(reframed({k: v for k, v in header.items() if k != name}, counts))


def test_counts_that_are_none_are_refused() -> None:
    header, counts = unframed(sample().to_bytes())
    for kind, value in (("<i8", -1), ("<f8", np.nan), ("<f8", np.inf), ("<f8", -0.5)):
        wrong = np.frombuffer(counts, np.uint8).astype(kind)
        wrong[3] = value
        option = {"dtype": kind, "weighted": kind == "<f8", "squares": [[1.0, 1.0], [1.0, 1.0]] if kind == "<f8" else None}
        with pytest.raises(BadData, match="negative count"):
            ScoreHistogram.from_bytes(reframed({**header, **option}, wrong.tobytes()))
    for other in (counts[:-1], counts + b"\0", b""):
        with pytest.raises(BadData, match="more or fewer counts"):
            ScoreHistogram.from_bytes(reframed(header, other))


def test_another_format_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    number = encoding.FORMAT
    with monkeypatch.context() as patch:
        for module in (encoding, histograms):
            patch.setattr(module, "FORMAT", number + 1)
        later = sample().to_bytes()
        assert ScoreHistogram.from_bytes(later) == sample()
    with pytest.raises(BadData, match=f"histogram format is {encoding.FORMAT + 1}; expected {encoding.FORMAT}"):
        ScoreHistogram.from_bytes(later)


def test_reading_takes_no_more_memory_than_declared() -> None:
    header, counts = unframed(sample().to_bytes())
    much = 1 << 25
    bomb = reframed(header, counts + bytes(much))  # more than is declared
    huge = reframed({**header, "limit": 1 << 21, "bits": 0, "first": -(1 << 21), "width": 1 << 22, "dtype": "<i8"}, counts)
    tracemalloc.start()
    try:
        for data in (bomb, huge):
            with pytest.raises(BadData, match="more or fewer counts"):
                ScoreHistogram.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < much // 16
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_the_window_of_scores() -> None:
    histogram = ScoreHistogram(["a"])
    assert histogram.nbytes == 0
    histogram.update(np.array([[1.0], [1.5]]), np.array([[0], [1]]))
    assert histogram.nbytes == 129 * 2 * 4
    histogram.update(np.array([[1.25], [-np.inf]]), np.array([[0], [255]]))
    assert histogram.nbytes == 129 * 2 * 4  # what is not labelled widens nothing
    histogram.update(np.array([[-np.inf], [np.inf]]), np.array([[0], [1]]))
    assert histogram.nbytes == (2 * 32 * 256 + 2) * 2 * 4


def test_the_widest_grids_are_exact() -> None:
    for limit, bits in ((1 << 21, 0), (32, 16)):
        step = 2.0**-bits
        at = [-limit - step, -limit, 1 - limit, -step, 0.0, step, limit - step, limit, limit + 1]
        scores = np.array([beside(x, way) for x in at for way in (-1, 0, 1)] + EXTREMES, np.float32)[:, None]
        targets = (np.arange(len(scores)) % 2)[:, None]
        curve = made((limit, bits, scores, targets)).curve(0)
        edges = {edge_of(float(s), limit, bits) for s in scores[:, 0]}
        assert curve.cuts.tolist() == sorted(edges - {-math.inf}, reverse=True)
        for i in range(len(curve.cuts)):
            for t in thresholds_of(curve, i):
                assert (curve.tp[i], curve.fp[i]) == counts_at(scores, targets, t)


def test_a_threshold_above_all_alerts_on_none() -> None:
    for scores, expected in (([1.0, 0.3], 1.75), ([3.9], 4.5), ([4.0], np.inf), ([np.inf], np.inf), ([-9.0], -3.5)):
        column = np.array(scores, np.float32)[:, None]
        assert made((4, 2, column, np.ones_like(column))).curve(0).threshold(-1) == expected
    assert ScoreHistogram(["a"]).curve(0).threshold(-1) == np.inf


def test_groups_are_counted_beside_the_rows_and_travel_with_them() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((600, 2)) < 0.1).astype(np.uint8)
    z = rng.normal(size=y.shape).astype(np.float32) + 2 * y
    groups = np.arange(600) // 4
    plain = ScoreHistogram(["a", "b"])
    plain.update(z, y)
    shards = [ScoreHistogram(["a", "b"], grouped=True) for _ in range(3)]
    for i, shard in enumerate(shards):
        part = groups % 3 == i
        shard.update(z[part], y[part], groups=groups[part])
    whole = ScoreHistogram(["a", "b"], grouped=True)
    whole.update(z, y, groups=groups)
    merged = merge_histograms([ScoreHistogram.from_bytes(shard.to_bytes(), ["a", "b"]) for shard in shards])
    assert merged == whole != plain and merged.digest() == whole.digest()
    units = ScoreHistogram(["a", "b"])
    units.update(*group_scores(z, y, groups))
    for label in range(2):
        for name in ("cuts", "tp", "fp"):
            np.testing.assert_array_equal(getattr(whole.curve(label), name), getattr(plain.curve(label), name))
            for rate in ("recall", "fpr"):
                found = getattr(whole.unit_curve(label, rate), name)
                np.testing.assert_array_equal(found, getattr(units.curve(label), name))
    with pytest.raises(BadInput, match="precision; expected recall or fpr"):
        whole.unit_curve(0, "precision")
    with pytest.raises(BadData, match="groups is not given"):
        plain.unit_curve(0, "recall")
    with pytest.raises(BadData, match="has_groups"):
        merge_histograms([plain, whole])
    for options in ({"weighted": True}, {"labelled": False}):
        with pytest.raises(BadData, match="grouped histogram"):
            ScoreHistogram(["a"], grouped=True, **options)
    with pytest.raises(BadData, match="groups is missing"):
        whole.update(z, y)
    with pytest.raises(BadData, match="groups is given"):
        plain.update(z, y, groups=groups)


def test_a_row_of_weight_0_is_left_out_whatever_it_scores() -> None:
    histogram = ScoreHistogram(["a"], weighted=True)
    histogram.update(np.array([[np.nan], [1.0]]), np.array([[1], [1]]), np.array([0.0, 2.0]))
    assert histogram.totals.tolist() == [[0.0, 2.0]]


def test_positives_among_rows_of_unknown_class_are_refused() -> None:
    histogram = ScoreHistogram(["a"], labelled=False)
    histogram.update(np.array([[1.0], [2.0]]), None)
    header, counts = unframed(histogram.to_bytes())
    with pytest.raises(BadData, match="positives; expected none, where no classes are known"):
        ScoreHistogram.from_bytes(reframed(header, counts[::-1]))
