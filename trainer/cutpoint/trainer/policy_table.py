"""A policy as a table for a person."""

from cutpoint.calibration import Policy, Rate
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

SHOWN_LABELS = 20


def policy_table(policy: Policy) -> Table:
    """One line a label: the cut and the rates expected at it, or why there is none; the first 20 labels."""
    objectives = sorted({label.objective for label in policy.labels})
    title = f"policy {policy.version} of {policy.model}/{policy.model_version} for {', '.join(objectives)}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for column in ("label", "positives", "logit cut", "precision", "recall", "alert rate"):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label in policy.labels[:SHOWN_LABELS]:
        start = (escape(label.label), str(label.counts.positives))
        if label.expected is None or label.threshold is None:
            table.add_row(*start, "none", label.status)
        else:
            expected = label.expected
            rates = (_shown(expected.precision), _shown(expected.recall), f"{expected.alert_rate.value:.4f}")
            table.add_row(*start, f"{label.threshold:.3f}", *rates)
    lines = ["expected, with the interval at 95 %"]
    if len(policy.labels) > SHOWN_LABELS:
        lines.append(f"and {len(policy.labels) - SHOWN_LABELS} more labels")
    lines += [f"{label.label}: {label.reason}" for label in policy.undecided[:SHOWN_LABELS]]
    table.caption = "\n".join(escape(line) for line in lines)
    return table


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.2f} {rate.low:.2f}-{rate.high:.2f}"
