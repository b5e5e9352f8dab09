"""Simulate vibration spectra of machines whose rolling bearings are sometimes damaged: one rare, weak event to find.

One sequence is the one-sided amplitude spectrum of an accelerometer record, in 140 windows of 100 Hz. All but the
damage is normal, and much of it is louder: shaft harmonics, gear and inverter families with side-bands of their own,
noise with resonances. A damaged bearing adds ring-downs at its fault frequency: a weak family of lines around one
resonance. So the energy of a window says little, its texture says a lot.

Sources: the kinematic fault frequencies, the mean slip of 1-2 %, the jitter of the impulse intervals and the modulation
by the load zone follow R. B. Randall and J. Antoni, "Rolling element bearing diagnostics - A tutorial", Mechanical
Systems and Signal Processing 25 (2011) 485-520. The ring-down is the impulse response of a damped oscillator with one
degree of freedom, exp(-2 pi zeta f t) sin(2 pi f t).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from cutpoint.errors import BadConfig
from numpy.typing import NDArray
from scipy import fft, signal

SAMPLE_HZ = 28_000
RECORD_S = 10
SAMPLES = SAMPLE_HZ * RECORD_S  # 280000 in one record
BINS = SAMPLES // 2  # 140000 of 1 / RECORD_S = 0.1 Hz, the mean (bin 0 of the transform) left out
WINDOW_HZ = 100
WINDOW_BINS = WINDOW_HZ * RECORD_S  # 1000
WINDOWS = BINS // WINDOW_BINS  # 140

MACHINES = 40  # an inspector's round: sequence i is machine i % MACHINES
ROUND_S = 86_400.0  # one round a day
VISIT_S = 600.0  # from one machine to the next

GAIN = 0.02  # of the noise floor, in (m/s^2) / sqrt(Hz): a few m/s^2 in all
FAULT_PROBABILITY = 0.8  # of a sequence: the demonstration visits a fleet in poor health
LABEL_SHARE = 0.06  # a window is anomalous when it holds at least this share of the energy of the fault alone
SEVERITY = (0.8, 6.0)  # power of the fault over that of the noise in the WINDOW_HZ around its resonance
SLIP = (0.0, 0.02)  # of a record: the cage lags behind pure rolling, so faults come slower than the geometry says
JITTER = 0.0005  # standard deviation of one interval between impulses, in intervals; it accumulates
SPEED_DRIFT = (1e-5, 1e-4)  # amplitude of the relative speed during a record
GAIN_DRIFT = (0.0, 0.15)  # amplitude of the log gain during a record
SENSOR_LOG_GAIN = 0.5  # standard deviation of the log gain of a record (mounting of the sensor)

Vector = NDArray[np.float64]
Signal = NDArray[np.float32]
Phasor = NDArray[np.complex64]


@dataclass(frozen=True)
class Bearing:
    """The geometry of a rolling bearing with a fixed outer ring.

    `balls` is a count >= 1, the diameters are in millimetres with 0 < `ball_mm` < `pitch_mm`, and the contact angle is
    in [0, 90) degrees. Raises BadConfig for any other geometry.
    """

    balls: int
    ball_mm: float
    pitch_mm: float
    contact_deg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.balls < 1:
            raise BadConfig.of("balls", self.balls, "an integer >= 1")
        if not 0.0 < self.ball_mm < self.pitch_mm < math.inf:
            raise BadConfig.of("ball_mm", self.ball_mm, f"0 < ball_mm < pitch_mm, which is {self.pitch_mm}")
        if not 0.0 <= self.contact_deg < 90.0:
            raise BadConfig.of("contact_deg", self.contact_deg, "0 <= contact_deg < 90")

    @property
    def ratio(self) -> float:
        """Give (ball diameter / pitch diameter) cos(contact angle), in (0, 1)."""
        return self.ball_mm / self.pitch_mm * math.cos(math.radians(self.contact_deg))

    def bpfo_hz(self, shaft_hz: float) -> float:
        """Give the ball pass frequency of the outer race, balls shaft_hz (1 - ratio) / 2 (Randall and Antoni 2011)."""
        return self.balls * shaft_hz * (1.0 - self.ratio) / 2.0

    def bpfi_hz(self, shaft_hz: float) -> float:
        """Give the ball pass frequency of the inner race, balls shaft_hz (1 + ratio) / 2 (Randall and Antoni 2011)."""
        return self.balls * shaft_hz * (1.0 + self.ratio) / 2.0

    def cage_hz(self, shaft_hz: float) -> float:
        """Give the fundamental train frequency, shaft_hz (1 - ratio) / 2 (Randall and Antoni 2011)."""
        return shaft_hz * (1.0 - self.ratio) / 2.0


@dataclass(frozen=True)
class Spectra:
    """Labelled spectra, in the order of recording.

    Attributes:
        x: float32 [sequence, window, bin], amplitude >= 0 in m/s^2 at the sensor's gain. Bin b of window w lies at
            WINDOW_HZ w + (b + 1) / RECORD_S Hz, so windows cover (100 w, 100 w + 100] Hz.
        y: uint8 [sequence, window, 1], 1 where the window is anomalous.
        machine: int64 [sequence], the machine recorded; split by it, since a machine keeps its resonances.
        time_s: float64 [sequence], the start of the record in seconds, strictly increasing.
    """

    x: NDArray[np.float32]
    y: NDArray[np.uint8]
    machine: NDArray[np.int64]
    time_s: NDArray[np.float64]


@dataclass(frozen=True)
class Machine:
    """What the records of one machine have in common; frequencies in Hz, `teeth` of the gear on the bearing's shaft."""

    bearing: Bearing
    inner: bool  # which race is damaged, when it is
    shaft_hz: float
    teeth: int
    mains_hz: float
    carrier_hz: float  # of the inverter that drives the motor
    gain: float
    tilt_hz: float  # below it the noise rises
    resonances: Vector  # [resonance, 3] broad: Hz, share of critical damping, log power over the floor
    fault_hz: float  # the narrow resonance that ball impacts excite
    fault_bandwidth_hz: float  # between its half-power points
    distractor: Vector  # [3], amplitudes of shaft, gear and inverter over the noise


