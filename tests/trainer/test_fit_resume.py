"""A training that is stopped, killed or fails goes on to the same bits, or says what and where and keeps what is good."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cutpoint.errors import BadConfig
from cutpoint.trainer import Config, Run, fit, parse_config, read_run, train
from cutpoint.trainer.cli import app
from cutpoint.trainer.interruption import Interrupted
from cutpoint.trainer.loop import Loop
from cutpoint.trainer.progress import Silence
from cutpoint.trainer.run import CHECKPOINT_FILE, unfinished
from processes import ENVIRONMENT
from safetensors.numpy import load_file
from typer.testing import CliRunner

# 54 training sequences: 7 steps an epoch, the last of 6 rows in two parts; dropout, and rows drawn by weight.
FIT = {
    "epochs": 3,
    "batch_size": 8,
    "micro_batch": 5,
    "learning_rate": 0.01,
    "checkpoint_steps": 3,
    "threads": 1,
    "clip": 1.0,
    "ema": 0.9,
}


MODEL = {"kind": "window_encoder", "channels": [8], "kernels": [9], "strides": [2], "context": 8, "context_layers": 1}


def configured(data: Path, folder: Path) -> Config:
    settings = {
        "name": "windows",
        "task": "windows",
        "data": {"path": data / "windows.npz"},
        "split": {"by": "group"},
        "model": MODEL,
        "loss": {"name": "weighted_bce"},
        "sampler": "weighted",
        "fit": FIT,
        "out": folder / "run",
    }
    return parse_config(settings)


class At(Silence):
    """Does something after one step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self.left, self.act = step, act

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


def content(run: Run) -> tuple[Any, ...]:
    weights = {name: value.tobytes() for name, value in load_file(run.path / "weights.safetensors").items()}
    record = run.record.model_dump(exclude={"seconds": True, "history": {"__all__": {"seconds"}}})
    logs = [line.split(",") for line in (run.path / "logs" / "epochs.csv").read_text().splitlines()]
    seconds = logs[0].index("seconds")
    epochs = [line[:seconds] + line[seconds + 1 :] for line in logs]
    return weights, record, (run.path / "logs" / "steps.csv").read_text(), epochs


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing interrupted."""
    return train(configured(data, tmp_path_factory.mktemp("whole")), quiet=True)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    return configured(data, tmp_path)


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGTERM, 1), (signal.SIGTERM, 6), (signal.SIGINT, 9), (signal.SIGTERM, 19)]
)
def test_a_signal_leaves_a_checkpoint_that_goes_on_to_the_same_bits(whole, config, monkeypatch, number, step):
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "watcher_for", lambda *_: At(step, lambda: signal.raise_signal(number)))
        with pytest.raises(Interrupted, match=r"stopped in epoch \d.*--resume.*last.safetensors") as stopped:
            train(config, quiet=True)
    assert (stopped.value.signal, signal.getsignal(number)) == (number, before)
    assert not config.run_path.exists()
    again = train(config, quiet=True, resume=True)
    assert content(again) == content(whole)
    assert not unfinished(config.run_path).exists()
    assert not (again.path / CHECKPOINT_FILE).parent.exists()


KILLED = """
import sys
from cutpoint.trainer import fit, read_config, train
from cutpoint.trainer.progress import Silence

class Waiting(Silence):
    left = int(sys.argv[2])
    def step(self):
        self.left -= 1
        if self.left == 0:
            print("there", flush=True)
            sys.stdin.read()

