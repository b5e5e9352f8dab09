"""What monitoring costs: `make bench-monitoring`.

`cutpoint serve` twice, with accounting and with `--no-accounting`, on mlp512 (256 bytes in, 512 labels): the same load on each in
turns, of one row and of 64 rows a request, which asks for decisions alone, so that nothing else takes time. A scrape of its 512
labels, as Prometheus asks for it, idle and under that load. And whether either grows with what was counted.
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
from claims import Claim, report
from cutpoint.bundle import read_bundle
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import Active
from serving_load import INFER, Caller, grpc_request, infer_message, load
from serving_models import LABELS, mlp512, rows
from serving_process import cutpoint_serve

CALLERS, ROUNDS = 8, 9
COUNTS = {1: 12_000, 64: 1_200}  # requests of a load, by rows: about a second
COUNTED = 1_000_000
# As Prometheus 2.42 asks.
SCRAPE = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "Accept-Encoding": "gzip"}


def main() -> None:
    """Print the claims."""
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        bundle = mlp512(models)
        with cutpoint_serve(models) as on, cutpoint_serve(models, "--no-accounting") as off:
            for count, requests in COUNTS.items():
                message = infer_message("mlp512", rows("mlp512", count), ("decisions",))
                sides = [(each.target, _request(each.target, message)) for each in (on, off)]
                rates: list[list[float]] = [[], []]
                for turn in range(ROUNDS + 1):
                    for i in (0, 1) if turn % 2 else (1, 0):
                        rate = load(*sides[i], CALLERS, requests).rate
                        if turn:  # the first one does not count
                            rates[i].append(rate)
                ratio = median(a / b for a, b in zip(*rates, strict=True))
                name = f"requests of {count} rows answered, with accounting beside without (median of {ROUNDS} pairs)"
                claims.append(Claim(name, ratio * median(rates[1]), median(rates[1]), 0.98, "/s"))
                if count == 1:
                    idle = _scrapes_ms(on.metrics_url)
                    busy = _under_load(lambda: load(*sides[0], CALLERS, 4 * requests), on.metrics_url)
                    claims += [
                        Claim(f"a scrape of {LABELS} labels, idle (worst of {len(idle)})", max(idle), 100, 1, "ms", least=False),
                        Claim(f"a scrape of {LABELS} labels, under that load (worst of {len(busy)})", max(busy), 100, 1, "ms", least=False),
                    ]
            counted = on.metrics()['cutpoint_decisions_total{label="label 0",model="mlp512",version="1"}']
            assert counted > sum(ROUNDS * n * of for n, of in COUNTS.items()), counted
            assert not any(value for name, value in off.metrics().items() if name.startswith("cutpoint_decisions_total"))
        claims += _growth(bundle)
    report(claims)


def _request(target: str, message: bytes):  # noqa: ANN202
    caller = Caller(target)
    try:
        return grpc_request(INFER, message, answer_bytes=len(caller.infer(message)) + 5)
    finally:
        caller.close()


def _scrapes_ms(url: str, count: int = 10) -> list[float]:
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
    """Counting, scraping and the number of series, at the start and after a million rows."""
    policy = read_bundle(bundle).policy
    assert policy is not None
    metrics = Metrics()
    counters = metrics.add_model("mlp512", 1, tuple(label.label for label in policy.labels), "0", "cpu")
    active = Active(policy, 1, 0.0).prepared()
    counters.apply(active)
    rng = np.random.default_rng(0)
    one, many = (rng.normal(size=(n, LABELS)).astype(np.float32) for n in (1, 500))

    def add_us() -> float:
        begun = time.perf_counter()
        for _ in range(20_000):
            counters.add(one, active)
        return (time.perf_counter() - begun) / 20_000 * 1e6

    def scrape_ms() -> float:
        begun = time.perf_counter()
        metrics.page.answer(SCRAPE["Accept"])
        return 1e3 * (time.perf_counter() - begun)

    def measured() -> tuple[float, float, int]:
        scrape_ms()
        return median(add_us() for _ in range(5)), median(scrape_ms() for _ in range(9)), metrics.page.answer()[0].count(b"\n")

    first = measured()
    for _ in range(COUNTED // len(many)):
        counters.add(many, active)
    last = measured()
    return [
        Claim("counting a row of 512 labels after a million rows, beside at the start", last[0], first[0], 1.25, "us", least=False),
        Claim("a scrape in process after a million rows, beside at the start", last[1], first[1], 1.25, "ms", least=False),
        Claim("lines of the page after a million rows, beside at the start", last[2], first[2], 1, "", least=False),
    ]


if __name__ == "__main__":
    main()
