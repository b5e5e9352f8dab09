"""Windows and events of a signal as lines, for people or for programs."""

import datetime
import json
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from cutpoint.terminal import console, plain_table
from rich.markup import escape

from .signals import SignalEvent, SignalOpened, SignalPart, SignalSummary, SignalWindows

SHOWN = 20  # labels of the table at the end
_STATES = {"opened": "begins", "closed": "ended", "cut": "cut off"}
_STYLES = {"opened": "bold red", "closed": "green", "cut": "yellow"}


class Printer(Protocol):
    """Prints what is told of a signal."""

    def show(self, part: SignalPart) -> None:
        """Print one part."""
        ...


class Lines:
    """A line for each event, or window, for people."""

    def __init__(self, *, windows: bool, dated: bool) -> None:
        """With `windows` a line for each window too; `dated`: times are seconds since 1970, shown as local date and time."""
        self._each_window, self._dated = windows, dated
        self._console = console()
        self._opened: SignalOpened | None = None
        self._alerts = np.zeros(0, np.int64)
        self._events: dict[str, int] = {}
        self._seen_windows = 0

    def show(self, part: SignalPart) -> None:
        """Print one part."""
        if isinstance(part, SignalOpened):
            self._begin(part)
        elif isinstance(part, SignalWindows):
            self._windows(part)
            for event in part.events:
                self._event(event)
        else:
            self._end(part)

    def _begin(self, opened: SignalOpened) -> None:
        self._opened = opened
        self._width = min(24, max(map(len, opened.labels), default=5))
        self._alerts = np.zeros(len(opened.labels), np.int64)
        how = (
            f"with {opened.context} on either side"
            if opened.context is not None
            else f"in sequences of {opened.sequence_windows}"
        )
        lines = [f"{opened.model}/{opened.model_version}: windows of {opened.window_s:g} s, scored {how}"]
        if opened.up != opened.down:
            lines.append(f"resampled to {opened.rate_hz:g} Hz, by {opened.up}/{opened.down}")
        lines.append(
            "no policy: no events until it is calibrated"
            if opened.policy_version is None
            else f"policy {opened.policy_version}"
        )
        self._print("; ".join(lines), "dim")
        if self._each_window:
            self._print(f"{'time':<{self._time_width}}  {'window':>8}  {'highest':<{self._width}}  {'score':>7}  alerts", "dim")
        else:
            self._print(f"{'time':<{self._time_width}}  {'label':<{self._width}}  event", "dim")

    def _windows(self, part: SignalWindows) -> None:
        self._seen_windows += len(part)
        if part.decisions is not None and len(part):
            self._alerts += part.decisions.sum(axis=0)
        if not self._each_window:
            return
        assert self._opened is not None
        labels = self._opened.labels
        for i in range(len(part)):
            at = self._time(part.start_s + i * self._opened.window_s)
            best = int(part.scores[i].argmax())
            positive = [] if part.decisions is None else [labels[j] for j in np.flatnonzero(part.decisions[i])]
            shown = ", ".join(positive[:5]) + (f" and {len(positive) - 5} more" if len(positive) > 5 else "")
            name = labels[best][: self._width]
            self._print(f"{at}  {part.first + i:>8}  {name:<{self._width}}  {part.scores[i, best]:>7.4f}  {shown or '-'}")

    def _event(self, event: SignalEvent) -> None:
        if event.state == "opened":
            self._events[event.label] = self._events.get(event.label, 0) + 1
        label = event.label[: self._width]
        at = self._time(event.start_s if event.state == "opened" else event.end_s)
        text = f"{at}  {label:<{self._width}}  {_STATES.get(event.state, event.state):<7}"
        if event.state != "opened":
            peak = self._time(event.peak_s).strip()
            text += f"  after {event.end_s - event.start_s:g} s, peak {event.peak_score:.4f} at {peak}"
        self._print(text.rstrip(), _STYLES.get(event.state))

    def _end(self, summary: SignalSummary) -> None:
        assert self._opened is not None
        seconds = summary.windows * self._opened.window_s
        left = f"; {summary.left_over_s:g} s at the end make no whole window" if summary.left_over_samples else ""
        self._print(f"{summary.windows} windows, {seconds:g} s, {summary.events} events{left}", "dim")
        labels = sorted(self._events, key=lambda label: -self._events[label])
        counted = self._seen_windows > 0
        table = plain_table("label", "events", *(("alerting windows",) if counted else ()))
        for label in labels[:SHOWN]:
            more = (str(self._alerts[self._opened.labels.index(label)]),) if counted else ()
            table.add_row(escape(label), str(self._events[label]), *more)
        if labels:
            self._console.print(table)
        if len(labels) > SHOWN:
            self._print(f"and {len(labels) - SHOWN} more labels")

    @property
    def _time_width(self) -> int:
        return 23 if self._dated else 12

    def _time(self, seconds: float) -> str:
        if self._dated:
            return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "milliseconds")
        return f"{seconds:>10.3f} s"

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(escape(text), style=style)
        self._console.file.flush()  # somebody waits for it at the other end of a pipe


class JsonLines:
    """A JSON object a line, for programs."""

    def __init__(self, *, windows: bool) -> None:
        """With `windows` an object for each window too."""
        self._each_window = windows
        self._opened: SignalOpened | None = None

    def show(self, part: SignalPart) -> None:
        """Print one part."""
        if isinstance(part, SignalOpened):
            self._opened = part
            self._print("opened", asdict(part))
        elif isinstance(part, SignalWindows):
            if self._each_window:
                self._windows(part)
            for event in part.events:
                self._print("event", asdict(event))
        else:
            self._print("summary", asdict(part))

    def _windows(self, part: SignalWindows) -> None:
        assert self._opened is not None
        labels = self._opened.labels
        for i in range(len(part)):
            document: dict[str, Any] = {"window": part.first + i, "start_s": part.start_s + i * self._opened.window_s}
            document["scores"] = dict(zip(labels, map(float, part.scores[i]), strict=True))
            if part.decisions is not None:
                document["alerts"] = [labels[j] for j in np.flatnonzero(part.decisions[i])]
            document["policy_version"] = part.policy_version
            self._print("window", document)

    def _print(self, kind: str, document: dict[str, Any]) -> None:
        print(json.dumps({"kind": kind, **document}, ensure_ascii=False), flush=True)
