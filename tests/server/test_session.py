"""Runs of a graph: the answers, one core or all, and how a run is stopped."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from bundles import linear_onnx, simple_onnx, slow_onnx, text_onnx
from cutpoint.errors import Aborted, BadBundle, BadConfig, BadRequest
from cutpoint.server.runs import session as sessions
from cutpoint.server.runs.provider_settings import ProviderSettings
from cutpoint.server.runs.session import Abort, OnnxSession, TensorSpec, measure
from onnx import TensorProto, helper

TWO_CORES = ProviderSettings(wide_threads=2)
ROWS = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    np.save(tmp_path / "weights.npy", weights)
    return linear_onnx(tmp_path / "model.onnx", weights, ["batch", 4])


def timed(monkeypatch: pytest.MonkeyPatch, narrow_s: float, wide_s: float) -> None:
    """Have runs found to take so long, after one of each."""

    def found(session: OnnxSession, rows: Any, *, wide: bool = False, limit_s: float = 0.25) -> float:
        session.run(rows, wide=wide)
        return wide_s if wide else narrow_s

    def both(first: Callable[[], object], second: Callable[[], object], doubt: object, **more: object) -> tuple[float, float]:
        first(), second()
        return narrow_s, wide_s

    monkeypatch.setattr(sessions, "measure", found)
    monkeypatch.setattr(sessions, "in_turns", both)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which sessions are opened from now on: whether each was a wide one."""
    found: list[bool] = []
    real = sessions.open_session

    def recorded(model: Path, settings: ProviderSettings, device: str, *, wide: bool = False, **more: Any) -> Any:
        found.append(wide)
        return real(model, settings, device, wide=wide, **more)

    monkeypatch.setattr(sessions, "open_session", recorded)
    return found


def test_answers_are_those_of_numpy(linear: Path) -> None:
    session = OnnxSession(linear)
    wanted = ROWS["x"].astype(np.float64) @ np.load(linear.parent / "weights.npy").astype(np.float64)
    assert list(session.run(ROWS)) == ["logits"]
    np.testing.assert_allclose(session.run(ROWS)["logits"], wanted, rtol=1e-5)
    assert session.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert session.outputs == (TensorSpec("logits", "FP32", (-1, 3)),)


def test_every_output_has_its_name(tmp_path: Path) -> None:
    session = OnnxSession(simple_onnx(tmp_path / "model.onnx"))
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 3, np.int32)
    found = session.run({"INPUT1": b, "INPUT0": a})
    np.testing.assert_array_equal(found["OUTPUT0"], a + b)
    np.testing.assert_array_equal(found["OUTPUT1"], a - b)


def test_arrays_in_any_order_of_memory_are_read_right(linear: Path) -> None:
    session = OnnxSession(linear)
    wide = np.zeros((6, 8), np.float32)
    wide[::2, ::2] = ROWS["x"]
    for same in (
        wide[::2, ::2],
        np.asfortranarray(ROWS["x"]),
        np.frombuffer(b"\0" + ROWS["x"].tobytes(), np.uint8)[1:].view("<f4"),
    ):
        np.testing.assert_array_equal(session.run({"x": same.reshape(3, 4)})["logits"], session.run(ROWS)["logits"])


