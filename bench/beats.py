"""Heart beats in an ECG: where they are, and how each one differs from the recording's usual beat in timing and shape."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d
from scipy.signal import butter, find_peaks, sosfiltfilt

_BEFORE_S: Final = 0.30  # of the R peak, what a beat is cut to
_AFTER_S: Final = 0.45
# Parts of a beat, seconds from its R peak.
_PARTS_S: Final = {"pr": (-0.28, -0.07), "qrs": (-0.09, 0.11), "st": (0.11, 0.42), "beat": (-0.28, 0.42)}
BEAT_NAMES: Final = (
    "rr_s", "rr_next_s", "rr_ratio", "rr_next_ratio", "rr_ratio_sequence", "rr_next_over_rr", "pause", "rr_change",
    "rr_irregularity", "rr_deviation",
    *(f"{part}_{name}" for part in _PARTS_S for name in ("correlation", "energy", "residual")),
    "peak", "swing", "qrs_width_s", "max_slope", "likeness_before", "likeness_after",
)  # fmt: skip

TIMINGS: Final = BEAT_NAMES.index("pr_correlation")  # how many of them are of timing; the others are of shape


def find_beats(signal: NDArray[np.float64], rate_hz: float) -> NDArray[np.intp]:
    """Indices of the R peaks of `signal` [sample].

    Energy of the slope in 5 to 15 Hz, as Pan and Tompkins (1985); a peak counts above a share of the level around it, and
    where a gap is longer than 1.66 times the usual interval the largest lesser peak in it counts too.
    """
    band = _filtered(signal, (5, 15), rate_hz)
    energy = np.sqrt(uniform_filter1d(np.gradient(band) ** 2, round(0.12 * rate_hz)))
    found, _ = find_peaks(energy, distance=round(0.25 * rate_hz))
    # The usual height of a peak: maxima over a beat or two, then their median over half a minute.
    step = round(rate_hz)
    level = median_filter(maximum_filter1d(energy, 2 * step)[::step], 31, mode="nearest")
    height = energy[found] / np.maximum(level[found // step], 1e-12)
    kept = found[height > 0.4]
    if len(kept) > 2:
        usual = _local_median(np.diff(kept).astype(np.float64), 15)
        missed = []
        for left, right, interval in zip(kept[:-1], kept[1:], usual, strict=True):
            if right - left > 1.66 * interval:
                between = (found > left + 0.3 * rate_hz) & (found < right - 0.3 * rate_hz) & (height > 0.2)
                missed += [found[between][np.argmax(height[between])]] if between.any() else []
        kept = np.sort(np.concatenate([kept, np.array(missed, dtype=kept.dtype)]))
    # The R peak itself: the largest excursion near the energy's.
    wide = np.abs(_filtered(signal, (2, 30), rate_hz))
    reach = round(0.1 * rate_hz)
    peaks = [max(k - reach, 0) + int(np.argmax(wide[max(k - reach, 0) : k + reach + 1])) for k in kept]
    return np.unique(np.array(peaks, dtype=np.intp))


def describe_beats(signal: NDArray[np.float64], peaks: NDArray[np.intp], rate_hz: float) -> NDArray[np.float64]:
    """Features [beat, feature] of the beats at `peaks` of `signal` [sample], named by BEAT_NAMES.

    Intervals are relative to the median of 15 around them; shapes to the median beat, taken over the beats most like it.
    """
    if len(peaks) < 3:
        return np.full((len(peaks), len(BEAT_NAMES)), np.nan)
    return np.column_stack([_timing(peaks, rate_hz), _shapes(signal, peaks, rate_hz)])


def _timing(peaks: NDArray[np.intp], rate_hz: float) -> NDArray[np.float64]:
    gaps = np.diff(peaks) / rate_hz
    before, after = np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])
    usual = _local_median(before, 15)
    deviation = np.abs(before - usual)
    spread = _local_median(deviation, 31)
    irregular = uniform_filter1d(deviation / usual, 15)
    change = np.concatenate([[0.0], np.diff(before)]) / usual
    return np.column_stack([
        before, after, before / usual, after / usual, before / np.median(before), after / before,
        (before + after) / (2 * usual), change, irregular, (before - usual) / (spread + 0.01),
    ])  # fmt: skip


def _shapes(signal: NDArray[np.float64], peaks: NDArray[np.intp], rate_hz: float) -> NDArray[np.float64]:
    left, right = round(_BEFORE_S * rate_hz), round(_AFTER_S * rate_hz)
    clean = np.pad(_filtered(signal, (0.5, 40), rate_hz), (left, right), mode="edge")
    beats = clean[peaks[:, None] + np.arange(left + right)]
    usual = np.median(beats, axis=0)
    alike = _correlation(beats, usual)
    usual = np.median(beats[alike >= np.median(alike)], axis=0)
    columns = []
    for begin_s, end_s in _PARTS_S.values():
        part = slice(left + round(begin_s * rate_hz), left + round(end_s * rate_hz))
        own, wanted = beats[:, part], usual[part]
        size = np.sum((wanted - wanted.mean()) ** 2) + 1e-9
        columns += [
            _correlation(own, wanted),
            np.log(np.sum((own - own.mean(axis=1, keepdims=True)) ** 2, axis=1) / size + 1e-6),
            np.log(np.sum((own - wanted) ** 2, axis=1) / size + 1e-6),
        ]
    qrs = beats[:, left + round(-0.15 * rate_hz) : left + round(0.15 * rate_hz)]
    slope = np.abs(np.diff(qrs, axis=1)) * rate_hz
    smooth = uniform_filter1d(slope, round(0.03 * rate_hz), axis=1)
    width = np.sum(smooth > 0.2 * smooth.max(axis=1, keepdims=True), axis=1) / rate_hz
    scale = np.abs(usual).max() + 1e-9
    neighbour = np.array([_correlation(a[None], b)[0] for a, b in zip(beats[1:], beats[:-1], strict=True)])
    return np.column_stack([
        *columns, beats[:, left] / scale, np.ptp(qrs, axis=1) / scale, width, slope.max(axis=1) / scale,
        np.concatenate([neighbour[:1], neighbour]), np.concatenate([neighbour, neighbour[-1:]]),
    ])  # fmt: skip


def _correlation(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = rows - rows.mean(axis=1, keepdims=True)
    wanted = wanted - wanted.mean()
    return np.asarray(rows @ wanted / (np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted) + 1e-12))


def _local_median(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.asarray(median_filter(values, count, mode="nearest"))


def _filtered(signal: NDArray[np.float64], band_hz: tuple[float, float], rate_hz: float) -> NDArray[np.float64]:
    return np.asarray(sosfiltfilt(butter(2, band_hz, "bandpass", fs=rate_hz, output="sos"), signal))
