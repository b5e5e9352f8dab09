"""Two real processes, started by torchrun with gloo on the CPU, train what one process trains."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cutpoint.trainer import parse_config, read_run, train
from processes import ENVIRONMENT
from safetensors.numpy import load_file


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """203 rows, so that steps and validation slices are shared unevenly; rare positives, some not labelled."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(203, 6)).astype(np.float32)
    y = (rng.random((203, 2)) < 1 / (1 + np.exp(3 - 2 * x[:, :2]))).astype(np.int8)
    y[rng.random(y.shape) < np.linspace(0.5, 0, 203)[:, None]] = -1
    path = tmp_path_factory.mktemp("distributed") / "rows.npz"
    np.savez(path, x=x, y=y)
    return path


def test_torchrun_with_two_processes_gives_the_result_of_one(rows, tmp_path):
    settings = {
        "name": "two",
        "task": "multilabel",
        "data": {"path": rows},
        "split": {"by": "random"},
        "model": {"kind": "mlp", "hidden": [8], "dropout": 0.0, "input_dropout": 0.0},
        "loss": {"name": "weighted_bce"},
        "sampler": "weighted",
        "fit": {
            "epochs": 3, "batch_size": 40, "micro_batch": 8, "clip": 1.0, "threads": 1, "accelerator": "cpu",
            "learning_rate": 0.01, "checkpoint_steps": 2, "ema": 0.8,
        },
    }  # fmt: skip
    one = train(parse_config({**settings, "out": tmp_path / "one"}), quiet=True)
    config = tmp_path / "train.yaml"
    config.write_text(parse_config({**settings, "out": tmp_path / "two"}).to_yaml())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "cutpoint.cli", "train", str(config)],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = read_run(tmp_path / "two")
    said = (done.stdout + done.stderr).splitlines()
    assert sum(line.startswith("epoch ") for line in said) == 3  # one of them prints
    assert sum(line.startswith("valid AP ") for line in said) == 1
    mine, theirs = (load_file(run.path / "weights.safetensors") for run in (one, two))
    for name, value in mine.items():
        assert np.linalg.norm(value - theirs[name]) <= 1e-5 * np.linalg.norm(value), name
    for a, b in zip(one.record.history, two.record.history, strict=True):
        assert (b.loss, b.valid_ap, b.valid_loss) == pytest.approx((a.loss, a.valid_ap, a.valid_loss), rel=1e-4)
    assert two.record.best_epoch == one.record.best_epoch
    assert (two.path / "logs" / "steps.csv").read_text().count("\n") == 1 + 3 * 4
