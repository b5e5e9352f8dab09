"""`cutpoint serve` that switches its accounting off and on every 20 ms, and says what it answered with and without.

Two processes that do the same differ by up to 6 %, by where their memory happens to be, and one by more from one second to the
next, where the machine is not its own. So both halves are of one process and of one moment. Run by `bench/monitoring.py`; tells
SWITCHED_REPORT, a file, when it gets SIGUSR1, and begins anew.
"""

import functools
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from cutpoint.cli import main
from cutpoint.server import app
from cutpoint.server.monitoring.accounting import ModelCounters, _nothing
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.monitoring.series import ModelSeries

WINDOW_S = 0.02


class Switched:
    """Everything in a server that accounts, and what was answered while it did and while it did not."""

    def __init__(self) -> None:
        self.metrics: list[Metrics] = []
        self.counters: list[ModelCounters] = []
        self.series: list[ModelSeries] = []
        self._on_s, self._on_since = 0.0, time.monotonic()
        self._on: bool = True
        self._asked = threading.Event()
        self._totals = self._none()

    def clock(self) -> float:
        """Seconds with accounting: what is saved up for looking at probabilities is not saved up while there is none."""
        return self._on_s + (time.monotonic() - self._on_since if self._on else 0.0)

    def collect(self, kind: type[Any], found: list[Any]) -> None:
        """Have each object of this class in this list."""
        made = kind.__init__

        @functools.wraps(made)
        def init(new: object, *args: object, **kwargs: object) -> None:
            made(new, *args, **kwargs)
            found.append(new)

        kind.__init__ = init  # type: ignore[misc]

    def ask(self, *_: object) -> None:
        """Have a report written."""
        self._asked.set()

    def run(self) -> None:
        """Switch, one of two windows on, in a random order."""
        while True:
            for on in random.sample((True, False), 2):
                self._switch(on)
                answered, began = self._answered(), time.perf_counter()
                if self._asked.wait(WINDOW_S):
                    self._asked.clear()
                    self._report()
                    continue
                count, seconds = self._answered() - answered, time.perf_counter() - began
                if count:  # else there was no load
                    total = self._totals["on" if on else "off"]
                    total[0] += count
                    total[1] += seconds

    def _switch(self, on: bool) -> None:
        if on != self._on:
            now = time.monotonic()
            if on:
                self._on_since = now
            else:
                self._on_s += now - self._on_since
            self._on = on
        for counters in self.counters:
            counters.add = counters._sums.add if on else _nothing
        for series in self.series:
            series._times = on

    def _answered(self) -> float:
        return sum(
            tally.value
            for metrics in self.metrics
            for (_, _, method, code), tally in list(metrics.handled._children.items())
            if (method, code) == ("ModelInfer", "OK")
        )

    def _report(self) -> None:
        place = Path(os.environ["SWITCHED_REPORT"])
        written = place.with_suffix(".tmp")
        written.write_text(json.dumps(self._totals))
        written.rename(place)
        self._totals = self._none()

    @staticmethod
    def _none() -> dict[str, list[float]]:
        return {"on": [0.0, 0.0], "off": [0.0, 0.0]}


if __name__ == "__main__":
    switched = Switched()
    for kind, found in ((Metrics, switched.metrics), (ModelCounters, switched.counters), (ModelSeries, switched.series)):
        switched.collect(kind, found)
    app.Metrics = functools.partial(Metrics, clock=switched.clock)  # type: ignore[misc,assignment]
    signal.signal(signal.SIGUSR1, switched.ask)
    threading.Thread(target=switched.run, daemon=True).start()
    main()
