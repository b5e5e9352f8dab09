"""The demo, small: the main job by the real commands and a real server."""

import re
from pathlib import Path

from cutpoint.bundle import read_bundle
from processes import cutpoint


def test_the_demo_does_the_main_job_and_leaves_what_it_says(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = cutpoint("demo", "--out", out, "--sequences", 60, "--epochs", 2, timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    bundle = read_bundle(out / "models/bearings/1")
    assert bundle.manifest is not None
    assert bundle.policy is not None
    assert bundle.manifest.input.shape == (-1, -1, 1000)
    assert bundle.manifest.parity.max_abs_difference <= bundle.manifest.parity.tolerance
    assert bundle.manifest.priors[0].pos_weight > 1  # a class-weighted loss, whose shift the graph undoes
    assert (out / "sequence.png").read_bytes().startswith(b"\x89PNG")
    cuts = re.search(r"policy 1 cut at logit (\S+), policy 2 at (\S+):", done.stdout)
    assert cuts
    assert float(cuts[1]) != float(cuts[2])  # the next response used the new thresholds
    live = re.findall(r"policy \d: live (\S+) \((\d+) of (\d+) windows\), expected (\S+)", done.stdout)
    assert len(live) == 2
    for rate, positives, decisions, expected in live:
        assert abs(float(rate) - int(positives) / int(decisions)) < 1e-4
        assert 0 < float(expected) < 1
    for row in ("average precision", "latency of one sequence", "precision", "recall", "live positive rate"):
        assert row in done.stdout
    assert str(Path.cwd()) not in (out / "models/bearings/1/manifest.json").read_text()

    again = cutpoint("demo", "--out", tmp_path, "--sequences", 60)  # a folder with something in it that no demo made
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out is ")
    assert out.exists()
