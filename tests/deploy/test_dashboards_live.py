"""Every query of the dashboards asked of a real Prometheus that reads a real server and has the rules."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.client import Client
from grafana import FILES, VALUES, Asked, expression, metrics, queries, read, substituted
from processes import ServerProcess, serving
from rules_files import groups

PAGES = {path.stem: read(path) for path in FILES}
QUERIES = [pytest.param(query, id=f"{name}: {query.where}") for name, page in PAGES.items() for query in queries(page)]
WAIT_S = 60.0
EVERY = "500ms"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed: apt-get install prometheus"
)

# Where nothing is the right answer to a server that is well and young: no alert, no fault, no outcome, no whole hour over.
MAY_BE_EMPTY = re.compile("z1d|z7d|ALERTS|confirmed|grpc_code!=|unmatched|cutpoint_estimated_prevalence")


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def get(self, path: str, **asked: object) -> Any:
        """The data of an answer; an error is raised with Prometheus's own words."""
        try:
            with urlopen(f"{self.url}/api/v1/{path}?{urlencode(asked)}", timeout=30) as answer:
                found = json.load(answer)
        except HTTPError as error:
            raise AssertionError(f"{asked}: {error.read().decode()}") from None
        assert found["status"] == "success", found
        return found["data"]

    def instant(self, expr: str) -> list[dict[str, Any]]:
        """Series of now."""
        return list(self.get("query", query=expr)["result"])

    def over_time(self, expr: str) -> list[dict[str, Any]]:
        """Series of the last minute."""
        now_s = time.time()
        return list(self.get("query_range", query=expr, start=now_s - 60, end=now_s, step=1)["result"])


