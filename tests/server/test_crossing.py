"""Drift crossings by a clock and counts made here, against the alerts in numpy and against all that happened."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import alerting
import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.server.monitoring.crossing import Counted, Crossings, Version, counted, counted_in
from cutpoint.server.monitoring.event import Event
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import Active
from cutpoint.server.workers.merged import merge
from numpy.typing import ArrayLike
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

ONE: Version = ("m", "1")


class Place:
    """Counters that a test adds to, and a clock."""

    def __init__(self, labels: tuple[str, ...] = ("a", "b"), rse: float = 0.1) -> None:
        self.now_s, self.rse = 1000.0, rse
        self.counts = {ONE: Counted(labels, *np.zeros((3, len(labels))))}
        self.crossings = Crossings(self.read, lambda: self.now_s)

    def read(self) -> Mapping[Version, Counted]:
        return self.counts

    def add(self, positives: ArrayLike, expected: ArrayLike, of: Version = ONE) -> None:
        more = [np.asarray(each, float) for each in (positives, expected)]
        before = self.counts[of]
        self.counts[of] = Counted(
            before.labels, before.positives + more[0], before.expected + more[1], before.error + self.rse * more[1]
        )

    def go(self, minutes: float, positives: ArrayLike, expected: ArrayLike) -> None:
        """Count these every half minute, and look each time."""
        for _ in range(int(2 * minutes)):
            self.now_s += 30
            self.add(positives, expected)
            self.crossings.look()


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    """The fields of all that is logged."""
    found: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.msg, Event) and record.msg.name == "drift"
            found.append({**record.msg.fields, "level": record.levelname})

    logger, keep = logging.getLogger("cutpoint.server"), Keep()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(keep)
    yield found
    logger.removeHandler(keep)
    logger.setLevel(level)


def test_a_surge_is_told_once_and_its_end_once(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(120, [0.25, 0.25], [0.25, 0.25])  # 30 an hour, as expected
    assert said == []
    place.go(90, [1.0, 0.25], [0.25, 0.25])
    assert [(each["state"], each["label"], each["direction"], each["level"]) for each in said] == [
        ("began", "a", "high", "WARNING")
    ]
    began = said[0]
    assert (began["model"], began["version"]) == ("m", 1)
    assert 3600 <= began["window_s"] <= 3660
    assert float(began["z"]) > 5 and float(began["observed"]) > 1.5 * float(began["expected"])
    place.go(300, [0.25, 0.25], [0.25, 0.25])
    assert [each["state"] for each in said] == ["began", "ended"]
    assert float(said[1]["z"]) < 2 and said[1]["level"] == "INFO"
    assert 3600 < float(said[1]["lasted_s"]) < 9000


@pytest.mark.parametrize("rate", [4.0, 15.0, 60.0, 400.0])
def test_it_is_the_alerts_by_their_two_short_windows(
    rate: float, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without their dispersion, their longer windows and their waiting: at looks of six minutes, in which windows are exact."""
    monkeypatch.setattr(alerting, "WINDOWS", alerting.WINDOWS[:2])
    step_s, per_hour = 360, 10
    rng = np.random.default_rng(0)
    factors = np.repeat([1, 1, 2.5, 1, 1, 0.3, 0, 1, 1, 1.7, 1, 0.55, 1, 1], 6 * per_hour)
    expected = np.full(len(factors), rate / per_hour)
    positives = rng.poisson(expected * factors) * 1.0
    place, told = Place(labels=("a",), rse=0.05), dict[str, list[list[int]]](high=[], low=[])
    for step in range(len(factors)):
        place.now_s += step_s
        place.add(positives[step], expected[step])
        place.crossings.look()
        for each in said:
            if each["state"] == "began":
                told[str(each["direction"])].append([step + 1])
            else:
                told[str(each["direction"])][-1].append(step + 1)
                begun, ended = told[str(each["direction"])][-1]
                assert each["lasted_s"] == (ended - begun) * step_s - 7200
        said.clear()
    sums = ({window: alerting.increase(np.concatenate([[0.0], np.cumsum(of)]), hours * per_hour)
             for window, hours in (("1h", 1), ("6h", 6))} for of in (positives, expected))  # fmt: skip
    recorded = alerting.Recorded(*sums, np.ones(len(factors) + 1), 0.05)
    for side, found in told.items():
        # Prometheus begins to keep an alert where its expression holds no more, a look later.
        wanted = [[begin, end - 1] for begin, end in alerting.firing(alerting.holds(recorded, side), 0, 7200, step_s)]
        assert found == [stretch if stretch[1] <= len(factors) else stretch[:1] for stretch in wanted]
        assert wanted or rate < 15


def test_what_swings_around_the_limit_is_told_once(said: list[dict[str, Any]]) -> None:
    place = Place(labels=("a",), rse=0.0)
    place.go(60, 0.25, 0.25)
    place.go(60, 0.7, 0.25)
    assert [each["state"] for each in said] == ["began"]
    for _ in range(6):  # an hour at 64 for 30, whose z is above 5, an hour at 54, whose z is below
        place.go(60, 64 / 120, 0.25)
        place.go(60, 54 / 120, 0.25)
    assert [each["state"] for each in said] == ["began"]


