"""The commands as a user types them, in processes of their own, and what a running server's /metrics says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from cutpoint.errors import CutpointError
from cutpoint.terminal import console as make_console

console = make_console()


@dataclass(frozen=True)
class Live:
    """One label's counts since the server started."""

    decisions: float
    positives: float
    expected: float

    def since(self, earlier: "Live") -> "Live":
        """The counts between two scrapes."""
        return Live(self.decisions - earlier.decisions, self.positives - earlier.positives, self.expected - earlier.expected)

    def __str__(self) -> str:
        rate, expected = self.positives / self.decisions, self.expected / self.decisions
        return f"live {rate:.4f} ({self.positives:.0f} of {self.decisions:.0f} windows), expected {expected:.4f}"


def say(text: str) -> None:
    """One line of a stage."""
    console.print(f"  {text}")


def command(*arguments: object) -> None:
    """Run a `cutpoint` command with this terminal as its own; CutpointError where it fails."""
    words = [str(argument) for argument in arguments]
    say(f"[bold]$ cutpoint {' '.join(words)}[/bold]")
    done = subprocess.run([sys.executable, "-m", "cutpoint.cli", *words], check=False)
    if done.returncode:
        raise CutpointError(f"cutpoint {words[0]} failed with exit code {done.returncode}; its message is above")


@contextmanager
def serving(models: Path, log: Path, *flags: object) -> Iterator[tuple[str, str]]:
    """A `cutpoint serve` on free ports, with more flags of it: its gRPC target and its metrics URL; stopped by SIGTERM."""
    words = ["serve", "--models", str(models), "--port", "0", "--metrics-port", "0", *map(str, flags)]
    say(f"[bold]$ cutpoint {' '.join(words)}[/bold]")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cutpoint.cli", *words], stdout=subprocess.PIPE, stderr=file, text=True
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.match(r"serving grpc=(\S+) metrics=(\S+)", line)
        if found is None:
            raise CutpointError(f"cutpoint serve did not start:\n{log.read_text()}")
        say(line.strip())
        yield found[1], found[2]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def scrape(metrics_url: str, label: str) -> Live:
    """What /metrics says of a label of the only model."""
    with urlopen(metrics_url, timeout=10) as answer:
        text = answer.read().decode()
    names = ("cutpoint_decisions_total", "cutpoint_positives_total", "cutpoint_expected_positives_total")
    found = [re.search(rf'^{name}\{{[^}}]*label="{re.escape(label)}"[^}}]*\}} (\S+)$', text, re.MULTILINE) for name in names]
    return Live(*(float(match[1]) if match else 0.0 for match in found))
