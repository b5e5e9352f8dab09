"""`cutpoint watch` on a real server: what it shows is what was decided, and what scipy says of it."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cutpoint.client import Client
from processes import ENVIRONMENT, ServerProcess, cutpoint
from scipy import stats


def looked(server: ServerProcess, *arguments: object) -> Any:
    done = cutpoint("watch", server.metrics_url, "--once", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_shows_what_was_decided(server: ServerProcess, client: Client, fresh: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = (x[:, :2] + rng.normal(size=(400, 2)) > 1.5).astype(np.uint8)
    made = client.calibrate(fresh, "alert_rate_at_most=0.05", inputs=x, targets=y).policy
    x[:, 0] += 0.7  # label a drifts
    decided = client.score(fresh, x).decisions
    assert decided is not None
    found = looked(server, "--model", fresh)
    assert found["since"] == "start" and [each["answers"] for each in found["servers"]] == [True]
    assert [each["label"] for each in found["labels"]] == ["a", "b"], "the one that drifts comes first"
    for i, line in enumerate(found["labels"]):
        expected = made.labels[i].expected
        assert expected is not None
        rate = expected.alert_rate.value
        assert (line["model"], line["version"], line["policies"]) == (fresh, "1", [1])
        assert (line["decisions"], line["positives"]) == (400, decided[:, i].sum())
        assert line["expected"] == pytest.approx(400 * rate, rel=1e-5)
        assert line["threshold"] == pytest.approx(made.labels[i].threshold, rel=1e-5)
        interval = stats.binomtest(round(rate * 400), 400).proportion_ci(method="exact")
        rse2 = ((interval.high - interval.low) / (2 * stats.norm.isf(0.025) * rate)) ** 2
        of = stats.nbinom(1 / rse2, 1 / (1 + 400 * rate * rse2))
        x_i, mean = line["positives"], 400 * rate
        tail = of.sf(x_i - 1) if x_i > mean else of.cdf(x_i)
        assert abs(line["z"]) == pytest.approx(max(0.0, stats.norm.isf(tail)), abs=1e-3)
    assert found["labels"][0]["z"] > 4
    (one,) = looked(server, "--model", fresh, "--top", 1)["labels"]
    assert one["label"] == "a"
    nothing = cutpoint("watch", server.metrics_url, "--once", "--json", "--model", "nothing of this name")
    assert (nothing.returncode, json.loads(nothing.stdout)["labels"]) == (1, [])


def test_512_labels_into_a_pipe_that_closes(server: ServerProcess) -> None:
    pipe = subprocess.Popen(
        [sys.executable, "-m", "cutpoint.cli", "watch", server.metrics_url, "--interval", "0.1", "--top", "600"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert pipe.stdout is not None and pipe.stderr is not None
    try:
        assert "all since the start" in pipe.stdout.readline()
        pipe.stdout.close()
        assert pipe.wait(60) == 0
        assert pipe.stderr.read() == ""
    finally:
        pipe.kill()
        pipe.wait()
        pipe.stderr.close()
