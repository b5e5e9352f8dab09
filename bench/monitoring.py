"""What monitoring costs: `make bench-monitoring`.

`cutpoint serve` with accounting and with `--no-accounting`, on mlp512 (256 bytes in, 512 labels, 10 us) and on wide512, the
same but slower, as most models are: the same load on each in turns, of one row and of 64 rows a request, which asks for
decisions alone, so that nothing else takes time; several processes of each. A scrape of their labels, as Prometheus asks for
it, idle and under load. And whether either grows with what was counted.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
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

CALLERS, PAIRS, ROUNDS = 8, 9, 3
# Requests of a load, by model and rows: some half a second.
COUNTS = {("mlp512", 1): 2_000, ("mlp512", 64): 700, ("wide512", 1): 800, ("wide512", 64): 120}
COUNTED, ADDS = 1_000_000, 20_000
COUNTED_BY_LABEL = 'cutpoint_decisions_total{label="label 0",model="%s",version="1"}'
# As Prometheus 2.42 asks.
SCRAPE = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "Accept-Encoding": "gzip"}


def main() -> None:
    """Print the claims."""
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        bundle = mlp512(models)
        wide512(models)
        pairs: dict[tuple[str, int], list[tuple[float, float]]] = {each: [] for each in COUNTS}
        for turn in range(PAIRS):
            with cutpoint_serve(models) as on, cutpoint_serve(models, "--no-accounting") as off:
                for (model, count), requests in COUNTS.items():
                    pairs[model, count].append(_rates(model, count, requests, on, off))
                if turn == 0:
                    claims = _scrapes(on)
        claims = [*(_beside(*each, found) for each, found in pairs.items()), *claims, *_growth(bundle)]
    report(claims)


def _rates(model: str, count: int, requests: int, on: Server, off: Server) -> tuple[float, float]:
    """Requests of `count` rows that each answers in a second: medians of loads in turns."""
    message, counted = infer_message(model, rows(model, count), ("decisions",)), COUNTED_BY_LABEL % model
    sides = _asked(on, message), _asked(off, message)
    before = on.metrics()[counted], off.metrics()[counted]
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for i in (0, 1) if turn % 2 else (1, 0):
            rate = load(*sides[i], CALLERS, requests).rate
            if turn:  # the first one does not count
                rates[i].append(rate)
    after = on.metrics()[counted], off.metrics()[counted]
    assert after[0] - before[0] == (ROUNDS + 1) * requests * count, "with accounting every decision is counted"
    assert after[1] == before[1] == 0, "without, none"
    return median(rates[0]), median(rates[1])


def _beside(model: str, count: int, pairs: list[tuple[float, float]]) -> Claim:
    """Over several pairs of processes: two of the same kind differ by up to 6 %, by where their memory happens to be."""
    on, off = (median(side) for side in zip(*pairs, strict=True))
    of = f"{model}, {count} x {LABELS} decisions a request"
    name = f"{of}, with accounting beside without, medians of {len(pairs)} processes each"
    return Claim(name, on, off, 0.98, "/s")


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
