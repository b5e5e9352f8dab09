"""The demo, small: the main job by the real commands and a real server; then the example of every command's --help."""

import re
import shlex
from pathlib import Path

from cutpoint.bundle import read_bundle
from cutpoint.cli import COMMANDS
from processes import cutpoint, serving

# activate expects the policy that the demo left
SUBCOMMANDS = {"policy": ("list", "get", "activate", "calibrate"), "outcomes": ("report", "summary")}


def test_the_demo_does_the_main_job_and_every_example_works_on_what_it_leaves(tmp_path: Path) -> None:
    done = cutpoint("demo", "--out", "demo-out", "--sequences", 60, "--epochs", 2, cwd=tmp_path, timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "demo-out"
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
    assert str(tmp_path) not in (out / "models/bearings/1/manifest.json").read_text()

    again = cutpoint("demo", "--out", tmp_path, "--sequences", 60)  # a folder with something in it that no demo made
    assert again.returncode == 2
    assert again.stderr.startswith("error: --out is ")
    assert out.exists()

    (tmp_path / "labels.csv").write_text("key,window,logit,outcome\nmonday-1,3,1.5,1\nmonday-2,4,2.5,0\n")
    examples = {name: _example(*name.split()) for name in _names()}
    with serving(out / "models") as server:
        for name, example in examples.items():
            assert example[:1] == ["cutpoint"]
            if name in ("serve", "demo"):  # `serving` ran the one, the test began with the other
                assert example[1:] in (["serve", "--models", "demo-out/models"], ["demo", "--out", "demo-out"])
                continue
            if name == "tune":  # how long it measures makes no difference to whether it works
                example[example.index("--minutes") + 1] = "0"
            at = {"watch": (server.metrics_url, "--once")}.get(name, ())
            if name.split()[0] in ("score", "policy", "outcomes"):
                at = ("--server", server.target)
            ran = cutpoint(*example[1:], *at, cwd=tmp_path)
            assert ran.returncode == 0, f"{example}: {ran.stdout}{ran.stderr}"


def _names() -> list[str]:
    return [f"{name} {sub}".strip() for name in COMMANDS for sub in SUBCOMMANDS.get(name, ("",))]


def _example(*command: str) -> list[str]:
    """The words of the one example in a command's --help."""
    shown = cutpoint(*command, "--help")
    assert shown.returncode == 0, shown.stderr
    found = re.findall(r"Example: ([^│]*)", " ".join(shown.stdout.split()))
    assert len(found) == 1, shown.stdout
    return shlex.split(found[0])
