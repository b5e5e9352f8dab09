"""The best cut found among counted scores is the one found among sorted scores, for every objective."""

import numpy as np
import pytest
from cutpoint.calibration import Plan, Scores, exact_curve, fit, fit_labels
from cutpoint.calibration.search import count, window_curves, with_rest
from cutpoint.errors import BadInput, CutpointError

OBJECTIVES = [
    "max_fbeta=1", "max_fbeta=3", "recall_at_least=0.8", "recall_at_least=1", "precision_at_least=0.2",
    "precision_at_least=0.9", "fpr_at_most=0.05", "fpr_at_most=0.0001", "alert_rate_at_most=0.03",
    "alert_rate_at_most=0.9999", "min_cost=20", "min_cost=20@0.001", "min_cost=0.1", "max_micro_fbeta=1",
]  # fmt: skip


def labelled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of five labels: narrow, wide or tied, with infinities and gaps in the labels now and then."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((int(rng.integers(5, 400)), 5)) < rng.choice([0.02, 0.1, 0.5])).astype(np.uint8)
    logits = (rng.normal(size=targets.shape) * rng.choice([0.01, 1, 30]) + 2 * targets - 3).astype(np.float32)
    if seed % 3 == 0:
        logits = logits.round(1)
    if seed % 4 == 0:
        logits[rng.random(logits.shape) < 0.02] = np.inf
        logits[rng.random(logits.shape) < 0.02] = -np.inf
    if seed % 5 == 0:
        targets[rng.random(targets.shape) < 0.1] = 255
    return logits, targets


@pytest.mark.parametrize("delta", [None, 0.1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_counted_or_sorted_the_cut_is_the_same(monkeypatch: pytest.MonkeyPatch, objective: str, delta: float | None) -> None:
    try:
        plan = Plan.of(objective, delta=delta, calibrator="none")
    except BadInput:
        return  # has no guarantee
    for seed in range(60):
        data = Scores(*labelled(seed), tuple("abcde"))
        found = []
        for rows in (10**9, 0):
            monkeypatch.setattr(fit, "MANY_ROWS", rows)
            try:
                found.append(fit_labels(data, plan))
            except CutpointError as error:
                found.append(str(error))
        assert found[0] == found[1], seed


def test_a_precise_cut_in_a_bin_that_is_not_at_its_edge_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # At the lower edge of the bin of 1.003 and 1.001 the precision is 50 of 180, within it 50 of 80.
    rows = {3.0: (10, 0), 2.0: (0, 30), 1.003: (40, 0), 1.001: (0, 100), 0.0: (0, 20_000)}
    scores = np.repeat(np.array([*rows], np.float32), [sum(each) for each in rows.values()])
    targets = np.concatenate([np.repeat([1, 0], each) for each in rows.values()])
    data, plan = Scores(scores[:, None], targets[:, None], ("a",)), Plan.of("precision_at_least=0.5", calibrator="none")
    found = []
    for many in (10**9, 0):
        monkeypatch.setattr(fit, "MANY_ROWS", many)
        found.append(fit_labels(data, plan)[0])
    assert found[0] == found[1] and (found[0].counts.tp, found[0].counts.fp) == (50, 30)


@pytest.mark.parametrize("seed", range(12))
def test_a_window_says_of_its_cuts_what_the_whole_curve_says(seed: int) -> None:
    logits, targets = labelled(seed)
    data = Scores(logits, targets, tuple("abcde"))
    coarse = [with_rest(curve) for curve in count(data).map_curves(lambda _, curve: curve)]
    rng = np.random.default_rng(seed)
    windows = {}
    for i, curve in enumerate(coarse):
        first = int(rng.integers(len(curve.cuts)))
        windows[i] = (first, int(rng.integers(first, len(curve.cuts))))
    for i, found in window_curves(data, coarse, windows).items():
        whole = exact_curve(logits[:, i], targets[:, i])
        at = np.searchsorted(-whole.cuts, -found.cuts)
        assert (np.diff(at) == 1).all()
        np.testing.assert_array_equal(whole.cuts[at], found.cuts)
        np.testing.assert_array_equal(whole.tp[at], found.tp)
        np.testing.assert_array_equal(whole.fp[at], found.fp)
        assert (found.positives, found.negatives) == (whole.positives, whole.negatives)
        # The bins asked for are there whole, and of their cuts the next lower score is known.
        first, last = windows[i]
        upper = np.inf if first == 0 else coarse[i].cuts[first - 1]
        wanted = (whole.cuts >= coarse[i].cuts[last]) & (whole.cuts < upper if first else True)
        assert np.isin(whole.cuts[wanted], found.cuts).all()
        for j in np.flatnonzero(wanted):
            assert whole.threshold(j) == found.threshold(int(np.flatnonzero(found.cuts == whole.cuts[j])[0]))


def test_large_data_are_counted_and_exact() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((fit.MANY_ROWS, 3)) < 0.01).astype(np.uint8)
    logits = (rng.normal(size=targets.shape) + 2 * targets).astype(np.float32)
    fitted = fit_labels(Scores(logits, targets, ("a", "b", "c")), Plan.of("max_fbeta=1"))
    for i, label in enumerate(fitted):
        curve = exact_curve(logits[:, i], targets[:, i])
        best = int(np.argmax(2 * curve.tp / (curve.alerts + curve.positives)))
        assert label.threshold == curve.threshold(best)
        assert (label.counts.tp, label.counts.fp) == (curve.tp[best], curve.fp[best])
        assert label.calibrator.kind == "beta"
