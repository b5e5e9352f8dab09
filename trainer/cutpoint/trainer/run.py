"""A run folder: what one training left behind, and all that an export needs.

    config.yaml           the configuration, every default written out
    weights.safetensors   parameters and buffers of the network, the best epoch's
    run.json              this record
    history.csv           one line an epoch
    rows/                 the splits of run.json again, one .npy each
    logs/                 the course of the training, step by step

It appears whole: while the training lasts it is `<run>.unfinished`, where checkpoints lie too, and is renamed at the end.
Nothing in it is pickled.
"""

import csv
import importlib.metadata
import io
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
from cutpoint.bundle import LabelPrior, Task, write_whole
from cutpoint.bundle.files import sync_folder
from cutpoint.dataset import SPLITS
from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from .config import Config, read_config

FORMAT: Literal[1] = 1
CONFIG_FILE, WEIGHTS_FILE, RUN_FILE, HISTORY_FILE = "config.yaml", "weights.safetensors", "run.json", "history.csv"
ROWS_FOLDER = "rows"  # for `--rows` and numpy.load
LOGS_FOLDER = "logs"
CHECKPOINT_FILE = "checkpoints/last.safetensors"


class Epoch(Record):
    """One line of the history.

    Attributes:
        epoch: from 1.
        loss: mean training loss.
        valid_ap: average precision on the validation split, the mean over the labels that have positives there, 0 to 1.
        valid_loss: log loss on the validation split of logits with the prior undone as far as is known in training (what is
            matched or fitted comes after it), in nats per labelled entry.
        seconds: since the training began.
    """

    epoch: int
    loss: float
    valid_ap: float
    valid_loss: float
    seconds: float


class RunRecord(Record):
    """The content of run.json.

    Attributes:
        x_shape: of one row of x.
        splits: row indices by split name.
        best_epoch: the one whose weights were kept.
        valid_ap: at that epoch.
        seconds: that the command took, the last one of a run that was resumed.
        notes: what a person should know: labels without positives in valid or test, a prior that is shifted twice.
    """

    format: Literal[1] = FORMAT
    task: Task
    labels: tuple[str, ...] = Field(min_length=1)
    x_shape: tuple[int, ...]
    splits: dict[str, tuple[int, ...]]
    priors: tuple[LabelPrior, ...]
    history: tuple[Epoch, ...]
    best_epoch: int
    valid_ap: float
    seconds: float
    data_digest: str
    config_digest: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()


