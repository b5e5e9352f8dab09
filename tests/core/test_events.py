"""Metrics of events against loops over windows."""

import numpy as np
import pytest
from cutpoint.calibration.events import EventMetrics, event_metrics, runs
from cutpoint.calibration.interval import clopper_pearson, poisson_interval
from cutpoint.errors import BadData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

QUICK = settings(deadline=None, max_examples=300, database=None)


def of(decisions: str, targets: str, window_s: float = 10.0, tolerance: int = 0) -> EventMetrics:
    """Sequences apart by spaces; `#` alerts or is positive, `.` not, `?` is unlabelled."""
    d = np.array([[c == "#" for c in row] for row in decisions.split()])
    t = np.array([[{"#": 1, ".": 0, "?": 255}[c] for c in row] for row in targets.split()], np.uint8)
    return event_metrics(d, t, window_s, tolerance)


@st.composite
def sequences(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 12)))
    decisions = draw(hnp.arrays(np.bool_, shape))
    return decisions, draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 1, 255])))


def runs_by_hand(flags: np.ndarray) -> list[list[int]]:
    found: list[list[int]] = []
    for i, row in enumerate(flags.tolist()):
        for j, flag in enumerate(row):
            if flag and j and row[j - 1]:
                found[-1][2] = j
            elif flag:
                found.append([i, j, j])
    return found


def events_by_hand(targets: np.ndarray) -> list[list[int]]:
    """A positive window goes on with an event if all windows since its last positive one are unlabelled."""
    found: list[list[int]] = []
    for i, row in enumerate(targets.tolist()):
        open_ = False
        for j, target in enumerate(row):
            if target == 1 and open_:
                found[-1][2] = j
            elif target == 1:
                found.append([i, j, j])
                open_ = True
            elif target == 0:
                open_ = False
    return found


@QUICK
@given(sequences())
def test_runs_are_those_of_a_loop(data: tuple[np.ndarray, np.ndarray]) -> None:
    found = runs(data[0])
    assert found.dtype == np.int64 and found.shape == (len(found), 3)
    assert found.tolist() == runs_by_hand(data[0])


@QUICK
@given(sequences(), st.integers(0, 14), st.sampled_from([0.5, 3600.0]))
def test_event_metrics_are_those_of_a_loop(data: tuple[np.ndarray, np.ndarray], tolerance: int, window_s: float) -> None:
    decisions, targets = data
    metrics = event_metrics(decisions, targets, window_s, tolerance)
    events = events_by_hand(targets)
    delays = []
    for i, first, last in events:
        for j in range(max(first - tolerance, 0), min(last + tolerance + 1, targets.shape[1])):
            if decisions[i, j]:
                delays.append((j + 1 - first) * window_s)
                break
    false_alarms = 0
    for i, begin, end in runs_by_hand(decisions):
        touches = any(i == k and begin <= last + tolerance and end >= first - tolerance for k, first, last in events)
        false_alarms += not touches and bool((targets[i, begin : end + 1] == 0).any())
    hours = (targets != 255).sum() * window_s / 3600
    assert (metrics.events, metrics.found, metrics.false_alarms) == (len(events), len(delays), false_alarms)
    assert metrics.hours == pytest.approx(hours)
    assert metrics.event_recall == (len(delays) / len(events) if events else None)
    assert (metrics.event_recall_low, metrics.event_recall_high) == clopper_pearson(len(delays), len(events))
    assert metrics.false_alarms_per_hour == (pytest.approx(false_alarms / hours) if hours else None)
    low_high = (metrics.false_alarms_per_hour_low, metrics.false_alarms_per_hour_high)
    assert low_high == pytest.approx(poisson_interval(false_alarms, hours))
    assert metrics.delay_median_s == (np.median(delays) if delays else None)
    if delays:
        assert metrics.delay_p90_s is not None and metrics.delay_p90_s in delays
        assert np.mean(np.array(delays) <= metrics.delay_p90_s) >= 0.9 > np.mean(np.array(delays) < metrics.delay_p90_s)
    else:
        assert metrics.delay_p90_s is None
    alerts = decisions[targets != 255].sum()
    assert metrics.window_precision == (targets[decisions & (targets != 255)].mean() if alerts else None)
    assert metrics.window_recall == (decisions[targets == 1].mean() if (targets == 1).any() else None)


