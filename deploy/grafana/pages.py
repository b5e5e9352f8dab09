"""What all pages have in common: variables, annotations, how rows become a dashboard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from panels import SOURCE, Panels
from styles import BAD, TARGET


@dataclass(frozen=True)
class Row:
    """Panels under one heading.

    Args:
        title: the heading; empty for none, at the top of the page.
        panels: from left to right, and down where a line is full.
        repeat: variable for each of whose values the row is there again.
        closed: shown as a heading until somebody opens it.
    """

    title: str
    panels: Panels
    repeat: str = ""
    closed: bool = False


class Annotation(models.AnnotationQuery):
    """A Prometheus annotation, with the settings of that data source that the SDK has no names for."""

    def __init__(self, name: str, expr: str, colour: str, title: str, tags: str, value_is_time: bool) -> None:
        """`title` may name labels as `{{label}}`; `value_is_time` for values that are milliseconds since 1970."""
        super().__init__(name=name, datasource=SOURCE, enable=True, icon_color=colour, expr=expr)
        self._more = {"titleFormat": title, "tagKeys": tags, "step": "60s", "useValueForTime": value_is_time}

    def to_json(self) -> dict[str, object]:
        """As Grafana keeps it."""
        return {**super().to_json(), **self._more}


class _Made(Builder[Any]):
    """Satisfies the SDK, which takes builders."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def build(self) -> Any:
        """What was made."""
        return self._made


def source_variable() -> dashboard.DatasourceVariable:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def query_variable(
    name: str,
    label: str,
    query: str,
    text: str,
    *,
    regex: str = "",
    all_value: str | None = None,
    several: bool = False,
    ranked: bool = False,
    hidden: bool = False,
) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows.

    Args:
        name: as queries say it.
        label: as the page says it.
        query: `label_values(...)` or `query_result(...)`.
        text: what it is for.
        regex: picks the value out of each result.
        all_value: what All means in a regular expression; None for the values one by one.
        several: whether several can be chosen, and All, which it then begins with.
        ranked: the values come in the order of the query and anew with the time range, instead of by name.
        hidden: nobody chooses it.
    """
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(text)
        .query({"query": query, "refId": f"variable-{name}"})
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.DISABLED if ranked else models.VariableSort.NATURAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        made = made.current(models.VariableOption(True, ["All"], ["$__all"]))
        if all_value is not None:
            made = made.all_value(all_value)
    if regex:
        made = made.regex(regex)
    return made.hide(models.VariableHide.HIDE_VARIABLE) if hidden else made


def custom_variable(name: str, label: str, values: Sequence[str], chosen: str, text: str) -> dashboard.CustomVariable:
    """A variable with a list of values."""
    options = [models.VariableOption(value == chosen, value, value) for value in values]
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .description(text)
        .values(",".join(values))
        .options(options)
        .current(models.VariableOption(True, chosen, chosen))
    )


def page(
    uid: str,
    title: str,
    text: str,
    variables: Sequence[Any],
    rows: Sequence[Row],
    annotations: Sequence[Annotation],
    since: str,
) -> models.Dashboard:
    """A dashboard; ids are given in order, so that they stay the same until panels are added."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["cutpoint"])
        .timezone("browser")
        .readonly()
        .refresh("1m")
        .time(since, "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .annotations([_Made(each) for each in annotations])
        .link(
            dashboard.DashboardLink("Cutpoint")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["cutpoint"])
            .keep_time(True)
            .include_vars(True)
        )
    )
    for row in rows:
        if row.title:
            heading = dashboard.Row(row.title)
            if row.repeat:
                heading = heading.repeat(row.repeat)
            if row.closed:
                for panel in row.panels:
                    heading = heading.with_panel(panel)
            made = made.with_row(heading)
        if not row.closed:
            for panel in row.panels:
                made = made.with_panel(panel)
    built = made.build()
    number = 0
    for top in built.panels or []:
        for panel in (top, *(getattr(top, "panels", None) or ())):
            number += 1
            panel.id_val = number
    return built


def alert_annotation(model: str) -> Annotation:
    """While an alert fires, for the models that a regular expression matches, or for none."""
    expr = f'ALERTS{{alertname=~"Cutpoint.*",alertstate="firing",model=~"{model}"}}'
    return Annotation("Alerts", expr, BAD, "{{alertname}} {{label}}", "severity", False)


def policy_annotation(model: str) -> Annotation:
    """When a policy became active; its version is a label, made from the gauge's value."""
    replica = "model, version, job, instance"
    known = f'count_values by ({replica}) ("policy", cutpoint_policy_version{{{model}}})'
    since = f"1000 * cutpoint_threshold_activated_timestamp_seconds{{{model}}}"
    expr = f"max by (model, version, policy) ({since} * on ({replica}) group_right () ({known} > bool 0))"
    return Annotation(
        "Policies", expr, TARGET, "policy {{policy}} of {{model}} version {{version}}", "model,version,policy", True
    )
