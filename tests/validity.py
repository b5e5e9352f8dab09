"""Guarantees held against the truth: seeded draws of scores whose true rates are known in closed form.

Scores of positives are N(separation, 1), of negatives N(0, 1): continuous, or rounded down to a grid, where the true rates
follow from the normal distribution over the grid's cells. Rows are independent, or windows of events: three of each, with
score = mean + sqrt(r) * effect of the event + sqrt(1 - r) * noise, so that any two windows of an event have correlation r.
Or they are windows of recordings, six of each and correlated alike, of which three hold an event or none do: groups of both
classes.
Every threshold comes from `fit_labels`, as a user calls it; independent draws go in as labels of one call, which is cheap.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cutpoint.calibration import Plan, ScoreHistogram, Scores, fit_labels, parse_objective
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import Uncalibratable
from numpy.typing import NDArray
from scipy.integrate import quad_vec
from scipy.special import ndtr

Floats = NDArray[np.float64]
DELTA = 0.1
WINDOWS = 3  # of each event; a recording has twice as many
GRID = 4  # cells of the tied scores, to a logit
_CELLS = 8_000_000  # scores drawn at a time


@dataclass(frozen=True)
class Setting:
    """What is drawn, and what is asked of the cut.

    Attributes:
        guarantee: `name=value`, kept with probability 1 - DELTA.
        positives: positive rows, or events. Exactly so many for recall and fpr, which hold given the classes; for the rates
            over all rows, or recordings, each one's class is drawn, and this is what is expected.
        tied: scores on a grid of 1/GRID.
        histogram: whether the cut is chosen on a `ScoreHistogram` of the default grid.
        unit: what the guarantee counts, and what the true rate is a share of.
        correlation: between windows of an event, or a recording; None for independent rows.
        recordings: whether groups are recordings, of negative windows, and of an event's in some. By group only.
        labels: with more than one DELTA is for all of them at once.
        separation: of the classes' means. At 0 the scores tell nothing.
        prevalence: positives among rows or events; recordings with an event among recordings.
    """

    guarantee: str
    positives: int = 100
    tied: bool = False
    histogram: bool = False
    unit: Literal["row", "group"] = "row"
    correlation: float | None = None
    recordings: bool = False
    labels: int = 1
    separation: float = 2.0
    prevalence: float = 0.05

    @property
    def units(self) -> int:
        """Independent rows, events or recordings of one draw."""
        return round(self.positives / self.prevalence)

    @property
    def windows(self) -> int:
        """Rows of each of them."""
        return 1 if self.correlation is None else 2 * WINDOWS if self.recordings else WINDOWS


@dataclass(frozen=True)
class Outcome:
    """Shares of draws.

    Attributes:
        broken: where the true rate at the threshold breaks the bound; one without a threshold breaks none.
        broken_of_found: of those with a threshold.
        plug_in: likewise `broken`, of the threshold that is chosen without a guarantee.
        found: with a threshold; of labels, where there are several.
        price: what the guaranteed threshold costs: its mean true fpr where recall is kept, its mean true recall elsewhere.
        free: the same of the threshold without a guarantee, in the same draws.
    """

    broken: float
    broken_of_found: float
    plug_in: float
    found: float
    price: float
    free: float


def limit(draws: int) -> float:
    """The largest share of broken draws that chance explains where DELTA is kept: three standard errors above it."""
    return DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / draws)


def violations(setting: Setting, draws: int, seed: int) -> Outcome:
    """How often bounds break over `draws` draws of the calibration data, with a guarantee and without."""
    sure, plain = _thresholds(setting, draws, seed)
    kept, free = true_rates(setting, sure), true_rates(setting, plain)
    objective = parse_objective(setting.guarantee)
    rate = str(objective.rate)
    price = "fpr" if rate == "recall" else "recall"
    sign = 1 if rate in ("recall", "precision") else -1

    def broken(thresholds: Floats, rates: dict[str, Floats]) -> NDArray[np.bool_]:
        return np.isfinite(thresholds) & (sign * (rates[rate] - objective.value) < 0)

    found = np.isfinite(sure)
    both = found & np.isfinite(plain)
    any_broken = broken(sure, kept).any(axis=1)
    any_found = found.any(axis=1)
    return Outcome(
        broken=float(any_broken.mean()),
        broken_of_found=float(any_broken.sum() / max(1, any_found.sum())),
        plug_in=float(broken(plain, free).any(axis=1).mean()),
        found=float(found.mean()),
        price=float(kept[price][both].mean()) if both.any() else math.nan,
        free=float(free[price][both].mean()) if both.any() else math.nan,
    )


def true_rates(setting: Setting, thresholds: Floats) -> dict[str, Floats]:
    """The rates of new data at thresholds, in the setting's unit; of no meaning where a threshold is NaN."""
    at = np.nan_to_num(thresholds)
    if setting.tied:
        at = np.ceil(at * GRID) / GRID  # a score alerts exactly when the value it was rounded from reaches this
    # The windows of a unit with an event that are positive, those of it that are negative, and those of any other unit.
    counts = (WINDOWS, WINDOWS if setting.recordings else 0, setting.windows) if setting.unit == "group" else (1, 0, 1)
    event, beside, other = ((at - mean, n) for mean, n in zip((setting.separation, 0, 0), counts, strict=True))
    with_event = setting.prevalence
    recall, fpr = _reaches(setting, event), _reaches(setting, other)
    alert_rate = with_event * _reaches(setting, event, beside) + (1 - with_event) * fpr
    if setting.recordings:
        fpr = with_event * _reaches(setting, beside) + (1 - with_event) * fpr
    return {"recall": recall, "fpr": fpr, "alert_rate": alert_rate, "precision": with_event * recall / alert_rate}