def test_detections_that_vanish_are_told_by_six_hours(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(420, [0.05, 0.05], [0.05, 0.05])  # 6 an hour
    place.go(420, [0.0, 0.05], [0.05, 0.05])
    (one,) = said
    assert (one["direction"], one["label"]) == ("low", "a") and 21600 <= one["window_s"] <= 21960
    assert float(one["z"]) < -4.5
    place.go(800, [0.05, 0.05], [0.05, 0.05])
    assert [each["state"] for each in said] == ["began", "ended"]


def test_where_nothing_is_decided_any_more_a_drift_ends(said: list[dict[str, Any]]) -> None:
    place = Place(labels=("a",))
    place.go(120, 0.25, 0.25)
    place.go(60, 1.0, 0.25)
    place.go(60 + 130, 0.0, 0.0)
    assert [each["state"] for each in said] == ["began", "ended"]


@pytest.mark.parametrize(
    ("positives", "expected"),
    [(40.0, 9.0), (1400.0, 1000.0), (0.0, 9.0), (700.0, 1000.0)],
    ids=["too few expected", "less than half as many again", "too few expected, and none seen", "more than two thirds"],
)
def test_what_is_no_evidence_is_not_told(said: list[dict[str, Any]], positives: float, expected: float) -> None:
    place = Place(rse=0.0)
    place.add(positives, expected)
    place.go(5, 0.0, 0.0)
    assert said == []


def test_a_policy_that_knows_its_rate_better_is_no_crossing(said: list[dict[str, Any]]) -> None:
    """What was decided before it is held against what was promised of that, as vaguely as it was."""
    place = Place(labels=("a",), rse=0.5)
    place.go(120, 0.5, 0.25)
    place.rse = 0.001
    place.go(60 * 6, 0.5, 0.5)
    assert said == []


def test_no_traffic_is_no_crossing(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(600, 0.0, 0.0)
    assert said == []


def test_many_at_once_are_one_line(said: list[dict[str, Any]]) -> None:
    place = Place(labels=tuple(f"l{i}" for i in range(512)))
    place.go(60, 0.25, 0.25)
    surge = np.full(512, 0.25)
    surge[:11] = 50.0
    surge[7] = 90.0
    place.go(0.5, surge, 0.25)
    (one,) = said
    assert (one["crossings"], one["worst"], one["versions"], "label" in one) == (11, "l7", ["m/1"], False)
    place = Place(labels=tuple(f"l{i}" for i in range(512)))
    place.go(60, 0.25, 0.25)
    surge[10] = 0.25
    place.go(0.5, surge, 0.25)
    assert len(said) == 11 and {each["label"] for each in said[1:]} == {f"l{i}" for i in range(10)}


def test_counters_that_start_anew_are_no_drop(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(400, [0.05, 0.05], [0.05, 0.05])
    place.counts[ONE] = Counted(("a", "b"), *np.zeros((3, 2)))
    place.go(30, [0.05, 0.05], [0.05, 0.05])
    place.counts[ONE] = Counted(("other",), *np.zeros((3, 1)))
    place.go(30, 0.05, 0.05)
    del place.counts[ONE]
    place.crossings.look()
    assert said == []


def test_windows_are_those_of_all_that_happened(said: list[dict[str, Any]]) -> None:
    """Against sums over a list of every half minute, with a surge and a gap, at every look."""
    rng = np.random.default_rng(1)
    place, happened = Place(labels=("a",), rse=0.0), list[tuple[float, float]]()
    wanted = None
    for step in range(2000):
        rate = 0.25 * (4 if 700 < step < 900 else 0 if 1300 < step < 1900 else 1)
        positives = float(rng.poisson(rate))
        happened.append((positives, 0.25))
        place.go(0.5, positives, 0.25)
        if said and wanted is None:
            hour = np.array(happened[-121:]).sum(axis=0)  # the far end of the window is up to a minute early
            wanted = (step, hour)
    assert wanted is not None and 700 < wanted[0] < 800
    assert abs(float(said[0]["observed"]) - wanted[1][0]) <= 4
    assert float(said[0]["expected"]) == pytest.approx(wanted[1][1], abs=0.5)
    assert [(each["direction"], each["state"]) for each in said] == [
        ("high", "began"), ("high", "ended"), ("low", "began"), ("low", "ended")
    ][: len(said)]  # fmt: skip
    assert {each["direction"] for each in said} == {"high", "low"}


def test_memory_does_not_grow_with_time() -> None:
    place = Place(labels=tuple(f"l{i}" for i in range(4)))
    place.go(60 * 24, 0.25, 0.25)
    (standing,) = place.crossings._versions.values()
    assert all(len(window._moments) <= 62 for window in standing._windows)


def test_what_is_read_of_a_server_and_of_several_workers_is_the_same(models: Path) -> None:
    path = linear_bundle(models, labels=("a", "b"))
    metrics = Metrics()
    counters = metrics.add_model("linear", 1, ("a", "b"), "0", "cpu")
    active = Active(policy(path, {"a": 1.0, "b": None}), 1, 0.0)
    counters.apply(active)
    counters.add(np.array([[5.0, 0.0]] * 7, np.float32), np.array([[True, False]] * 7), active)
    (one,) = counted([counters]).values()
    page = generate_latest(metrics.registry).decode()
    (two,) = counted_in(text_string_to_metric_families(merge([page, page]))).values()
    assert one.labels == two.labels == ("a", "b")
    assert one.positives.tolist() == [7, 0] and two.positives.tolist() == [14, 0]
    np.testing.assert_allclose(two.expected, 2 * one.expected)
    np.testing.assert_allclose(two.error, 2 * one.error)
    assert one.error[0] > 0 and one.error[1] == 0
