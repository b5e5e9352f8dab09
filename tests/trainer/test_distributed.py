"""Two real processes, started by torchrun or by `fit.devices`, with gloo on the CPU, train what one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cutpoint.trainer import fit, parse_config, read_run, train
from cutpoint.trainer.run import CHECKPOINT_FILE, unfinished
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


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize(("launcher", "asked"), [(TORCHRUN, ()), ((), ("--set", "fit.devices=2"))], ids=["torchrun", "devices"])
def test_two_processes_give_the_result_of_one(rows, tmp_path, launcher, asked):
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
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "cutpoint.cli", "train", str(config), *asked],
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


SLOW = """
import sys, os
folder = sys.argv[1]
if os.environ["RANK"] == "1":
    open(folder + "/begun").read()  # a pipe: until the first process is about to look for the checkpoint
from cutpoint.trainer import fit, read_config, train
from cutpoint.trainer.processes import processes_of
import cutpoint.trainer.engine
if os.environ["RANK"] == "0":
    begin = fit.begin_run
    def begun(*arguments):
        open(folder + "/begun", "w").close()
        return begin(*arguments)
    fit.begin_run = begun
run = train(read_config(folder + "/train.yaml"), quiet=True, resume=True, processes=processes_of(os.environ))
print("read", len(run.record.history))
"""


def test_all_agree_that_the_training_was_done(rows, tmp_path, monkeypatch):
    """The second process comes seconds after the first: alone it would find no checkpoint, train, and wait for its peer."""
    config = parse_config(
        {
            "name": "done",
            "task": "multilabel",
            "data": {"path": rows},
            "split": {"by": "random"},
            "model": {"kind": "mlp", "hidden": []},
            "fit": {"epochs": 2, "accelerator": "cpu", "threads": 1},
            "out": tmp_path / "run",
        }
    )
    with monkeypatch.context() as patched:
        patched.setattr(fit, "finish_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
    assert (unfinished(config.run_path) / CHECKPOINT_FILE).exists()
    logs = (unfinished(config.run_path) / "logs" / "steps.csv").read_bytes()
    (tmp_path / "train.yaml").write_text(config.to_yaml())
    (tmp_path / "slow.py").write_text(SLOW)
    os.mkfifo(tmp_path / "begun")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(tmp_path / "slow.py"), str(tmp_path)],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("read 2") == 2
    run = read_run(config.run_path)
    assert (run.path / "logs" / "steps.csv").read_bytes() == logs
    assert not unfinished(config.run_path).exists()
