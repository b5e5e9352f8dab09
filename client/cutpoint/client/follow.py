"""`cutpoint score --follow`: a signal scored as it comes, its windows and events as lines."""

import datetime
import functools
import inspect
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from cutpoint.bundle import write_whole
from cutpoint.errors import BadConfig

from .client import Client
from .samples import Samples
from .signal_lines import JsonLines, Lines, Printer
from .signals import Events, SignalEvent, SignalOpened, SignalPart, SignalWindows

_PANEL = "With --follow"


def _option(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, **settings)


_Follow = Annotated[
    bool,
    typer.Option("--follow", help="Score a signal as it comes: DATA is a file that grows, a pipe, or - for standard input."),
]
_Format = Annotated[
    Literal["auto", "f32", "npy", "text"],
    _option("f32 (raw, little-endian), npy, text (a line a sample), or auto: by the file's name, else f32.", metavar="FORMAT"),
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "follow": (_Follow, False),
    "format": (_Format, "auto"),
    "channels": (Annotated[int, _option("Channels of a sample in an f32 file.")], 1),
    "rate_hz": (Annotated[float | None, _option("Rate of the samples, resampled where the model has another.")], None),
    "start": (
        Annotated[
            str, _option("When the first sample was taken: seconds, a date and time (ISO 8601), or now.", metavar="TIME")
        ],
        "0",
    ),
    "label": (Annotated[list[str] | None, _option("Only this label; repeatable.", metavar="LABEL")], None),
    "windows": (Annotated[bool, _option("Print every window, not only events.", "--windows")], False),
    "hysteresis": (Annotated[float, _option("Log-odds below the threshold down to which an event goes on.")], 0.0),
    "min_duration_s": (Annotated[float, _option("Leave out shorter events.")], 0.0),
    "join_gap_s": (Annotated[float, _option("Events no further apart are one.")], 0.0),
    "sequence_windows": (Annotated[int | None, _option("Score sequences of so many windows, each for itself.")], None),
    "idle_s": (Annotated[float, _option("End when nothing came for so long (0: never).")], 0.0),
    "json": (Annotated[bool, _option("Print a JSON object a line.", "--json")], False),
}


@dataclass(frozen=True)
class Followed:
    """What the command was asked."""

    source: Path
    model: str
    version: str
    out: Path | None
    format: Literal["auto", "f32", "npy", "text"]
    channels: int
    rate_hz: float | None
    start: str
    label: list[str] | None
    windows: bool
    hysteresis: float
    min_duration_s: float
    join_gap_s: float
    sequence_windows: int | None
    idle_s: float
    json: bool


def followable(command: Callable[..., None]) -> Callable[..., None]:
    """Have the `score` command, whose first argument is a `Client`, follow a signal where --follow is given."""
    own = list(inspect.signature(command).parameters.values())

    @functools.wraps(command)
    def run(client: Client, *, follow: bool, **given: Any) -> None:
        settings = {name: given.pop(name) for name in _OPTIONS if name in given}
        if not follow:
            wrong = [name for name, value in settings.items() if value != _OPTIONS[name][1]]
            if wrong:
                raise BadConfig.of(
                    f"--{wrong[0].replace('_', '-')}", "given", "--follow with it, to score a signal as it comes"
                )
            command(client, **given)
            return
        if given.pop("rows") is not None:
            raise BadConfig.of("--rows", "given", "none with --follow: a signal has no rows")
        asked = {name: given[name] for name in ("model", "version", "out")}
        follow_signal(client, Followed(source=given["data"], **asked, **settings))

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    # What typer reads a command's options from.
    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
    return run


def follow_signal(client: Client, asked: Followed) -> None:
    """Score a signal to its end, printing as it goes, and write `asked.out` then.

    The first Ctrl-C ends the signal: what was read is answered, and the summary printed. A second one stops at once.
    """
    start_s, dated = _start(asked.start)
    samples = Samples(asked.source, asked.format, asked.channels, idle_s=asked.idle_s)
    printer: Printer = JsonLines(windows=asked.windows) if asked.json else Lines(windows=asked.windows, dated=dated)
    kept = _Kept() if asked.out is not None else None
    events: Events | None = Events(asked.hysteresis, asked.min_duration_s, asked.join_gap_s)
    with _ended_by_interrupt(samples):
        try:
            for part in client.stream_signal(
                asked.model, samples, version=asked.version, rate_hz=asked.rate_hz, start_s=start_s, labels=asked.label or (),
                events=events, events_only=not asked.windows and kept is None,
                sequence_windows=asked.sequence_windows,
            ):  # fmt: skip
                if kept is not None:
                    kept.keep(part)
                printer.show(part)
        finally:
            # What was answered is final, however the signal ended.
            if kept is not None and asked.out is not None and kept.opened is not None:
                kept.write(asked.out)
    if asked.out is not None and not asked.json:
        print(asked.out)


@contextmanager
def _ended_by_interrupt(samples: Samples) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: Any) -> None:
        samples.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("ending: what was read is being answered; Ctrl-C again stops at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(text: str) -> tuple[float, bool]:
    """Seconds, and whether they are since 1970."""
    if text == "now":
        return time.time(), True
    try:
        seconds = float(text)
    except ValueError:
        try:
            return datetime.datetime.fromisoformat(text).timestamp(), True
        except ValueError:
            raise BadConfig.of("--start", text, "seconds, a date and time as 2026-01-31T12:00:00, or now") from None
    if not math.isfinite(seconds):
        raise BadConfig.of("--start", text, "finite seconds")
    return seconds, False


@dataclass
class _Kept:
    """All windows and events of a signal, for the file: 9 bytes a window and label, in memory until the end."""

    opened: SignalOpened | None = None
    parts: list[SignalWindows] = field(default_factory=list)
    events: list[SignalEvent] = field(default_factory=list)

    def keep(self, part: SignalPart) -> None:
        if isinstance(part, SignalOpened):
            self.opened = part
        elif isinstance(part, SignalWindows):
            if len(part):
                self.parts.append(part)
            self.events += [event for event in part.events if event.state != "opened"]

    def write(self, out: Path) -> None:
        """Write the .npz, whole or not at all."""
        assert self.opened is not None
        none = np.zeros((0, len(self.opened.labels)), np.float32)
        arrays: dict[str, Any] = {
            "label_names": np.array(self.opened.labels),
            "start_s": np.array(self.parts[0].start_s if self.parts else 0.0),
            "window_s": np.array(self.opened.window_s),
            "logits": np.concatenate([none, *(part.logits for part in self.parts)]),
            "scores": np.concatenate([none, *(part.scores for part in self.parts)]),
            "policy_version": np.repeat(
                np.array([part.policy_version or 0 for part in self.parts], np.int64), [len(part) for part in self.parts]
            ),
        }
        decided = [part.decisions for part in self.parts if part.decisions is not None]
        if len(decided) == len(self.parts):
            arrays["decisions"] = np.concatenate([none.astype(bool), *decided])
        for name in ("label", "start_s", "end_s", "peak_s", "peak_logit", "peak_score"):
            values = [getattr(event, name) for event in self.events]
            arrays[f"event_{name}"] = np.array(values, np.str_ if name == "label" else np.float64)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, buffer.getvalue())
