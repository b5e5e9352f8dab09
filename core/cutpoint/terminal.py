"""What every command prints with: one console, one style of table, and a policy as a table."""

import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .calibration.policy import Policy, Rate

SHOWN_LABELS = 20


def console() -> Console:
    """Standard output; as wide as a table needs where it is no terminal, so that nothing is cut in a pipe or a log."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)


def plain_table(*columns: str, **settings: Any) -> Table:
    """An empty table, the first column to the left and the others to the right."""
    table = Table(title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, **settings)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def policy_table(policy: Policy) -> Table:
    """One line a label: the cut and the rates expected at it, or why there is none; undecided labels first, 20 in all."""
    objectives = sorted({label.objective for label in policy.labels})
    sure = f", guaranteed with {1 - policy.guarantee.delta:.4g} confidence" if policy.guarantee is not None else ""
    title = f"policy {policy.version} of {policy.model}/{policy.model_version} for {', '.join(objectives)}{sure}"
    table = plain_table("label", "positives", "logit cut", "precision", "recall", "alert rate", title=title)
    for label in sorted(policy.labels, key=lambda each: each.threshold is not None)[:SHOWN_LABELS]:
        start = (escape(label.label), f"{label.counts.positives:g}")
        if label.expected is None or label.threshold is None:
            table.add_row(*start, "none", label.status)
        else:
            expected = label.expected
            rates = (_shown(expected.precision), _shown(expected.recall), f"{expected.alert_rate.value:.4f}")
            table.add_row(*start, f"{label.threshold:.3f}", *rates)
    units = "rows" if policy.data is None or policy.data.groups is None else f"the {policy.data.groups} groups"
    lines = [f"expected, with the interval at 95 % (as if {units} were independent of each other, and new ones like these)"]
    if len(policy.labels) > SHOWN_LABELS:
        lines.append(f"and {len(policy.labels) - SHOWN_LABELS} more labels")
    noted = sorted((label for label in policy.labels if label.reason), key=lambda label: label.threshold is not None)
    lines += [f"{label.label}: {label.reason}" for label in noted[:SHOWN_LABELS]]
    table.caption = "\n".join(escape(line) for line in lines)
    return table


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.2f} {rate.low:.2f}-{rate.high:.2f}"
