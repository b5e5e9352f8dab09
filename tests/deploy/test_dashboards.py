"""The dashboards against Grafana's schema, promtool, and what the server exports; `test_dashboards_live` asks a Prometheus."""

import copy
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from alerting import WINDOWS
from grafana import FILES, Asked, everything, foreign, metrics, panels, queries, read, substituted
from grafana_foundation_sdk.models import units
from jsonschema import Draft7Validator
from processes import ROOT
from rules_files import recorded

SCHEMAS = Path(__file__).parent / "schemas"
GENERATOR = ROOT / "deploy" / "grafana" / "build.py"
UNITS = {value for value in vars(units).values() if isinstance(value, str)}

DASHBOARDS = {path.stem: read(path) for path in FILES}
PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name, page in DASHBOARDS.items() for panel in panels(page)]
QUERIES = [pytest.param(query, id=f"{name}: {query.where}") for name, page in DASHBOARDS.items() for query in queries(page)]
each_dashboard = pytest.mark.parametrize("page", DASHBOARDS.values(), ids=DASHBOARDS)


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


def errors(value: object, of: dict[str, Any]) -> list[str]:
    return [f"{list(error.absolute_path)}: {error.message}" for error in Draft7Validator(of).iter_errors(value)]


def part(kind: str, name: str) -> dict[str, Any] | None:
    """The schema of the `Options` or the `FieldConfig` of a kind of panel, where it has such."""
    found = schema(kind.replace("-", ""))
    return {**found, "$ref": f"#/definitions/{name}"} if name in found["definitions"] else None


def test_there_are_two_pages() -> None:
    assert list(DASHBOARDS) == ["cutpoint-overview", "cutpoint-serving"]
    assert all(page["uid"] == name for name, page in DASHBOARDS.items())


def test_the_generator_gives_the_files_as_they_are(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GENERATOR), str(tmp_path)], check=True, timeout=120)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in FILES]
    for path in FILES:
        assert (tmp_path / path.name).read_text() == path.read_text(), f"{path}: run make dashboards"


@each_dashboard
def test_grafanas_schema_finds_nothing(page: dict[str, Any]) -> None:
    assert errors(page, schema("dashboard")) == []


@each_dashboard
def test_grafanas_schema_finds_what_is_broken_on_purpose(page: dict[str, Any]) -> None:
    def broken(change: Any) -> list[str]:
        changed = copy.deepcopy(page)
        change(changed)
        return errors(changed, schema("dashboard"))

    assert broken(lambda d: d["panels"][0].update(gridPos={"x": 0, "y": 0, "w": "wide", "h": 4}))
    assert broken(lambda d: d["panels"][0].update(colour="red"))
    assert broken(lambda d: d["panels"][0]["fieldConfig"]["defaults"]["thresholds"].update(mode="often"))
    assert broken(lambda d: d["templating"]["list"][0].update(type="guess"))
    assert broken(lambda d: d["annotations"]["list"][0].pop("iconColor"))
    assert broken(lambda d: d.pop("schemaVersion"))


@pytest.mark.parametrize("panel", PANELS)
def test_the_schema_of_the_panels_kind_finds_nothing(panel: dict[str, Any]) -> None:
    for name, value in (("Options", panel["options"]), ("FieldConfig", panel["fieldConfig"]["defaults"].get("custom"))):
        of = part(panel["type"], name)
        if value is not None:
            assert of is not None, f"{panel['type']} has no {name}"
            assert errors(value, of) == []
    assert [error for target in panel["targets"] for error in errors(target, schema("prometheus"))] == []
    fields = part(panel["type"], "FieldConfig")
    for override in panel["fieldConfig"]["overrides"]:
        for setting in override["properties"]:
            name, value = setting["id"], setting["value"]
            if name.startswith("custom."):
                assert fields is not None
                found = errors({name.removeprefix("custom."): value}, fields)
                assert [error for error in found if "required property" not in error] == [], (
                    "of one setting the others are missing"
                )
            else:
                of = {**schema("dashboard"), "$ref": "#/definitions/FieldConfig"}
                assert errors({name: value}, of) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_answers_and_in_what_unit(panel: dict[str, Any]) -> None:
    assert panel["title"] and len(panel["description"]) > 20
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    shown = [panel["fieldConfig"]["defaults"]["unit"]]
    if panel["type"] == "table":
        columns = {override["matcher"]["options"]: override["properties"] for override in panel["fieldConfig"]["overrides"]}
        (organized,) = (each["options"] for each in panel["transformations"] if each["id"] == "organize")
        assert set(organized["renameByName"].values()) == set(columns), "every column of values has settings of its own"
        shown += [next(each["value"] for each in properties if each["id"] == "unit") for properties in columns.values()]
    assert set(shown) <= UNITS


