"""Resampling in pieces against scipy on the whole recording."""

import numpy as np
import pytest
from cutpoint.errors import BadConfig, BadData
from cutpoint.signals import Resampler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from .test_signals_windower import cut_up

QUICK = settings(max_examples=150, database=None)
RATES = [(250.0, 360.0), (360.0, 250.0), (44100.0, 16000.0), (100.0, 300.0), (300.0, 100.0), (1000.0, 7.0), (7.0, 1000.0)]


def resampled(resampler: Resampler, recording: np.ndarray, slices: list[slice]) -> np.ndarray:
    return np.concatenate([*(resampler.push(recording[part]) for part in slices), resampler.finish()])


@QUICK
@given(
    st.sampled_from(RATES), st.integers(0, 1500), st.lists(st.integers(1, 400), min_size=1, max_size=5), st.sampled_from([1, 3])
)
def test_any_chunks_give_what_scipy_gives_at_once(rates, length, sizes, channels):
    recording = np.random.default_rng(length).normal(3, 1, (length, channels)).astype(np.float32)
    resampler = Resampler(*rates, channels)
    found = resampled(resampler, recording, cut_up(length, sizes))
    assert found.dtype == np.float32
    if not length:
        assert found.shape == (0, channels)
        return
    wanted = resample_poly(recording - recording[:1].astype(np.float64), resampler.up, resampler.down, axis=0, padtype="edge")
    wanted += recording[:1]
    assert found.shape == wanted.shape == (-(-length * resampler.up // resampler.down), channels)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5)


def test_chunks_of_one_sample_are_the_same_to_the_bit():
    recording = np.random.default_rng(0).normal(size=(700, 1)).astype(np.float32)
    whole = resampled(Resampler(250, 360), recording, [slice(0, 700)])
    np.testing.assert_array_equal(resampled(Resampler(250, 360), recording, cut_up(700, [1])), whole)


def test_an_offset_makes_no_transient_and_a_slow_sine_stays_one():
    t = np.arange(4000) / 400
    sine = (1000 + np.sin(2 * np.pi * 3 * t)).astype(np.float32)[:, None]
    found = resampled(Resampler(400, 250), sine, cut_up(4000, [333]))[:, 0]
    at = np.arange(len(found)) / 250
    error = np.abs(found - (1000 + np.sin(2 * np.pi * 3 * at)))
    assert error[20:-20].max() < 2e-3 and error.max() < 0.1
    flat = resampled(Resampler(400, 250), np.full((900, 1), 5, np.float32), cut_up(900, [7]))
    np.testing.assert_array_equal(flat, 5)


def test_what_is_above_the_new_nyquist_goes():
    t = np.arange(20_000) / 1000
    tone = np.sin(2 * np.pi * 300 * t).astype(np.float32)[:, None]
    found = resampled(Resampler(1000, 250), tone, [slice(0, 20_000)])
    assert np.abs(found[100:-100]).max() < 1e-3


def test_the_same_rate_changes_nothing():
    resampler = Resampler(360.0, 360)
    x = np.ones((5, 1), np.float32)
    assert resampler.push(x) is x and len(resampler.finish()) == 0
    third = Resampler(1000 / 3, 1000)  # as near as float64 comes
    assert (third.up, third.down) == (3, 1)


@pytest.mark.parametrize("rate", [0, -1, np.nan, np.inf])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(BadConfig, match=r"^rate_hz"):
        Resampler(rate, 250)
    with pytest.raises(BadConfig, match=r"^wanted_hz"):
        Resampler(250, rate)


@pytest.mark.parametrize("rate", [250.01, 249.99, np.pi, 1e-3, 1e9, 5e-324, 1e308, 251 * 1009 / 1013])
def test_rates_without_a_sensible_ratio_are_refused(rate):
    with pytest.raises(BadConfig, match=r"^rate_hz is .* whole numbers up to 1000"):
        Resampler(rate, 250)


def test_what_is_held_is_bounded_and_chunks_that_do_not_fit_are_refused():
    resampler, most = Resampler(1000, 999), 0
    for _ in range(300):
        resampler.push(np.zeros((500, 1), np.float32))
        assert resampler._buffer is not None
        most = max(most, len(resampler._buffer))
    assert most < 500 + 2 * 1000 + 20_000 / 999 + 10_000 / 999 + 10
    with pytest.raises(BadData, match=r"chunk is \[4, 2\]"):
        resampler.push(np.zeros((4, 2), np.float32))
    resampler.finish()
    with pytest.raises(BadData, match="after the end"):
        resampler.push(np.zeros((4, 1), np.float32))
