"""What every command prints with: one console, one style of table, and a policy as a table."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .calibration.policy import LabelPolicy, Policy, Rate, Status

SHOWN_LABELS = 20
_UNWATCHED = 3  # labels that the line about alerts names
_COLUMNS = ("status", "positives", "logit cut", "precision", "recall", "fpr", "alert rate")
_ORDER: tuple[Status, ...] = (
    "INSUFFICIENT",
    "INFEASIBLE",
    "FALLBACK",
    "OK",
)  # of the labels in the table: those to look at first


def console() -> Console:
    """Standard output; as wide as a table needs where it is no terminal, so that nothing is cut in a pipe or a log.

    Text is printed as it is, but for markup: a label `a:b:` is no emoji.
    """
    return Console(soft_wrap=True, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def plain_table(*columns: str, **settings: Any) -> Table:
    """An empty table, the first column to the left and the others to the right."""
    table = Table(title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, **settings)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def policy_table(policy: Policy) -> Table:
    """One line a label: the cut and the rates expected at it, or why there is none; 20 in all, those that are not OK first."""
    objectives = sorted({label.objective for label in policy.labels})
    title = f"policy {policy.version} of {policy.model}/{policy.model_version} for {', '.join(objectives)}{_sure(policy)}"
    table = plain_table("label", *_COLUMNS, title=title)
    labels = sorted(policy.labels, key=lambda label: _ORDER.index(label.status))
    for label in labels[:SHOWN_LABELS]:
        start = (escape(label.label), label.status, f"{label.counts.positives:g}")
        if label.expected is None or label.threshold is None:
            table.add_row(*start, "none")
        else:
            expected = label.expected
            rates = [_shown(rate) for rate in (expected.precision, expected.recall, expected.fpr)]
            table.add_row(*start, f"{label.threshold:.3f}", *rates, _shown(expected.alert_rate))
    groups = None if policy.data is None else policy.data.groups
    units = "rows" if groups is None else f"the {groups} groups"
    lines = [f"expected, with the interval at 95 % (as if {units} were independent of each other, and new ones like these)"]
    if policy.guarantee is not None and policy.guarantee.unit == "row" and groups is not None:
        lines.append(f"the guarantee takes rows as independent, although they are in {groups} groups: see --by-group")
    if len(labels) > SHOWN_LABELS:
        counts = Counter(label.status for label in labels)
        counted = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        lines.append(f"and {len(labels) - SHOWN_LABELS} more labels; of all {len(labels)}: {counted}")
    lines += _unwatched(labels, "rows" if groups is None else "groups")
    lines += [f"{label.label}: {label.reason}" for label in [label for label in labels if label.reason][:SHOWN_LABELS]]
    table.caption = "\n".join(escape(line) for line in lines)
    return table


def _sure(policy: Policy) -> str:
    """For the title, of how many labels the bound is guaranteed; of all means all that have a cut."""
    if policy.guarantee is None:
        return ""
    sure = sum(label.guarantee is not None for label in policy.labels)
    decided = len(policy.labels) - len(policy.undecided)
    some = "" if sure == decided > 0 else f" for {sure} of {len(policy.labels)} labels"
    return f", guaranteed{some} with {1 - policy.guarantee.delta:.4g} confidence"


def _unwatched(labels: Sequence[LabelPolicy], units: str) -> list[str]:
    """Lines on the labels of whose rate so little is known that doubled it raises no alert; the worst come first."""
    found = [(label.watched_from, label.label) for label in labels if label.expected is not None]
    found = sorted((each for each in found if each[0] > 2), key=lambda each: -each[0])
    if not found:
        return []
    said = [
        f"{name} {'never' if factor == math.inf else f'only beyond {factor:.1f} times'}" for factor, name in found[:_UNWATCHED]
    ]
    more = f" and {len(found) - _UNWATCHED} more labels" if len(found) > _UNWATCHED else ""
    return [
        f"so few {units} that a doubled alert rate raises no alert; CutpointPositiveRateHigh fires for",
        f"  {', '.join(said)}{more}",
    ]


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{_digits(rate.value, 3)} {_digits(rate.low, 2)}-{_digits(rate.high, 2)}"


def _digits(share: float, significant: int) -> str:
    """A share with so many digits that count; 0 and 1 only where it is exactly that."""
    return f"{share:g}" if share in (0, 1) else f"{share:#.{significant}g}"
