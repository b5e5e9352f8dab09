"""A standing as a table for people, and as a line of JSON for programs."""

import datetime
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..terminal import plain_table
from .replica import Replica
from .standing import Standing, wilson

_LOUD, _NOTED = 4.0, 3.0  # z: what the alerting rules call an alarm, and what is worth a look


@dataclass(frozen=True)
class _Column:
    """One column: its title, how a line's cell is written, and how soon it goes where the terminal is narrow (0: never)."""

    title: str
    cell: Callable[[Standing, int], str]
    goes: int = 0


def table_of(standing: Standing, replicas: Sequence[Replica], *, now_s: float, top: int, width: int | None = None) -> Table:
    """The `top` most surprising lines as a table.

    Args:
        standing: what to show.
        replicas: the servers it is of, for those that do not answer.
        now_s: in the seconds by which their pages were taken.
        top: lines.
        width: columns of the terminal; what has no room is left out, thresholds first. None for no limit.
    """
    order = standing.order()[:top]
    columns = _columns(standing)
    cells = {column.title: [column.cell(standing, i) for i in order] for column in columns}
    while width is not None and len(columns) > 1:
        needed = sum(3 + max(map(len, [column.title, *cells[column.title]])) for column in columns)
        leaving = max(columns, key=lambda column: column.goes)
        if needed <= width or not leaving.goes:
            break
        columns.remove(leaving)
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
    started = [replica.started_s for replica in replicas if replica.started_s is not None]
    ago = f", {_span(max(0.0, standing.at_s - min(started)))} ago" if started else ""
    return f"{at}  {servers}: all since the start{ago}"


def json_of(standing: Standing, replicas: Sequence[Replica], *, now_s: float, top: int | None = None) -> str:
    """One line: an object with `servers`, `labels` (by surprise, the first `top`) and `changes`; null for what is unknown."""
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
    found = {"at_s": round(standing.at_s, 3), "since": view, "covered_s": round(standing.covered_s, 3)}
    return json.dumps({**found, "servers": servers, "labels": _finite(labels), "changes": changes}, allow_nan=False)


def printable(text: str) -> str:
    """A name as it may be printed: one that holds control characters does not steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _columns(standing: Standing) -> list[_Column]:
    """Those that say something of this standing."""
    confirmed_low, confirmed_high = wilson(standing.confirmed, standing.reviewed)

    def expected(of: Standing, i: int) -> str:
        return _ranged(*(each[i] / of.decisions[i] for each in (of.expected, of.low, of.high))) if of.decisions[i] else "-"

    def confirmed(of: Standing, i: int) -> str:
        return _ranged(of.confirmed[i] / of.reviewed[i], confirmed_low[i], confirmed_high[i]) if of.reviewed[i] > 0 else "-"

    columns = [
        _Column("model", lambda of, i: printable(f"{of.keys[i][0]}/{of.keys[i][1]}")),
        _Column("label", lambda of, i: printable(of.keys[i][2])),
        _Column("decisions", lambda of, i: f"{of.decisions[i]:.0f}", goes=2),
        _Column("positives", lambda of, i: f"{of.positives[i]:.0f}"),
        _Column("rate", lambda of, i: _share(of.rate[i])),
        _Column("expected", expected),
        _Column("z", lambda of, i: _number(of.z[i], "{:+.1f}").replace("-0.0", "0.0").replace("+0.0", "0.0")),
        _Column("prevalence", lambda of, i: _ranged(of.prevalence[i], of.prevalence_low[i], of.prevalence_high[i]), goes=3),
        _Column("confirmed", confirmed, goes=1),
        _Column("policy", lambda of, i: "+".join(map(str, of.policies[i])) or "-", goes=4),
        _Column("threshold", lambda of, i: _number(of.threshold[i], "{:.3f}"), goes=5),
    ]
    said = {"prevalence": standing.prevalence, "confirmed": standing.confirmed}
    return [column for column in columns if column.title not in said or not np.isnan(said[column.title]).all()]


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
            f"policy {change.after} of {name} is active since {_span(now_s - change.seen_s)}, before it {change.before}"
        )
    for of, count in standing.folded.items():
        lines.append(f"{count} labels of {printable('/'.join(of))} are counted as one, __other__")
    if len(standing.keys) > top:
        lines.append(f"and {len(standing.keys) - top} more labels")
    if not standing.keys and any(not replica.problem for replica in replicas):
        lines.append("no model here makes decisions")
    return lines


def _caption(standing: Standing, replicas: Sequence[Replica], now_s: float, top: int) -> Text:
    return Text("\n".join(_notes(standing, replicas, now_s, top)))


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