fit.watcher_for = lambda *_: Waiting()
train(read_config(sys.argv[1]), quiet=True)
"""


def test_a_killed_training_goes_on_to_the_same_bits(whole, config, tmp_path):
    """Killed by SIGKILL two steps past the checkpoint that it then goes on from."""
    (tmp_path / "train.yaml").write_text(config.to_yaml())
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "train.yaml"), "5"]
    child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert child.stdout is not None
    assert child.stdout.readline() == b"there\n"
    child.kill()
    child.communicate()
    assert content(train(config, quiet=True, resume=True)) == content(whole)


def test_an_unfinished_run_is_gone_on_with_or_replaced_but_never_lost(whole, config, monkeypatch, data):
    begun = unfinished(config.run_path)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "watcher_for", lambda *_: At(4, lambda: signal.raise_signal(signal.SIGTERM)))
        with pytest.raises(Interrupted):
            train(config, quiet=True)
    with pytest.raises(BadConfig, match=rf"{begun} exists; expected --resume to go on with that run, or --force"):
        train(config, quiet=True)
    other = config.model_copy(update={"seed": 3})
    with pytest.raises(BadConfig, match=r"last.safetensors: digest of the configuration is .*, or again with --force"):
        train(other, quiet=True, resume=True)
    changed = begun.parent / "windows.npz"
    with np.load(data / "windows.npz") as arrays:
        np.savez(changed, **{key: arrays[key] for key in arrays.files} | {"x": arrays["x"] + 1})
    elsewhere = config.model_copy(update={"data": config.data.model_copy(update={"path": changed})})
    with pytest.raises(BadConfig, match=r"last.safetensors: digest of the data is "):
        train(elsewhere, quiet=True, resume=True)
    (begun / CHECKPOINT_FILE).write_bytes(b"not one")
    with pytest.raises(BadConfig, match=r"last.safetensors is not a checkpoint"):
        train(config, quiet=True, resume=True)
    assert content(train(config, quiet=True, force=True)) == content(whole)
    with pytest.raises(BadConfig, match="a new folder, or --force"):
        train(config, quiet=True, resume=True)


def test_a_folder_that_is_no_run_is_left_alone(config):
    begun = unfinished(config.run_path)
    begun.mkdir()
    (begun / "thesis.tex").write_text("mine")
    for settings in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(BadConfig, match="is not the beginning of a run"):
            train(config, quiet=True, **settings)
    assert (begun / "thesis.tex").read_text() == "mine"


def test_nothing_to_resume_is_a_start(whole, config):
    assert content(train(config, quiet=True, resume=True)) == content(whole)


def test_a_run_killed_after_its_last_epoch_only_has_to_be_written(whole, config, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(fit, "finish_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, quiet=True)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "watcher_for", lambda *_: At(1, lambda: pytest.fail("it trains again")))
        assert content(train(config, quiet=True, resume=True)) == content(whole)


def test_a_full_disk_stops_the_training_and_leaves_the_last_good_checkpoint(whole, config, monkeypatch):
    """Files may not grow from the 5th step on; a real full disk says "No space left on device" in its place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patched:
        full = At(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1])))
        patched.setattr(fit, "watcher_for", lambda *_: full)
        try:
            with pytest.raises(OSError, match=r"last.safetensors cannot be written .* the last good checkpoint is .*last.safe"):
                train(config, quiet=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert content(train(config, quiet=True, resume=True)) == content(whole)


def test_a_diverged_run_says_where_and_keeps_its_checkpoint(config, monkeypatch):
    """Weights become infinite after 10 steps: step 11 is the 4th of epoch 2."""
    loops = []

    def spoil() -> None:
        loops[0].network.model.head.weight.data[0] = float("inf")

    start = Loop.on_train_start
    monkeypatch.setattr(Loop, "on_train_start", lambda self: (loops.append(self), start(self))[1])
    monkeypatch.setattr(fit, "watcher_for", lambda *_: At(10, spoil))
    wanted = (
        r"loss at step 4 of epoch 2 \(label 'tone'\) is nan; expected a finite number; fit.learning_rate is 0.01: lower it.*"
        r"the last good checkpoint is .*last.safetensors"
    )
    with pytest.raises(BadConfig, match=wanted):
        train(config, quiet=True)
    assert (unfinished(config.run_path) / CHECKPOINT_FILE).exists()


def test_the_command_stops_with_the_signals_code_and_says_how_to_go_on(config, tmp_path, monkeypatch, whole):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with monkeypatch.context() as patched:
        patched.setattr(fit, "watcher_for", lambda *_: At(9, lambda: signal.raise_signal(signal.SIGTERM)))
        stopped = CliRunner().invoke(app, ["train", str(tmp_path / "train.yaml"), "--quiet"])
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "stopped in epoch 2, after step 3 of 7; `cutpoint train ... --resume` goes on from " in stopped.stderr
    again = CliRunner().invoke(app, ["train", str(tmp_path / "train.yaml"), "--quiet", "--resume"])
    assert again.exit_code == 0, again.output
    assert content(read_run(config.run_path)) == content(whole)
    shutil.rmtree(config.run_path)
