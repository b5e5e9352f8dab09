"""A real Prometheus with the rules that users get, against a real server whose positive rate triples, seen through its API.

deploy/prometheus/rehearsal.py divides all durations of the rules and of the configuration by 600: an hour is six seconds.
"""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.calibration import Counts, LabelPolicy, expected_at
from cutpoint.client import Client
from numpy.typing import NDArray
from processes import serving
from rehearsal import prometheus, shortened, until
from rules_files import binary

RATE = 0.1
ROWS = 200


class Traffic:
    """The same request again and again in a thread."""

    def __init__(self, target: str, rows: NDArray[np.float32]) -> None:
        self.rows = rows
        self.error: Exception | None = None
        self._target = target
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            with Client(self._target) as client:
                while not self._stop.wait(0.02):
                    client.score("linear", self.rows)
        except Exception as error:  # raised in the thread that waits for this one
            self.error = error


def rows_of(share: float) -> NDArray[np.float32]:
    """Of which this share is positive for label a, and a tenth for b."""
    rows = np.full((ROWS, 4), -1, np.float32)
    rows[: round(share * ROWS), 0] = 1
    rows[: round(RATE * ROWS), 1] = 1
    return rows


def calibrated(models: Path) -> None:
    """A model that is positive for a label where its feature is above 0, of which a tenth is expected."""
    binary("prometheus")
    path = linear_bundle(models)
    counts = Counts(positives=1000, negatives=9000, tp=500, fp=500)
    labels = tuple(
        LabelPolicy(
            label=label, objective="max_fbeta=1", status="OK", threshold=0.0, counts=counts, expected=expected_at(counts)
        )
        for label in "ab"
    )
    write_policy(path, policy(path, {}, labels=labels))


