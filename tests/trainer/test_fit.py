"""Training: repeatable, silent, whole or not at all, and clear about bad data."""

import io
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from cutpoint.errors import BadConfig, BadData
from cutpoint.trainer import read_run, train
from cutpoint.trainer.progress import Silence, watcher_for
from cutpoint.trainer.run import CHECKPOINT_FILE, Epoch, unfinished
from rich.console import Console
from safetensors.torch import load_file


def test_the_same_seed_gives_the_same_bits(configure, tmp_path, capfd):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    runs = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        config = configure(
            "windows", seed=seed, sampler="weighted", fit={"epochs": 2, "batch_size": 8}, out=str(tmp_path / name)
        )
        runs.append(train(config, quiet=True))
    first, same, other = (load_file(run.path / "weights.safetensors") for run in runs)
    assert all((first[key].numpy().tobytes() == same[key].numpy().tobytes()) for key in first)
    assert any((first[key] != other[key]).any() for key in first)
    losses = [[(e.loss, e.valid_ap, e.valid_loss) for e in run.record.history] for run in runs]
    assert losses[0] == losses[1] != losses[2]
    assert (torch.get_rng_state() == before).all()
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "lightning_logs").exists()


def test_a_run_folder_reads_back(configure):
    config = configure("rows", fit={"epochs": 2, "batch_size": 64, "threads": 1})
    text = io.StringIO()
    run = train(config, console=Console(file=text, width=200))
    said = text.getvalue()
    assert re.search(r"rows +901 +299 +300 *\n *positives of fault +118 +39 +37 *\n", said)
    assert re.search(r"fault +0.1\d+ +0.1\d+ +[\d.]+ +\+[\d.]+", said)  # the prior table
    assert [line[:16] for line in said.splitlines()[-2:]] == ["epoch 1/2  loss ", "epoch 2/2  loss "]
    again = read_run(config.run_path)
    assert again.record == run.record
    assert again.config.model_dump(exclude={"data"}) == config.model_dump(exclude={"data"})
    assert again.config.data.path.is_absolute()
    assert (again.path / "history.csv").read_text().count("\n") == 3
    assert run.record.labels == ("fault",)
    dealt = np.concatenate([run.rows(split) for split in ("train", "valid", "test")])
    assert (np.sort(dealt) == np.arange(1500)).all()
    with pytest.raises(BadConfig, match="one of train, valid, test"):
        run.rows("holdout")


def test_an_existing_run_is_kept_unless_forced(configure):
    config = configure("rows", fit={"epochs": 1})
    train(config, quiet=True)
    before = (config.run_path / "run.json").read_bytes()
    with pytest.raises(BadConfig, match="--force"):
        train(config, quiet=True)
    diverging = configure("rows", fit={"epochs": 3, "learning_rate": 1e30})
    with pytest.raises(BadConfig, match=r"of epoch \d.* fit.learning_rate is 1e\+30: lower it"):
        train(diverging, force=True, quiet=True)
    assert (config.run_path / "run.json").read_bytes() == before
    train(configure("rows", seed=1, fit={"epochs": 1}), force=True, quiet=True)
    assert (config.run_path / "run.json").read_bytes() != before
    assert [entry.name for entry in config.run_path.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("back", [True, False])
def test_a_run_that_cannot_be_replaced_is_not_lost(configure, monkeypatch, back):
    config = configure("rows", fit={"epochs": 1, "batch_size": 512})
    first, rename = train(config, quiet=True), os.rename

    def refuse(source: Path, target: Path) -> None:
        if source != unfinished(first.path):
            return rename(source, target)
        assert not first.path.exists()
        if not back:  # somebody made a folder in the meantime, so that the old run cannot be put back
            first.path.mkdir()
            (first.path / "thesis.tex").write_text("mine")
        raise OSError(5, "Input/output error")

    said = "Input/output error" if back else r"run\.unfinished cannot be renamed .*; the run that was there is .*/run$"
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match=said) as failed:
            train(config, force=True, quiet=True)
    kept = first.path if back else Path(str(failed.value).rsplit(" ", 1)[1])
    assert read_run(kept).record == first.record
    assert (unfinished(first.path) / CHECKPOINT_FILE).exists()
    if back:
        assert {each.name for each in first.path.parent.iterdir()} == {"run", "run.unfinished"}
        assert train(config, force=True, quiet=True, resume=True).record.history[0].loss == first.record.history[0].loss


def test_only_a_run_is_ever_replaced(configure):
    config = configure("rows", fit={"epochs": 1})
    config.run_path.mkdir()
    (config.run_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadConfig, match="a run folder to replace"):
        train(config, force=True, quiet=True)
    assert (config.run_path / "thesis.tex").read_text() == "mine"


def test_damaged_runs_are_refused(configure, tmp_path):
    from cutpoint.trainer.export import load_served

    run = train(configure("rows", fit={"epochs": 1}), quiet=True)
    with pytest.raises(BadConfig, match="that `cutpoint train` wrote"):
        read_run(tmp_path)
    weights = run.path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(BadConfig, match=r"weights.safetensors: "):
        load_served(read_run(run.path))
    weights.unlink()
    with pytest.raises(BadConfig, match=r"weights.safetensors: "):
        load_served(read_run(run.path))
    (run.path / "run.json").write_text((run.path / "run.json").read_text()[:-20])
    with pytest.raises(BadConfig, match=r"run.json: "):
        read_run(run.path)


