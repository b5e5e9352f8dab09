"""Bootstrap draws of average precision against scikit-learn's on weighted rows, and their intervals against simulation."""

import numpy as np
import pytest
from cutpoint.dataset import Dataset
from cutpoint.trainer import bootstrap
from cutpoint.trainer.bootstrap import average_precision_draws, drawn_units, interval_of, mean_over_labels
from sklearn.metrics import average_precision_score


def some_rows(rows: int, labels: int, rate: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, labels)) < rate).astype(np.uint8)
    logits = np.round((rng.normal(size=(rows, labels)) + 1.5 * y) * 20) / 20  # with ties
    y[rng.random((rows, labels)) < 0.05] = 255
    return logits.astype(np.float32), y


@pytest.mark.parametrize("each", [1, 7])
def test_every_draw_is_scikit_learns_average_precision_of_the_rows_drawn(each: int) -> None:
    logits, y = some_rows(1400, 2, 0.05)
    units = np.arange(1400) // each
    found = average_precision_draws(logits, y, units, draws=12, seed=3)
    times = bootstrap._times_drawn(units, 12, 3)
    assert times.sum(axis=0).tolist() == [len(times)] * 12 and times.max() > 1
    for draw in range(12):
        for label in range(2):
            on = y[:, label] != 255
            wanted = average_precision_score(y[on, label], logits[on, label], sample_weight=times[units, draw][on])
            assert found[draw, label] == pytest.approx(wanted, abs=1e-9)


def test_windows_are_drawn_with_their_sequence() -> None:
    logits, y = some_rows(60 * 20, 1, 0.05)
    sequences = average_precision_draws(logits.reshape(60, 20, 1), y.reshape(60, 20, 1), np.arange(60), 10)
    np.testing.assert_array_equal(sequences, average_precision_draws(logits, y, np.arange(1200) // 20, 10))


def test_the_same_draws_for_every_model_and_label() -> None:
    logits, y = some_rows(500, 1, 0.1)
    both = average_precision_draws(np.hstack([logits, -logits]), np.hstack([y, y]), np.arange(500), 20)
    np.testing.assert_array_equal(both[:, :1], average_precision_draws(logits, y, np.arange(500), 20))
    np.testing.assert_array_equal(both[:, 1:], average_precision_draws(-logits, y, np.arange(500), 20))


def test_many_rows_are_dealt_into_blocks_that_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, y = some_rows(6000, 1, 0.05)
    blocks = average_precision_draws(logits, y, np.arange(6000), 1000)[:, 0]
    monkeypatch.setattr(bootstrap, "MOST_GROUPS", 10_000)
    rows = average_precision_draws(logits, y, np.arange(6000), 1000)[:, 0]
    assert blocks.std() == pytest.approx(rows.std(), rel=0.1)
    assert blocks.mean() == pytest.approx(rows.mean(), abs=0.2 * rows.std())


def test_many_positives_are_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((5000, 1)) < 0.3).astype(np.uint8)
    logits = (rng.normal(size=(5000, 1)) + y).astype(np.float32)
    exact = average_precision_draws(logits, y, np.arange(5000), 20)
    monkeypatch.setattr(bootstrap, "_MOST_CUTS", 300)
    np.testing.assert_allclose(average_precision_draws(logits, y, np.arange(5000), 20), exact, atol=0.003)


def test_the_interval_holds_also_of_a_mean_over_labels() -> None:
    """The true value is that of a million rows; a plain percentile interval holds in fewer of these samples."""
    rng = np.random.default_rng(1)
    rate, apart, labels = 0.06, 1.5, 30
    big = rng.random(1_000_000) < rate
    true = average_precision_score(big, rng.normal(size=len(big)) + apart * big)
    held, plain, samples = 0, 0, 24
    for sample in range(samples):
        y = (rng.random((800, labels)) < rate).astype(np.uint8)
        logits = (rng.normal(size=y.shape) + apart * y).astype(np.float32)
        value = np.mean([average_precision_score(y[:, i], logits[:, i]) for i in range(labels)])
        draws = mean_over_labels(average_precision_draws(logits, y, np.arange(800), 200, sample))
        low, high = interval_of(float(value), draws) or (1, 0)
        held += low <= true <= high
        plain += np.quantile(draws, 0.025) <= true <= np.quantile(draws, 0.975)
    assert held >= 0.8 * samples
    assert plain <= held - 4


def test_hardly_a_positive_gives_no_interval() -> None:
    y = np.zeros((50, 1), np.uint8)
    y[3] = 1
    draws = average_precision_draws(np.arange(50, dtype=np.float32)[:, None], y, np.arange(50), 200)[:, 0]
    assert 0.25 < np.isnan(draws).mean() < 0.5  # (1 - 1/50)**50
    assert interval_of(0.1, draws) is None
    none = average_precision_draws(np.zeros((5, 1), np.float32), np.zeros((5, 1), np.uint8), np.arange(5), 3)
    assert np.isnan(none).all() and np.isnan(mean_over_labels(none)).all()
    assert mean_over_labels(np.array([[1.0, np.nan], [0.5, 0.7]])).tolist() == pytest.approx([1.0, 0.6])


def test_units_are_groups_where_there_are_any(tmp_path) -> None:
    x = np.zeros((4, 1), np.float32)
    assert drawn_units(Dataset(tmp_path, x), np.array([3, 1])).tolist() == [0, 1]
    grouped = Dataset(tmp_path, x, group=np.array(["b", "b", "a", "a"]))
    assert drawn_units(grouped, np.array([3, 1, 2])).tolist() == [0, 1, 0]
