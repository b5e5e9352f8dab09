"""The overview page: one version of one model, the live rate of each label beside what its calibration promised."""

from changes import outcomes, policies, shadows
from grafana_foundation_sdk.models import dashboard as models
from labels import label_in_detail, quality
from pages import Row, alert_annotation, custom_variable, page, policy_annotation, query_variable, source_variable
from scopes import CHOSEN, MODEL, VERSION, larger, surprise
from unusual import glance, unusual


def overview() -> models.Dashboard:
    """The whole page."""
    hour, week = surprise("1h", CHOSEN), surprise("7d", CHOSEN)
    # Steps of 10 minutes are enough for what looks back an hour; the last value is for a server younger than that.
    largest = f"(max_over_time(abs({hour})[$__range:10m]) or abs({hour}))"
    largest = f"max by (label) {larger(largest, f'abs({week})')}"
    decided = f"sum by (version) (increase(cutpoint_decisions_total{{{MODEL}}}[$__range]))"
    variables = [
        source_variable(),
        query_variable("model", "Model", "label_values(cutpoint_decisions_total, model)", "The model that is looked at."),
        query_variable(
            "version", "Version", f"query_result(sort_desc({decided}))",
            "The version that is looked at; first the one that decided most in this time range.",
            regex='/version="(.*)"\\} /', ranked=True,
        ),
        query_variable(
            "label", "Label", f"label_values(cutpoint_decisions_total{{{VERSION}}}, label)",
            "The labels that are looked at.", several=True, all_value=".*",
        ),
        custom_variable(
            "top", "Show", ("5", "10", "20", "50"), "10",
            "How many labels panels show: those of the largest surprise in the time range.",
        ),
        query_variable(
            "shown", "Shown labels", f"query_result(topk($top, {largest}))",
            "Of the chosen labels those of the largest surprise in the time range.",
            regex='/label="(.*)"\\} /', several=True, ranked=True, hidden=True,
        ),
    ]  # fmt: skip
    rows = [
        Row("", glance()),
        Row("What is unusual", [*unusual(), *quality()]),
        Row("Label $shown", label_in_detail(), repeat="shown"),
        Row("Policies", policies()),
        Row("Outcomes", outcomes()),
        Row("Shadow", shadows(), closed=True),
    ]
    text = (
        "The live positive rate of every label beside what its calibration promised, and what is known of precision and recall."
    )
    annotations = [policy_annotation(MODEL), alert_annotation("$model|")]
    return page("cutpoint-overview", "Cutpoint: live against promised", text, variables, rows, annotations, "now-24h")