def test_a_prior_that_is_shifted_twice_is_said_at_the_start_and_kept_in_the_notes(configure):
    text = io.StringIO()
    loss = {"name": "weighted_bce", "pos_weight": 9.0}
    config = configure("rows", sampler="weighted", loss=loss, fit={"epochs": 1})
    run = train(config, console=Console(file=text, width=200))
    (note,) = [note for note in run.record.notes if "SHIFTED TWICE" in note]
    assert "fault: rate" in note
    assert text.getvalue().index("THE PRIOR IS SHIFTED TWICE") < text.getvalue().index("epoch 1/1")
    assert not any("TWICE" in note for note in train(configure("rows", fit={"epochs": 1}), quiet=True, force=True).record.notes)


def rows(**changes: object) -> dict:
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(200, 4)).astype(np.float32), "y": (rng.random(200) < 0.2).astype(np.int8)}
    return {**arrays, **changes}


NAN = rows()["x"]
NAN[17, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (rows(x=NAN), r"x\[17, 2\] is nan; expected a finite number"),
        (rows(y=np.zeros(200)), "positives of label '0' in split train"),
        (rows(y=np.ones(200)), "negatives of label '0' in split train"),
        (rows(y=np.full(200, -1)), "nothing labelled"),
        (rows(y=np.full(200, 2)), "0, 1, or -1"),
        ({"x": rows()["x"]}, "without 'y'"),
        (rows(y=np.zeros((200, 2))), r"y is of shape \[200, 2\]; expected \[row, 1\] for task binary"),
        (rows(x=np.array([{"a": 1}] * 200, dtype=object)), "a pickled object array"),
        (rows(x=np.zeros((200, 4, 3))), r"expected \[row, feature\]"),
    ],
)
def test_bad_data(configure, tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadData, match=message):
        train(configure("rows", data={"path": str(path)}), quiet=True)
    assert not (tmp_path / "run").exists()


def test_data_that_are_missing_or_no_archive(configure, tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name in ("none.npz", "text.npz"):
        with pytest.raises(BadData, match=name):
            train(configure("rows", data={"path": str(tmp_path / name)}), quiet=True)


def test_two_classes_take_one_label(configure, data):
    with pytest.raises(BadData, match="2 labels; expected 1 label for loss weighted_ce"):
        path = data / "two.npz"
        np.savez(path, x=np.zeros((20, 3, 8)), y=np.zeros((20, 3, 2)))
        train(configure("windows", data={"path": str(path)}, loss={"name": "weighted_ce"}), quiet=True)


def test_a_folder_of_npy_trains_as_the_npz_does(configure, data, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with np.load(data / "rows.npz") as archive:
        for key in archive.files:
            np.save(folder / f"{key}.npy", archive[key])
    fit = {"epochs": 1, "batch_size": 64}
    one = train(configure("rows", fit=fit, out=str(tmp_path / "one")), quiet=True)
    two = train(configure("rows", fit=fit, out=str(tmp_path / "two"), data={"path": str(folder)}), quiet=True)
    assert one.record.data_digest == two.record.data_digest
    assert one.record.history[0].loss == two.record.history[0].loss


def test_data_larger_than_memory_are_streamed(configure, tmp_path):
    """256 MiB of data where 192 MiB may be allocated: only what is mapped from a file is free."""
    folder = tmp_path / "large"
    folder.mkdir()
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (64, 10, 104_858))  # a hole in the file, but for a few
    x[:, :, ::4096] = np.random.default_rng(0).normal(size=(64, 10, 26))
    x.flush()
    np.save(folder / "y.npy", (np.random.default_rng(0).random((64, 10)) < 0.2).astype(np.uint8))
    model = {"kind": "window_encoder", "channels": [4], "kernels": [9], "strides": [512], "context": 0, "normalize": "none"}
    fit = {"epochs": 1, "batch_size": 2, "threads": 1}
    config = configure("windows", data={"path": str(folder)}, split={"by": "random"}, model=model, fit=fit)
    train(
        configure("windows", fit={"epochs": 1, "threads": 1}, out=str(tmp_path / "first")), quiet=True
    )  # imports are not counted
    used_kib = int(re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, ((used_kib << 10) + (192 << 20), before[1]))
    try:
        with pytest.raises(MemoryError):
            np.array(x)
        train(config, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def test_patience_stops_early(configure):
    run = train(configure("rows", fit={"epochs": 40, "batch_size": 512, "learning_rate": 1e-9, "patience": 3}), quiet=True)
    assert run.record.best_epoch + 3 == len(run.record.history) < 40


def test_a_bar_on_a_terminal_lines_elsewhere():
    text = io.StringIO()
    bar = watcher_for(Console(file=text, force_terminal=True, width=120))
    bar.begin(1, 2)
    bar.step()
    bar.epoch(Epoch(epoch=1, loss=0.5, valid_ap=0.25, valid_loss=0.1, seconds=1), True)
    bar.end()
    assert "valid AP 0.2500" in text.getvalue()
    assert isinstance(watcher_for(Console(), quiet=True), Silence)