class Run:
    """A run folder that has been read."""

    def __init__(self, path: Path, config: Config, record: RunRecord) -> None:
        self.path, self.config, self.record = path, config, record

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row indices of a split, int64; BadConfig for a name that the run does not have."""
        if split not in self.record.splits:
            raise BadConfig.of("split", split, f"one of {', '.join(self.record.splits)}, the splits of {self.path}")
        return np.array(self.record.splits[split], np.int64)

    def load_weights(self, network: nn.Module) -> None:
        """Put the saved parameters and buffers into `network`; BadConfig where the file is missing or does not fit."""
        file = self.path / WEIGHTS_FILE
        try:
            load_model(network, file)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise BadConfig(
                f"{file}: {' '.join(str(error).split())[:300]}; expected the weights of {self.config.model.kind}"
            ) from error


def unfinished(path: Path) -> Path:
    """Where the run folder `path` lies while its training lasts."""
    return path.with_name(path.name + ".unfinished")


def check_free(path: Path, force: bool, resume: bool = False) -> None:
    """Raise BadConfig, before any work, when the run folder `path` may not be written.

    It exists, and there is no `force` or it is no run; or an unfinished run is there, and neither `force` nor `resume`.
    """
    if path.exists() and not (force and (path / RUN_FILE).is_file()):
        expected = "a run folder to replace" if force else "a new folder, or --force to replace the run"
        raise BadConfig.of("out", f"{path} (exists)", expected)
    begun = unfinished(path)
    if begun.exists() and not (begun / CONFIG_FILE).is_file() and any(begun.iterdir()):
        raise BadConfig.of("out", f"{path}, but {begun} exists", "another folder: that one is not the beginning of a run")
    if begun.exists() and not (force or resume):
        raise BadConfig.of("out", f"{path}, but {begun} exists", "--resume to go on with that run, or --force to start again")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:  # now, and not after the training
        raise BadConfig.of("out", f"{path} ({error.strerror})", "a folder that can be written") from error


def begin_run(path: Path, config: Config, resume: bool) -> Path:
    """Make the folder of the unfinished run, or with `resume` keep the one that is there, and return it."""
    begun = unfinished(path)
    if not resume:
        shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True, exist_ok=True)
    if not (begun / CHECKPOINT_FILE).exists():  # a checkpoint keeps the configuration that it was made by
        write_whole(begun / CONFIG_FILE, config.to_yaml().encode())
    return begun


def abandon_run(path: Path) -> None:
    """Delete the unfinished run, unless there is a checkpoint in it to go on from."""
    if not (unfinished(path) / CHECKPOINT_FILE).exists():
        shutil.rmtree(unfinished(path), ignore_errors=True)


def finish_run(path: Path, config: Config, record: RunRecord, network: nn.Module, force: bool = False) -> Run:
    """Complete the unfinished run and rename it to `path`; an existing run is replaced when `force`, and stays until then.

    Raises:
        OSError: a file cannot be written, or the folder not renamed; the checkpoint of the last epoch is still there, and so
            is the run that was to be replaced.
    """
    check_free(path, force, resume=True)
    begun = unfinished(path)
    try:
        (begun / CONFIG_FILE).write_text(config.to_yaml(), encoding="utf-8")
        (begun / RUN_FILE).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (begun / HISTORY_FILE).write_text(_history_csv(record), encoding="utf-8")
        (begun / ROWS_FOLDER).mkdir(exist_ok=True)
        for split, rows in record.splits.items():
            np.save(begun / ROWS_FOLDER / f"{split}.npy", np.array(rows, np.int64))
        save_model(network, str(begun / WEIGHTS_FILE))
        _sync(begun)  # before the checkpoint, which is synced, goes
    except (OSError, SafetensorError) as error:
        problem = " ".join(str(error).split())
        raise OSError(
            f"{begun} cannot be completed ({problem}); the training is done: --resume only has to write it"
        ) from error
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    replaced = old / "run"
    try:
        if path.exists():
            path.rename(replaced)
        os.rename(begun, path)  # noqa: PTH104  # Path.rename says no more, and this refuses a folder that appeared meanwhile
    except OSError as error:
        with suppress(OSError):
            replaced.rename(path)
        if replaced.exists():
            raise OSError(f"{begun} cannot be renamed to {path} ({error}); the run that was there is {replaced}") from error
        old.rmdir()
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree((path / CHECKPOINT_FILE).parent, ignore_errors=True)  # last: until here a kill left all to go on from
    return Run(path, config, record)


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        BadConfig: it is none, or a file in it is missing, truncated or of another format.
    """
    path = Path(path)
    file = path / RUN_FILE
    if not file.is_file():
        raise BadConfig.of("run folder", str(path), f"a folder that `cutpoint train` wrote, with {RUN_FILE}")
    try:
        record = RunRecord.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise BadConfig(f"{file}: {first_problem(error)}") from error
    if set(record.splits) != set(SPLITS):
        raise BadConfig.of(f"{file}: splits", sorted(record.splits), f"{sorted(SPLITS)}")
    return Run(path, read_config(path / CONFIG_FILE), record)


def versions_of(parts: Iterable[str]) -> dict[str, str]:
    """Version by distribution name; "source" for what is imported without being installed, as in a checkout."""
    found = {}
    for part in parts:
        try:
            found[part] = importlib.metadata.version(part)
        except importlib.metadata.PackageNotFoundError:
            found[part] = "source"
    return found


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _history_csv(record: RunRecord) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Epoch.model_fields)
    writer.writerows(epoch.model_dump().values() for epoch in record.history)
    return text.getvalue()
