"""Surprise against scipy's tails, which know nothing of ours."""

import numpy as np
import pytest
from alerting import deviance
from cutpoint.calibration.surprise import HIGH_Z, LOW_Z, deviance_z, expected_range, smallest_factors, surprise
from scipy import stats


def oracle(x: int, mu: float, rse: float) -> float:
    """The signed z of scipy's Poisson or negative binomial tail."""
    of = stats.poisson(mu) if rse == 0 else stats.nbinom(1 / rse**2, 1 / (1 + mu * rse**2))
    tail = of.sf(x - 1) if x > mu else of.cdf(x)
    z = max(0.0, float(stats.norm.isf(tail)))
    return z if x > mu else -z


@pytest.mark.parametrize("rse", [0.0, 0.01, 0.05, 0.3, 1.0])
def test_the_tail_is_scipys(rse: float) -> None:
    rng = np.random.default_rng(0)
    mu = np.concatenate([10 ** rng.uniform(-4, np.log10(200), 300), [0.7, 199.9]])
    far = rng.uniform(0.0, 3.0, mu.size) * np.sqrt(mu) + rng.integers(0, 5, mu.size)
    x = np.clip(np.rint(mu + np.where(rng.random(mu.size) < 0.5, -far, far)), 0, 200)
    wanted = [oracle(int(a), float(b), rse) for a, b in zip(x, mu, strict=True)]
    np.testing.assert_allclose(surprise(x, mu, rse), wanted, atol=1e-4)


@pytest.mark.parametrize("rse", [0.0, 0.02, 0.3, 1.0])
def test_few_of_many_are_exact(rse: float) -> None:
    for mu in (201.0, 240.0, 700.0, 1e4):
        for x in (0, 1, 2, 30, 199, 200):
            if np.isfinite(wanted := oracle(x, mu, rse)):
                assert surprise(x, mu, rse) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("rse, less", [(0.0, 0.002), (0.1, 0.01), (0.2, 0.02), (0.3, 0.05), (1.0, 0.25)])
def test_large_counts_say_a_little_less_than_there_is(rse: float, less: float) -> None:
    rng = np.random.default_rng(0)
    mu = 10 ** rng.uniform(1, 5, 4000)
    x = np.rint(np.clip(mu * np.exp(rng.normal(size=4000) * max(rse, 0.05) * 4), 201, 1e6))
    wanted = np.array([oracle(int(a), float(b), rse) for a, b in zip(x, mu, strict=True)])
    seen = np.abs(wanted) < 6
    found = surprise(x, mu, rse)[seen]
    assert seen.sum() > 200
    assert (np.abs(found - wanted[seen]) <= less * np.maximum(1, np.abs(wanted[seen]))).all()
    assert (np.abs(found) <= np.abs(wanted[seen]) + 0.02).all()


@pytest.mark.parametrize("rse", [0.0, 0.05, 0.2])
def test_large_counts_go_on_where_small_ones_end(rse: float) -> None:
    for mu in (150.0, 201.0, 1000.0, 5e4):
        sigma = np.sqrt(mu + (mu * rse) ** 2)
        for x in np.rint(mu + np.array([-4, -2, -1, 1, 2, 5]) * sigma):
            if x >= 0:
                assert surprise(x, mu, rse) == pytest.approx(oracle(int(x), mu, rse), abs=0.02, rel=0.03)


def test_no_error_is_the_limit_of_a_small_one() -> None:
    x, mu = [7, 3, 500], [2.0, 9.0, 400.0]
    np.testing.assert_allclose(surprise(x, mu, 1e-6), surprise(x, mu), atol=1e-6)


def test_the_alerts_z_is_that_of_the_simulation_which_promtool_agrees_with() -> None:
    rng = np.random.default_rng(1)
    mu = np.concatenate([[0.0, 0.0], 10 ** rng.uniform(-3, 4, 500)])
    x = np.concatenate([[0, 3], rng.poisson(mu[2:] * rng.uniform(0, 3, 500))])
    rse = rng.uniform(0, 0.5, mu.size)
    wanted = deviance(x.astype(float), mu) / np.sqrt(1 + mu * rse**2)
    np.testing.assert_allclose(deviance_z(x, mu, rse), wanted, atol=1e-12)
    assert deviance_z(5, 2.0, np.nan) == deviance_z(5, 2.0)


