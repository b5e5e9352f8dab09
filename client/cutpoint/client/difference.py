"""Two policies side by side: `cutpoint policy diff`."""

from cutpoint.calibration.policy import LabelPolicy, Policy, Rate
from cutpoint.terminal import SHOWN_LABELS, plain_table
from rich.markup import escape
from rich.table import Table

_COLUMNS = ("objective", "status", "logit cut", "precision", "recall", "fpr", "alert rate", "calibrator", "guarantee")
_ALWAYS = 7  # of them; those behind are shown where a label of both differs in them


def difference(before: Policy, after: Policy) -> tuple[Table | None, list[str]]:
    """What differs between two policies, one line a label, and the rest in words; no table where no label differs.

    A cell reads `before -> after` where the two are not the same. Labels are matched by name. Compared are threshold, status,
    objective, expected rates, calibrator and guarantee as they are, not as they are printed.
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
    lines.append(f"{same} label{' is' if same == 1 else 's are'} the same")
    if not differing:
        return None, lines
    title = f"policy {before.version} -> policy {after.version} of {after.model}/{after.model_version}"
    rows = {name: _cells(one.get(name), other.get(name)) for name in differing}
    both = [cells for name, cells in rows.items() if name in one and name in other]
    used = [i for i in range(len(_COLUMNS)) if i < _ALWAYS or any(cells[i][1] for cells in both)]
    table = plain_table("label", *(_COLUMNS[i] for i in used), title=title)
    for name in differing[:SHOWN_LABELS]:
        table.add_row(escape(name), *(escape(rows[name][i][0]) for i in used))
    return table, lines


def _cells(one: LabelPolicy | None, other: LabelPolicy | None) -> list[tuple[str, bool]]:
    """For each column the text, and whether the two differ in it."""
    told = zip(_shown(one), _shown(other), _told(one), _told(other), strict=True)
    return [(a if x == y else f"{a} -> {b if a != b else 'another'}", x != y) for a, b, x, y in told]


def _told(label: LabelPolicy | None) -> tuple[object, ...]:
    """What is compared, a value for each column."""
    if label is None:
        return (None,) * len(_COLUMNS)
    expected = label.expected
    rates = (None,) * 4 if expected is None else (expected.precision, expected.recall, expected.fpr, expected.alert_rate)
    return (label.objective, label.status, label.threshold, *rates, label.calibrator, _bound(label))


def _bound(label: LabelPolicy) -> str | None:
    sure = label.guarantee
    if sure is None:
        return None
    side = ">=" if sure.rate in ("recall", "precision") else "<="
    return f"{sure.rate} {side} {sure.bound:.6g} by {sure.unit}, delta {sure.delta:.6g}"


def _shown(label: LabelPolicy | None) -> list[str]:
    if label is None:
        return ["no such label", *("-" for _ in _COLUMNS[1:])]
    cut = "none" if label.threshold is None else f"{label.threshold:.6g}"
    rates = [f"{rate.value:.6g}" if isinstance(rate, Rate) else "-" for rate in _told(label)[3:_ALWAYS]]
    return [label.objective, label.status, cut, *rates, label.calibrator.kind, _bound(label) or "none"]
