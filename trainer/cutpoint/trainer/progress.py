"""What a person sees while a model trains: a bar on a terminal, lines elsewhere, or nothing."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .run import Epoch


class Watcher(Protocol):
    """What the training loop tells."""

    def begin(self, epochs: int, steps: int, done: int = 0) -> None:
        """Training starts: at most `epochs` of `steps` steps each, `done` of them before it was interrupted."""

    def step(self) -> None:
        """One optimiser step is done."""

    def epoch(self, epoch: Epoch, kept: bool) -> None:
        """One epoch is done; `kept`: its weights are those to keep so far."""

    def end(self) -> None:
        """Training is over, well or not."""


class Silence:
    """Tells nothing."""

    def begin(self, epochs: int, steps: int, done: int = 0) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""

    def epoch(self, epoch: Epoch, kept: bool) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Lines(Silence):
    """One line an epoch, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console, self.epochs = console, 0

    def begin(self, epochs: int, steps: int, done: int = 0) -> None:
        """Remember how many epochs there will be."""
        self.epochs = epochs

    def epoch(self, epoch: Epoch, kept: bool) -> None:
        """Print the line."""
        mark = "  kept" if kept else ""
        figures = f"loss {epoch.loss:.4f}  valid AP {epoch.valid_ap:.4f}  log loss {epoch.valid_loss:.4f}"
        self.console.print(f"epoch {epoch.epoch}/{self.epochs}  {figures}  {epoch.seconds:.1f} s{mark}", highlight=False)


class Bar(Silence):
    """A bar of steps over all epochs."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self.kept_ap = 0.0

    def begin(self, epochs: int, steps: int, done: int = 0) -> None:
        """Show the bar."""
        self.task = self.bar.add_task("", total=epochs * steps, completed=done)
        self.bar.start()

    def step(self) -> None:
        """Move it by one."""
        self.bar.advance(self.task)

    def epoch(self, epoch: Epoch, kept: bool) -> None:
        """Say what the epoch gave."""
        self.kept_ap = epoch.valid_ap if kept else self.kept_ap
        text = f"epoch {epoch.epoch}  loss {epoch.loss:.4f}  valid AP {epoch.valid_ap:.4f} (kept {self.kept_ap:.4f})"
        self.bar.update(self.task, description=text)

    def end(self) -> None:
        """Take the bar away."""
        self.bar.stop()


def watcher_for(console: Console, quiet: bool = False) -> Watcher:
    """A bar when `console` is a terminal, lines when it is not, silence when `quiet`."""
    if quiet:
        return Silence()
    return Bar(console) if console.is_terminal else Lines(console)
