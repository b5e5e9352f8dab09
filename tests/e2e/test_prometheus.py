"""A real Prometheus with the rules that users get, against a real server whose positive rate triples, seen through its API.

All durations of the rules and of the configuration are divided by 600, none below half a second: an hour is six seconds.
"""

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.calibration import Counts, LabelPolicy, expected_at
from cutpoint.client import Client
from processes import serving
from rules_files import FOLDER, RULES, binary

DIVISOR, LEAST_MS = 600, 500
UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
RATE = 0.1
ROWS = 200


def shortened(text: str) -> str:
    """The text with every duration of it divided."""

    def divide(found: re.Match[str]) -> str:
        whole_ms = sum(int(count) * UNITS_MS[unit] for count, unit in re.findall(r"(\d+)([smhd])", found[0]))
        return f"{max(LEAST_MS, whole_ms // DIVISOR)}ms"

    return re.sub(r"(?<![\w.])(\d+[smhd])+\b", divide, text)


class Prometheus:
    """One that is ready."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process = url, process

    def get(self, path: str) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expr: str) -> float | None:
        """Of the one series that the expression gives; None where it gives none."""
        found = self.get(f"query?query={quote(expr)}")["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def states(self, name: str) -> dict[str, str]:
        """State by label of the alerts of this name."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["label"]: alert["state"] for alert in alerts if alert["labels"]["alertname"] == name}


def until(found: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
    """Ask again until it is so."""
    pause, end_s = threading.Event(), time.monotonic() + deadline_s
    while not found():
        assert time.monotonic() < end_s, what
        pause.wait(0.1)


@contextmanager
def prometheus(folder: Path, metrics_url: str) -> Iterator[Prometheus]:
    """A process of its own with the shipped files, shortened, scraping this server; killed at the end."""
    folder.mkdir()
    target = metrics_url.removeprefix("http://").removesuffix("/metrics")
    config = (FOLDER / "prometheus.yml").read_text()
    assert "localhost:8002" in config
    (folder / "prometheus.yml").write_text(shortened(config).replace("localhost:8002", target))
    (folder / RULES.name).write_text(shortened(RULES.read_text()))
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = folder / "prometheus.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=written, stderr=written,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"

            def ready() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    with urlopen(f"{url}/-/ready", timeout=10) as answer:
                        return bool(answer.status == 200)
                except (URLError, ConnectionError):
                    return False

            until(ready, "Prometheus is not ready")
            yield Prometheus(url, process)
        finally:
            process.kill()
            process.wait()


class Traffic:
    """Requests one after the other in a thread, of which a known share of rows is positive for label a, and a tenth for b."""

    def __init__(self, target: str) -> None:
        self.share = RATE
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
                    rows = np.full((ROWS, 4), -1, np.float32)
                    rows[: round(self.share * ROWS), 0] = 1
                    rows[: round(RATE * ROWS), 1] = 1
                    client.score("linear", rows)
        except Exception as error:  # raised in the thread that waits for this one
            self.error = error


def calibrated(models: Path) -> None:
    """A model that is positive for a label where its feature is above 0, of which a tenth is expected."""
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
        Traffic(server.target) as traffic,
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
        traffic.share = 3 * RATE
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
        traffic.share = RATE
        until(lambda: rate_is(RATE), "the rate does not come back")
        until(lambda: found.states(name) == {}, "the alert does not resolve")
        seen = found.get("query?query=" + quote("group by (alertname) (last_over_time(ALERTS[5m]))"))["result"]
        assert {alert["metric"]["alertname"] for alert in seen} == {name}, "others fired"


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
