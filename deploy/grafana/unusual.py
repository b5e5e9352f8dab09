"""The top of the overview: is anything wrong, what, and since when."""

from panels import Column, Panels, Query, grid, lines, number
from scopes import ALERTS, CHOSEN, VERSION, gauge, order, rule, shown_rule, surprise
from styles import ALERTS_HIGH, ALERTS_LOW, ANY_IS_A_WARNING, ANY_IS_BAD, SURPRISE, beyond, limits


def glance() -> Panels:
    """Is anything wrong?"""
    live, upper, lower = (rule(f"positive_rate:{name}", CHOSEN) for name in ("ratio1h", "ucl1h", "lcl1h"))
    positives, expected = (rule(f"{name}:increase1h", CHOSEN) for name in ("positives", "expected_positives"))
    # Those folded into one label have their thresholds, only no series of them.
    decided = f'cutpoint_decisions_total{{{CHOSEN},label!="__other__"}}'
    return [
        number(
            "Alerts firing",
            "Cutpoint's alerts that fire now, for this model or for the server. The table below names them.",
            f'count(ALERTS{{{ALERTS},alertstate="firing"}}) or vector(0)', "none", steps=ANY_IS_BAD,
        ),
        number(
            "Largest surprise",
            "How far the positives of the last hour are from those expected, of the label where this is most: in standard "
            "deviations, as wide as they have been for this label over 7 days. Alerts begin at 5 for too many and at 4.5 for "
            "too few, from ten expected positives on.",
            f"max(abs({surprise('1h', CHOSEN)}))", "none", steps=SURPRISE, decimals=1,
        ),
        number(
            "Labels outside limits",
            "Labels whose live rate of the last hour is above its upper or below its lower control limit, which are three "
            "standard deviations away. By chance a few in a thousand are, and more of those of which less than ten positives "
            "are expected.",
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
            f"count(count by (label) ({decided})) - (count(count by (label) (cutpoint_threshold{{{CHOSEN}}})) or vector(0))",
            "none", steps=ANY_IS_A_WARNING,
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
            "is in docs/alerts.md.",
            ("alertname", "alertstate", "severity", "label", "version"),
            [Column("since", since, "dateTimeFromNow")],
            w=9, h=8, empty="No alert is pending or firing", hide=("job", "model"),
        ),
        lines(
            "Surprise of the last hour",
            "How far the positives of an hour are from those expected, in standard deviations, as wide as they have been for "
            "this label over 7 days. Above 0: more than promised. Up to 3 either way is chance; where alerts begin, at 5 and "
            "-4.5 (from ten expected positives on), it is dashed. Shown are the labels of the largest surprise in this time "
            "range.",
            [Query(surprise("1h"), "{{label}}")], "none",
            w=15, axis="standard deviations", start=None, side=True,
            limits=limits(ALERTS_HIGH, ALERTS_LOW),
        ),
        grid(
            "Live rates by label",
            "The labels of the largest surprise in this time range, now. Surprise is counted in standard deviations over an "
            "hour to a week; from where alerts begin it is coloured: orange for more positives than promised, blue for "
            "fewer. Long windows are for labels of which few positives are expected.",
            ("label",),
            [
                Column("surprise, 1 h", f"max by (label) ({surprise('1h')})", "none", 1, beyond(ALERTS_HIGH, ALERTS_LOW)),
                Column("6 h", f"max by (label) ({surprise('6h')})", "none", 1, beyond(ALERTS_HIGH, ALERTS_LOW)),
                Column("1 d", f"max by (label) ({surprise('1d')})", "none", 1, beyond(4.75, 4.25)),
                Column("7 d", f"max by (label) ({surprise('7d')})", "none", 1, beyond(4.25, 4)),
                Column("dispersion", shown_rule("positives:dispersion7d"), "none", 2),
                Column("live rate", shown_rule("positive_rate:ratio1h"), "percentunit", 3),
                Column("expected rate", shown_rule("positive_rate:expected1h"), "percentunit", 3),
                Column("lower limit", shown_rule("positive_rate:lcl1h"), "percentunit", 3),
                Column("upper limit", shown_rule("positive_rate:ucl1h"), "percentunit", 3),
                Column("positives, 1 h", shown_rule("positives:increase1h"), "none", 0),
                Column("expected, 1 h", shown_rule("expected_positives:increase1h"), "none", 1),
                Column("decisions, 1 h", shown_rule("decisions:increase1h"), "short", 0),
                Column("threshold (logit)", gauge("threshold"), "none", 3),
            ],
            first=order(),
        ),
    ]  # fmt: skip
