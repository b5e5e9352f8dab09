"""What the overview asks of Prometheus at 512 labels: `make bench-dashboards` (needs `apt-get install prometheus`).

A day of the recorded series of a model with 512 labels is written into a Prometheus, as often as the rules make them. Then
the overview's own queries are asked: which ten labels are shown, and their lines; beside them what a page would ask that drew
a line for every label.
"""

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
from claims import Claim, report, timed

LABELS, HOURS, EVERY_S, STEP_S = 512, 24, 30, 60
PAGE = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboards" / "cutpoint-overview.json"
FAMILY = "model_version_label:cutpoint_"
GAUGES = (
    "positives:z1h",
    "positives:z7d",
    "positives:dispersion7d",
    "positive_rate:ratio1h",
    "positive_rate:ucl1h",
    "positive_rate:lcl1h",
)
VALUES = {"model": "m", "version": "1", "label": ".*", "top": "10", "__range": f"{HOURS}h", "__rate_interval": "1m"}


def main() -> None:
    """Print the claims."""
    page = json.loads(PAGE.read_text())
    (shown,) = (each["query"]["query"] for each in page["templating"]["list"] if each["name"] == "shown")
    choice = filled(shown.removeprefix("query_result(").removesuffix(")"), VALUES)
    lines = next(panel for panel in page["panels"] if panel["title"] == "Surprise of the last hour")["targets"][0]["expr"]
    tiles = [filled(panel["targets"][0]["expr"], VALUES) for panel in page["panels"] if panel["type"] == "stat"]
    with tempfile.TemporaryDirectory() as name:
        folder, end_s = Path(name), int(time.time()) // EVERY_S * EVERY_S
        write(folder, end_s)
        with subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             "--web.listen-address=127.0.0.1:0", "--log.format=json"],
            stdout=subprocess.DEVNULL, stderr=(folder / "log").open("w"),
        ) as process:  # fmt: skip
            try:
                url = address(folder / "log")
                labels = [series["metric"]["label"] for series in ask(url, "query", query=choice, time=end_s)]
                assert len(labels) == 10
                few = filled(lines, {**VALUES, "shown": f"({'|'.join(labels)})"})
                every = filled(lines, {**VALUES, "shown": ".*"})
                range_s = {"start": end_s - HOURS * 3600, "end": end_s, "step": STEP_S}
                choice_s, few_s, every_s, tiles_s = timed(
                    lambda: ask(url, "query", query=choice, time=end_s),
                    lambda: ask(url, "query_range", query=few, **range_s),
                    lambda: ask(url, "query_range", query=every, **range_s),
                    lambda: [ask(url, "query", query=each, time=end_s) for each in tiles],
                )
            finally:
                process.kill()
    report(
        [
            Claim("choosing 10 of 512 labels over a day, limit 1 s", choice_s, 1, 1, "s", least=False),
            Claim("the lines of 10 labels over a day, beside those of all 512", few_s, every_s, 0.1, "s", least=False),
            Claim("the numbers at the top over all 512 labels, limit 0.5 s", tiles_s, 0.5, 1, "s", least=False),
        ]
    )


def filled(expr: str, values: dict[str, str]) -> str:
    """With values in place of variables."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expr)


def write(folder: Path, end_s: int) -> None:
    """A day of the recorded series, as a Prometheus keeps it."""
    rng = np.random.default_rng(0)
    times = range(end_s - HOURS * 3600, end_s + 1, EVERY_S)
    with (folder / "series").open("w") as file:
        for gauge in GAUGES:
            file.write(f"# TYPE {FAMILY}{gauge} gauge\n")
            for label in range(LABELS):
                name = f'{FAMILY}{gauge}{{model="m",version="1",label="label {label}"}}'
                # An hour's window: neighbouring values share most of their positives.
                noise = np.cumsum(rng.normal(size=len(times) + 120))
                values = 2 + (noise[120:] - noise[:-120]) / 120**0.5
                file.writelines(f"{name} {value:.4g} {at}\n" for value, at in zip(values, times, strict=True))
        file.write("# EOF\n")
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "series"), str(folder / "data")]
    subprocess.run(made, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("global: {}\n")


def address(log: Path) -> str:
    """Where a Prometheus answers, once it does."""
    end_s = time.monotonic() + 120
    while time.monotonic() < end_s:
        if found := re.search(r'"address":"([^"]+)".*"msg":"Listening on"', log.read_text()):
            try:
                with urlopen(f"http://{found[1]}/-/ready", timeout=10):
                    return f"http://{found[1]}"
            except OSError:
                pass
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def ask(url: str, path: str, **asked: object) -> list[dict[str, Any]]:
    """The series of an answer."""
    with urlopen(f"{url}/api/v1/{path}?{urlencode(asked)}", timeout=120) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


if __name__ == "__main__":
    main()