@pytest.mark.parametrize("panel", PANELS)
def test_series_of_a_line_are_told_apart(panel: dict[str, Any]) -> None:
    """A legend names the labels that the query keeps, or is a name of its own in its panel."""
    if panel["type"] not in ("timeseries", "state-timeline"):
        return
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends) and all(legends)
    overridden = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert overridden <= set(legends), "a style is for a series that there is"
    for target in panel["targets"]:
        kept = re.match(r"(?:sum|max|min) by \(([^)]*)\)", target["expr"])
        if kept and "$shown" not in panel["title"]:
            for name in kept[1].split(", "):
                assert f"{{{{{name}}}}}" in target["legendFormat"], target["expr"]
    for override in panel["fieldConfig"]["overrides"]:
        for setting in override["properties"]:
            if setting["id"] == "custom.fillBelowTo":
                assert setting["value"] in legends


@each_dashboard
def test_a_title_is_of_one_panel_and_the_docs_know_it(page: dict[str, Any]) -> None:
    titles = [panel["title"].removesuffix(": $shown") for panel in panels(page)]
    assert max(Counter(titles).values()) == 1
    text = (ROOT / "docs" / "dashboards.md").read_text()
    assert [title for title in titles if f"**{title}**" not in text] == []


@each_dashboard
def test_nothing_lies_on_anything_else(page: dict[str, Any]) -> None:
    numbers = Counter(panel["id"] for panel in everything(page))
    assert max(numbers.values()) == 1
    for level in (page["panels"], *(panel.get("panels") or [] for panel in page["panels"])):
        places = [panel["gridPos"] for panel in level]
        assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0 for place in places)
        for one, other in itertools.combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or apart, (one, other)


@each_dashboard
def test_a_line_of_panels_is_full_and_even(page: dict[str, Any]) -> None:
    for level in (page["panels"], *(panel.get("panels") or [] for panel in page["panels"])):
        for _, line in itertools.groupby(level, key=lambda panel: panel["gridPos"]["y"]):
            places = [panel["gridPos"] for panel in line]
            assert sum(place["w"] for place in places) == 24
            assert len({place["h"] for place in places}) == 1


@each_dashboard
def test_every_variable_that_is_used_is_there(page: dict[str, Any]) -> None:
    known = [variable["name"] for variable in page["templating"]["list"]]
    assert set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(page))) == set(known)
    for i, variable in enumerate(page["templating"]["list"]):
        asked = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(variable)))
        assert asked <= set(known[:i]), "a variable may ask for those before it only"


def test_no_panel_shows_all_labels() -> None:
    """With 512 labels, what draws a series for each is held to the labels shown."""
    for panel in panels(DASHBOARDS["cutpoint-overview"]):
        if panel["type"] in ("timeseries", "table"):
            for target in panel["targets"]:
                kept = re.search(r"\b(?:sum|max|min) by \(([^)]*)\)", target["expr"])
                by_label = kept is None or "label" in kept[1].split(", ")
                assert not by_label or "$shown" in target["expr"] or "ALERTS" in target["expr"], target["expr"]


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    rules = [
        {"record": f"check:{i}", "expr": substituted(query.values[0].expr)}
        for i, query in enumerate(QUERIES)
        if isinstance(query.values[0], Asked)
    ]
    assert len(rules) > 80

    def check(given: list[dict[str, str]]) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "rules.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": given}]}))
        return subprocess.run(
            ["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=60, check=False
        )

    done = check(rules)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
    assert check([*rules, {"record": "broken", "expr": "sum by (label (up)"}]).returncode != 0


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_is_exported_or_recorded(query: Asked, exported: Mapping[str, object]) -> None:
    names = {name for name in metrics(substituted(query.expr)) if not foreign(name)}
    assert names - set(exported) - recorded() == set()


def test_cells_are_coloured_where_the_alerts_begin() -> None:
    """A line over an hour, and cells over each window of the alerts."""
    shown = {panel["title"]: panel["fieldConfig"] for panel in panels(DASHBOARDS["cutpoint-overview"])}

    def steps(setting: dict[str, Any]) -> list[float | None]:
        return [step["value"] for step in setting["steps"]]

    hour = WINDOWS[0]
    assert steps(shown["Surprise of the last hour"]["defaults"]["thresholds"]) == [None, -hour.low, hour.high]
    assert steps(shown["Largest surprise"]["defaults"]["thresholds"])[-1] == hour.low
    cells = [
        steps(setting["value"])
        for override in shown["Live rates by label"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "thresholds"
    ]
    assert [each for each in cells if len(each) == 3] == [[None, -window.low, window.high] for window in WINDOWS]


def test_names_are_found_in_expressions() -> None:
    many = 'sum by (le, model) (rate(a_bucket{model="b_total"}[5m])) / on (x) group_left () (c:d > bool 0 or vector(0))'
    assert metrics(many) == {"a_bucket", "c:d"}
    assert metrics("max by (label) (max_over_time(abs(l:z1h{a='x'})[1h:10m]) or abs(l:z1h))") == {"l:z1h"}
    assert all(metrics(substituted(query.values[0].expr)) for query in QUERIES)
