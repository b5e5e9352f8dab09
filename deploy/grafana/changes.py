"""The bottom of the overview: by what is decided, what was learned since, what another would decide."""

from panels import Column, Panels, Query, grid, lines
from scopes import CHOSEN, MODEL, VERSION, gauge


def policies() -> Panels:
    """By what is decided, and since when?"""
    by = "max by (version, instance)"
    since = f"cutpoint_threshold_activated_timestamp_seconds{{{MODEL}}}"
    decisions = f"cutpoint_decisions_total{{{MODEL}}}"
    return [
        lines(
            "Active policy by replica",
            "The version of the policy that each replica decides by. Lines that part for longer than a moment: replicas "
            "disagree.",
            [Query(f"max by (instance) (cutpoint_policy_version{{{VERSION}}})", "{{instance}}")], "none", steps=True, w=6,
        ),
        lines(
            "Thresholds",
            "The active threshold of each label, a logit: it moves when a policy is activated.",
            [Query(gauge("threshold"), "{{label}}")], "none", start=None, steps=True, w=8, axis="logit",
        ),
        grid(
            "Versions of this model",
            "Every version that is loaded, in every replica: its active policy, how often one was set, and when.",
            ("version", "instance"),
            [
                Column("policy", f"{by} (cutpoint_policy_version{{{MODEL}}})", "none", 0),
                Column("times set", f"{by} (cutpoint_threshold_generation{{{MODEL}}})", "none", 0),
                Column("active since", f"1000 * {by} ({since})", "dateTimeFromNow"),
                Column("decisions per second", f"sum by (version, instance) (rate({decisions}[5m]))", "cps"),
            ],
            first=f"sum by (version, instance) (rate({decisions}[5m]))", w=10, h=8,
        ),
    ]  # fmt: skip


def outcomes() -> Panels:
    """What was learned since?"""
    return [
        lines(
            "Outcomes reported",
            "Outcomes of earlier decisions, by what was predicted and what it turned out to be, per hour.",
            [
                Query(
                    f"sum by (predicted, actual) (increase(cutpoint_outcomes_total{{{CHOSEN}}}[1h]))",
                    "predicted {{predicted}}, was {{actual}}",
                )
            ],
            "short", stacked=True,
        ),
        lines(
            "Outcomes that matched nothing",
            "Outcomes that named no known decision, contradicted an earlier one, and so on, per hour, for all versions of "
            "the model. Many of them: the reporter uses other ids, or reports later than the server remembers.",
            [Query(f"sum by (reason) (increase(cutpoint_outcomes_unmatched_total{{{MODEL}}}[1h]))", "{{reason}}")],
            "short", stacked=True,
        ),
        lines(
            "Labelled scores kept",
            "Rows in the pool from which `cutpoint policy calibrate` can recalibrate without data being sent again.",
            [Query(f"max by (instance) (cutpoint_outcome_pool_rows{{{VERSION}}})", "{{instance}}")], "short",
        ),
    ]  # fmt: skip


def shadows() -> Panels:
    """Would another version or policy do better?"""
    of = f'{MODEL},label=~"$shown"'
    by = "sum by (version, policy, label)"

    def counted(name: str, over: str = by) -> str:
        return f"{over} (increase(cutpoint_shadow_{name}_total{{{of}}}[1h]))"

    decisions = f"({counted('decisions')} > 0)"
    either = "sum by (version, policy, label, live)"
    return [
        lines(
            "The shadow's positives ÷ expected",
            "Positives that the shadow would have found in the last hour, divided by those that its own calibration expects. "
            "1 is as promised; compare with the same label's live rate above.",
            [
                Query(
                    f"{counted('positives')} / ({counted('expected_positives')} > 0)",
                    "{{label}}: version {{version}} {{policy}}",
                )
            ],
            "none", w=9, side=True,
        ),
        lines(
            "Where live and shadow differ",
            "Share of the decisions of the last hour on which they disagree, by what the live one decided.",
            [
                Query(
                    f"{counted('disagreements', either)} / ignoring (live) group_left () {decisions}",
                    "{{label}}: live {{live}}, version {{version}} {{policy}} not",
                )
            ],
            "percentunit", w=9, side=True,
        ),
        lines(
            "The shadow's requests",
            "Requests that a shadow was to score. Dropped: the server was busy with live ones, which go first.",
            [
                Query(
                    f"sum by (outcome) (rate(cutpoint_shadow_requests_total{{{MODEL}}}[$__rate_interval]))", "{{outcome}}",
                )
            ],
            "reqps", w=6,
        ),
    ]  # fmt: skip
