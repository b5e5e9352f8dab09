"""The other end of a worker: an interpreter that was started, asked and ended."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bundle import Machine, Way
from ..errors import BadConfig, CutpointError, InternalError

_MODULE = "cutpoint.tune.worker"


class Process:
    """An interpreter with the server in it, in which sessions run."""

    def __init__(self, python: Path | None = None) -> None:
        """Start `python`, or this interpreter.

        Raises:
            BadConfig: it cannot be started, or has no `cutpoint.server`.
        """
        self.python = Path(sys.executable) if python is None else python
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                [str(self.python), "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                text=True, encoding="utf-8",
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise BadConfig.of(
                "--python", f"{self.python} ({error.strerror})", "an interpreter with cutpoint[server]"
            ) from error
        try:
            self.machine = Machine.model_validate(self._ask("machine"))
        except CutpointError as error:
            self.close()
            raise BadConfig.of(
                "--python", f"{self.python} ({error})", "an interpreter with the server part of this Cutpoint"
            ) from error

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the process; what it runs is not waited for."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def requests(self, x: Path, callers: int, rows: int) -> None:
        """What the callers ask: `rows` rows each, taken in turn from an .npy file."""
        self._ask("requests", x=str(x), callers=callers, rows=rows)

    def open(self, name: str, model: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """A session of `model`; says `narrow_s`, whether `wide` runs exist, and whether it is `batchable`.

        Raises:
            BadConfig: the provider cannot be had, or does not know the graph.
        """
        found: dict[str, Any] = self._ask("open", id=name, model=str(model), settings=settings)
        return found

    def logits(self, name: str, x: Path, to: Path) -> tuple[NDArray[np.float32], float]:
        """Logits of the rows in an .npy file, written to another; and the most that a batch moves a logit of a row."""
        moved = self._ask("logits", id=name, x=str(x), to=str(to))
        return np.load(to), float(moved)

    def busy(self, name: str, way: Way, seconds: float) -> tuple[float, float]:
        """Rows a second, and ms of processor time a row."""
        rate, cpu_ms = self._ask("busy", id=name, way=way.model_dump(mode="json"), seconds=seconds)
        return float(rate), float(cpu_ms)

    def idle(self, name: str, way: Way, wide: bool, seconds: float) -> float:
        """The median ms of a request."""
        return float(self._ask("idle", id=name, way=way.model_dump(mode="json"), wide=wide, seconds=seconds))

    def _ask(self, what: str, **job: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        try:
            self._process.stdin.write(json.dumps({"do": what, **job}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise InternalError(f"the process that measures ended: {self._last_words()}")
        said = json.loads(line)
        if "error" in said:
            raise BadConfig(said["error"])
        return said["ok"]

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0, os.SEEK_SET)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return lines[-1][-300:] if lines else f"exit code {code}"
