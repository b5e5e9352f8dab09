"""What monitoring costs: `make bench-monitoring`.

`cutpoint serve` with its accounting switched off and on fifty times a second, on mlp512 (256 bytes in, 512 labels, 10 us) and
on wide512, the same but slower, as most models are: one row and 64 rows a request, which asks for decisions alone, so that
nothing else takes time; several processes. A scrape of 512 labels, as Prometheus asks for it, idle and under load. And whether
either grows with what was counted.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import numpy as np
from claims import Claim, report, timed
from cutpoint.bundle import read_bundle
from cutpoint.server.monitoring.accounting import ModelCounters
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import Active
from serving_load import INFER, Caller, Request, grpc_request, infer_message, load
from serving_models import LABELS, mlp512, rows, wide512
from serving_process import Server, cutpoint_serve

CALLERS, PROCESSES = 8, 7
# Requests of a load, by model and rows: some four seconds.
COUNTS = {("mlp512", 1): 24_000, ("mlp512", 64): 9_000, ("wide512", 1): 15_000, ("wide512", 64): 2_400}
SWITCHED = Path(__file__).with_name("monitoring_switched.py")
COUNTED, ADDS = 1_000_000, 20_000
COUNTED_BY_LABEL = 'cutpoint_decisions_total{label="label 0",model="%s",version="1"}'
# As Prometheus 2.42 asks.
SCRAPE = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "Accept-Encoding": "gzip"}


def main() -> None:
    """Print the claims."""
    with tempfile.TemporaryDirectory() as folder:
        one, both = Path(folder) / "one", Path(folder) / "both"
        bundle = mlp512(one)
        mlp512(both)
        wide512(both)
        found: dict[tuple[str, int], list[dict[str, list[float]]]] = {each: [] for each in COUNTS}
        for _ in range(PROCESSES):
            with _switched(both, Path(folder)) as server:
                for (model, count), requests in COUNTS.items():
                    found[model, count].append(_halves(server, Path(folder), model, count, requests))
        claims = [_beside(*each, halves) for each, halves in found.items()]
        with cutpoint_serve(one) as server:
            claims += _scrapes(server)
        claims += _growth(bundle)
    report(claims)


@contextlib.contextmanager
def _switched(models: Path, folder: Path) -> Iterator[Server]:
    """A server that switches its accounting off and on."""
    command = folder / "switched"
    command.write_text(f'#!/bin/sh\nSWITCHED_REPORT="{folder}/report" exec "{sys.executable}" "{SWITCHED}" "$@"\n')
    command.chmod(0o755)
    with cutpoint_serve(models, command=command) as server:
        yield server


def _halves(server: Server, folder: Path, model: str, count: int, requests: int) -> dict[str, list[float]]:
    """Requests of `count` rows and seconds, with accounting and without."""
    target, request = _asked(server, infer_message(model, rows(model, count), ("decisions",)))
    load(target, request, CALLERS, requests // 10)
    _reported(server, folder)
    counted = COUNTED_BY_LABEL % model
    before = server.metrics()[counted]
    load(target, request, CALLERS, requests)
    halves = _reported(server, folder)
    share = (server.metrics()[counted] - before) / (requests * count)
    assert 0.3 < share < 0.7, f"{share:.2f} of the decisions were counted: about half of them are to be"
    return halves


def _reported(server: Server, folder: Path) -> dict[str, list[float]]:
    """What it answered since it was asked last."""
    place = folder / "report"
    os.kill(server.process.pid, signal.SIGUSR1)
    while not place.exists():
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended: {server.log.read_text()[-1000:]}")
        time.sleep(0.01)
    found: dict[str, list[float]] = json.loads(place.read_text())
    place.unlink()
    return found


def _beside(model: str, count: int, halves: list[dict[str, list[float]]]) -> Claim:
    on, off = (sum(half[side][0] for half in halves) / sum(half[side][1] for half in halves) for side in ("on", "off"))
    ratios = sorted(half["on"][0] / half["on"][1] / half["off"][0] * half["off"][1] for half in halves)
    of = f"{model}, {count} x {LABELS} decisions a request, with accounting beside without"
    return Claim(f"{of}, {len(halves)} processes ({ratios[0]:.3f} to {ratios[-1]:.3f})", on, off, 0.98, "/s")


def _scrapes(server: Server) -> list[Claim]:
    target, request = _asked(server, infer_message("mlp512", rows("mlp512", 1), ("decisions",)))
    idle = _scrapes_ms(server.metrics_url, 10)
    busy = _under_load(lambda: load(target, request, CALLERS, 4 * COUNTS["mlp512", 1]), server.metrics_url)
    return [
        Claim(f"a scrape of {LABELS} labels, {when}, worst of {len(found)}", max(found), 100, 1, "ms", least=False)
        for when, found in (("idle", idle), ("under load", busy))
    ]


def _asked(server: Server, message: bytes) -> tuple[str, Request]:
    """What to load a server with, that has answered it once."""
    caller = Caller(server.target)
    try:
        return server.target, grpc_request(INFER, message, answer_bytes=len(caller.infer(message)) + 5)
    finally:
        caller.close()


def _scrapes_ms(url: str, count: int) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        with urlopen(HttpRequest(url, headers=SCRAPE), timeout=60) as answer:
            answer.read()
        found.append(1e3 * (time.perf_counter() - begun))
    return found


def _under_load(work: Callable[[], object], url: str) -> list[float]:
    """Scrapes while `work` goes on in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    found = []
    while thread.is_alive():
        found += _scrapes_ms(url, 1)
        thread.join(0.2)  # a scraper asks every 15 s; this is 75 times as often
    return found[:-1]  # the last one may have had no load beside it


