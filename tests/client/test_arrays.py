"""Numbers from torch, pandas and others: views where that can be, and what is wrong by its name."""

from typing import Any

import numpy as np
import pytest
import torch
from cutpoint import errors
from cutpoint.client import calibration, inference
from cutpoint.client.arrays import rows_of
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import array_of, decode_inputs

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def sent(x: Any) -> np.ndarray:
    """What a server gets."""
    (part,) = inference.Asked("m").parts(x)
    return decode_inputs(oip.ModelInferRequest.FromString(part.message()))["x"]


def test_an_array_and_a_tensor_are_viewed_not_copied() -> None:
    tensor = torch.from_numpy(X.copy())
    assert rows_of("x", X) is X
    assert np.shares_memory(rows_of("x", tensor), tensor.numpy())
    assert np.shares_memory(rows_of("x", tensor.requires_grad_()), tensor.detach().numpy())
    np.testing.assert_array_equal(sent(tensor), X)


@pytest.mark.parametrize(
    "x",
    [
        torch.from_numpy(X).double(), torch.from_numpy(X).T.contiguous().T, torch.from_numpy(np.round(X)).long(),
        torch.from_numpy(X).half(), torch.from_numpy(X).bfloat16(), X[::2], X.T, X.astype(">f4"), X.astype(np.float16), X > 0,
    ],
    ids=repr,
)  # fmt: skip
def test_any_type_and_layout_is_sent_as_float32(x: Any) -> None:
    wanted = x.float().numpy() if isinstance(x, torch.Tensor) else x.astype(np.float32)
    found = sent(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.empty((5, 3), device="meta"), "x is on meta; expected a tensor in the processor's memory: call cpu()"),
        (torch.eye(3).to_sparse(), "x is a tensor of layout torch.sparse_coo; expected a dense one: call to_dense()"),
        ([[1, 2], [3]], "x is list; expected what numpy can read"),
        ([["a"]], "x is <U1 [1, 1]; expected real numbers"),
        (np.zeros((2, 2), complex), "x is complex128 [2, 2]; expected real numbers"),
        (np.zeros(3), "x is float64 [3]; expected real numbers, [row, ...]"),
    ],
)
def test_what_cannot_be_sent_is_said_by_name(x: Any, text: str) -> None:
    with pytest.raises(errors.BadInput) as refused:
        inference.Asked("m").parts(x)
    assert text in str(refused.value)


class _OnGpu:
    """An array of another library, on a device of its own."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_arrays_of_other_libraries_on_other_devices_are_refused() -> None:
    with pytest.raises(errors.BadInput, match="x is on another device; expected a tensor in the processor's memory"):
        rows_of("x", _OnGpu())


def test_everything_of_a_calibration_may_be_a_tensor() -> None:
    y = (X[:, :2] > 0).astype(np.int64)
    z, t = torch.from_numpy(X[:, :2]).requires_grad_(), torch.from_numpy(y)
    weights, groups = torch.arange(5.0), torch.arange(5)
    labelled = calibration.Labelled(t, logits=z, weights=weights, groups=groups)
    _, chunk = calibration.calibrate_requests(v1.CalibrateHeader(objective="max_fbeta=1"), labelled)
    np.testing.assert_array_equal(array_of("z", chunk.chunk.logits), X[:, :2])
    np.testing.assert_array_equal(array_of("t", chunk.chunk.targets), y)
    np.testing.assert_array_equal(array_of("w", chunk.chunk.weights), np.arange(5.0))
    np.testing.assert_array_equal(array_of("g", chunk.chunk.groups), np.arange(5))


def test_a_frame_is_sent_as_its_numbers() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    assert np.shares_memory(rows_of("x", frame), frame.to_numpy())
    np.testing.assert_array_equal(sent(frame), X)
    mixed = pandas.DataFrame({"n": pandas.array([1, 2, 3], "Int64"), "f": [0.5, 1.5, 2.5], "b": [True, False, True]})
    np.testing.assert_array_equal(sent(mixed), [[1, 0.5, 1], [2, 1.5, 0], [3, 2.5, 1]])
    targets = pandas.DataFrame({"a": [0, 1, -1]})
    labelled = calibration.Labelled(
        targets, logits=pandas.DataFrame({"a": [0.0, 1.0, 2.0]}), groups=pandas.Series(["a", "b", "c"])
    )
    _, chunk = calibration.calibrate_requests(v1.CalibrateHeader(objective="max_fbeta=1"), labelled)
    np.testing.assert_array_equal(array_of("t", chunk.chunk.targets), [[0], [1], [255]])
    assert array_of("g", chunk.chunk.groups).tolist() == [b"a", b"b", b"c"]


def test_what_is_wrong_in_a_frame_is_said_by_its_column() -> None:
    pandas = pytest.importorskip("pandas")
    for columns, text in (
        ({"a": [1.0, 2.0], "name": ["x", "y"]}, "column 'name' of x is of type"),
        ({"when": pandas.to_datetime(["2026-01-01", "2026-01-02"])}, "column 'when' of x is of type datetime64"),
        ({"kind": pandas.Categorical(["x", "y"])}, "column 'kind' of x is of type category; expected numbers"),
        (
            {"a": [1.0, 2.0, 3.0], "b": [0.0, np.nan, np.nan]},
            "column 'b' of x is missing in 2 rows, the first at position 1; expected a number in every row",
        ),
        ({"n": pandas.array([1, 2, None], "Int64")}, "column 'n' of x is missing in 1 row, the first at position 2"),
    ):
        with pytest.raises(errors.BadInput) as refused:
            inference.Asked("m").parts(pandas.DataFrame(columns))
        assert text in str(refused.value)
