"""A real Prometheus with the shipped rules in which time runs faster: hours of alerting seen within minutes.

Every duration of the rules and of the configuration is divided; none falls below half a second, which is then how often
Prometheus scrapes and evaluates. Nothing else of the files changes: what fires here would fire in hours of the same counts.
"""

import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

FOLDER = Path(__file__).parent
RULES = FOLDER / "cutpoint.rules.yml"
DIVISOR, LEAST_MS = 600, 500
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def shortened(text: str, divisor: int = DIVISOR) -> str:
    """The text, rules or an expression, with every duration of it divided."""

    def divide(found: re.Match[str]) -> str:
        whole_ms = sum(int(count) * _UNITS_MS[unit] for count, unit in re.findall(r"(\d+)([smhd])", found[0]))
        return f"{max(LEAST_MS, whole_ms // divisor)}ms"

    return re.sub(r"(?<![\w.])(\d+[smhd])+\b", divide, text)


def until(found: Callable[[], bool], what: str, deadline_s: float = 60) -> None:
    """Ask ten times a second until it is so; AssertionError with `what` after `deadline_s`."""
    pause, end_s = threading.Event(), time.monotonic() + deadline_s
    while not found():
        assert time.monotonic() < end_s, what
        pause.wait(0.1)


class Prometheus:
    """One that is ready."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self.process = url, process

    def get(self, path: str, **asked: object) -> Any:
        """The data of an answer to /api/v1/`path`; RuntimeError with Prometheus's own words where it refuses."""
        try:
            with urlopen(f"{self.url}/api/v1/{path}?{urlencode(asked)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except HTTPError as error:
            raise RuntimeError(f"{path} {asked}: {error.read().decode()}") from None

    def instant(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of every series that the expression gives now."""
        found = self.get("query", query=expr)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def value(self, expr: str) -> float | None:
        """Of the one series that the expression gives; None where it gives none."""
        found = self.instant(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def range(self, expr: str, start_s: float, end_s: float) -> list[tuple[dict[str, str], list[list[float]]]]:
        """Labels and [[second, value], ...] of every series, seconds since 1970: at `end_s` and each half second before it.

        The first is at `start_s` or up to half a second earlier.
        """
        step_s = LEAST_MS / 1000
        begin_s = end_s - math.ceil((end_s - start_s) / step_s) * step_s  # Prometheus counts from the start
        found = self.get("query_range", query=expr, start=begin_s, end=end_s, step=step_s)["result"]
        return [(each["metric"], [[float(at), float(value)] for at, value in each["values"]]) for each in found]

    def states(self, name: str) -> dict[str, str]:
        """State by label of the alerts of this name."""
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["label"]: alert["state"] for alert in alerts if alert["labels"]["alertname"] == name}


@contextmanager
def prometheus(folder: Path, metrics_url: str, divisor: int = DIVISOR) -> Iterator[Prometheus]:
    """A process of its own with the shipped files, shortened, scraping this server; killed at the end.

    Args:
        folder: to be made, for its configuration, data and log.
        metrics_url: http://HOST:PORT/metrics.
        divisor: how many times faster than usual.

    Raises:
        FileNotFoundError: there is no `prometheus` on the PATH.
        RuntimeError: it does not start; with its log.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        raise FileNotFoundError(
            "prometheus is not on the PATH: apt-get install prometheus, or unpack a release of https://prometheus.io/download"
        )
    folder.mkdir()
    target = metrics_url.removeprefix("http://").removesuffix("/metrics")
    config = (FOLDER / "prometheus.yml").read_text()
    assert "localhost:8002" in config
    (folder / "prometheus.yml").write_text(shortened(config, divisor).replace("localhost:8002", target))
    (folder / RULES.name).write_text(shortened(RULES.read_text(), divisor))
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = folder / "prometheus.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}"],
            stdout=written, stderr=written,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"

            def ready() -> bool:
                if process.poll() is not None:
                    raise RuntimeError(f"prometheus did not start:\n{log.read_text()}")
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
