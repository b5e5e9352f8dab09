"""Dashboards as Grafana reads them: panels, queries, and what Grafana puts in place of its variables."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))

# What a page with one model of two labels would put in.
VALUES = {
    "model": "linear", "version": "1", "label": ".*", "shown": "(a|b)", "top": "10", "instance": ".*",
    "__rate_interval": "1m", "__range": "1h", "__interval": "15s",
}  # fmt: skip

# Words of PromQL that are no metric: operators, modifiers and aggregations; a function is followed by a bracket.
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
_OWN = {"ALERTS", "ALERTS_FOR_STATE", "up", "scrape_duration_seconds"}  # Prometheus makes them


@dataclass(frozen=True)
class Asked:
    """A query of a dashboard."""

    where: str
    expr: str
    instant: bool = True
    legend: str = ""


def read(path: Path) -> dict[str, Any]:
    """A dashboard."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def everything(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels and headings, those in closed rows too."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels") or ()


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels that show something."""
    return [panel for panel in everything(dashboard) if panel["type"] != "row"]


def queries(dashboard: Mapping[str, Any]) -> list[Asked]:
    """Every expression: of panels, annotations and variables."""
    found = [
        Asked(f"{panel['title']} {target['refId']}", target["expr"], target["instant"], target["legendFormat"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]
    found += [Asked(f"annotation {each['name']}", each["expr"], False) for each in dashboard["annotations"]["list"]]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found.append(Asked(f"variable {variable['name']}", expression(variable["query"]["query"])))
    return found


def expression(query: str) -> str:
    """The PromQL in what a variable asks: `label_values(SERIES, NAME)` or `query_result(EXPRESSION)`."""
    if inner := re.fullmatch(r"query_result\((.*)\)", query):
        return inner[1]
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
    assert found, query
    return f"group by ({found[2]}) ({found[1]})"


def substituted(text: str, values: Mapping[str, str] = VALUES) -> str:
    """With values in place of variables, as Grafana does it."""
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: values[found[1] or found[2]], text)


def metrics(expr: str) -> set[str]:
    """The names of the series that an expression reads."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expr)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.$])([A-Za-z_][\w:]*)(?!\w|:|\s*\()", bare)
    return set(names) - _WORDS


def foreign(name: str) -> bool:
    """Whether Prometheus makes the series itself."""
    return name in _OWN
