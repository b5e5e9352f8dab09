"""The prevalence of a window against EM in float64 on the probabilities themselves, and against the truth."""

import numpy as np
import pytest
from calibrated import Clock
from cutpoint.server.monitoring.prevalence import BINS, Window, estimate
from scipy.special import expit, logit

# A model whose cut finds 30.4 % of the positives and 0.71 % of the negatives, as in the study that has these deviations.
SEPARATION, PRIOR, ROWS = 1.938, 0.01, 20_000
STUDY = {0.002: 0.0012, 0.01: 0.0018, 0.02: 0.0020, 0.05: 0.0026}


def log_odds(prevalence: float, rows: int, rng: np.random.Generator, prior: float = PRIOR) -> np.ndarray:
    """Honest log-odds under `prior`, of rows of which a share `prevalence` is positive."""
    x = rng.normal(size=rows) + SEPARATION * (rng.random(rows) < prevalence)
    return logit(prior) + SEPARATION * x - SEPARATION**2 / 2


def em(odds: np.ndarray, prior: float = PRIOR) -> float:
    """Saerens, Latinne and Decaestecker (2002), equations 2.7 and 2.8, until nothing changes."""
    p, q = expit(odds), prior
    for _ in range(100_000):
        positive, negative = p * q / prior, (1 - p) * (1 - q) / (1 - prior)
        following = float(np.mean(positive / (positive + negative)))
        if abs(following - q) < 1e-13:
            break
        q = following
    return q


def windowed(odds: np.ndarray, prior: np.ndarray, clock: Clock | None = None) -> Window:
    window = Window(odds.shape[1], clock=clock or Clock())
    window.clear(prior)
    window.add((-odds).astype(np.float32), np.ones(len(odds)))
    return window


@pytest.mark.parametrize("truth", STUDY)
def test_the_estimate_is_that_of_em_and_near_the_truth(truth: float) -> None:
    rng = np.random.default_rng(int(1e4 * truth))
    odds = np.stack([log_odds(truth, ROWS, rng) for _ in range(20)], axis=1)
    found = estimate(*windowed(odds, np.full(20, PRIOR)).counts())
    exact = np.array([em(column) for column in odds.T])
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.1 * STUDY[truth])
    assert np.abs(found - truth).max() < 4 * STUDY[truth]
    assert abs(found.mean() - truth) < 4 * STUDY[truth] / np.sqrt(20)
    assert found.std(ddof=1) == pytest.approx(STUDY[truth], rel=0.6), "the notes' standard deviations, and these"


def test_rows_that_stand_for_more_count_for_more() -> None:
    rng = np.random.default_rng(0)
    odds = log_odds(0.02, 4000, rng)[:, None]
    once = windowed(np.repeat(odds, 3, axis=0), np.array([PRIOR]))
    weighted = Window(1, clock=Clock())
    weighted.clear(np.array([PRIOR]))
    weighted.add((-odds).astype(np.float32), np.full(4000, 3.0))
    assert weighted.rows == once.rows == 12_000
    np.testing.assert_array_equal(weighted.counts()[0], once.counts()[0])
    assert estimate(*weighted.counts()) == pytest.approx(estimate(*once.counts()))
    assert weighted.counts()[2] == pytest.approx(1 / 3), "they say no more than they are"
    mixed = Window(2, clock=Clock())
    mixed.clear(np.full(2, PRIOR))
    mixed.add(np.zeros((2, 2), np.float32), np.array([1.0, 5.0]))
    assert mixed.counts()[0].sum(axis=1).tolist() == [6.0, 6.0]


def test_nothing_is_said_of_too_little() -> None:
    rng = np.random.default_rng(0)
    prior = np.array([PRIOR, np.nan, 0.0, 1.0])
    few = windowed(np.stack([log_odds(0.02, 99, rng)] * 4, axis=1), prior)
    assert np.isnan(estimate(*few.counts())).all()
    vague = windowed(np.stack([log_odds(0.02, 400, rng)] * 4, axis=1), prior)
    assert np.isnan(estimate(*vague.counts())).all(), "its standard error is above the prior"
    many = windowed(np.stack([log_odds(0.02, 20_000, rng)] * 4, axis=1), prior)
    assert np.isnan(estimate(*many.counts())).tolist() == [False, True, True, True]
    assert np.isnan(estimate(np.zeros((3, BINS)), np.full(3, 0.1))).all()


@pytest.mark.parametrize("prior", [1e-5, 0.001, 0.3, 0.9])
def test_none_and_all_are_found(prior: float) -> None:
    rng = np.random.default_rng(0)
    none = logit(prior) + SEPARATION * rng.normal(size=50_000) - 3 * SEPARATION**2  # less like a positive than any negative
    every = logit(prior) + SEPARATION * rng.normal(size=50_000) + 3 * SEPARATION**2
    found = estimate(*windowed(np.stack([none, every], axis=1), np.full(2, prior)).counts())
    assert found[0] == pytest.approx(0, abs=1e-9) or np.isnan(found[0])
    assert found[1] == pytest.approx(1, abs=1e-3)


def test_infinite_log_odds_are_in_the_outermost_bins() -> None:
    window = windowed(np.array([[np.inf], [-np.inf], [np.nan]]), np.array([PRIOR]))
    counts = window.counts()[0][0]
    assert counts[-1] == 1 and counts.sum() == 3


def test_a_window_forgets_what_is_old() -> None:
    clock = Clock()
    window = windowed(np.zeros((10, 1)), np.array([PRIOR]), clock)
    for now_s, rows, more in ((1799.0, 10, 5), (1801.0, 15, 3), (3599.0, 18, 0), (3601.0, 3, 7), (5401.0, 7, 0), (1e6, 0, 1)):
        clock.now_s = 1000 + now_s
        assert window.rows == rows == window.counts()[0].sum()
        if more:
            window.add(np.zeros((more, 1), np.float32), np.ones(more))
    assert window.rows == 1
    window.clear(np.array([PRIOR]))
    assert window.rows == 0