def _reaches(setting: Setting, *windows: tuple[Floats, int]) -> Floats:
    """P(any of a unit's windows reaches its x), of so many with each x; x is taken from the mean of their scores."""
    if setting.unit == "row" or setting.correlation is None:
        return np.asarray(ndtr(-windows[0][0]))  # whatever the correlation, a window's own score is normal
    shared, own = math.sqrt(setting.correlation), math.sqrt(1 - setting.correlation)

    def given(effect: float) -> Floats:
        density = math.exp(-effect * effect / 2) / math.sqrt(2 * math.pi)
        return np.asarray(density * (1 - math.prod(ndtr((x - shared * effect) / own) ** n for x, n in windows)))

    found: Floats = quad_vec(given, -9, 9, epsabs=1e-10)[0]
    return found


def draw(setting: Setting, labels: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scores and classes, [label, unit, window]; every label is drawn independently. A recording's event comes first."""
    size = (labels, setting.units)
    rate = parse_objective(setting.guarantee).rate
    if rate == "recall" or (rate == "fpr" and not setting.recordings):
        positive = np.broadcast_to(np.arange(setting.units) < setting.positives, size)
    else:
        positive = rng.random(size, np.float32) < setting.prevalence
    scores: NDArray[np.float32] = rng.standard_normal((*size, setting.windows), np.float32)
    if setting.correlation is not None:
        scores *= np.float32(math.sqrt(1 - setting.correlation))
        scores += np.float32(math.sqrt(setting.correlation)) * rng.standard_normal((*size, 1), np.float32)
    classes = (positive[:, :, None] & (np.arange(setting.windows) < WINDOWS)).astype(np.uint8)
    scores += np.float32(setting.separation) * classes
    if setting.tied:
        scores = (np.floor(scores * GRID) / GRID).astype(np.float32)
    return scores, classes


def _thresholds(setting: Setting, draws: int, seed: int) -> tuple[Floats, Floats]:
    """[draw, label] with a guarantee, and without one; NaN where there is none."""
    rng = np.random.default_rng(seed)
    by_group, together = setting.unit == "group", setting.labels > 1
    asked = Plan.of(setting.guarantee, delta=DELTA, by_group=by_group, simultaneous=together, calibrator="none")
    plain = Plan.of(setting.guarantee, calibrator="none")
    # Whole families of labels; each is fitted by itself where delta is shared, and many at once where labels do not meet.
    at_once = max(1, _CELLS // (setting.units * setting.windows * setting.labels)) * setting.labels
    found: list[tuple[Floats, Floats]] = []
    for start in range(0, draws * setting.labels, at_once):
        scores, classes = draw(setting, min(at_once, draws * setting.labels - start), rng)
        step = setting.labels if together else len(scores)
        families = [slice(first, first + step) for first in range(0, len(scores), step)]
        sure = [_fit(_source(setting, scores[family], classes[family]), asked) for family in families]
        # The threshold without a guarantee is chosen for events and recordings too.
        units = _highest(setting, scores, classes) if by_group else _rows(scores, classes)
        found.append((np.concatenate(sure), _fit(_as_data(setting, *units), plain)))
    guaranteed, free = (np.concatenate(each).reshape(draws, setting.labels) for each in zip(*found, strict=True))
    return guaranteed, free


def _source(setting: Setting, scores: NDArray[np.float32], classes: NDArray[np.uint8]) -> Scores | ScoreHistogram:
    rows, targets = _rows(scores, classes)
    if setting.unit == "row":
        return _as_data(setting, rows, targets)
    groups = np.repeat(np.arange(setting.units), setting.windows)
    if not setting.histogram:
        return Scores(rows.T, targets.T, _names(len(rows)), groups=groups)
    histogram = ScoreHistogram(_names(len(rows)), grouped=True)
    histogram.update(rows.T, targets.T, groups=groups)
    return histogram


def _as_data(setting: Setting, rows: NDArray[np.float32], targets: NDArray[np.uint8]) -> Scores | ScoreHistogram:
    """Of independent rows, [label, row]."""
    if not setting.histogram:
        return Scores(rows.T, targets.T, _names(len(rows)))
    histogram = ScoreHistogram(_names(len(rows)))
    histogram.update(rows.T, targets.T)
    return histogram


def _highest(
    setting: Setting, scores: NDArray[np.float32], classes: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The highest window of each group; of recordings, for recall and fpr, that of each class in each of them."""
    if not setting.recordings or parse_objective(setting.guarantee).rate not in ("recall", "fpr"):
        return scores.max(axis=2), classes.max(axis=2)
    of = [np.where(classes == c, scores, np.float32(-np.inf)).max(axis=2) for c in (0, 1)]
    found = [np.where(np.isfinite(peaks), c, UNLABELLED).astype(np.uint8) for c, peaks in enumerate(of)]
    return np.concatenate(of, axis=1), np.concatenate(found, axis=1)


def _rows(scores: NDArray[np.float32], classes: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    return scores.reshape(len(scores), -1), classes.reshape(len(classes), -1)


def _names(count: int) -> list[str]:
    return [f"draw{i}" for i in range(count)]


def _fit(data: Scores | ScoreHistogram, plan: Plan) -> Floats:
    try:
        fitted = fit_labels(data, plan)
    except Uncalibratable:  # no label has a cut
        return np.full(len(data.labels), np.nan)
    return np.array([np.nan if label.threshold is None else label.threshold for label in fitted])
