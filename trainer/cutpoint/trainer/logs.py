"""The course of a training, written as it goes: CSV, and TensorBoard's event files.

    steps.csv    epoch, step in it, loss and learning rate of every optimiser step
    epochs.csv   the history, and the validation AP of the first labels

A run that is resumed goes on in them: what was written after the checkpoint that it goes on from is taken out.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from cutpoint.errors import MissingPart
from cutpoint.terminal import SHOWN_LABELS

from .config.fit import Log
from .run import Epoch

STEPS_FILE, EPOCHS_FILE = "steps.csv", "epochs.csv"


class Writer(Protocol):
    """What the training loop tells."""

    def step(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """One optimiser step is done, both from 1."""

    def epoch(self, epoch: Epoch, label_ap: Sequence[float]) -> None:
        """One epoch is done; `label_ap` [label] is NaN for labels without positives."""

    def flush(self) -> None:
        """All that was told must be on its way to the disk."""

    def close(self) -> None:
        """The training is over, well or not."""


class CsvWriter:
    """The two CSV files in `folder`; goes on after `step` of `epoch`, both from 1, or `epoch` 0 for the start."""

    def __init__(self, folder: Path, labels: Sequence[str], epoch: int, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shown = [f"valid_ap {name}" for name in labels[:SHOWN_LABELS]]
        done = (epoch, step)
        self.files = [
            _go_on(
                folder / STEPS_FILE, ["epoch", "step", "loss", "learning_rate"], lambda row: (int(row[0]), int(row[1])) <= done
            ),
            _go_on(folder / EPOCHS_FILE, [*Epoch.model_fields, *shown], lambda row: int(row[0]) < epoch),
        ]
        self.steps, self.epochs = (csv.writer(file, lineterminator="\n") for file in self.files)

    def step(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """Add a line."""
        with _naming(self.files[0]):
            self.steps.writerow([epoch, step, loss, rate])

    def epoch(self, epoch: Epoch, label_ap: Sequence[float]) -> None:
        """Add a line."""
        with _naming(self.files[1]):
            self.epochs.writerow([*epoch.model_dump().values(), *label_ap[:SHOWN_LABELS]])

    def flush(self) -> None:
        """Hand the lines to the system."""
        for file in self.files:
            with _naming(file):
                file.flush()

    def close(self) -> None:
        """Close both."""
        for file in self.files:
            with suppress(OSError):  # all was flushed with the last checkpoint; what failed before it has been said
                file.close()


class TensorBoardWriter:
    """Event files in `folder`, through tensorboardX; goes on after `done` steps."""

    def __init__(self, folder: Path, labels: Sequence[str], done: int) -> None:
        try:
            from tensorboardX import SummaryWriter  # imported only where it is wanted
        except ModuleNotFoundError as error:
            raise MissingPart("fit.log tensorboard needs the package tensorboardX: pip install 'cutpoint[trainer]'") from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=done + 1 if done else None, write_to_disk=True)
        self.labels, self.done = list(labels[:SHOWN_LABELS]), done

    def step(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """Add two points, at the number of steps since the start."""
        self.done += 1
        self.writer.add_scalar("train/loss", loss, self.done)
        self.writer.add_scalar("train/learning_rate", rate, self.done)

    def epoch(self, epoch: Epoch, label_ap: Sequence[float]) -> None:
        """Add a point for each figure."""
        self.writer.add_scalar("valid/ap", epoch.valid_ap, self.done)
        self.writer.add_scalar("valid/log_loss", epoch.valid_loss, self.done)
        for name, value in zip(self.labels, label_ap, strict=False):
            self.writer.add_scalar(f"valid_ap/{name}", value, self.done)

    def flush(self) -> None:
        """Hand the events to the system."""
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def open_logs(folder: Path, kinds: Sequence[Log], labels: Sequence[str], epoch: int, step: int, steps: int) -> list[Writer]:
    """The writers that `kinds` name; they go on after `epoch` epochs of `steps` steps and `step` steps of the next."""
    writers: list[Writer] = []
    if "csv" in kinds:
        writers.append(CsvWriter(folder, labels, epoch + 1, step))
    if "tensorboard" in kinds:
        writers.append(TensorBoardWriter(folder, labels, epoch * steps + step))
    return writers


@contextmanager
def _naming(file: TextIO) -> Iterator[None]:
    """An OSError within, of a full disk say, names the file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _go_on(path: Path, head: list[str], keep: Callable[[list[str]], bool]) -> TextIO:
    rows = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            # A line that a kill cut short has fewer fields, and lies after the checkpoint.
            rows = [row for row in list(csv.reader(file))[1:] if len(row) == len(head) and keep(row)]
    file = path.open("w", newline="", encoding="utf-8")
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    return file
