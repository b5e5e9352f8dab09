"""Ten million labelled scores into a server that may hold 32 MiB of them; bench/wire_calibration.py measures more of it."""

from pathlib import Path

import numpy as np
from bundles import linear_bundle
from cutpoint.calibration import Plan, ScoreHistogram, fit_labels
from cutpoint.client import Client
from processes import serving

ROWS, LABELS = 2_500_000, ("a", "b", "c", "d")


def memory(pid: int, what: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))


def test_ten_million_scores_take_bounded_memory_and_give_the_histograms_answer(models: Path) -> None:
    linear_bundle(models, labels=LABELS)
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((ROWS, len(LABELS)), np.float32)
    targets = (logits > 2).astype(np.uint8)
    targets[rng.integers(0, ROWS, 10_000)] ^= 1
    with serving(models, "--max-calibration-mib", 32) as process, Client(process.target) as client:
        client.calibrate("linear", "max_fbeta=1", targets=targets[:1000], logits=logits[:1000])  # everything is imported
        before = memory(process.process.pid, "VmRSS")
        policy = client.calibrate("linear", "precision_at_least=0.9", targets=targets, logits=logits).policy
        grown = memory(process.process.pid, "VmHWM") - before
    assert grown < 200 << 20, f"{grown >> 20} MiB, for {(logits.nbytes + targets.nbytes) >> 20} MiB of data"
    assert policy.data is not None
    assert (policy.data.source, policy.data.rows, policy.data.step) == ("histogram", ROWS, 2**-8)
    local = ScoreHistogram(LABELS)
    local.update(logits, targets)
    assert policy.data_digest == local.digest()
    assert policy.labels == fit_labels(local, Plan.of("precision_at_least=0.9"))
    for i, label in enumerate(policy.labels):
        alerts = logits[:, i] >= np.float32(label.threshold)
        assert label.counts.tp == (alerts & (targets[:, i] == 1)).sum()
        assert label.counts.fp == (alerts & (targets[:, i] == 0)).sum()
