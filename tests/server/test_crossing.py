"""Drift crossings by a clock and counts made here, against the same windows worked out from all that happened."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.server.monitoring.crossing import Counted, Crossings, Version, counted, counted_in
from cutpoint.server.monitoring.event import Event
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import Active
from cutpoint.server.workers.merged import merge
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

ONE: Version = ("m", "1")


class Place:
    """Counters that a test adds to, and a clock."""

    def __init__(self, labels: tuple[str, ...] = ("a", "b"), rse: float = 0.1) -> None:
        self.now_s = 1000.0
        self.counts = {ONE: Counted(labels, np.zeros(len(labels)), np.zeros(len(labels)), np.full(len(labels), rse))}
        self.crossings = Crossings(self.read, lambda: self.now_s)

    def read(self) -> Mapping[Version, Counted]:
        return self.counts

    def add(self, positives: object, expected: object, of: Version = ONE) -> None:
        before = self.counts[of]
        self.counts[of] = Counted(before.labels, before.positives + positives, before.expected + expected, before.rse)

    def go(self, minutes: float, positives: object, expected: object) -> None:
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
    z = 2 * (np.sqrt(float(began["observed"]) + 0.375) - np.sqrt(30 + 0.375)) / np.sqrt(1 + 30 * 0.01)
    assert 4 < float(began["z"]) == pytest.approx(z, abs=0.2)
    place.go(300, [0.25, 0.25], [0.25, 0.25])
    assert [each["state"] for each in said] == ["began", "ended"]
    assert float(said[1]["z"]) < 2 and said[1]["level"] == "INFO"
    assert 3600 < float(said[1]["lasted_s"]) < 9000


def test_what_swings_around_the_limit_is_told_once(said: list[dict[str, Any]]) -> None:
    place = Place(labels=("a",), rse=0.0)
    place.go(60, 0.25, 0.25)
    place.go(60, 0.7, 0.25)
    assert [each["state"] for each in said] == ["began"]
    for _ in range(6):  # an hour at 62 for 30, whose z is above 4, an hour at 52, whose z is below
        place.go(60, 0.52, 0.25)
        place.go(60, 0.44, 0.25)
    assert [each["state"] for each in said] == ["began"]


def test_detections_that_vanish_are_told_by_six_hours(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(420, [0.05, 0.05], [0.05, 0.05])  # 6 an hour
    place.go(420, [0.0, 0.05], [0.05, 0.05])
    (one,) = said
    assert (one["direction"], one["label"]) == ("low", "a") and 21600 <= one["window_s"] <= 21960
    assert float(one["z"]) < -4
    place.go(800, [0.05, 0.05], [0.05, 0.05])
    assert [each["state"] for each in said] == ["began", "ended"]


@pytest.mark.parametrize(
    ("positives", "expected"),
    [(4.0, 0.0001), (140.0, 100.0), (0.0, 9.0)],
    ids=["fewer than five", "less than half as many again", "fewer than ten expected"],
)
def test_what_is_no_evidence_is_not_told(said: list[dict[str, Any]], positives: float, expected: float) -> None:
    place = Place(rse=0.0)
    place.add(positives, expected)
    place.go(5, 0.0, 0.0)
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
    surge[10] = 0.25
    place.go(0.5, surge, 0.25)
    assert len(said) == 11 and {each["label"] for each in said[1:]} == {f"l{i}" for i in range(10)}


def test_counters_that_start_anew_are_no_drop(said: list[dict[str, Any]]) -> None:
    place = Place()
    place.go(400, [0.05, 0.05], [0.05, 0.05])
    place.counts[ONE] = Counted(("a", "b"), np.zeros(2), np.zeros(2), np.zeros(2))
    place.go(30, [0.05, 0.05], [0.05, 0.05])
    place.counts[ONE] = Counted(("other",), np.zeros(1), np.zeros(1), np.zeros(1))
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
    assert len(standing._hour._moments) <= 62 and len(standing._hours._moments) <= 62


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
    np.testing.assert_array_equal(two.rse, one.rse)
