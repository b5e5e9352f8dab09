import numpy as np
import pytest
import torch
from cutpoint.errors import BadConfig
from cutpoint.trainer.sampler import CumulativeSampler, balanced_weights, row_sampler
from torch.utils.data import WeightedRandomSampler


def test_half_of_the_draws_hold_a_positive():
    y = np.zeros((4000, 3), np.uint8)
    y[:40, 1] = 1
    y[100:, 2] = 255  # not labelled is not positive
    weights = balanced_weights(y)
    assert weights.sum() == pytest.approx(1)
    assert weights[:40].sum() == pytest.approx(0.5)
    drawn = np.array(list(row_sampler(len(y), weights, 0)))
    assert len(drawn) == 4000
    assert (drawn < 40).mean() == pytest.approx(0.5, abs=0.03)
    assert len(np.unique(drawn[drawn < 40])) == 40


def test_a_sequence_with_one_positive_window_is_a_positive_row():
    y = np.zeros((10, 140, 2), np.uint8)
    y[3, 77, 1] = 1
    assert balanced_weights(y).tolist() == pytest.approx([1 / 18] * 3 + [0.5] + [1 / 18] * 6)


@pytest.mark.parametrize("positive", [0, 5])
def test_nothing_to_balance(positive):
    y = np.zeros((5, 1), np.uint8)
    y[:positive] = 1
    with pytest.raises(BadConfig, match=f"{positive} of 5 training rows"):
        balanced_weights(y)


def test_orders_repeat_and_epochs_differ():
    weights = balanced_weights((np.arange(50)[:, None] < 5).astype(np.uint8))
    for each in (None, weights):
        one, two = row_sampler(50, each, 1), row_sampler(50, each, 1)
        first = list(one)
        assert first == list(two)
        assert first != list(one)
        assert first != list(row_sampler(50, each, 2))
    assert sorted(row_sampler(50, None, 1)) == list(range(50))


def test_beyond_the_limit_of_torch(monkeypatch):
    """WeightedRandomSampler refuses more than 2^24 rows; ours draws them by the same law."""
    with pytest.raises(RuntimeError, match="2\\^24"):
        list(WeightedRandomSampler(torch.ones(2**24 + 1), 1))
    monkeypatch.setattr("cutpoint.trainer.sampler.TORCH_LIMIT", 100)
    weights = np.array([0.0, 1, 2, 3, 0] * 40)
    sampler = row_sampler(200, weights, 0)
    assert isinstance(sampler, CumulativeSampler)
    drawn = np.concatenate([list(sampler) for _ in range(100)]) % 5
    assert (np.bincount(drawn, minlength=5) / len(drawn)).tolist() == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 0], abs=0.02)
