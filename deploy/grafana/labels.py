"""Labels: what is known of their precision, recall and prevalence, and each one in detail."""

from panels import Column, Panels, Query, grid, lines
from scopes import gauge, order, rule, shown_rule
from styles import (
    CONFIRMED,
    CONFIRMED_LINE,
    ESTIMATED,
    ESTIMATED_LINE,
    LIVE_LINE,
    PROMISED,
    PROMISED_LINE,
    TARGET_LINE,
    Style,
    band,
)

# Of precision and of recall.
QUALITY = {
    "confirmed": CONFIRMED_LINE, "estimated": ESTIMATED_LINE, "promised": PROMISED_LINE, "target": TARGET_LINE,
}  # fmt: skip


def quality() -> Panels:
    """How good are the decisions?"""
    return [
        grid(
            "Precision, recall and prevalence by label",
            "What is known of the decisions' quality. Confirmed: from outcomes reported over 7 days, with the 95 % Wilson "
            "interval for precision; recall, from reviews that see misses only, has its interval in `cutpoint outcomes "
            "summary`. Estimated: from the live rate of the last hour, without any labels, if only the shares of the classes "
            "have changed. Promised: by the calibration. Target: the objective's, where it states one.",
            ("label",),
            [
                Column("precision: confirmed", shown_rule("precision:confirmed7d"), "percentunit", 1),
                Column("at least", shown_rule("precision:confirmed7d_low"), "percentunit", 1),
                Column("at most", shown_rule("precision:confirmed7d_high"), "percentunit", 1),
                Column("estimated", shown_rule("precision:estimated1h"), "percentunit", 1),
                Column("promised", gauge("expected_precision"), "percentunit", 1),
                Column("target", gauge("target_precision"), "percentunit", 1),
                Column("recall: confirmed", shown_rule("recall:confirmed7d"), "percentunit", 1),
                Column("recall: estimated", shown_rule("recall:estimated1h"), "percentunit", 1),
                Column("recall: promised", gauge("expected_recall"), "percentunit", 1),
                Column("recall: target", gauge("target_recall"), "percentunit", 1),
                Column("prevalence: from the rate", shown_rule("prevalence:rogan_gladen1h"), "percentunit", 3),
                Column("prevalence: from scores", gauge("estimated_prevalence"), "percentunit", 3),
                Column("prevalence: calibration's", gauge("expected_prevalence"), "percentunit", 3),
            ],
            first=order(),
        ),
    ]  # fmt: skip


def label_in_detail() -> Panels:
    """One label: does it keep its promises?"""
    return [
        lines(
            "Positive rate: $shown",
            "Share of the last hour's decisions that were positive, beside the rate that the calibration expects. The band "
            "is three standard deviations wide either way, of the decisions, as scattered as this label's have been, and of "
            "the calibration: it narrows with traffic, and a line that leaves it is hardly chance.",
            [
                Query(rule("positive_rate:ucl1h"), "upper limit"),
                Query(rule("positive_rate:lcl1h"), "lower limit"),
                Query(rule("positive_rate:expected1h"), "expected"),
                Query(rule("positive_rate:ratio1h"), "live"),
            ],
            "percentunit",
            styles={**band("upper limit", "lower limit", PROMISED), "expected": PROMISED_LINE, "live": LIVE_LINE},
        ),
        lines(
            "Prevalence: $shown",
            "Share of true positives in the traffic, estimated without labels in two ways: from the live rate (Rogan and "
            "Gladen: it trusts the recall and false-positive rate promised) and from the scores (EM, Saerens: it trusts "
            "the probabilities). Both far from the calibration's: the world has changed. Only one: the scores have.",
            [
                Query(rule("prevalence:rogan_gladen1h"), "from the rate"),
                Query(gauge("estimated_prevalence"), "from the scores"),
                Query(gauge("expected_prevalence"), "the calibration's"),
            ],
            "percentunit", w=5,
            styles={
                "from the rate": ESTIMATED_LINE, "from the scores": Style(ESTIMATED, dashed=True),
                "the calibration's": PROMISED_LINE,
            },
        ),
        lines(
            "Precision: $shown",
            "Share of the positives that are true. Confirmed: outcomes reported over 7 days, with the 95 % Wilson interval "
            "as band. Estimated: by the live rate of the last hour and the recall promised, without labels. The alert "
            "wants a wider interval, of three and a half standard deviations, below the target.",
            [
                Query(rule("precision:confirmed7d_high"), "at most"),
                Query(rule("precision:confirmed7d_low"), "at least"),
                Query(rule("precision:confirmed7d"), "confirmed"),
                Query(rule("precision:estimated1h"), "estimated"),
                Query(gauge("expected_precision"), "promised"),
                Query(gauge("target_precision"), "target"),
            ],
            "percentunit", w=6, most=1, styles={**band("at most", "at least", CONFIRMED), **QUALITY},
        ),
        lines(
            "Recall: $shown",
            "Share of the true positives that were found. Confirmed: outcomes of 7 days from reviews that see misses, those "
            "of a sample weighed by how many they stand for; none where only alerts are looked at. Its interval is in "
            "`cutpoint outcomes summary`. Estimated: what was promised of the last hour's decisions, which holds while each "
            "class looks as it did.",
            [
                Query(rule("recall:confirmed7d"), "confirmed"),
                Query(rule("recall:estimated1h"), "estimated"),
                Query(gauge("expected_recall"), "promised"),
                Query(gauge("target_recall"), "target"),
            ],
            "percentunit", w=5, most=1, styles=QUALITY,
        ),
    ]  # fmt: skip
