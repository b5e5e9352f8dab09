"""Rows to try a session with, and whether a row's outputs depend on its neighbours."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, mean_onnx, text_onnx
from cutpoint.errors import BadBundle
from cutpoint.server.runs.rows import example_rows, pad_rows, row_invariance, sharing_cost
from cutpoint.server.runs.session import Abort, OnnxSession, TensorSpec
from cutpoint.server.serving import loading
from workplace import workplace


class Echo:
    """Answers `x` changed by what `change` makes of a batch; counts its runs."""

    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, change: Any = lambda x: x) -> None:
        self._change, self.sizes = change, list[int]()

    def run(self, inputs: Mapping[str, Any], *, wide: bool = False, abort: Abort | None = None) -> dict[str, Any]:
        self.sizes.append(len(inputs["x"]))
        return {"y": self._change(inputs["x"])}


ROWS = {"x": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}


# Examples


def test_examples_have_the_declared_types_and_shapes(tmp_path: Path) -> None:
    specs = (
        TensorSpec("a", "FP32", (-1, -1, 5)), TensorSpec("b", "INT8", (2, 3)), TensorSpec("c", "BOOL", (-1,)),
        TensorSpec("d", "BYTES", (-1, 2)), TensorSpec("e", "FP16", (-1, 1)), TensorSpec("f", "UINT64", (-1,)),
    )  # fmt: skip
    found = example_rows(specs, 4, free=7)
    assert {name: (array.dtype, array.shape) for name, array in found.items()} == {
        "a": (np.float32, (4, 7, 5)), "b": (np.int8, (2, 3)), "c": (np.bool_, (4,)), "d": (np.object_, (4, 2)),
        "e": (np.float16, (4, 1)), "f": (np.uint64, (4,)),
    }  # fmt: skip
    again, other = example_rows(specs, 4, free=7), example_rows(specs, 4, free=7, seed=1)
    np.testing.assert_array_equal(found["a"], again["a"])
    assert not np.array_equal(found["a"], other["a"])
    assert not np.array_equal(found["a"][0], found["a"][1]), "rows that are alike would hide a mix-up"


def test_a_graph_takes_its_examples(tmp_path: Path) -> None:
    for model in (linear_onnx(tmp_path / "a.onnx", np.eye(5), ["batch", "window", 5]), text_onnx(tmp_path / "b.onnx")):
        session = OnnxSession(model)
        found = session.run(example_rows(session.inputs, 3))
        assert len(next(iter(found.values()))) == 3


# Padding


@pytest.mark.parametrize("size", [6, 7, 16])
def test_padding_keeps_the_rows_and_repeats_the_last(size: int) -> None:
    padded = pad_rows({**ROWS, "s": np.array(list("abcdef"), np.object_)}, size)
    assert padded["x"].shape == (size, 3) and padded["x"].dtype == np.float32
    np.testing.assert_array_equal(padded["x"][:6], ROWS["x"])
    assert all(np.array_equal(row, ROWS["x"][-1]) for row in padded["x"][6:])
    assert padded["s"].tolist() == [*"abcdef", *["f"] * (size - 6)]


def test_nothing_is_copied_where_nothing_is_padded() -> None:
    assert pad_rows(ROWS, 6)["x"] is ROWS["x"]


# Invariance


def test_rows_that_depend_on_themselves_alone_do_not_differ() -> None:
    session = Echo()
    assert row_invariance(session, ROWS, [1, 2, 8]) == 0.0
    assert session.sizes == [1, 1, 1, 1, 1, 2, 8]


def test_a_real_graph_is_held_to_numpy(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)
    session = OnnxSession(linear_onnx(tmp_path / "m.onnx", weights, ["batch", 3]))
    found = row_invariance(session, ROWS, [2, 3, 8])
    alone = [session.run({"x": ROWS["x"][i : i + 1]})["logits"][0] for i in range(4)]
    together = session.run({"x": np.tile(ROWS["x"][:4], (2, 1))})["logits"]
    assert found >= np.abs(together[:4] - alone).max() and found < 1e-5


def test_what_batching_changes_is_measured() -> None:
    assert row_invariance(Echo(lambda x: x + np.float32(0.25) * (len(x) == 8)), ROWS, [2, 8, 3]) == pytest.approx(0.25)


def test_a_neighbour_that_leaks_in_is_seen() -> None:
    def leak(x: Any) -> Any:
        y = x.copy()
        y[1:] += x[:-1] * np.float32(1e-3)
        return y

    assert row_invariance(Echo(leak), ROWS, [2]) == pytest.approx(np.abs(ROWS["x"][0]).max() * 1e-3, rel=1e-3)


def test_rows_in_the_wrong_order_are_seen() -> None:
    assert row_invariance(Echo(lambda x: x[::-1]), ROWS, [2]) > 0.1


def test_where_runs_are_padded_only_those_sizes_count() -> None:
    session = Echo(lambda x: x + np.float32(0.25) * (len(x) == 8))
    assert row_invariance(session, ROWS, [8, 3, 2], padding=(8,)) == 0.0
    assert set(session.sizes) == {8}
    assert row_invariance(session, ROWS, [8, 3, 2], padding=(4, 8)) == pytest.approx(0.25)


def test_nan_is_like_nan_and_like_nothing_else() -> None:
    nan, infinite = np.float32(np.nan), np.float32(np.inf)
    assert row_invariance(Echo(lambda x: np.full_like(x, nan)), ROWS, [3]) == 0.0
    assert row_invariance(Echo(lambda x: np.full_like(x, infinite)), ROWS, [3]) == 0.0
    for bad in (nan, infinite):
        assert row_invariance(Echo(lambda x, bad=bad: np.where(len(x) > 1, bad, x)), ROWS, [3]) == math.inf


def test_other_types_agree_or_do_not() -> None:
    assert row_invariance(Echo(lambda x: x > 0), ROWS, [3]) == 0.0
    assert row_invariance(Echo(lambda x: (x > 0) == (len(x) > 1)), ROWS, [3]) == math.inf


def test_a_row_that_is_in_no_batch_is_not_run() -> None:
    session = Echo()
    assert row_invariance(session, ROWS, [3, 2]) == 0.0
    assert session.sizes == [1, 1, 1, 3, 2]


def test_a_graph_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    session = OnnxSession(mean_onnx(tmp_path / "m.onnx"))
    with pytest.raises(BadBundle, match=r"output 'logits' is \[1, 2\]; expected 4 rows for 4 rows in"):
        row_invariance(session, {"x": np.ones((2, 2), np.float32)}, [4])


def test_the_check_ends_with_its_time() -> None:
    session, times = Echo(), iter([0.0, 0.5, 1.5])
    assert row_invariance(session, ROWS, [2, 3, 4, 5], limit_s=1, clock=lambda: next(times)) == 0.0
    assert session.sizes == [1, 1, 1, 1, 2, 3]


# What rows gain by sharing a run


@pytest.mark.parametrize(("fixed_s", "row_s", "cost"), [(0.3, 0.1, 0.7 / 1.6), (0.0, 0.1, 1.0)])
def test_what_a_row_costs_among_others_is_measured(fixed_s: float, row_s: float, cost: float) -> None:
    now = [0.0]

    def change(x: np.ndarray) -> np.ndarray:
        now[0] += fixed_s + row_s * len(x) + (1.0 if len(session.sizes) < 3 else 0.0)  # the first runs are slower
        return x

    session = Echo(change)
    one = {name: rows[:1] for name, rows in ROWS.items()}
    assert sharing_cost(session, one, 4, (0.0, math.inf), limit_s=1, clock=lambda: now[0]) == pytest.approx(cost)
    assert session.sizes[:4] == [1, 4, 1, 4], "in turns"


def test_large_batches_that_cost_more_a_row_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear_bundle(tmp_path / "models", name="m", features=4)
    for cost, most in ((1.1, 1), (0.5, 8)):
        monkeypatch.setattr(loading, "sharing_cost", lambda session, one, rows, doubt, cost=cost: cost)
        with workplace(tmp_path / "models") as place:
            assert place.models.get("m").batcher.batching.max_rows == most
        with workplace(tmp_path / "models", max_batch_rows=5) as place:  # as it was asked for
            assert place.models.get("m").batcher.batching.max_rows == 5
