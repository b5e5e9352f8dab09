"""Events joined as they come against loops over whole recordings."""

import math

import numpy as np
import pytest
from cutpoint.errors import BadConfig, BadData
from cutpoint.signals import Event, EventJoiner, EventRule, join
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from .test_signals_windower import cut_up

QUICK = settings(max_examples=300, database=None)
RULES = st.builds(EventRule, st.sampled_from([0.0, 0.5, 1.0, 2.5]), st.integers(1, 4), st.integers(0, 3))
LEVELS = [-3.0, -2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 2.0, math.inf, -math.inf]


@st.composite
def windows(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.tuples(st.integers(0, 30), st.integers(1, 3)))
    return draw(hnp.arrays(np.float32, shape, elements=st.sampled_from(LEVELS)))


def by_hand(z: np.ndarray, thresholds: np.ndarray, rule: EventRule) -> list[tuple[int, int, int, int, bool]]:
    """(label, start, end, peak, cut) of every event, by a loop that says what the rule says."""
    found = []
    for label in range(z.shape[1]):
        flags, on = [], False
        for logit in z[:, label]:
            on = bool(logit >= thresholds[label] or (on and logit >= thresholds[label] - np.float32(rule.hysteresis)))
            flags.append(on)
        i = 0
        while i < len(flags):
            if not flags[i]:
                i += 1
                continue
            last = i
            for j in range(i + 1, len(flags)):
                if flags[j] and j - last - 1 <= rule.join_windows:
                    last = j
            if last - i + 1 >= rule.min_windows:
                peak = max(range(i, last + 1), key=lambda k: (z[k, label] if flags[k] else -math.inf, -k))
                found.append((label, i, last + 1, peak, last == len(flags) - 1))
            i = last + 1
    return found


def streamed(z: np.ndarray, thresholds: np.ndarray, rule: EventRule, sizes: list[int]) -> list[Event]:
    joiner = EventJoiner(z.shape[1], rule)
    scores = np.arctan(z)
    events = [e for part in cut_up(len(z), sizes) for e in joiner.push(z[part], scores[part], thresholds)]
    return events + joiner.finish()