@pytest.mark.parametrize("width", [50, 1000])
def test_a_score_does_not_depend_on_where_its_row_lies_in_memory(tmp_path: Path, width: int) -> None:
    """onnxruntime adds up numbers in an order that depends on the address of the first, modulo 16."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["n", width]), ("y", ["n", 1]))
    )
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"])], "mean", [x], [y],
        [onnx.numpy_helper.from_array(np.array([1]), "axes")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    session = OnnxSession(tmp_path / "model.onnx")
    rows = np.random.default_rng(0).normal(size=(64, width)).astype(np.float32)
    wanted = session.run({"x": rows})["y"]
    np.testing.assert_allclose(wanted[:, 0], rows.astype(np.float64).mean(1), atol=1e-6)
    for offset in range(33):  # as the tensors of a message do
        message = np.frombuffer(b"\0" * offset + rows.tobytes(), np.uint8)
        elsewhere = message[offset:].view("<f4").reshape(64, width)
        np.testing.assert_array_equal(session.run({"x": elsewhere})["y"], wanted)


def test_a_large_array_in_place_is_not_copied(linear: Path) -> None:
    session, seen = OnnxSession(linear), []

    class Seen:
        def run(self, names: Sequence[str], feed: Mapping[str, Any], options: ort.RunOptions) -> list[Any]:
            seen.append(feed["x"])
            return [np.zeros((4096, 3), np.float32)]

    session._instances[0].direct = Seen()
    own = np.zeros((8192, 4), np.float32)
    for given in (own, own[4096:], own[:4096]):
        session.run({"x": given})
        assert seen.pop() is given
    session.run({"x": own.ravel()[1:-3].reshape(-1, 4)})
    assert seen.pop().__array_interface__["data"][0] % 16 == 0


def test_text_is_text_and_not_its_repr(tmp_path: Path) -> None:
    session = OnnxSession(text_onnx(tmp_path / "model.onnx"))
    assert session.run({"s": np.array(["é".encode(), "b"], np.object_)})["o"].tolist() == ["é", "b"]
    with pytest.raises(BadRequest, match=r"input 's'.*UTF-8"):
        session.run({"s": np.array([b"\xff"], np.object_)})


def test_a_file_that_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(BadBundle, match=r"model\.onnx cannot be loaded by onnxruntime"):
        OnnxSession(tmp_path / "model.onnx")


def test_a_type_that_the_protocol_lacks_is_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.COMPLEX64, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "complex", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(BadBundle):
        OnnxSession(tmp_path / "model.onnx")


def test_an_unknown_provider_is_refused_by_name(linear: Path) -> None:
    with pytest.raises(BadConfig, match="abacus"):
        OnnxSession(linear, "abacus")


# All cores for one run


def test_a_wide_run_is_narrow_until_it_was_found_faster(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(monkeypatch)
    session = OnnxSession(linear, TWO_CORES)
    np.testing.assert_array_equal(session.run(ROWS, wide=True)["logits"], session.run(ROWS)["logits"])
    assert found == [False]


def test_all_cores_are_used_where_they_are_faster_and_answer_the_same(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(monkeypatch)
    timed(monkeypatch, narrow_s=0.007, wide_s=0.004)
    session = OnnxSession(linear, TWO_CORES)
    speed = session.prepare(ROWS)
    assert (speed.narrow_s, speed.wide_s, found) == (0.007, 0.004, [False, True])
    used: list[str] = []
    for name in ("_wide", "_instances"):
        instance = session._wide if name == "_wide" else session._instances[0]
        assert instance is not None
        instance.direct = _Recorder(instance.direct, lambda name=name: used.append(name))
    np.testing.assert_array_equal(session.run(ROWS, wide=True)["logits"], session.run(ROWS)["logits"])
    assert used == ["_wide", "_instances"]


def test_all_cores_are_not_used_where_they_gain_little(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, narrow_s=0.007, wide_s=0.0065)
    session = OnnxSession(linear, TWO_CORES)
    assert session.prepare(ROWS).wide_s is None
    assert session._wide is None


@pytest.mark.parametrize("wide", [False, True])
def test_what_a_profile_says_of_all_cores_is_done(linear: Path, monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    found = opened(monkeypatch)
    timed(monkeypatch, narrow_s=0.004, wide_s=0.005)
    session = OnnxSession(linear, TWO_CORES)
    assert session.prepare(ROWS, wide=wide).wide_s == (0.005 if wide else None)
    assert found == [False, True][: 1 + wide]


@pytest.mark.parametrize(("threads", "narrow_s"), [(2, 50e-6), (1, 0.007)])
def test_a_quick_model_or_a_single_core_opens_no_second_session(
    linear: Path, monkeypatch: pytest.MonkeyPatch, threads: int, narrow_s: float
) -> None:
    found = opened(monkeypatch)
    timed(monkeypatch, narrow_s=narrow_s, wide_s=1e-6)
    session = OnnxSession(linear, ProviderSettings(wide_threads=threads))
    assert session.prepare(ROWS) == sessions.Speed(narrow_s, None)
    assert found == [False]


def test_a_wide_session_has_the_threads_it_was_given(linear: Path) -> None:
    narrow = sessions.open_session(linear, ProviderSettings(wide_threads=3), "")
    wide = sessions.open_session(linear, ProviderSettings(wide_threads=3), "", wide=True)
    assert (narrow.get_session_options().intra_op_num_threads, wide.get_session_options().intra_op_num_threads) == (1, 3)


class _Slow:
    """A session whose runs take the seconds that it was given, on a clock of its own."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, seconds: Sequence[float]) -> None:
        self.now, self._seconds, self.runs = 0.0, iter(seconds), list[bool]()

    def run(self, inputs: Mapping[str, Any], *, wide: bool = False, abort: Abort | None = None) -> dict[str, Any]:
        self.runs.append(wide)
        self.now += next(self._seconds)
        return {}


def test_what_a_run_takes_is_the_least_of_those_after_the_first() -> None:
    session = _Slow([0.001, 0.03, 0.02, 0.05])
    assert measure(session, {}, wide=True, runs=3, limit_s=9, clock=lambda: session.now) == pytest.approx(0.02)
    assert session.runs == [True] * 4


def test_measuring_ends_with_its_time() -> None:
    session = _Slow([5.0, 5.0, 1.0])
    assert measure(session, {}, runs=20, limit_s=1, clock=lambda: session.now) == pytest.approx(5.0)
    assert len(session.runs) == 2


# Stopping


class _Recorder:
    """Passes runs on, and tells of each."""

    def __init__(self, session: Any, tell: Callable[[], None]) -> None:
        self._session, self._tell = session, tell

    def run(self, *arguments: Any) -> Any:
        self._tell()
        return self._session.run(*arguments)


class _Failing:
    """Fails as onnxruntime does, for another reason than an abort."""

    def run(self, *arguments: Any) -> Any:
        raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> OnnxSession:
    """A session whose run takes minutes."""
    return OnnxSession(slow_onnx(tmp_path_factory.mktemp("slow") / "model.onnx", 2_000_000_000))