def test_an_alert_is_known_when_its_window_has_ended() -> None:
    first = of(decisions="..#..", targets="..##.")
    assert (first.found, first.delay_median_s, first.delay_p90_s) == (1, 10, 10)
    later = of(decisions="...#.", targets="..##.")
    assert (later.found, later.delay_median_s) == (1, 20)
    missed = of(decisions="....#", targets="..##.")
    assert (missed.events, missed.found, missed.delay_median_s, missed.false_alarms) == (1, 0, None, 1)


def test_tolerance_finds_an_event_by_an_alert_beside_it() -> None:
    after = of(decisions=".....#.", targets="..##...", tolerance=2)
    assert (after.found, after.delay_median_s, after.false_alarms) == (1, 40, 0)
    before = of(decisions="#......", targets="..##...", tolerance=2)
    assert (before.found, before.delay_median_s, before.false_alarms) == (1, -10, 0)  # early warning
    assert of(decisions="#......", targets="..##...", tolerance=1).false_alarms == 1
    elsewhere = of(decisions="....# .....", targets="..... #....", tolerance=9)  # in the sequence before it
    assert (elsewhere.found, elsewhere.false_alarms) == (0, 1)
    between = of(decisions="...#...", targets=".##.##.", tolerance=1)
    assert (between.events, between.found, between.false_alarms) == (2, 2, 0)


def test_alerts_that_touch_are_one_false_alarm() -> None:
    metrics = of(decisions="###.#.. ..####.", targets="....... .....#.")
    assert metrics.false_alarms == 2  # the last run touches the event
    assert metrics.window_precision == 1 / 8
    assert metrics.false_alarms_per_hour == pytest.approx(2 / (14 * 10 / 3600))


def test_unlabelled_windows_neither_make_events_nor_break_them_nor_count_as_false() -> None:
    one = of(decisions="...#....", targets=".#???#..")
    assert (one.events, one.found, one.delay_median_s, one.false_alarms) == (1, 1, 30, 0)
    assert one.hours == pytest.approx(5 * 10 / 3600)
    two = of(decisions="...#....", targets=".#?.?#..")
    assert (two.events, two.found, two.false_alarms) == (2, 0, 1)
    ends = of(decisions="##....##", targets="???##???")  # unlabelled windows at its ends are not the event's
    assert (ends.events, ends.found, ends.false_alarms) == (1, 0, 0)
    none = of(decisions="##.", targets="???")
    assert (none.events, none.false_alarms, none.hours) == (0, 0, 0)
    assert (none.event_recall, none.false_alarms_per_hour, none.window_precision, none.window_recall) == (None,) * 4
    assert (none.event_recall_low, none.event_recall_high, none.false_alarms_per_hour_high) == (0, 1, np.inf)
    assert of(decisions=".##.", targets=".?..").false_alarms == 1  # it goes on in a negative window


def test_random_alerts_are_not_good_here() -> None:
    rng = np.random.default_rng(0)
    targets = np.zeros((1, 140_000), np.uint8)
    for begin in (20_000, 60_000, 110_000):
        targets[0, begin : begin + 1000] = 1
    metrics = event_metrics(rng.random(targets.shape) < 0.005, targets, 60.0)  # with point adjustment an F1 near 0.9
    assert metrics.event_recall == 1
    assert metrics.false_alarms > 600 and metrics.window_precision is not None and metrics.window_precision < 0.05


@pytest.mark.parametrize(
    ("decisions", "targets", "window_s", "tolerance", "name"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), int), 1, 0, "decisions"),
        (np.zeros(3, bool), np.zeros(3, int), 1, 0, "decisions"),
        (np.zeros((2, 3), bool), np.zeros((3, 2), int), 1, 0, "targets"),
        (np.zeros((2, 3), bool), np.zeros((2, 3)), 1, 0, "targets"),
        (np.zeros((2, 3), bool), np.full((2, 3), 2), 1, 0, "targets"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), int), 0, 0, "window_s"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), int), np.nan, 0, "window_s"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), int), np.inf, 0, "window_s"),
        (np.zeros((2, 3), bool), np.zeros((2, 3), int), 1, -1, "tolerance_windows"),
    ],
)
def test_what_does_not_fit_is_refused(
    decisions: np.ndarray, targets: np.ndarray, window_s: float, tolerance: int, name: str
) -> None:
    with pytest.raises(BadData, match=f"^{name}"):
        event_metrics(decisions, targets, window_s, tolerance)


def test_runs_refuse_what_are_no_flags_of_sequences() -> None:
    for flags in (np.zeros((2, 3), int), np.zeros(3, bool)):
        with pytest.raises(BadData, match="flags"):
            runs(flags)