def _growth(bundle: Path) -> list[Claim]:
    """Counting, scraping and the number of series of counters that have seen a million rows, beside those of new ones."""
    policy = read_bundle(bundle).policy
    assert policy is not None
    active = Active(policy, 1, 0.0).prepared()
    rng = np.random.default_rng(0)
    one, many = (rng.normal(size=(n, LABELS)).astype(np.float32) for n in (1, 500))
    decided, alerts = one >= active.thresholds, many >= active.thresholds

    def counted(times: int) -> tuple[Metrics, ModelCounters]:
        metrics = Metrics()
        counters = metrics.add_model("mlp512", 1, tuple(label.label for label in policy.labels), "0", "cpu")
        counters.apply(active)
        for _ in range(times):
            counters.add(many, alerts, active)
        metrics.page.answer(SCRAPE["Accept"])
        return metrics, counters

    def adds(counters: ModelCounters) -> Callable[[], None]:
        def add() -> None:
            for _ in range(ADDS):
                counters.add(one, decided, active)

        return add

    old, new = counted(COUNTED // len(many)), counted(4)
    add_s = timed(adds(old[1]), adds(new[1]))
    scrape_s = timed(*(lambda page=each[0].page: page.answer(SCRAPE["Accept"]) for each in (old, new)), rounds=15)
    lines = [_lines(each[0]) for each in (old, new)]
    us, after = 1e6 / ADDS, "after a million rows, beside after 2000"
    return [
        Claim(f"counting a row of {LABELS} labels {after}", add_s[0] * us, add_s[1] * us, 1.25, "us", least=False),
        Claim(f"a scrape in process {after}", 1e3 * scrape_s[0], 1e3 * scrape_s[1], 1.25, "ms", least=False),
        Claim(f"lines of the page, but estimates, {after}", lines[0], lines[1], 1, "", least=False),
    ]


def _lines(metrics: Metrics) -> int:
    """Estimates come with what is known."""
    page = metrics.page.answer()[0].splitlines()
    return sum(not line.startswith(b"cutpoint_estimated_prevalence{") for line in page)


if __name__ == "__main__":
    main()
