"""The best classes of each row, in Triton's words."""

from collections.abc import Sequence

import numpy as np
import pytest
from cutpoint.errors import BadRequest
from cutpoint.server.protocol.classification import classify
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

LABELS = ["crack", "wear", "é"]


def by_hand(array: np.ndarray, k: int, labels: Sequence[str]) -> list[list[bytes]]:
    """Triton's classification.cc, element by element: sort indices by score, format by std::to_string, append the label."""
    rows = []
    for row in array:
        flat = row.ravel().tolist()
        order = sorted(range(len(flat)), key=lambda i: (flat[i] != flat[i], -flat[i] if flat[i] == flat[i] else 0, i))
        texts = []
        for i in order[:k]:
            text = f"{flat[i]:f}:{i}" if isinstance(flat[i], float) else f"{flat[i]}:{i}"
            texts.append((text + (f":{labels[i % len(labels)]}" if labels else "")).encode())
        rows.append(texts)
    return rows


def test_triton_words() -> None:
    scores = np.array([[0.1, 0.75, -2.5], [3.0, 3.0, 4.0]], np.float32)
    assert classify(scores, 2, LABELS).tolist() == [
        [b"0.750000:1:wear", b"0.100000:0:crack"],
        ["4.000000:2:é".encode(), b"3.000000:0:crack"],
    ]
    assert classify(scores, 1).tolist() == [[b"0.750000:1"], [b"4.000000:2"]]
    assert classify(np.array([[3, -1, 200]], np.int16), 9, LABELS).tolist() == [
        ["200:2:é".encode(), b"3:0:crack", b"-1:1:wear"]
    ]


def test_more_axes_are_one_row_and_labels_are_along_the_last() -> None:
    scores = np.array([[[1, 2, 3], [4, 6, 5]]], np.float64)
    assert classify(scores, 2, LABELS).tolist() == [[b"6.000000:4:wear", "5.000000:5:é".encode()]]


def test_labels_of_another_axis_are_not_written() -> None:
    assert classify(np.array([[1.0, 2.0]]), 1, LABELS).tolist() == [[b"2.000000:1"]]


def test_an_array_without_a_batch_is_one_row() -> None:
    assert classify(np.array([1, 5, 3]), 2, LABELS, batched=False).tolist() == [b"5:1:wear", "3:2:é".encode()]
    assert classify(np.array(7.5), 2, LABELS, batched=False).tolist() == [b"7.500000:0"]


def test_numbers_that_floats_cannot_tell_apart_are_told_apart() -> None:
    top = np.iinfo(np.uint64).max
    assert classify(np.array([[top - 1, top, 0]], np.uint64), 2).tolist() == [[b"%d:1" % top, b"%d:0" % (top - 1)]]
    low = np.iinfo(np.int64).min
    assert classify(np.array([[low, low + 1]], np.int64), 2).tolist() == [[b"%d:1" % (low + 1), b"%d:0" % low]]


def test_nan_is_last_and_infinities_are_written() -> None:
    scores = np.array([[np.nan, -np.inf, np.inf, 0.0]], np.float32)
    assert classify(scores, 3).tolist() == [[b"inf:2", b"0.000000:3", b"nan:0"]]


@pytest.mark.parametrize("shape", [(2, 0), (0, 3)])
def test_nothing_to_choose_from_is_an_empty_answer(shape: tuple[int, int]) -> None:
    assert classify(np.zeros(shape, np.float32), 2, LABELS).shape == (shape[0], min(shape[1], 2))


@pytest.mark.parametrize(
    ("array", "k", "text"),
    [
        (np.zeros((1, 2)), 0, "classification is 0; expected 1 or more classes"),
        (np.zeros((1, 2)), -1, "classification is -1"),
        (np.zeros((1, 2), bool), 1, "unsupported type 'BOOL'"),
        (np.array([[b"a"]], object), 1, "unsupported type 'BYTES'"),
    ],
)
def test_what_has_no_order_is_refused(array: np.ndarray, k: int, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        classify(array, k)


@settings(max_examples=200, database=None)
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(code) for code in ("i1", "u1", "i4", "u8", "i8", "f4", "f8")]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=5),
        elements={"allow_nan": False},
    ),
    st.integers(1, 6),
    st.booleans(),
)
def test_any_array_is_as_by_hand(array: np.ndarray, k: int, named: bool) -> None:
    labels = [f"label {i}" for i in range(array.shape[-1])] if named else []
    assert classify(array, k, labels).tolist() == by_hand(array, k, labels)