@QUICK
@given(windows(), RULES, st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_pieces_give_the_events_of_the_whole(z, rule, sizes):
    thresholds = np.array([0, 0.5, math.nan], np.float32)[: z.shape[1]]
    events = streamed(z, thresholds, rule, sizes)
    whole = join(z, np.arctan(z), thresholds, rule)
    assert [event for event in events if event.state != "opened"] == whole
    assert events == streamed(z, thresholds, rule, [1])  # in the same order too
    found = sorted((e.label, e.start, e.end, e.peak, e.state == "cut") for e in whole)
    assert found == by_hand(z, thresholds, rule)
    for event in whole:
        assert event.peak_logit == z[event.peak, event.label]
        assert event.peak_score == pytest.approx(float(np.arctan(z[event.peak, event.label])))


@QUICK
@given(windows(), RULES)
def test_every_event_opens_once_before_it_closes_with_the_same_number(z, rule):
    events = streamed(z, np.zeros(z.shape[1], np.float32), rule, [3])
    opened = [e for e in events if e.state == "opened"]
    assert [e.number for e in opened] == list(range(1, len(opened) + 1))
    ended = {e.number: e for e in events if e.state != "opened"}
    assert len(ended) == len(opened) == len(events) // 2
    for event in opened:
        after = ended[event.number]
        assert events.index(event) < events.index(after)
        assert (event.label, event.start) == (after.label, after.start)
        assert event.end <= after.end and event.peak_logit <= after.peak_logit
        assert event.end - event.start >= rule.min_windows


def of(text: str, **rule: float) -> list[tuple[str, int, int]]:
    """Events of one label from digits: 5 and up reach the threshold; with hysteresis 2, 3 and up stay."""
    z = np.array([[float(digit)] for digit in text], np.float32)
    return [(e.state, e.start, e.end) for e in join(z, z, np.array([5], np.float32), EventRule(**rule))]  # type: ignore[arg-type]


def test_hysteresis_holds_an_event_but_does_not_begin_one():
    assert of("0404540") == [("closed", 4, 5)]
    assert of("0404540", hysteresis=2) == [("closed", 4, 6)]
    assert of("05444250", hysteresis=2) == [("closed", 1, 5), ("closed", 6, 7)]


def test_gaps_are_joined_before_short_ones_are_left_out():
    assert of("0505000550") == [("closed", 1, 2), ("closed", 3, 4), ("closed", 7, 9)]
    assert of("0505000550", join_windows=1) == [("closed", 1, 4), ("closed", 7, 9)]
    assert of("0505000550", join_windows=1, min_windows=3) == [("closed", 1, 4)]
    assert of("0505000550", join_windows=3, min_windows=3) == [("closed", 1, 9)]
    assert of("0000000550", min_windows=3) == []


def test_the_end_cuts_what_goes_on_and_closes_what_was_over():
    assert of("0055") == [("cut", 2, 4)]
    assert of("00550", join_windows=2) == [("closed", 2, 4)]
    assert of("0005", min_windows=2) == []


def test_an_event_opens_with_the_window_that_makes_it_long_enough():
    joiner, one = EventJoiner(1, EventRule(min_windows=3, join_windows=1)), np.ones(1, np.float32)
    states = []
    for i, logit in enumerate([0, 2, 0, 3, 1, 0, 0]):
        z = np.full((1, 1), logit, np.float32)
        states += [(i, e.state, e.start, e.end, e.peak) for e in joiner.push(z, z, one)]
    assert states == [(3, "opened", 1, 4, 3), (6, "closed", 1, 5, 3)]


def test_another_policy_decides_from_its_first_window_on():
    joiner = EventJoiner(1, EventRule())
    z = np.ones((2, 1), np.float32)
    at = lambda cut: np.array([cut], np.float32)  # noqa: E731
    assert [e.state for e in joiner.push(z, z, at(1))] == ["opened"]
    assert [(e.state, e.end) for e in joiner.push(z, z, at(2))] == [("closed", 2)]
    assert [(e.state, e.start) for e in joiner.push(z, z, at(0))] == [("opened", 4)]
    assert [(e.state, e.end) for e in joiner.push(z, z, at(math.nan))] == [("closed", 6)]


def test_seconds_are_windows():
    assert EventRule.of_seconds(10, 1, 25, 25) == EventRule(1, 3, 2)
    assert EventRule.of_seconds(0.1, 0, 0.3, 0.3) == EventRule(0, 3, 3)
    assert EventRule.of_seconds(10) == EventRule(0, 1, 0)


def test_what_is_kept_does_not_grow():
    joiner = EventJoiner(2, EventRule(join_windows=50, min_windows=10))
    z = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    size = lambda: sum(v.nbytes for v in vars(joiner).values() if isinstance(v, np.ndarray))  # noqa: E731
    before = size()
    joiner.push(z, z, np.zeros(2, np.float32))
    assert size() == before and len(vars(joiner)) == 11


@pytest.mark.parametrize(
    "rule",
    [
        {"hysteresis": -1.0},
        {"hysteresis": math.nan},
        {"hysteresis": math.inf},
        {"min_windows": 0},
        {"join_windows": 1 << 60},
        {"hysteresis": 2e3},
    ],
)
def test_rules_out_of_range_are_refused(rule):
    with pytest.raises(BadConfig, match=f"^{next(iter(rule))}"):
        EventRule(**rule)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_seconds_out_of_range_are_refused(value):
    with pytest.raises(BadConfig, match=r"^min_duration_s"):
        EventRule.of_seconds(1, min_duration_s=value)
    with pytest.raises(BadConfig, match=r"^join_gap_s"):
        EventRule.of_seconds(1, join_gap_s=value)


def test_what_does_not_fit_is_refused():
    z, cut = np.zeros((4, 2), np.float32), np.zeros(2, np.float32)
    for logits, scores, thresholds in ((z[0], z, cut), (z, z[:3], cut), (z, z, cut[:1])):
        with pytest.raises(BadData, match="shapes"):
            join(logits, scores, thresholds, EventRule())
    with pytest.raises(BadData, match="labels"):
        EventJoiner(3, EventRule()).push(z, z, cut)
    with pytest.raises(BadData, match="NaN"):
        EventJoiner(2, EventRule()).push(z * np.float32("nan"), z, cut)
