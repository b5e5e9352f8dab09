"""The load that a session is measured under: what it asks, and that it is what the server would do."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cutpoint.bundle import Way
from cutpoint.errors import InternalError
from cutpoint.server.runs.session import Abort, TensorSpec
from cutpoint.tune.speed import busy_rate, idle_p50_ms
from numpy.typing import NDArray

BUSY = np.random.default_rng(0).normal(size=(100, 100))


class Recorded:
    """A session that notes what runs, and how many at a time."""

    inputs = (TensorSpec("x", "FP32", (-1, 1)),)
    outputs = (TensorSpec("logits", "FP32", (-1, 1)),)

    def __init__(self, fails: bool = False) -> None:
        self.sizes: list[int] = []
        self.wide: set[bool] = set()
        self.most = self._now = 0
        self._fails, self._lock = fails, threading.Lock()

    def run(
        self, inputs: Mapping[str, NDArray[Any]], *, wide: bool = False, abort: Abort | None = None
    ) -> dict[str, NDArray[Any]]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.sizes.append(len(inputs["x"]))
            self.wide.add(wide)
        if self._fails:
            raise ValueError("no such thing")
        np.linalg.eigvals(BUSY)  # takes a while, without the GIL
        with self._lock:
            self._now -= 1
        return {"logits": inputs["x"]}


def asked(callers: int, rows: int = 1) -> list[dict[str, NDArray[Any]]]:
    return [{"x": np.full((rows, 1), caller, np.float32)} for caller in range(callers)]


@pytest.mark.parametrize(("way", "largest"), [(Way(lanes=2), 1), (Way(lanes=1, max_batch_rows=4), 4)])
def test_many_callers_share_runs_as_the_way_says(way: Way, largest: int) -> None:
    session = Recorded()
    rate, cpu_ms = busy_rate(session, way, asked(6), 0.05)
    assert rate > 0 and cpu_ms > 0
    assert max(session.sizes) == largest and session.most <= way.lanes
    assert sum(session.sizes) >= 2 * 6


def test_one_run_on_all_cores_at_a_time_is_wide_always() -> None:
    session = Recorded()
    busy_rate(session, Way(wide=True), asked(4), 0.05)
    assert (session.wide, session.most) == ({True}, 1)


def test_one_caller_finds_the_machine_idle() -> None:
    session = Recorded()
    assert idle_p50_ms(session, Way(lanes=2), asked(4), 0.05) > 0
    assert (session.wide, session.most) == ({True}, 1)


def test_rows_are_counted_and_not_requests() -> None:
    session = Recorded()
    busy_rate(session, Way(lanes=1), asked(2, rows=3), 0.05)
    assert set(session.sizes) == {3}


def test_a_failing_model_is_an_error_and_no_rate() -> None:
    for measure in (busy_rate, idle_p50_ms):
        with pytest.raises(InternalError, match="no such thing"):
            measure(Recorded(fails=True), Way(lanes=1), asked(2), 0.05)
