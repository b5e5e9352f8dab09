"""A repository and what is served of it, in this process: looks happen when a test says so."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cutpoint.server.config import ServerConfig
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.policy.policies import PolicyStore
from cutpoint.server.runs.batcher import Timing
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.serving.catalogue import Catalogue
from cutpoint.server.serving.models import Models
from cutpoint.server.serving.served import Answer, ServedModel
from cutpoint.wire import datatype_of
from prometheus_client import generate_latest


class Workplace:
    """Everything of a server but its port."""

    def __init__(self, folder: Path, store: PolicyStore, lanes: Lanes, **settings: Any) -> None:
        given: dict[str, Any] = {"model_control": "poll", **settings}
        self.folder, self.store, self.lanes, self.metrics = folder, store, lanes, Metrics()
        self.models = Models(self.metrics, lanes.count)
        self.catalogue = Catalogue(ServerConfig(models=folder, **given), store, self.metrics, self.models, lanes)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.catalogue.look()

    def default(self, name: str = "linear") -> int | None:
        found = self.models.find(name)
        return None if found is None else found.version

    def states(self) -> dict[tuple[str, int], str]:
        return {(name, version): state.name for name, version, state in self.catalogue.index()}

    def reason(self, name: str, version: int) -> str:
        return next(state.reason for of, number, state in self.catalogue.index() if (of, number) == (name, version))

    def samples(self) -> dict[str, float]:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


@contextmanager
def workplace(folder: Path, *, lanes: int = 1, start: bool = True, **settings: Any) -> Iterator[Workplace]:
    """One with its catalogue started."""
    store = PolicyStore(folder.parent / "state")
    threads = Lanes(lanes, time.perf_counter)
    try:
        made = Workplace(folder, store, threads, **settings)
        if start:
            made.catalogue.start()
        yield made
    finally:
        threads.close(60)
        store.close()


def asked(model: ServedModel, x: np.ndarray, wanted: tuple[str, ...] = ()) -> Answer:
    """One request, waited for; its error is raised."""
    done, found = threading.Event(), list[tuple[Answer | None, BaseException | None]]()

    def reply(answer: Answer | None, error: BaseException | None, timing: Timing | None = None) -> None:
        found.append((answer, error))
        done.set()

    (name,) = model.inputs
    declared = ((name, datatype_of(x.dtype), x.shape),)
    model.check_declared(declared, wanted)
    model.infer(lambda: {name: x}, declared, wanted, reply)
    assert done.wait(60)
    answer, error = found[0]
    if error is not None:
        raise error
    assert answer is not None
    return answer