def simulate(sequences: int, seed: int) -> Spectra:
    """Simulate `sequences` >= 1 records of a fleet of MACHINES machines, about 3 anomalous windows in 140.

    Sequence i has random numbers of its own, so it is the same however many are asked for. A window is anomalous when,
    in the spectrum of the fault alone, it holds at least LABEL_SHARE of the energy (the sum of squared amplitudes); a
    healthy record has none. Takes about 50 ms a sequence on one core. Raises BadConfig for a count below 1 or a
    negative seed.
    """
    if sequences < 1:
        raise BadConfig.of("sequences", sequences, "an integer >= 1")
    if seed < 0:
        raise BadConfig.of("seed", seed, "an integer >= 0")
    fleet_seed, record_seed = np.random.SeedSequence(seed).spawn(2)
    fleet = [build(np.random.default_rng(child)) for child in fleet_seed.spawn(MACHINES)]
    x = np.empty((sequences, WINDOWS, WINDOW_BINS), np.float32)
    y = np.zeros((sequences, WINDOWS, 1), np.uint8)
    for index, child in enumerate(record_seed.spawn(sequences)):
        normal, fault = record(fleet[index % MACHINES], np.random.default_rng(child))
        damage = spectrum(fault)
        x[index] = np.abs(spectrum(normal) + damage).reshape(WINDOWS, WINDOW_BINS)
        y[index, :, 0] = label(np.abs(damage).reshape(WINDOWS, WINDOW_BINS))
    visit, machine = np.divmod(np.arange(sequences, dtype=np.int64), MACHINES)
    return Spectra(x=x, y=y, machine=machine, time_s=visit * ROUND_S + machine * VISIT_S)


def build(rng: np.random.Generator) -> Machine:
    """Draw one machine: its bearing (balls nearly fill the ring, as in a catalogue), its speed and its resonances."""
    pitch_mm = 8.0 * rng.uniform(3.2, 6.0)
    balls = int(rng.uniform(0.75, 0.95) * math.pi / math.asin(8.0 / pitch_mm))
    return Machine(
        bearing=Bearing(balls, ball_mm=8.0, pitch_mm=pitch_mm, contact_deg=float(rng.choice([0.0, 15.0]))),
        inner=bool(rng.random() < 0.5),
        shaft_hz=rng.uniform(8.0, 25.0),
        teeth=int(rng.integers(17, 43)),
        mains_hz=float(rng.choice([50.0, 60.0])),
        carrier_hz=rng.uniform(2_000.0, 6_000.0),
        gain=GAIN * math.exp(rng.normal(0.0, 0.5)),
        tilt_hz=rng.uniform(200.0, 1_500.0),
        resonances=rng.uniform([300.0, 0.015, 0.5], [13_500.0, 0.08, 3.0], (rng.integers(4, 8), 3)),
        fault_hz=rng.uniform(1_500.0, 9_000.0),
        fault_bandwidth_hz=rng.uniform(80.0, 240.0),
        distractor=np.exp(rng.uniform(-1.0, 1.0, 3)),
    )


