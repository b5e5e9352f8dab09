"""The bearing simulator against its formulas, published fault frequencies and the difficulty that it promises."""

import dataclasses
import math

import numpy as np
import pytest
from cutpoint.demo import bearing
from cutpoint.demo.bearing import Bearing, Spectra, simulate
from cutpoint.errors import BadConfig
from scipy import signal
from sklearn.metrics import average_precision_score

# SKF 6205-2RS of the Case Western Reserve bearing data centre, which publishes these multiples of the shaft's speed.
SKF_6205 = Bearing(balls=9, ball_mm=25.4 * 0.3126, pitch_mm=25.4 * 1.537)
OUTER, INNER, CAGE = 3.5848, 5.4152, 0.39828


@pytest.fixture(scope="module")
def spectra() -> Spectra:
    return simulate(44, seed=3)


def still(inner: bool, shaft_hz: float) -> tuple[bearing.Machine, np.ndarray, np.ndarray]:
    """Build a machine with a known bearing whose shaft keeps its speed; also the turns and the seconds of a record."""
    machine = dataclasses.replace(
        bearing.build(np.random.default_rng(0)),
        bearing=SKF_6205,
        inner=inner,
        fault_hz=4_000.0,
        fault_bandwidth_hz=150.0,
    )
    time_s = np.arange(bearing.SAMPLES) / bearing.SAMPLE_HZ
    return machine, shaft_hz * time_s, time_s


def test_the_window_grid_is_exact() -> None:
    assert 10 * 28_000 // 2 == bearing.BINS == 140_000
    assert bearing.SAMPLE_HZ * bearing.RECORD_S == bearing.SAMPLES == 2 * bearing.BINS
    assert bearing.WINDOWS * bearing.WINDOW_BINS == bearing.BINS
    assert (bearing.WINDOWS, bearing.WINDOW_BINS) == (140, 1000)
    assert bearing.WINDOWS * bearing.WINDOW_HZ * 2 == bearing.SAMPLE_HZ


def test_fault_frequencies_are_the_published_ones() -> None:
    assert SKF_6205.bpfo_hz(1.0) == pytest.approx(OUTER, abs=1e-4)
    assert SKF_6205.bpfi_hz(1.0) == pytest.approx(INNER, abs=1e-4)
    assert SKF_6205.cage_hz(1.0) == pytest.approx(CAGE, abs=1e-4)


def test_fault_frequencies_by_hand() -> None:
    # 10 balls of 10 mm on 50 mm at 60 degrees: ratio 0.2 * 0.5 = 0.1; 10 * 30 / 2 = 150, times 0.9 and 1.1.
    tilted = Bearing(10, 10.0, 50.0, 60.0)
    assert tilted.bpfo_hz(30.0) == pytest.approx(135.0)
    assert tilted.bpfi_hz(30.0) == pytest.approx(165.0)
    assert tilted.bpfo_hz(30.0) + tilted.bpfi_hz(30.0) == pytest.approx(10 * 30.0)


@pytest.mark.parametrize(
    "geometry",
    [(0, 8.0, 40.0, 0.0), (9, 40.0, 40.0, 0.0), (9, 0.0, 40.0, 0.0), (9, 8.0, math.nan, 0.0), (9, 8, 40, 90)],
)
def test_impossible_geometry_is_refused(geometry: tuple[int, float, float, float]) -> None:
    with pytest.raises(BadConfig, match="expected"):
        Bearing(*geometry)


