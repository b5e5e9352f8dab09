"""`cutpoint watch`."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich.live import Live

from ..errors import BadConfig, BadData, Unavailable
from ..terminal import console
from .display import json_of, printable, table_of, text_of
from .page import Pages, page_url
from .standing import Standing, Watch

_DEFAULT = "http://127.0.0.1:8002/metrics"
_TIMEOUT_S = 5.0
_ROOM = 8  # lines of a terminal that are not labels: title, head, rule, notes
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_LONGEST_S = 86_400.0

app = typer.Typer()


@app.command(epilog="Example: cutpoint watch --window 1h --top 10")
def watch(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[URL]...", help=f"Pages of metrics, several for replicas, which are added up (default: {_DEFAULT})."
        ),
    ] = None,
    window: Annotated[str, typer.Option(help="How far back decisions are counted: 90s, 10m, 1h.", metavar="TIME")] = "10m",
    interval: Annotated[float, typer.Option(help="Seconds between looks.", min=0.1, max=3600)] = 2.0,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; repeatable.", metavar="NAME")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only this label; repeatable.", metavar="LABEL")] = None,
    top: Annotated[
        int | None, typer.Option(help="Labels to show, the most surprising ones (default: 20, with --json all).", min=1)
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, at all since the servers started, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object a look.")] = False,
) -> None:
    """Live positives beside those that the calibration expects, the most surprising labels first.

    Ends with Ctrl-C. Of --once the exit code is 2 where a server does not answer, and 1 where a model or label is not there.
    """
    pages = [page_url(each) for each in urls or [_DEFAULT]]
    if len(set(pages)) < len(pages):
        raise BadConfig.of("URLs", " ".join(pages), "each of them once: their counts are added up")
    looking = _Looking(pages, _seconds(window), model or (), label or ())
    show = _shower(looking, top, json=json, live=not once)
    try:
        with _ended_by_signals(), show as print_one:
            last = _go_on(looking, print_one, interval, once=once)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read has seen enough; what is still buffered has nobody to go to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    silent = [f"{each.url}: {printable(each.problem)}" for each in looking.watch.replicas if each.problem]
    if silent:
        raise Unavailable(f"no answer from {'; '.join(silent)}")
    if last.missing:
        raise typer.Exit(1)


class _Looking:
    """Servers asked again and again."""

    def __init__(self, urls: list[str], window_s: float, models: Any, labels: Any) -> None:
        self.watch = Watch(urls, window_s, models, labels)
        self._pages = Pages(urls, _TIMEOUT_S)
        self.now_s = 0.0

    def look(self) -> Standing:
        for replica, page in zip(self.watch.replicas, self._pages.fetch(), strict=True):
            if isinstance(page, OSError):
                replica.failed(str(page))
                continue
            try:
                replica.take(page, time.monotonic())
            except BadData as error:
                replica.failed(str(error))
        self.now_s = time.monotonic()
        return self.watch.look(self.now_s)


def _go_on(looking: _Looking, show: Callable[[Standing], None], interval_s: float, *, once: bool) -> Standing:
    """Look and show until it is interrupted; gives the last standing, of `once` the only one."""
    due_s, never = time.monotonic(), threading.Event()
    while True:
        standing = looking.look()
        show(standing)
        if once:
            return standing
        due_s = max(due_s + interval_s, time.monotonic())
        never.wait(max(0.0, due_s - time.monotonic()))


def _shower(looking: _Looking, top: int | None, *, json: bool, live: bool) -> Any:
    """A context that gives what shows a standing: in place in a terminal, else below what is there."""
    replicas = looking.watch.replicas

    if json:

        def line(standing: Standing) -> None:
            print(json_of(standing, replicas, now_s=looking.now_s, top=top), flush=True)

        return nullcontext(line)
    to = console()

    def table(standing: Standing) -> Any:
        if not standing.keys:
            return text_of(standing, replicas, now_s=looking.now_s)
        most = top or 20
        if to.is_terminal and live:
            most = min(most, max(1, to.height - _ROOM))
        return table_of(standing, replicas, now_s=looking.now_s, top=most, width=to.width if to.is_terminal else None)

    if not (to.is_terminal and live):

        def below(standing: Standing) -> None:
            with to.capture() as text:  # rich itself would end the process where nobody reads any more
                to.print(table(standing))
            print(text.get(), end="", flush=True)

        return nullcontext(below)
    return _in_place(to, table)


@contextmanager
def _in_place(to: Any, table: Callable[[Standing], Any]) -> Iterator[Callable[[Standing], None]]:
    with Live(console=to, auto_refresh=False, vertical_overflow="crop") as shown:
        yield lambda standing: shown.update(table(standing), refresh=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM end it as Ctrl-C does: the terminal gets its cursor back."""

    def ended(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, ended) if threading.current_thread() is threading.main_thread() else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _seconds(text: str) -> float:
    """90s, 10m, 1h, or seconds; BadConfig for anything else, and for what is not from 1 s to a day."""
    number, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    try:
        seconds = float(number) * _UNITS_S[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST_S:
        raise BadConfig.of("--window", text, "a time from 1s to 24h, as 90s, 10m or 1h")
    return seconds