@contextmanager
def reading(target: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that reads /metrics at `target` twice a second and evaluates the rules as often."""
    rules = [{**group, "interval": EVERY} for group in groups()]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": rules}))
    scraped = [{"job_name": "cutpoint", "static_configs": [{"targets": [target]}]}]
    config = {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": ["rules.yml"],
        "scrape_configs": scraped,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage", "--log.format=json"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        address = until(lambda: listening(folder / "prometheus.log", process))
        found = Prometheus(f"http://{address}")
        until(lambda: ready(found))
        yield found
    finally:
        process.kill()
        process.wait()


def listening(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The address that a Prometheus says it listens at; empty until then."""
    assert process.poll() is None, log.read_text()
    found = re.search(r'"address":"([^"]+)".*"msg":"Listening on"', log.read_text())
    return found[1] if found else ""


def ready(prometheus: Prometheus) -> bool:
    try:
        with urlopen(f"{prometheus.url}/-/ready", timeout=10):
            return True
    except OSError:
        return False


def until(found: Any) -> Any:
    """Ask again until there is something."""
    end_s = time.monotonic() + WAIT_S
    while not (value := found()):
        assert time.monotonic() < end_s
    return value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model in two versions, the second of which is a shadow of the first."""
    models = tmp_path_factory.mktemp("live") / "models"
    models.mkdir()
    for version in (1, 2):
        path = linear_bundle(models, version=version)
        made = policy(path, {"a": 1.0, "b": 1.5})
        wanted = ("precision_at_least=0.3", "recall_at_least=0.6")
        labels = tuple(label.model_copy(update={"objective": each}) for label, each in zip(made.labels, wanted, strict=True))
        write_policy(path, made.model_copy(update={"labels": labels}))
    with serving(models, "--pin", "linear=1", "--shadow", "linear=2") as process:
        yield process


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has seen traffic come, in which label a is positive too often."""
    target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    rows[:, 0] += 1
    with reading(target, tmp_path_factory.mktemp("prometheus")) as found, Client(server.target) as client:
        until(lambda: found.instant('cutpoint_decisions_total{label="a"} == 0'))
        # Scored again and again, so that rates are seen whenever the series are read.
        until(lambda: (client.score("linear", rows), recorded(found))[1])
        yield found


def recorded(prometheus: Prometheus) -> bool:
    """Whether the server's increase has gone through the rules."""
    seen = prometheus.instant('increase(cutpoint_decisions_total{label="a",version="1"}[1h]) > 0')
    last = ("positives:z6h", "positives:dispersion7d", "positive_rate:ucl1h")  # in groups of their own, or made of those
    done = all(prometheus.instant(f'model_version_label:cutpoint_{name}{{label="a",version="1"}}') for name in last)
    shadow = prometheus.instant("increase(cutpoint_shadow_decisions_total[1h]) > 0")
    errors = prometheus.instant("method:grpc_server_errors:ratio_rate6h")
    return bool(seen and done and shadow and errors)


def values(prometheus: Prometheus, server: ServerProcess) -> Mapping[str, str]:
    return {**VALUES, "instance": re.escape(server.metrics_url.split("/")[2]).replace("\\", "\\\\")}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_has_an_answer(query: Asked, prometheus: Prometheus, server: ServerProcess) -> None:
    expr = substituted(query.expr, values(prometheus, server))
    found = prometheus.instant(expr) if query.instant else prometheus.over_time(expr)
    if not MAY_BE_EMPTY.search(query.expr):
        missing = metrics(expr) - set(prometheus.get("label/__name__/values"))
        assert missing == set(), "series that nobody makes"
        assert found, "every series that it reads is there, and it finds none: labels that do not meet?"
    if query.legend and not query.instant:
        for name in re.findall(r"\{\{(\w+)\}\}", query.legend):
            assert all(series["metric"].get(name) is not None for series in found if name != "policy"), name


def test_rules_are_well(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    assert groups
    for group in groups:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule


def as_text(series: dict[str, Any]) -> str:
    """A result as Grafana writes it for `query_result`."""
    labels = ",".join(f'{name}="{value}"' for name, value in series["metric"].items())
    return f"{{{labels}}} {series['value'][1]} {series['value'][0]}"


def offered(prometheus: Prometheus, page: str, name: str, given: Mapping[str, str]) -> list[str]:
    """The values that Grafana would offer for a variable, taken out of its text of each result as Grafana does."""
    (variable,) = (each for each in PAGES[page]["templating"]["list"] if each["name"] == name)
    asked = variable["query"]["query"]
    results = prometheus.instant(substituted(expression(asked), given))
    if asked.startswith("label_values"):
        wanted = re.search(r", (\w+)\)$", asked)
        assert wanted
        return [series["metric"][wanted[1]] for series in results]
    texts = [as_text(series) for series in results]
    found = [re.search(variable["regex"].strip("/"), text) for text in texts]
    assert all(found)
    return [each[1] for each in found if each]


def test_variables_offer_what_is_there(prometheus: Prometheus, server: ServerProcess) -> None:
    given = values(prometheus, server)
    assert offered(prometheus, "cutpoint-overview", "model", given) == ["linear"]
    assert offered(prometheus, "cutpoint-overview", "version", given)[0] == "1", "first the version that answers"
    assert sorted(offered(prometheus, "cutpoint-overview", "label", given)) == ["a", "b"]
    assert offered(prometheus, "cutpoint-serving", "model", given) == ["linear"]
    assert offered(prometheus, "cutpoint-serving", "instance", given) == [server.metrics_url.split("/")[2]]
    shown = offered(prometheus, "cutpoint-overview", "shown", given)
    family = "model_version_label:cutpoint_positives"
    hour = prometheus.instant(f'{family}:z1h{{version="1"}} / {family}:dispersion7d')
    z = {series["metric"]["label"]: abs(float(series["value"][1])) for series in hour}
    assert shown == sorted(z, key=lambda label: -z[label])
    assert offered(prometheus, "cutpoint-overview", "shown", {**given, "top": "1"}) == shown[:1]
    assert offered(prometheus, "cutpoint-overview", "shown", {**given, "label": "(b)"}) == ["b"]


@pytest.mark.parametrize("label", ["a", "ST elevation (V2)", 'said "high"', "a}b", "très rare", "__other__", 'x="y"'])
def test_a_label_of_any_name_is_taken_out_whole(label: str) -> None:
    (variable,) = (each for each in PAGES["cutpoint-overview"]["templating"]["list"] if each["name"] == "shown")
    found = re.search(variable["regex"].strip("/"), as_text({"metric": {"label": label}, "value": [1795785360.781, "4.25"]}))
    assert found and found[1] == label


def test_a_policy_is_annotated_at_the_time_of_its_activation(prometheus: Prometheus, server: ServerProcess) -> None:
    (annotation,) = (each for each in PAGES["cutpoint-overview"]["annotations"]["list"] if each["name"] == "Policies")
    found = prometheus.over_time(substituted(annotation["expr"]))
    assert {(series["metric"]["version"], series["metric"]["policy"]) for series in found} == {("1", "1"), ("2", "2")}
    activated = server.metrics()['cutpoint_threshold_activated_timestamp_seconds{model="linear",version="1"}']
    (first,) = (series for series in found if series["metric"]["version"] == "1")
    assert {float(value) for _, value in first["values"]} == {activated * 1000}
    assert annotation["useValueForTime"]