X = {"x": np.ones((1, 2), np.float32)}


def started(session: OnnxSession, abort: Abort) -> tuple[threading.Thread, list[BaseException]]:
    """A run in a thread of its own, and where its error will be."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            session.run(X, abort=abort)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_a_run_in_progress_is_stopped_and_the_session_stays_good(tmp_path: Path, slow: OnnxSession) -> None:
    abort = Abort()
    thread, errors = started(slow, abort)
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    while time.clock_gettime(clock) < 0.02:  # it computes: nothing else in that thread takes so long
        threading.Event().wait(0.001)
    abort.set()
    thread.join(30)
    assert not thread.is_alive()
    assert isinstance(errors[0], Aborted)
    quick = OnnxSession(slow_onnx(tmp_path / "model.onnx", 10))
    stopped = Abort()
    stopped.set()
    with pytest.raises(Aborted):
        quick.run(X, abort=stopped)
    np.testing.assert_array_equal(quick.run(X, abort=Abort())["logits"], X["x"])


def test_whenever_an_abort_comes_the_run_ends(slow: OnnxSession) -> None:
    """Before the run, at its start, in the middle: a run that misses it would take minutes."""
    for spin in range(60):
        abort = Abort()
        thread, errors = started(slow, abort)
        for _ in range(spin * 20):
            pass
        abort.set()
        thread.join(30)
        assert not thread.is_alive(), f"the abort after {spin * 20} turns was lost"
        assert isinstance(errors[0], Aborted)


def test_an_abort_before_the_run_prevents_it(linear: Path) -> None:
    session, runs = OnnxSession(linear), []
    session._instances[0].direct = _Recorder(session._instances[0].direct, lambda: runs.append(1))
    abort = Abort()
    abort.set()
    with pytest.raises(Aborted):
        session.run(ROWS, abort=abort)
    assert not runs
    session.run(ROWS, abort=Abort())
    assert runs == [1]


def test_an_abort_that_comes_too_late_changes_nothing(linear: Path) -> None:
    session, abort = OnnxSession(linear), Abort()
    session._instances[0].direct = _Recorder(session._instances[0].direct, lambda: None)
    found = session.run(ROWS, abort=abort)
    abort.set()
    np.testing.assert_array_equal(found["logits"], session.run(ROWS)["logits"])


def test_an_abort_outlives_many_runs_and_holds_none_of_them(linear: Path) -> None:
    session, abort = OnnxSession(linear), Abort()
    for _ in range(3):
        session.run(ROWS, abort=abort)
    assert not abort._stops


def test_only_the_run_that_was_handed_the_abort_ends(linear: Path, slow: OnnxSession) -> None:
    first, second = Abort(), Abort()
    (one, one_errors), (other, other_errors) = started(slow, first), started(slow, second)
    first.set()
    one.join(30)
    assert isinstance(one_errors[0], Aborted)
    assert other.is_alive() and not other_errors
    second.set()
    other.join(30)
    assert isinstance(other_errors[0], Aborted)


def test_another_error_is_not_taken_for_an_abort(linear: Path) -> None:
    session, abort = OnnxSession(linear), Abort()

    class FailsOnceAborted(_Failing):
        def run(self, *arguments: Any) -> Any:
            abort.set()
            return super().run(*arguments)

    session._instances[0].direct = FailsOnceAborted()
    with pytest.raises(RuntimeError, match="invalid dimensions"):
        session.run(ROWS, abort=abort)


def test_stopping_writes_nothing_to_the_log(slow: OnnxSession, capfd: pytest.CaptureFixture[str]) -> None:
    abort = Abort()
    thread, _ = started(slow, abort)
    abort.set()
    thread.join(30)
    assert capfd.readouterr() == ("", "")


def test_an_abort_tells_every_watcher_once() -> None:
    abort, told = Abort(), []

    def kept() -> None:
        told.append("kept")

    def forgotten() -> None:
        told.append("forgotten")

    abort.watch(kept)
    abort.watch(forgotten)
    abort.unwatch(forgotten)
    assert not abort.is_set
    abort.set()
    abort.set()
    assert abort.is_set
    assert told == ["kept"]
    abort.watch(forgotten)  # too late to wait for it
    assert told == ["kept", "forgotten"]


# Memory


@pytest.mark.parametrize(("rows", "shrinks"), [(2, False), (200_000, True)])
def test_a_large_run_gives_its_memory_back(linear: Path, rows: int, shrinks: bool) -> None:
    session, seen = OnnxSession(linear, ProviderSettings(shrink_above_mib=1)), []

    class Seen:
        def run(self, names: Sequence[str], feed: Any, options: ort.RunOptions) -> list[Any]:
            seen.append(options)
            return [np.zeros((rows, 3), np.float32)]

    session._instances[0].direct = Seen()
    session.run({"x": np.zeros((rows, 4), np.float32)})
    key = "memory.enable_memory_arena_shrinkage"
    if shrinks:
        assert seen[0].get_run_config_entry(key) == "cpu:0"
    else:
        with pytest.raises(RuntimeError):
            seen[0].get_run_config_entry(key)