def record(machine: Machine, rng: np.random.Generator) -> tuple[Signal, Signal]:
    """Simulate the normal vibration and, to be added, the fault's (0 when healthy), float32 [SAMPLES] in m/s^2."""
    time_s = np.arange(SAMPLES) / SAMPLE_HZ
    shaft_hz = machine.shaft_hz * rng.uniform(0.97, 1.03)  # the load differs from day to day
    rate, phase = 2.0 * math.pi * rng.uniform(0.03, 0.2), 2.0 * math.pi * rng.random()
    drift_s = rng.uniform(*SPEED_DRIFT) / rate * (math.cos(phase) - np.cos(rate * time_s + phase))
    turns = shaft_hz * (time_s + drift_s)  # the integral of shaft_hz (1 + drift sin(rate t + phase))
    density = noise_density(machine, rng)
    normal = noise(density, rng) + distractors(machine, turns, time_s, rng)
    fault = np.zeros(SAMPLES, np.float32)
    if rng.random() < FAULT_PROBABILITY:
        raw = ring_downs(machine, turns, time_s, rng)
        at_resonance = density[round(machine.fault_hz * RECORD_S)]
        severity = SEVERITY[0] * (SEVERITY[1] / SEVERITY[0]) ** rng.random()  # log-uniform
        fault = raw * np.float32(math.sqrt(severity * at_resonance * WINDOW_HZ / np.mean(np.square(raw))))
    wave = phasor(rng.uniform(0.03, 0.3) * time_s + rng.random()).imag
    sensor = machine.gain * math.exp(rng.normal(0.0, SENSOR_LOG_GAIN))
    gain = np.float32(sensor) * np.exp(np.float32(rng.uniform(*GAIN_DRIFT)) * wave)
    return normal * gain, fault * gain


def noise_density(machine: Machine, rng: np.random.Generator) -> Signal:
    """Give the one-sided power density of the noise, float32 [BINS + 1] in (m/s^2)^2 / Hz, at 0, 0.1, ... Hz."""
    hz = np.arange(BINS + 1, dtype=np.float32) / np.float32(RECORD_S)
    density = 1.0 + np.float32(machine.tilt_hz) / (hz + np.float32(20.0))
    narrow = [machine.fault_hz, machine.fault_bandwidth_hz / machine.fault_hz, 0.0]  # noise excites that one too
    for f, damping, log_power in np.vstack([machine.resonances, narrow]):
        square = np.square(hz * np.float32(1.0 / (f * rng.uniform(0.98, 1.02))))
        width = np.float32(4.0 * damping * damping)
        peak = np.float32(math.exp(log_power + rng.normal(0.0, 0.5)))
        density += peak * width / (np.square(1.0 - square) + width * square)
    return density


def noise(density: Signal, rng: np.random.Generator) -> Signal:
    """Draw stationary Gaussian noise, float32 [SAMPLES], with the one-sided power density `density` [BINS + 1]."""
    white = rng.standard_normal(2 * (BINS + 1), np.float32).view(np.complex64)
    white *= np.sqrt(density * np.float32(SAMPLES * SAMPLE_HZ / 4.0))
    return np.asarray(fft.irfft(white, SAMPLES), np.float32)


def phasor(turns: Vector) -> Phasor:
    """Give exp(2 pi i turns), complex64; wrapped in float64 first, since float32 has too few digits for 10 s."""
    angle = ((turns - np.floor(turns)) * (2.0 * math.pi)).astype(np.float32)
    out = np.empty(turns.size, np.complex64)
    out.real, out.imag = np.cos(angle), np.sin(angle)
    return out


def series(z: Phasor, coefficients: NDArray[np.complex64]) -> Phasor:
    """Sum coefficients[k - 1] z^k over k >= 1 by Horner's rule: harmonics without a sine for each."""
    out = np.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        out *= z
        out += coefficient
    out *= z
    return out


