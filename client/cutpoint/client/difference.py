"""Two policies side by side: `cutpoint policy diff`."""

from cutpoint.calibration.policy import LabelPolicy, Policy, Rate
from cutpoint.terminal import SHOWN_LABELS, plain_table
from rich.markup import escape
from rich.table import Table

_COLUMNS = ("objective", "status", "logit cut", "precision", "recall", "fpr", "alert rate")


def difference(before: Policy, after: Policy) -> tuple[Table | None, list[str]]:
    """What differs between two policies, one line a label, and the rest in words; no table where no label differs.

    A cell reads `before -> after` where the two are not the same. Labels are matched by name. Compared are threshold, status,
    objective and expected rates as they are, not as they are printed.
    """
    one, other = ({label.label: label for label in policy.labels} for policy in (before, after))
    names = list(dict.fromkeys((*one, *other)))
    differing = [name for name in names if _told(one.get(name)) != _told(other.get(name))]
    lines = []
    if (before.model, before.model_version) != (after.model, after.model_version) or before.model_digest != after.model_digest:
        lines.append("the policies are of different graphs: their thresholds cannot be compared")
    if len(differing) > SHOWN_LABELS:
        lines.append(f"and {len(differing) - SHOWN_LABELS} more labels that differ")
    same = len(names) - len(differing)
    lines.append(f"{same} label{'' if same == 1 else 's'} {'does' if same == 1 else 'do'} not differ in these")
    if not differing:
        return None, lines
    title = f"policy {before.version} -> policy {after.version} of {after.model}/{after.model_version}"
    table = plain_table("label", *_COLUMNS, title=title)
    for name in differing[:SHOWN_LABELS]:
        shown = zip(_shown(one.get(name)), _shown(other.get(name)), _changes(one.get(name), other.get(name)), strict=True)
        table.add_row(escape(name), *(escape(f"{a} -> {b}" if changed else a) for a, b, changed in shown))
    return table, lines


def _changes(one: LabelPolicy | None, other: LabelPolicy | None) -> list[bool]:
    return [a != b for a, b in zip(_told(one), _told(other), strict=True)]


def _told(label: LabelPolicy | None) -> tuple[object, ...]:
    """What is compared, a value for each column."""
    if label is None:
        return (None,) * len(_COLUMNS)
    expected = label.expected
    rates = (None,) * 4 if expected is None else (expected.precision, expected.recall, expected.fpr, expected.alert_rate)
    return (label.objective, label.status, label.threshold, *rates)


def _shown(label: LabelPolicy | None) -> list[str]:
    if label is None:
        return ["no such label", *("-" for _ in _COLUMNS[1:])]
    objective, status, threshold, *rates = _told(label)
    cut = "none" if threshold is None else f"{threshold:.6g}"
    return [str(objective), str(status), cut, *(f"{rate.value:.6g}" if isinstance(rate, Rate) else "-" for rate in rates)]
