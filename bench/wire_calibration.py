"""Calibrating a server from more scores than it may hold: `make bench-wire_calibration`.

A server process that may hold 32 MiB of scores gets 10 million labelled ones over gRPC (2.5 million rows x 4 labels, logits),
and counts them. Its memory is that of the operating system's account, /proc/PID/status; its answer is held against a histogram
counted here; and what others wait meanwhile, against what they wait when nobody calibrates.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from claims import Claim, report
from cutpoint.calibration import Plan, ScoreHistogram, fit_labels
from cutpoint.client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from bundles import linear_bundle
from processes import serving

ROWS, LABELS, HELD_MIB, LIMIT_MIB = 2_500_000, ("a", "b", "c", "d"), 32, 200


def main() -> None:
    """Print the claims."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 2, size=(ROWS, len(LABELS))).astype(np.float32)
    targets = (logits + rng.normal(size=logits.shape) > 4).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        linear_bundle(models, labels=LABELS)
        with serving(models, "--max-calibration-mib", HELD_MIB) as process, Client(process.target, timeout_s=300) as client:
            few = logits[:1000]
            client.calibrate("linear", "max_fbeta=1", targets=targets[:1000], logits=few)  # so that everything is imported
            quiet = _waits(client, until=threading.Event(), most=300)
            before, done = _memory(process.process.pid, "VmRSS"), threading.Event()
            waits: list[float] = []
            watcher = threading.Thread(target=lambda: waits.extend(_waits(client, until=done)))
            watcher.start()
            begun = time.perf_counter()
            policy = client.calibrate("linear", "recall_at_least=0.9", targets=targets, logits=logits).policy
            took_s = time.perf_counter() - begun
            done.set()
            watcher.join()
            grown = _memory(process.process.pid, "VmHWM") - before
    begun = time.perf_counter()
    local = ScoreHistogram(LABELS)
    local.update(logits, targets)
    labels = fit_labels(local, Plan.of("recall_at_least=0.9"))
    local_s = time.perf_counter() - begun
    assert policy.data is not None and policy.data.source == "histogram"
    same = float(policy.labels == labels and policy.data_digest == local.digest())
    scores = logits.size / 1e6
    worst, usual = 1e3 * float(np.quantile(waits, 0.99)), 1e3 * float(np.quantile(quiet, 0.99))
    report(
        [
            Claim(f"memory grown by 10 M scores, limit {LIMIT_MIB} MiB", grown / 2**20, LIMIT_MIB, 1, "MiB", least=False),
            Claim("policies equal to that of a histogram counted here", same, 1, 1, ""),
            Claim("10 M scores over gRPC, limit 30 s", took_s, 30, 1, "s", least=False),
            Claim("of these, against counting in this process", scores / took_s, scores / local_s, 0.1, "M scores/s"),
            Claim("p99 of scoring a row meanwhile, limit 100 ms", worst, 100, 1, "ms", least=False),
            Claim("p99 of scoring a row before, limit 100 ms", usual, 100, 1, "ms", least=False),
        ]
    )


def _waits(client: Client, until: threading.Event, most: int = 1 << 30) -> list[float]:
    """Seconds that each of many requests of one row took, until told to end."""
    row, found = np.zeros((1, 4), np.float32), []
    while not until.is_set() and len(found) < most:
        begun = time.perf_counter()
        client.score("linear", row)
        found.append(time.perf_counter() - begun)
        time.sleep(0.002)
    return found


def _memory(pid: int, what: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))


if __name__ == "__main__":
    main()
