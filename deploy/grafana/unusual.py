"""The top of the overview: is anything wrong, what, and since when."""

from panels import Column, Panels, Query, grid, lines, number
from scopes import ALERTS, CHOSEN, VERSION, gauge, rule, shown_rule, surprise
from styles import ANY_IS_A_WARNING, ANY_IS_BAD, BOTH_LIMITS, BOTH_SIDES, SURPRISE


def glance() -> Panels:
    """Is anything wrong?"""
    z = f"abs({rule('positives:z1h', CHOSEN)} / {rule('positives:dispersion7d', CHOSEN)})"
    live, upper, lower = (rule(f"positive_rate:{name}", CHOSEN) for name in ("ratio1h", "ucl1h", "lcl1h"))
    positives, expected = (rule(f"{name}:increase1h", CHOSEN) for name in ("positives", "expected_positives"))
    return [
        number(
            "Alerts firing",
            "Cutpoint's alerts that fire now, for this model or for the server. The table below names them.",
            f'count(ALERTS{{{ALERTS},alertstate="firing"}}) or vector(0)', "none", steps=ANY_IS_BAD,
        ),
        number(
            "Largest surprise",
            "The largest |z| of any label: how far the positives of the last hour are from those expected, in standard "
            "deviations, divided by the dispersion that this label has shown over 7 days. An alert starts at 4.",
            f"max({z})", "none", steps=SURPRISE, decimals=1,
        ),
        number(
            "Labels outside limits",
            "Labels whose live rate of the last hour is above its upper or below its lower control limit. By chance alone "
            "about 3 in 1000 are.",
            f"count({live} > {upper} or {live} < {lower}) or vector(0)", "none", steps=ANY_IS_A_WARNING,
        ),
        number(
            "Live ÷ expected",
            "Positives of the last hour divided by those that the calibration expects of the same decisions, over all chosen "
            "labels. 1 is as promised.",
            f"sum({positives}) / (sum({expected}) > 0)", "none", decimals=2,
        ),
        number(
            "Rows decided",
            "Rows or windows held against the threshold of a label, per second: those of the label that has most.",
            f"max(sum by (label) (rate(cutpoint_decisions_total{{{CHOSEN}}}[$__rate_interval])))", "cps",
        ),
        number(
            "Policy version",
            "The active policy. Where replicas disagree this is the newest; see Policies below.",
            f"max(cutpoint_policy_version{{{VERSION}}})", "none",
        ),
        number(
            "Labels without threshold",
            "Labels for which the objective could not be met: nothing is decided on them. `cutpoint policy list` says why.",
            f"count(count by (label) (cutpoint_decisions_total{{{CHOSEN}}})) - (count(count by (label) "
            f"(cutpoint_threshold{{{CHOSEN}}})) or vector(0))", "none", steps=ANY_IS_A_WARNING,
        ),
        number(
            "Labels folded",
            'Labels beyond `--max-metric-labels`, whose series are added up in label="__other__": what happens to one of '
            "them alone is not seen here.",
            f"max(cutpoint_folded_labels{{{VERSION}}})", "none", steps=ANY_IS_A_WARNING,
        ),
    ]  # fmt: skip


def unusual() -> Panels:
    """What is wrong, and since when?"""
    since = f"1000 * ALERTS_FOR_STATE{{{ALERTS}}} * ignoring (alertstate) group_right () ALERTS{{{ALERTS}}}"
    return [
        grid(
            "Alerts pending and firing",
            "Cutpoint's alerts of this model or of the server, and since when their condition holds. What to do about each "
            "is in docs/monitoring.md.",
            ("alertname", "alertstate", "severity", "label", "version"),
            [Column("since", since, "dateTimeFromNow")],
            w=9, h=8, empty="No alert is pending or firing", hide=("job", "instance", "model"),
        ),
        lines(
            "Surprise of the live rate (z, 1 h)",
            "Positives of the last hour against those expected, in standard deviations on the square-root scale, for the "
            "labels of the largest |z| in this time range. Above 0: more positives than promised. Short excursions beyond ±3 "
            "are chance; alerts start at ±4 times the label's own dispersion.",
            [Query(rule("positives:z1h"), "{{label}}")], "none",
            w=15, axis="standard deviations", start=None, side=True,
            limits=BOTH_LIMITS,
        ),
        grid(
            "Live rates by label",
            "The labels of the largest |z| in this time range, now. z beyond ±4 is coloured: orange for more positives than "
            "promised, blue for fewer.",
            ("label",),
            [
                Column("z, 1 h", shown_rule("positives:z1h"), "none", 1, BOTH_SIDES),
                Column("z, 6 h", shown_rule("positives:z6h"), "none", 1, BOTH_SIDES),
                Column("dispersion, 7 d", shown_rule("positives:dispersion7d"), "none", 2),
                Column("live rate", shown_rule("positive_rate:ratio1h"), "percentunit", 3),
                Column("expected rate", shown_rule("positive_rate:expected1h"), "percentunit", 3),
                Column("lower limit", shown_rule("positive_rate:lcl1h"), "percentunit", 3),
                Column("upper limit", shown_rule("positive_rate:ucl1h"), "percentunit", 3),
                Column("positives, 1 h", shown_rule("positives:increase1h"), "none", 0),
                Column("expected, 1 h", shown_rule("expected_positives:increase1h"), "none", 1),
                Column("decisions, 1 h", shown_rule("decisions:increase1h"), "short", 0),
                Column("threshold (logit)", gauge("threshold"), "none", 3),
            ],
            first=surprise(),
        ),
    ]  # fmt: skip
