"""The process that measures: an interpreter with the server and one build of onnxruntime, and nothing of the trainer.

`python -m cutpoint.tune.worker` reads a job a line from standard input, JSON, and writes an answer a line: {"ok": ...} or
{"error": ...}. A job is {"do": NAME, ...}:

    machine                                                 what this is
    open      id, model, settings, lanes                    a session; its name is id. ok: seconds of a run of one request
    logits    id, x, to                                     of the rows in x.npy, as to.npy; ok: how far batches move a row
    busy      id, way, seconds                              rows a second, and ms of processor time a row
    idle      id, way, wide, seconds                        median ms
    requests  x, callers, rows                              what the callers ask, from x.npy; before `open`
"""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from cutpoint.server.runs.provider_settings import ProviderSettings
from cutpoint.server.runs.rows import row_invariance
from cutpoint.server.runs.session import OnnxSession
from cutpoint.server.serving.profiled import this_machine
from numpy.typing import NDArray

from ..bundle import Way
from ..errors import BadBundle, CutpointError
from .speed import Narrow, Request, busy_rate, idle_p50_ms

LOGITS = "logits"
_BATCH_BYTES = 16 << 20
_SIZES = (8, 3, 2, 32)


class _Opened:
    def __init__(self, session: OnnxSession, narrow_s: float) -> None:
        self.session, self.narrow_s = session, narrow_s
        tensors = (*session.inputs, *session.outputs)
        self.batchable = all(spec.shape and spec.shape[0] == -1 for spec in tensors)


class Worker:
    """Sessions by name, and what is asked of them."""

    def __init__(self) -> None:
        """Nothing is open yet."""
        self._opened: dict[str, _Opened] = {}
        self._x: list[NDArray[np.float32]] = []

    def answer(self, job: dict[str, Any]) -> Any:
        """What a job gives."""
        found: Any = getattr(self, f"_{job.pop('do')}")(**job)
        return found

    def _machine(self) -> dict[str, Any]:
        return this_machine().model_dump(mode="json")

    def _requests(self, x: str, callers: int, rows: int) -> None:
        found = np.load(x)
        at = np.arange(callers * rows) % len(found)
        self._x = [np.ascontiguousarray(found[part]) for part in at.reshape(callers, rows)]

    def _open(self, id: str, model: str, settings: dict[str, Any]) -> dict[str, Any]:
        session = OnnxSession(Path(model), ProviderSettings.model_validate(settings))
        if len(session.inputs) != 1 or session.inputs[0].datatype != "FP32":
            raise BadBundle.of(f"{model}: inputs", [f"{i.name} {i.datatype}" for i in session.inputs], "one of float32")
        if LOGITS not in [spec.name for spec in session.outputs]:
            raise BadBundle.of(f"{model}: outputs", [spec.name for spec in session.outputs], f"one named '{LOGITS}'")
        request = {session.inputs[0].name: self._x[0]}
        speed = session.prepare(request, wide=session.settings.wide_cores > 1)
        self._opened[id] = _Opened(session, speed.narrow_s)
        return {"narrow_s": speed.narrow_s, "wide": speed.wide_s is not None, "batchable": self._opened[id].batchable}

    def _logits(self, id: str, x: str, to: str) -> float:
        opened, rows = self._opened[id], np.load(x, mmap_mode="r")
        name = opened.session.inputs[0].name
        size = max(1, min(32, _BATCH_BYTES // max(1, rows[:1].nbytes))) if opened.batchable else 1
        found = [
            opened.session.run({name: np.ascontiguousarray(rows[at : at + size])})[LOGITS] for at in range(0, len(rows), size)
        ]
        np.save(to, np.concatenate(found))
        if not opened.batchable:
            return 0.0
        return row_invariance(opened.session, {name: np.ascontiguousarray(rows[:4])}, _SIZES)

    def _busy(self, id: str, way: dict[str, Any], seconds: float) -> tuple[float, float]:
        opened = self._opened[id]
        return busy_rate(
            opened.session, Way.model_validate(way), self._asked(opened), seconds, narrow_s=opened.narrow_s,
            batchable=opened.batchable,
        )  # fmt: skip

    def _idle(self, id: str, way: dict[str, Any], wide: bool, seconds: float) -> float:
        opened = self._opened[id]
        session = opened.session if wide else Narrow(opened.session)
        return idle_p50_ms(
            session, Way.model_validate(way), self._asked(opened), seconds, narrow_s=opened.narrow_s, batchable=opened.batchable
        )

    def _asked(self, opened: _Opened) -> list[Request]:
        name = opened.session.inputs[0].name
        return [{name: x} for x in self._x]


def serve(jobs: IO[str], answers: IO[str]) -> None:
    """Answer job after job, until there are no more."""
    worker = Worker()
    for line in jobs:
        try:
            said: dict[str, Any] = {"ok": worker.answer(json.loads(line))}
        except CutpointError as error:
            said = {"error": str(error)}
        except Exception as error:  # onnxruntime raises a dozen classes without a common parent
            said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def main() -> None:
    """Answer on what was standard output; what libraries print goes to standard error."""
    logging.basicConfig(level=logging.ERROR)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