@pytest.mark.parametrize("rse", [0.01, 0.1, 0.17, 0.25, 0.353, 0.6, 1.2, 3.0])
@pytest.mark.parametrize("limit", [4.0, 5.0])
def test_the_smallest_factors_are_where_the_z_of_any_number_of_events_passes_the_limit(rse: float, limit: float) -> None:
    up, down = smallest_factors(rse, limit, limit)
    expected = 10.0 ** np.arange(1, 13)  # beyond it half an event is nothing
    factors = np.concatenate([np.linspace(0, 2, 2001)[:, None], np.geomspace(2, 1e6, 4001)[:, None]])
    z = deviance_z(factors * expected, expected, rse)
    assert (np.diff(z, axis=1) * np.sign(z[:, 1:]) >= -1e-6).all()  # more decisions never say less
    found = np.abs(z[:, -1]) > limit
    high, low = found & (factors[:, 0] > 1), found & (factors[:, 0] < 1)
    assert factors[high, 0].min() == pytest.approx(up, rel=4e-3)
    if low.any():
        assert factors[low, 0].max() == pytest.approx(down, abs=1.1e-3)
    else:
        assert np.isnan(down) or down < 1e-3


def test_what_is_known_exactly_shows_any_change_and_what_is_not_known_shows_none() -> None:
    up, down = smallest_factors([0.0, np.nan, 1e-6, np.sqrt(2) / LOW_Z, 50.0])
    assert (up[0], down[0]) == (1, 1)
    assert np.isnan([up[1], down[1]]).all()
    assert (up[2], down[2]) == pytest.approx((1 + 1e-6 * HIGH_Z, 1 - 1e-6 * LOW_Z), abs=1e-9)
    assert np.isnan(down[3:]).all() and np.isfinite(up[3:]).all()


@pytest.mark.parametrize(("factor", "rse"), [(2, 0.176), (3, 0.322), (5, 0.569), (10, 1.059)])
def test_what_docs_alerts_says_an_hour_can_show(factor: float, rse: float) -> None:
    assert smallest_factors(rse, 5.0)[0] == pytest.approx(factor, rel=3e-3)


def test_rare_labels_are_where_the_alerts_z_says_too_little() -> None:
    """What docs/watch.md says of the two."""
    assert surprise(1, 0.001) == pytest.approx(stats.norm.isf(-np.expm1(-0.001))) == pytest.approx(3.09, abs=0.01)
    assert deviance_z(1, 0.001) == pytest.approx(2.28, abs=0.01)


@pytest.mark.parametrize(("rse", "apart"), [(0.0, 0.1), (0.05, 0.2), (0.1, 0.5)])
def test_of_ten_expected_on_both_say_much_the_same(rse: float, apart: float) -> None:
    """What docs/watch.md says of them up to five standard deviations."""
    for mu in (10.0, 20.0, 50.0, 200.0, 1000.0):
        x = np.arange(0.0, 3 * mu)
        exact = surprise(x, mu, rse)
        near = (np.abs(exact) < 5) & (exact != 0)
        assert np.abs(deviance_z(x, mu, rse) - exact)[near].max() < apart


def test_what_no_probability_can_be_said_of() -> None:
    np.testing.assert_array_equal(surprise([0, 3, 0], [0.0, 0.0, 0.1]), [0.0, 2 * (np.sqrt(3.375) - np.sqrt(0.375)), 0.0])
    far = surprise(np.array([150.0, 190.0, 200.0]), 1e-3)  # tails of less than 1e-300
    assert np.isfinite(far).all() and (np.diff(far) > 0).all()
    assert far[0] == pytest.approx(np.sqrt(-2 * stats.poisson(1e-3).logpmf(150)), rel=0.01)
    assert surprise([], []).shape == (0,)
    assert surprise(5, 2.0, np.nan) == surprise(5, 2.0)


def test_the_range_is_what_two_standard_deviations_reach() -> None:
    for mu, rse in ((0.0, 0.0), (0.3, 0.2), (12.0, 0.0), (12.0, 0.3), (4000.0, 0.02)):
        low, high = expected_range(mu, rse)
        assert 0 <= low <= mu <= high
        of = stats.poisson(mu) if not rse else stats.nbinom(1 / rse**2, 1 / (1 + mu * rse**2))
        inside = of.cdf(np.floor(high)) - of.cdf(np.ceil(low) - 1)
        assert inside > 0.93
    low, high = expected_range(1e6, 0.0)
    assert (low - 1e6, high - 1e6) == pytest.approx((-1960, 1960), rel=0.01)
