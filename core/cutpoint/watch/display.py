"""A standing as a table for people, and as a line of JSON for programs."""

import datetime
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..terminal import plain_table
from .replica import Replica
from .standing import Standing, wilson

# Where a terminal is narrow: which columns go, and then how much at least is left of a model's or label's name; and so on.
_NARROWER = ((4, 12), (1, 4))
_LOUD, _NOTED = 4.0, 3.0  # z: what the alerting rules call an alarm, and what is worth a look


@dataclass(frozen=True)
class _Column:
    """One column: its title, how a line's cell is written, and how soon it goes where the terminal is narrow (0: never)."""

    title: str
    cell: Callable[[Standing, int], str]
    goes: int = 0
    may_be_empty: bool = False  # and then is not shown


def table_of(standing: Standing, replicas: Sequence[Replica], *, now_s: float, top: int, width: int | None = None) -> Table:
    """The `top` most surprising lines as a table.

    Args:
        standing: what to show.
        replicas: the servers it is of, for those that do not answer.
        now_s: in the seconds by which their pages were taken.
        top: lines.
        width: columns of the terminal; what has no room is left out, thresholds first, and z never. None for no limit.
    """
    order = standing.order()[:top]
    columns = _columns(standing)
    cells = {column.title: [column.cell(standing, i) for i in order] for column in columns}
    columns = [column for column in columns if not column.may_be_empty or any(cell != "-" for cell in cells[column.title])]

    def lacking() -> int:
        """Columns of the terminal by which the table is too wide."""
        needed = sum(3 + max(map(cell_len, [column.title, *cells[column.title]])) for column in columns)
        return 0 if width is None else needed - width

    for goes, name in _NARROWER:
        while lacking() > 0 and (leaving := max(columns, key=lambda column: column.goes)).goes >= goes:
            columns.remove(leaving)
        for column in columns[1::-1]:  # the label's name, then the model's
            if (short := lacking()) > 0:
                widest = max(map(cell_len, cells[column.title]), default=0)
                cells[column.title] = [_shortened(cell, max(name, widest - short)) for cell in cells[column.title]]
    table = plain_table(
        *(column.title for column in columns),
        title=Text(title_of(standing, replicas)),
        caption=_caption(standing, replicas, now_s, top),
    )
    for shown in table.columns:
        shown.no_wrap = True
    for at, i in enumerate(order):
        style = "bold red" if abs(standing.z[i]) >= _LOUD else "yellow" if abs(standing.z[i]) >= _NOTED else None
        table.add_row(*(escape(cells[column.title][at]) for column in columns), style=style)
    return table


def text_of(standing: Standing, replicas: Sequence[Replica], *, now_s: float) -> Text:
    """Where there is no line to show: why."""
    return Text("\n".join([title_of(standing, replicas), *_notes(standing, replicas, now_s, 0)]))


def title_of(standing: Standing, replicas: Sequence[Replica]) -> str:
    """What the numbers are of."""
    at = datetime.datetime.fromtimestamp(standing.at_s).strftime("%H:%M:%S")
    servers = f"{len(replicas)} servers" if len(replicas) > 1 else replicas[0].url
    if all(replica.answered_s is None for replica in replicas):
        return f"{at}  {servers}"
    if not standing.since_start:
        return f"{at}  {servers}: the last {_span(standing.covered_s)}"
    age_s = _age_s(standing, replicas)
    ago = "" if age_s is None else f", {_span(age_s)} ago"
    return f"{at}  {servers}: all since the start{ago}"


def _age_s(standing: Standing, replicas: Sequence[Replica]) -> float | None:
    """Seconds since the first of the servers started; None where none says when."""
    started = [replica.started_s for replica in replicas if replica.started_s is not None]
    return max(0.0, standing.at_s - min(started)) if started else None


def json_of(standing: Standing, replicas: Sequence[Replica], *, now_s: float, top: int | None = None) -> str:
    """One line: `servers`, `labels` (by surprise, the first `top`), `changes`, `missing`; null for what is unknown."""
    low, high = wilson(standing.confirmed, standing.reviewed)
    labels = []
    for i in standing.order()[:top]:
        model, version, label = standing.keys[i]
        n = standing.decisions[i]
        labels.append(
            {
                "model": model, "version": version, "label": label,
                "decisions": n, "positives": standing.positives[i], "expected": standing.expected[i],
                "expected_low": standing.low[i], "expected_high": standing.high[i],
                "rate": standing.rate[i], "expected_rate": standing.expected[i] / n if n else None, "z": standing.z[i],
                "prevalence": standing.prevalence[i], "prevalence_low": standing.prevalence_low[i],
                "prevalence_high": standing.prevalence_high[i],
                "reviewed": standing.reviewed[i], "confirmed": standing.confirmed[i],
                "precision": standing.confirmed[i] / standing.reviewed[i] if standing.reviewed[i] > 0 else None,
                "precision_low": low[i], "precision_high": high[i],
                "policies": standing.policies[i], "threshold": standing.threshold[i],
            }
        )  # fmt: skip
    servers = [
        {
            "url": each.url, "answers": not each.problem, "problem": each.problem or None, "restarts": each.restarts,
            "age_s": None if each.answered_s is None else round(now_s - each.answered_s, 3),
        }
        for each in replicas
    ]  # fmt: skip
    changes = [
        {
            "model": each.model,
            "version": each.version,
            "before": each.before,
            "after": each.after,
            "ago_s": round(now_s - each.seen_s, 3),
        }
        for each in standing.changes
    ]
    view = "start" if standing.since_start else "window"
    age_s = _age_s(standing, replicas)
    found = {
        "at_s": round(standing.at_s, 3), "since": view, "covered_s": round(standing.covered_s, 3),
        "started_ago_s": None if age_s is None else round(age_s, 3),
    }  # fmt: skip
    rest = {"servers": servers, "labels": _finite(labels), "changes": changes, "missing": standing.missing}
    return json.dumps({**found, **rest}, allow_nan=False)


