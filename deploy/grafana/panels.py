"""One function per kind of panel.

A panel is asked for by what it answers (title, description), its queries and its unit; everything else is decided here, once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from styles import CLEAR, FINE, PROMISED, Steps, Style

SOURCE = DataSourceRef("prometheus", "${datasource}")


@dataclass(frozen=True)
class Query:
    """An expression and what its series are called, `{{label}}` being a label's value; `wide` for heatmaps of buckets."""

    expr: str
    legend: str
    exemplar: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: the value of an instant expression, joined to the others by the labels that it keeps."""

    name: str
    expr: str
    unit: str
    decimals: int | None = None
    steps: Steps = field(default=())


def lines(
    title: str,
    text: str,
    queries: Sequence[Query],
    unit: str,
    *,
    w: int = 8,
    h: int = 8,
    styles: Mapping[str, Style] | None = None,
    limits: Steps = (),
    axis: str = "",
    start: float | None = 0,
    most: float | None = None,
    stacked: bool = False,
    steps: bool = False,
    side: bool = False,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: of the panel.
        text: what it answers and how it is read.
        queries: one each for series of one kind.
        unit: Grafana's id of the unit.
        w: width in 24ths of the page.
        h: height in grid rows of 30 pixels.
        styles: by the name of a series; the others take the palette.
        limits: drawn as dashed lines.
        axis: text beside the axis.
        start: smallest value of the axis; None for that of the data.
        most: largest value of the axis at least; None for that of the data.
        stacked: one on top of the other.
        steps: values hold until the next.
        side: the legend as a table at the right, with last and largest values.
    """
    legend = common.VizLegendOptions().show_legend(True)
    if side:
        legend = legend.display_mode(common_models.LegendDisplayMode.TABLE).placement(common_models.LegendPlacement.RIGHT)
        legend = legend.calcs(["lastNotNull", "max"]).sort_by("Last *").sort_desc(True)
    else:
        legend = legend.display_mode(common_models.LegendDisplayMode.LIST).placement(common_models.LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(w)
        .height(h)
        .legend(legend)
        .tooltip(
            common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
        )
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .draw_style(common_models.GraphDrawStyle.LINE)
        .line_width(1.5)
        .fill_opacity(30 if stacked else 0)
        .show_points(common_models.VisibilityMode.NEVER)
        .span_nulls(False)
        .axis_label(axis)
    )
    if start is not None:
        panel = panel.min(start)
    if most is not None:
        panel = panel.axis_soft_max(most)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if steps:
        panel = panel.line_interpolation(common_models.LineInterpolation.STEP_AFTER)
    if limits:
        panel = panel.thresholds(_thresholds(limits)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    for name, style in (styles or {}).items():
        panel = panel.override_by_name(name, style.properties())
    for i, query in enumerate(queries):
        panel = panel.with_target(_range(query, i))
    return panel


def number(
    title: str, text: str, expr: str, unit: str, *, steps: Steps = FINE, decimals: int | None = None, w: int = 3, h: int = 4
) -> stat.Panel:
    """One number of now; where `steps` are given its background says whether it is well."""
    colour = common_models.BigValueColorMode.BACKGROUND_SOLID if len(steps) > 1 else common_models.BigValueColorMode.NONE
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .span(w)
        .height(h)
        .thresholds(_thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .color_mode(colour)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .text_mode(common_models.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("–")
        .with_target(prometheus.Dataquery().expr(expr).instant().ref_id("A").legend_format(title).datasource(SOURCE))
    )
    return panel if decimals is None else panel.decimals(decimals)


def grid(
    title: str,
    text: str,
    by: Sequence[str],
    columns: Sequence[Column],
    *,
    first: str = "",
    w: int = 24,
    h: int = 9,
    empty: str = "",
    hide: Sequence[str] = (),
) -> table.Panel:
    """A table of now: a row for each combination of the labels `by`, a column for each expression.

    Args:
        title: of the panel.
        text: what it answers and how it is read.
        by: labels that the expressions keep, in order of their columns.
        columns: the values.
        first: an expression, by whose value rows come, largest first; it is not shown.
        w: width in 24ths of the page.
        h: height in grid rows.
        empty: what is said in place of no rows.
        hide: columns that are not shown.
    """
    given = [*columns, *([Column("", first, "none")] if first else [])]
    # With one query Grafana calls the column of values "Value", with several "Value #A", "Value #B", ...
    names = ["Value"] if len(given) == 1 else [f"Value #{_letter(i)}" for i in range(len(given))]
    shown = {name: column.name for name, column in zip(names, columns, strict=False)}
    organized = {
        "excludeByName": dict.fromkeys(["Time", *hide, *names[len(columns) :]], True),
        "indexByName": {name: i for i, name in enumerate((*by, *shown))},
        "renameByName": shown,
    }
    panel = (
        table.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit("none")
        .span(w)
        .height(h)
        .cell_height(common_models.TableCellHeight.SM)
        .filterable(True)
        .inspect(False)
        .align(common_models.FieldTextAlignment.AUTO)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(((None, CLEAR),)))
        .with_transformation(DataTransformerConfig("merge", options={}))
    )
    if first:
        ordered = {"fields": {}, "sort": [{"field": names[-1], "desc": True}]}
        panel = panel.with_transformation(DataTransformerConfig("sortBy", options=ordered))
    panel = panel.with_transformation(DataTransformerConfig("organize", options=organized))
    if empty:
        panel = panel.no_value(empty)
    for column in columns:
        properties = [DynamicConfigValue("unit", column.unit), DynamicConfigValue("custom.align", "right")]
        if column.decimals is not None:
            properties.append(DynamicConfigValue("decimals", column.decimals))
        if column.steps:
            steps = [{"value": value, "color": colour} for value, colour in column.steps]
            properties.append(DynamicConfigValue("thresholds", {"mode": "absolute", "steps": steps}))
            properties.append(DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"}))
        panel = panel.override_by_name(column.name, properties)
    for i, column in enumerate(given):
        target = prometheus.Dataquery().expr(column.expr).instant().format(prometheus_models.PromQueryFormat.TABLE)
        panel = panel.with_target(target.ref_id(_letter(i)).legend_format(column.name or "order").datasource(SOURCE))
    return panel


def states(
    title: str, text: str, query: Query, names: Mapping[int, tuple[str, str]], *, w: int = 8, h: int = 8
) -> statetimeline.Panel:
    """A bar per series that says in which state it was; `names` are (text, colour) by value."""
    mapping = ValueMap({str(value): ValueMappingResult(text, colour) for value, (text, colour) in names.items()})
    return (
        statetimeline.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit("none")
        .span(w)
        .height(h)
        .mappings([mapping])
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(((None, PROMISED),)))
        .show_value(common_models.VisibilityMode.NEVER)
        .fill_opacity(80)
        .with_target(_range(query, 0))
    )


def cloud(title: str, text: str, query: Query, unit: str, *, w: int = 12, h: int = 8) -> heatmap.Panel:
    """How many were in each bucket of a histogram, over time."""
    return (
        heatmap.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit("none")
        .span(w)
        .height(h)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Viridis")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .with_target(_range(query, 0))
    )


def _range(query: Query, i: int) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).range().ref_id(_letter(i)).legend_format(query.legend).datasource(SOURCE)
    if query.exemplar:
        target = target.exemplar(True)
    return target.format(prometheus_models.PromQueryFormat.HEATMAP) if query.wide else target


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def _letter(i: int) -> str:
    return chr(ord("A") + i)


Panels = Sequence[Any]  # builders of the kinds above
