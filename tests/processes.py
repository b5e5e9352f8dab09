"""Real processes: the commands as a user runs them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("proto", "core", "server", "trainer", "client"))
}


def cutpoint(*arguments: object, cwd: Path | None = None, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a `cutpoint` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cutpoint.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=timeout_s, check=False,
    )  # fmt: skip


def run_script(script: Path, *arguments: object, python: str | Path = sys.executable, timeout_s: float = 300) -> Any:
    """The line of JSON that a client's script prints last; in a process without our folders on its path, as its user has it."""
    done = subprocess.run(
        [str(python), str(script), *map(str, arguments)],
        env={name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"},
        capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # libraries may print too


@dataclass(frozen=True)
class ServerProcess:
    """A `cutpoint serve` that is ready."""

    target: str
    metrics_url: str
    process: subprocess.Popen[str]

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        with urlopen(self.metrics_url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


@contextmanager
def serving(models: Path, *arguments: object) -> Iterator[ServerProcess]:
    """A server process on free ports, killed at the end unless it has exited; its log goes to `<models>/../server.log`."""
    with (models.parent / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cutpoint.cli", "serve", "--models", str(models), "--port", "0", "--metrics-port", "0",
             *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=log, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"serving grpc=(\S+) metrics=(\S+)\n", line)
            assert found, f"{line!r}; log: {(models.parent / 'server.log').read_text()}"
            yield ServerProcess(found[1], found[2], process)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