def printable(text: str) -> str:
    """A name as it may be printed: one that holds control characters does not steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _columns(standing: Standing) -> list[_Column]:
    """All of them, from left to right."""
    confirmed_low, confirmed_high = wilson(standing.confirmed, standing.reviewed)

    def expected(of: Standing, i: int) -> str:
        return _ranged(*(each[i] / of.decisions[i] for each in (of.expected, of.low, of.high))) if of.decisions[i] else "-"

    def confirmed(of: Standing, i: int) -> str:
        return _ranged(of.confirmed[i] / of.reviewed[i], confirmed_low[i], confirmed_high[i]) if of.reviewed[i] > 0 else "-"

    return [
        _Column("model", lambda of, i: printable(f"{of.keys[i][0]}/{of.keys[i][1]}")),
        _Column("label", lambda of, i: printable(of.keys[i][2])),
        _Column("decisions", lambda of, i: f"{of.decisions[i]:.0f}", goes=5),
        _Column("positives", lambda of, i: f"{of.positives[i]:.0f}", goes=3),
        _Column("rate", lambda of, i: _share(of.rate[i]), goes=1),
        _Column("expected", expected, goes=2),
        _Column("z", lambda of, i: _number(of.z[i], "{:+.1f}").replace("-0.0", "0.0").replace("+0.0", "0.0")),
        _Column(
            "prevalence", lambda of, i: _ranged(of.prevalence[i], of.prevalence_low[i], of.prevalence_high[i]),
            goes=6, may_be_empty=True,
        ),
        _Column("confirmed", confirmed, goes=4, may_be_empty=True),
        _Column("policy", lambda of, i: "+".join(map(str, of.policies[i])) or "-", goes=7),
        _Column("threshold", lambda of, i: _number(of.threshold[i], "{:.3f}"), goes=8),
    ]  # fmt: skip


def _notes(standing: Standing, replicas: Sequence[Replica], now_s: float, top: int) -> list[str]:
    lines = []
    for replica in replicas:
        if replica.problem and replica.answered_s is None:
            lines.append(f"{replica.url} does not answer: {printable(replica.problem)}")
        elif replica.problem:
            ago = _span(now_s - replica.answered_s) if replica.answered_s is not None else ""
            lines.append(f"{replica.url} has not answered for {ago}: {printable(replica.problem)}")
        if replica.restarts:
            lines.append(f"{replica.url} has started anew {replica.restarts} time{'s' * (replica.restarts > 1)}")
    for of, policies in {
        key[:2]: found for key, found in zip(standing.keys, standing.policies, strict=True) if len(found) > 1
    }.items():
        numbers = ", ".join(map(str, policies))
        lines.append(f"servers disagree: policies {numbers} of {printable('/'.join(of))} are active")
    for change in standing.changes:
        name = printable(f"{change.model}/{change.version}")
        lines.append(
            f"policy {change.after} of {name} became active {_span(now_s - change.seen_s)} ago, before it {change.before}"
        )
    for of, count in standing.folded.items():
        lines.append(f"{count} labels of {printable('/'.join(of))} are counted as one, __other__")
    if len(standing.keys) > top:
        lines.append(f"and {len(standing.keys) - top} more labels")
    lines += map(printable, standing.missing)
    if not standing.keys and not standing.missing and any(not replica.problem for replica in replicas):
        lines.append("no model here makes decisions")
    return lines


def _caption(standing: Standing, replicas: Sequence[Replica], now_s: float, top: int) -> Text:
    return Text("\n".join(_notes(standing, replicas, now_s, top)))


def _shortened(text: str, width: int) -> str:
    """At most so many columns of a terminal."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _finite(value: Any) -> Any:
    """As JSON has it: what is no number is null, a whole number is written as one, others with six digits."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value == int(value) and abs(value) < 2**53 else float(f"{value:.6g}")
    return value


def _share(share: float) -> str:
    return _number(share, "{:.3g}")


def _ranged(value: float, low: float, high: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g} {low:.2g}-{high:.2g}"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def _span(seconds: float) -> str:
    """A time as one says it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            rest = f" {int(seconds % 60)} s" if unit == "min" and seconds < 600 and seconds % 60 >= 1 else ""
            return f"{int(seconds / size)} {unit}{rest}"
    return f"{int(seconds)} s"