def test_the_alert_goes_pending_fires_and_resolves(models: Path, tmp_path: Path) -> None:
    calibrated(models)
    of = '{model="linear",version="1",label="a"}'
    ratio, expected = (f"model_version_label:cutpoint_positive_rate:{name}1h{of}" for name in ("ratio", "expected"))
    name = "CutpointPositiveRateHigh"
    with (
        serving(models) as server,
        prometheus(tmp_path / "prometheus", server.metrics_url) as found,
        Traffic(server.target, rows_of(RATE)) as traffic,
    ):

        def rate_is(share: float) -> bool:
            seen = found.value(ratio)
            assert traffic.error is None
            return seen is not None and abs(seen - share) < 0.01

        until(lambda: rate_is(RATE) and (found.value(f"count_over_time({ratio}[1m])") or 0) > 8, "no rate is recorded")
        assert abs((found.value(expected) or 0) - RATE) < 0.001
        assert found.states(name) == {}
        groups = found.get("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}, groups
        traffic.rows = rows_of(3 * RATE)
        until(lambda: found.states(name) == {"a": "firing"}, "nothing fires")
        assert found.value(f'min_over_time(ALERTS{{alertname="{name}",alertstate="pending",label="a"}}[1m])') == 1
        (alert,) = (alert for alert in found.get("alerts")["alerts"] if alert["labels"]["alertname"] == name)
        assert alert["labels"] == {
            "alertname": name,
            "severity": "warning",
            "model": "linear",
            "version": "1",
            "label": "a",
        }
        assert re.match(r"\d+\.\d standard deviations above what the calibration promises", alert["annotations"]["description"])
        until(lambda: rate_is(3 * RATE), "the rate does not triple")
        traffic.rows = rows_of(RATE)
        until(lambda: rate_is(RATE), "the rate does not come back")
        until(lambda: found.states(name) == {}, "the alert does not resolve")
        seen = found.instant("group by (alertname) (last_over_time(ALERTS[5m]))")
        assert {alert["alertname"] for alert, _ in seen} == {name}, "others fired"


def test_a_recalibration_leaves_what_is_estimated_as_it_is(models: Path, tmp_path: Path) -> None:
    """Of the events four fifths score 1 or more and half 3, of the rest a tenth and an eightieth.

    Calibrated at a share of events of 0.05, live at 0.2. The rate falls with the second policy from 0.24 to 0.11; the share of
    events does not.
    """
    binary("prometheus")
    linear_bundle(models)
    scores = np.repeat(np.array([3, 1, -1, 3, 1, -1], np.float32), [200, 120, 80, 95, 665, 6840])
    targets = np.repeat(np.array([1, 0], np.int8), [400, 7600])
    every = {"logits": np.stack([scores, scores], axis=1), "targets": np.stack([targets, targets], axis=1)}
    live = np.repeat(np.array([3, 1, -1], np.float32), [22, 26, 152])[:, None].repeat(4, axis=1)
    names = ("positive_rate:ratio1h", "prevalence:rogan_gladen1h", "precision:estimated1h", "recall:estimated1h")
    rate, prevalence, precision, recall, surprise = (
        f'model_version_label:cutpoint_{name}{{model="linear",version="1",label="a"}}' for name in (*names, "positives:z1h")
    )
    with (
        serving(models) as server,
        prometheus(tmp_path / "prometheus", server.metrics_url) as found,
        Client(server.target) as client,
    ):

        def settled(*wanted: float) -> bool:
            """Each rule's result is there on its own: the others of an evaluation may still be to come."""
            seen = [found.value(name) for name in (precision, recall)]
            return seen == pytest.approx(wanted) and found.value(surprise) is not None

        client.calibrate("linear", "recall_at_least=0.8", **every)
        with Traffic(server.target, live):
            until(lambda: settled(0.16 / 0.24, 0.8), "nothing is estimated")
            activated_s = time.time()
            client.calibrate("linear", "recall_at_least=0.5", **every)
            until(lambda: settled(0.1 / 0.11, 0.5), "the second policy's rates are not estimated")
            end_s = time.time()

        def course(name: str) -> NDArray[np.float64]:
            return np.array([value for _, value in found.range(name, activated_s, end_s)[0][1]])

        assert ((course(rate) > 0.12) & (course(rate) < 0.23)).any(), "no window holds decisions of both"
        np.testing.assert_allclose(course(prevalence), 0.2, rtol=1e-6)
        assert (np.diff(course(precision)) > -1e-6).all() and (np.diff(course(recall)) < 1e-6).all(), "little by little"
        assert course(recall)[[0, -1]] == pytest.approx([0.8, 0.5])
        assert np.abs(np.diff(course(surprise))).max() < 0.2 * course(surprise).max()


def test_outcomes_become_confirmed_precision_and_recall(models: Path, tmp_path: Path) -> None:
    """Of label b only alerts are looked at; of a also half of the rest, in which each positive stands for two."""
    calibrated(models)

    def confirmed(name: str, label: str) -> str:
        return f'model_version_label:cutpoint_{name}:confirmed7d{{model="linear",version="1",label="{label}"}}'

    rows = np.full((2, ROWS, 4), -1, np.float32)
    rows[0, :40, 0] = rows[1, :40, 1] = 1
    events = np.zeros(ROWS, np.int8)
    events[:30] = 1  # of 40 alerts
    events[40:50] = 1  # missed
    looked_at = np.r_[:40, 40:ROWS:2]
    with (
        serving(models) as server,
        prometheus(tmp_path / "prometheus", server.metrics_url) as found,
        Client(server.target) as client,
    ):
        until(lambda: found.value('sum(cutpoint_outcomes_recallable_positives_total{label="a"})') == 0, "no series")
        for name, inputs in zip("ab", rows, strict=True):
            client.score("linear", inputs, request_id=name)
        client.report_outcomes("linear", events[:40], request_id="b", labels=("b",), sampling="alerted")
        client.report_outcomes(
            "linear", events[looked_at], request_id="a", rows=looked_at, labels=("a",),
            sampling="alerted_and_random", probability=0.5,
        )  # fmt: skip
        until(lambda: found.value(confirmed("recall", "a")) is not None, "no recall is recorded")
        assert abs((found.value(confirmed("recall", "a")) or 0) - 30 / (30 + 2 * 5)) < 1e-6
        until(lambda: found.value(confirmed("precision", "b")) is not None, "no precision is recorded")
        assert abs((found.value(confirmed("precision", "b")) or 0) - 30 / 40) < 1e-6
        assert found.value(confirmed("recall", "b")) is None
        a, b = client.outcome_summary("linear").labels
        assert a.recall is not None and abs(a.recall.value - 0.75) < 1e-6 and b.recall is None


def test_durations_are_shortened_and_nothing_else() -> None:
    text = "increase1h, expr: x[6d23h59m:1h] offset 3h > 1.5, for: 10m, interval: 30s, a:ratio_rate5m, le=0.25"
    assert shortened(text) == (
        "increase1h, expr: x[1007900ms:6000ms] offset 18000ms > 1.5, for: 1000ms, interval: 500ms, a:ratio_rate5m, le=0.25"
    )