def harmonics(count: int, decay: float, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Draw complex amplitudes [count] that fall as k^-decay, each log-normal with a random phase."""
    size = np.arange(1, count + 1) ** -decay * np.exp(rng.normal(0.0, 0.7, count))
    return np.asarray(size * np.exp(2j * math.pi * rng.random(count)), np.complex64)


def distractors(machine: Machine, turns: Vector, time_s: Vector, rng: np.random.Generator) -> Signal:
    """Sum the normal lines, float32 [SAMPLES]: of the shaft, the mains, and two families with side-bands."""
    shaft_gain, gear_gain, inverter_gain = machine.distractor * np.exp(rng.normal(0.0, 0.4, 3))
    shaft = phasor(turns)
    meshes = max(1, min(10, int(9_000.0 / (machine.teeth * machine.shaft_hz))))
    out = np.float32(8.0 * shaft_gain) * series(shaft, harmonics(30, 1.0, rng)).real
    out += np.float32(4.0 * inverter_gain) * series(phasor(machine.mains_hz * time_s), harmonics(12, 1.0, rng)).real
    for gain, carrier, count, modulator, bands in (
        (gear_gain, phasor(machine.teeth * turns), meshes, shaft, 3),
        (inverter_gain, phasor(machine.carrier_hz * time_s), 2, phasor(2.0 * machine.mains_hz * time_s), 3),
    ):
        envelope = 1.0 + np.float32(0.8) * series(modulator, harmonics(bands, 0.7, rng)).real
        out += np.float32(8.0 * gain) * envelope * series(carrier, harmonics(count, 0.5, rng)).real
    return np.asarray(out, np.float32)


def ring_downs(machine: Machine, turns: Vector, time_s: Vector, rng: np.random.Generator) -> Signal:
    """Simulate ball impacts, float32 [SAMPLES] in arbitrary units: an impulse train through the narrow resonance.

    Impacts come at BPFO or BPFI less the slip, with intervals that jitter. An inner race carries its defect through the
    load zone (deep modulation by the shaft); an outer race feels the cage, whose balls differ, and some unbalance.
    """
    per_turn = machine.bearing.bpfi_hz(1.0) if machine.inner else machine.bearing.bpfo_hz(1.0)
    per_turn *= 1.0 - rng.uniform(*SLIP)
    count = int(turns[-1] * per_turn * 1.05) + 2
    at_turn = (rng.random() + np.arange(count) + np.cumsum(rng.normal(0.0, JITTER, count))) / per_turn
    at_turn = at_turn[at_turn < turns[-1]]
    by_shaft, by_cage = rng.uniform(*(((0.5, 0.0), (0.9, 0.0)) if machine.inner else ((0.2, 0.1), (0.5, 0.4))))
    strength = 1.0 + by_shaft * np.cos(2.0 * math.pi * (at_turn + rng.random()))
    strength += by_cage * np.cos(2.0 * math.pi * (machine.bearing.cage_hz(1.0) * at_turn + rng.random()))
    strength *= np.exp(rng.normal(0.0, 0.1, at_turn.size))
    # A pole s rings as exp(s t): an impact between two samples is an impulse at the next one, weighted exp(s delay).
    pole = complex(-math.pi * machine.fault_bandwidth_hz, 2.0 * math.pi * machine.fault_hz) / SAMPLE_HZ
    at_sample = np.interp(at_turn, turns, time_s) * SAMPLE_HZ
    sample = np.ceil(at_sample).astype(np.int64)
    impulses = np.zeros(SAMPLES, np.complex64)
    np.add.at(impulses, sample, strength * np.exp(pole * (sample - at_sample)))
    ringing = signal.lfilter([1.0], np.array([1.0, -np.exp(pole)], np.complex64), impulses)
    return np.ascontiguousarray(ringing.imag, np.float32)


@cache
def taper() -> Signal:
    """Give the Hann window, float32 [SAMPLES], scaled so that the spectrum under it reads amplitudes."""
    hann = signal.windows.hann(SAMPLES, sym=False)
    return np.asarray(hann * (2.0 / hann.sum()), np.float32)


def spectrum(record: Signal) -> Phasor:
    """Give the one-sided amplitude spectrum, complex64 [BINS], of a record [SAMPLES] by a Hann window, without 0 Hz.

    A sine of amplitude a on a bin gives a there (half of it on each neighbour); a record of zeros gives zeros.
    """
    out: Phasor = fft.rfft(record * taper())[1:]
    out[-1] *= 0.5  # at half the sample rate there is no other side
    return out


def label(amplitude: Signal) -> NDArray[np.uint8]:
    """Label from the fault's spectrum alone, [window, bin] to uint8 [window]: 1 at LABEL_SHARE of the energy."""
    energy = np.square(amplitude, dtype=np.float64).sum(axis=1)
    return np.asarray((energy >= LABEL_SHARE * energy.sum()) & (energy > 0.0), np.uint8)