@pytest.mark.parametrize(("sequences", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_impossible_requests_are_refused(sequences: int, seed: int) -> None:
    with pytest.raises(BadConfig, match="expected an integer"):
        simulate(sequences, seed)


def test_shapes_types_and_ranges(spectra: Spectra) -> None:
    assert spectra.x.shape == (44, 140, 1000)
    assert spectra.x.dtype == np.dtype(np.float32)
    assert spectra.y.shape == (44, 140, 1)
    assert spectra.y.dtype == np.dtype(np.uint8)
    assert spectra.machine.shape == (44,)
    assert spectra.machine.dtype == np.dtype(np.int64)
    assert spectra.time_s.shape == (44,)
    assert spectra.time_s.dtype == np.dtype(np.float64)
    assert np.isfinite(spectra.x).all()
    assert spectra.x.min() >= 0.0
    assert set(np.unique(spectra.y)) == {0, 1}
    assert (np.diff(spectra.time_s) > 0.0).all()
    assert spectra.machine[0] == spectra.machine[bearing.MACHINES] != spectra.machine[1]


def test_a_sequence_depends_on_seed_and_index_only(spectra: Spectra) -> None:
    again = simulate(3, seed=3)
    for field in dataclasses.fields(Spectra):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(spectra, field.name)[:3])
    assert not np.array_equal(simulate(1, seed=4).x, again.x[:1])


def test_about_three_windows_in_140_are_anomalous(spectra: Spectra) -> None:
    count = spectra.y.sum(axis=(1, 2))
    assert 2.0 < count.mean() < 4.0
    assert 0.05 < np.mean(count == 0) < 0.4
    assert count.max() <= 1 / bearing.LABEL_SHARE


def test_energy_does_not_find_them(spectra: Spectra) -> None:
    energy = np.square(spectra.x, dtype=np.float64).sum(axis=2)
    level = np.log(energy)
    rules = {
        "energy": energy,
        "z-score of the energy in its sequence": (energy - energy.mean(1, keepdims=True)) / energy.std(1, keepdims=True),
        "z-score of the level in its sequence": (level - level.mean(1, keepdims=True)) / level.std(1, keepdims=True),
        "level over the usual one of its band": level - level.mean(0),
        "highest line": spectra.x.max(axis=2),
    }
    for name, score in rules.items():
        assert average_precision_score(spectra.y.ravel(), score.ravel()) < 0.15, name


def test_spectrum_reads_amplitudes() -> None:
    time_s = np.arange(bearing.SAMPLES) / bearing.SAMPLE_HZ
    wave = 5.0 + 3.0 * np.sin(2 * math.pi * 1234.5 * time_s) + 2.0 * np.cos(2 * math.pi * 14_000.0 * time_s)
    amplitude = np.abs(bearing.spectrum(wave.astype(np.float32)))
    at = 12345 - 1  # bin b lies at (b + 1) / 10 Hz
    np.testing.assert_allclose(amplitude[at - 2 : at + 3], [0.0, 1.5, 3.0, 1.5, 0.0], atol=1e-3)
    assert amplitude[-1] == pytest.approx(2.0, abs=1e-3)


def test_noise_has_its_density() -> None:
    rng = np.random.default_rng(5)
    machine, *_ = still(False, 20.0)
    density = bearing.noise_density(machine, rng)
    hz, power = signal.welch(bearing.noise(density, rng), bearing.SAMPLE_HZ, nperseg=2_800)
    wide = np.interp(hz, np.arange(bearing.BINS + 1) / 10, density)
    inside = (hz > 500) & (hz < 13_500)
    assert np.mean(power[inside] / wide[inside]) == pytest.approx(1.0, abs=0.03)
    assert np.std(power[inside] / wide[inside]) < 0.2


@pytest.mark.parametrize(("inner", "per_turn"), [(False, OUTER), (True, INNER)])
def test_fault_lines_are_spaced_as_the_geometry_says(inner: bool, per_turn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearing, "SLIP", (0.0, 0.0))
    monkeypatch.setattr(bearing, "JITTER", 0.0)
    shaft_hz = 20.0
    ringing = bearing.ring_downs(*still(inner, shaft_hz), np.random.default_rng(6))
    amplitude = np.abs(bearing.spectrum(ringing))

    def line(hz: float) -> float:
        at = round(hz * 10) - 1
        return float(amplitude[at - 1 : at + 2].max())

    floor = float(np.median(amplitude[35_000:45_000]))
    order = round(4_000.0 / (per_turn * shaft_hz))
    for k in range(order - 3, order + 4):
        carrier = k * per_turn * shaft_hz
        assert line(carrier) > 15 * floor
        for side in (carrier - shaft_hz, carrier + shaft_hz):
            assert 4 * floor < line(side) < line(carrier)

    # The standard diagnosis, the spectrum of the squared envelope, must name the race too.
    envelope = np.square(np.abs(signal.hilbert(ringing))).astype(np.float32)
    peak_hz = (np.argmax(np.abs(bearing.spectrum(envelope))[300:3_000]) + 301) / 10
    assert peak_hz == pytest.approx(per_turn * shaft_hz, abs=0.1)


def test_slip_makes_faults_a_little_slow() -> None:
    machine, turns, time_s = still(True, 20.0)
    for seed in range(3):
        ringing = bearing.ring_downs(machine, turns, time_s, np.random.default_rng(seed))
        envelope = np.square(np.abs(signal.hilbert(ringing))).astype(np.float32)
        peak_hz = (np.argmax(np.abs(bearing.spectrum(envelope))[300:1_500]) + 301) / 10
        assert 0.978 <= peak_hz / (INNER * 20.0) <= 1.002


def test_labels_follow_the_share_of_the_fault_energy() -> None:
    amplitude = np.zeros((140, 1000), np.float32)
    assert not bearing.label(amplitude).any()
    # Energies 1, 9, 10 and 80 in the hundred; the first is below the share, the others above.
    amplitude[[3, 50, 51, 139], [0, 999, 7, 500]] = np.sqrt([1.0, 9.0, 10.0, 80.0])
    np.testing.assert_array_equal(np.flatnonzero(bearing.label(amplitude)), [50, 51, 139])
    np.testing.assert_array_equal(bearing.label(amplitude), bearing.label(1e-3 * amplitude))
