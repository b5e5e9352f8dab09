"""Data on disk: what is read, what is refused and how it is said."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutpoint.dataset import KEYS, UNLABELLED, Dataset, read_dataset, row_indices, target_codes
from cutpoint.errors import BadData

X = np.arange(12, dtype=np.float32).reshape(6, 2)
WINDOWS = np.zeros((4, 3, 5), np.float32)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def saved_folder(folder: Path, **arrays: Any) -> Path:
    path = folder / "data"
    path.mkdir()
    for key, array in arrays.items():
        np.save(path / f"{key}.npy", array)
    return path


class Dangerous:
    """Unpickled, it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_everything_that_may_be_given_is_read(tmp_path: Path) -> None:
    arrays = {
        "x": X, "y": np.eye(6, 2, dtype=np.int64), "label_names": np.array(["a", "b"]), "group": np.array(list("uuvvww")),
        "time": np.arange(6), "train": np.array([0, 1, 2]), "valid": np.array([3], np.uint8), "test": np.array([5, 4]),
    }  # fmt: skip
    assert set(arrays) == set(KEYS)
    (tmp_path / "other").mkdir()
    for data in (read_dataset(saved(tmp_path, **arrays)), read_dataset(str(saved_folder(tmp_path / "other", **arrays)))):
        assert len(data) == 6
        np.testing.assert_array_equal(data.x, X)
        assert data.y is not None and data.time is not None and data.group is not None
        np.testing.assert_array_equal(data.y, np.eye(6, 2))
        assert (data.y.dtype, data.time.dtype) == (np.uint8, np.float64)
        assert data.label_names == ("a", "b")
        assert data.group.tolist() == list("uuvvww")
        assert {name: rows.tolist() for name, rows in data.splits.items()} == {
            "train": [0, 1, 2], "valid": [3], "test": [5, 4],
        }  # fmt: skip
        assert all(rows.dtype == np.int64 for rows in data.splits.values())


def test_x_alone_is_enough_to_score(tmp_path: Path) -> None:
    data = read_dataset(saved(tmp_path, x=X))
    assert (data.y, data.label_names, data.group, data.time, dict(data.splits)) == (None, (), None, None, {})


@pytest.mark.parametrize(
    ("x", "y", "shape"),
    [
        ((6, 2), (6,), (6, 1)),
        ((6, 2), (6, 1), (6, 1)),
        ((6, 2), (6, 3), (6, 3)),
        ((4, 3, 5), (4, 3), (4, 3, 1)),
        ((4, 3, 5), (4, 3, 2), (4, 3, 2)),
        ((4, 3, 5), (4, 7), (4, 7)),
        ((4, 3, 5), (4,), (4, 1)),
        ((4, 3, 2, 5), (4, 3), (4, 3, 1)),
        ((4, 3, 2, 5), (4, 3, 2), (4, 3, 2)),
    ],
)
def test_labels_get_their_label_axis(tmp_path: Path, x: tuple[int, ...], y: tuple[int, ...], shape: tuple[int, ...]) -> None:
    data = read_dataset(saved(tmp_path, x=np.zeros(x), y=np.zeros(y)))
    assert data.y is not None
    assert data.y.shape == shape
    assert data.label_names == tuple(str(i) for i in range(shape[-1]))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((6, 2), (5,)),
        ((6, 2), (5, 2)),
        ((6, 2), (6, 0)),
        ((6, 2), (6, 2, 1)),
        ((4, 3, 5), (4, 2, 1)),
        ((4, 3, 5), (3, 3)),
        ((4, 3, 5), (4, 3, 5, 1)),
        ((4, 3, 5), ()),
    ],
)
def test_labels_that_do_not_fit_x_are_refused(tmp_path: Path, x: tuple[int, ...], y: tuple[int, ...]) -> None:
    path = saved(tmp_path, x=np.zeros(x), y=np.zeros(y))
    with pytest.raises(BadData, match=rf"data.npz: y is \[.*\]; expected shape \[{x[0]}, label\]"):
        read_dataset(path)


@pytest.mark.parametrize("mark", [-1, 255, np.nan, -1.0, 255.0])
def test_marks_for_not_labelled(tmp_path: Path, mark: float) -> None:
    data = read_dataset(saved(tmp_path, x=X, y=np.array([0, 1, mark, 1, 0, mark])))
    assert data.y is not None
    assert data.y[:, 0].tolist() == [0, 1, UNLABELLED, 1, 0, UNLABELLED]


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float64])
def test_labels_of_any_real_dtype(tmp_path: Path, dtype: type[np.generic]) -> None:
    data = read_dataset(saved(tmp_path, x=X, y=np.array([0, 1, 0, 1, 1, 0]).astype(dtype)))
    assert data.y is not None
    assert data.y[:, 0].tolist() == [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("y", [2, -2, 0.5, 254, np.inf, 256])
def test_another_label_is_named_with_its_place(tmp_path: Path, y: float) -> None:
    with pytest.raises(BadData, match=rf"y\[4, 0\] is {y}; expected 0, 1, or -1, 255 or NaN"):
        read_dataset(saved(tmp_path, x=X, y=np.array([0, 1, 0, 1, y, 0])))


@pytest.mark.parametrize("y", [np.array(list("010101")), np.zeros(6, complex)])
def test_labels_that_are_no_numbers_are_refused(tmp_path: Path, y: np.ndarray) -> None:
    with pytest.raises(BadData, match=r"expected numbers 0 and 1"):
        read_dataset(saved(tmp_path, x=X, y=y))


@pytest.mark.parametrize(
    "x", [np.zeros(3), np.zeros((0, 2)), np.array([["a", "b"]]), np.zeros((3, 2), complex), np.zeros((2, 2), bool)]
)
def test_x_that_cannot_be_used_is_refused(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(BadData, match=r"data.npz: x is"):
        read_dataset(saved(tmp_path, x=x))


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ({"z": X}, r"keys is \['z'\]; expected only"),
        ({"group": np.arange(5)}, r"group is \[5\]; expected shape \[6\]"),
        ({"group": np.zeros((6, 1))}, r"group is \[6, 1\]"),
        ({"time": np.arange(7)}, r"time is \[7\]"),
        ({"time": np.array([0, 1, 2, 3, 4, np.nan])}, "time is NaN or infinite"),
        ({"time": np.array(list("abcdef"))}, "time is <U1; expected numbers"),
        ({"train": np.array([0, 6])}, "train is indices 0 to 6; expected indices from 0 to 5"),
        ({"valid": np.array([-1])}, "valid is indices -1 to -1"),
        ({"test": np.array([1, 1])}, "test is the same row twice"),
        ({"test": np.array([1.0])}, "test is float64"),
        ({"test": np.array([[1]])}, "test is int64"),
        ({"test": np.ones(6, bool)}, "test is bool"),
        ({"y": np.zeros((6, 2)), "label_names": np.array(["a"])}, "label_names is .*2 different names"),
        ({"y": np.zeros((6, 2)), "label_names": np.array(["a", "a"])}, "label_names is .*2 different names"),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path: Path, extra: dict[str, np.ndarray], text: str) -> None:
    with pytest.raises(BadData, match=text):
        read_dataset(saved(tmp_path, x=X, **extra))


def test_without_x_the_message_lists_the_keys(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"keys is \['features'\]; expected at least 'x', among \['x', 'y'"):
        read_dataset(saved(tmp_path, features=X))


def test_pickles_are_refused_in_both_forms_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "a pickle was run"
    dangerous = np.array([Dangerous(mark)] * 6, object)
    with pytest.raises(BadData, match=r"y is a pickled object array, which could run code; expected plain numbers"):
        read_dataset(saved(tmp_path, x=X, y=dangerous))
    with pytest.raises(BadData, match=r"y.npy is a pickled object array"):
        read_dataset(saved_folder(tmp_path, x=X, y=dangerous))
    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps({"x": Dangerous(mark)}))
    with pytest.raises(BadData, match=r"plain.npz cannot be read as .npz \(it begins otherwise\); expected arrays") as raised:
        read_dataset(plain)
    assert "allow_pickle" not in str(raised.value)
    assert not mark.exists()
    pickle.loads(plain.read_bytes())
    assert mark.exists()  # so that the line above means something


def test_a_missing_path_and_a_single_array_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"data path is .*nothing.npz \(no such file\); expected an .npz file or a folder"):
        read_dataset(tmp_path / "nothing.npz")
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadData, match=r"x.npy is a single array"):
        read_dataset(tmp_path / "x.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match=r"keys is \[\]"):
        read_dataset(tmp_path / "empty")


def test_a_truncated_file_is_bad_data_wherever_it_ends(tmp_path: Path) -> None:
    whole = saved(tmp_path, x=X, y=np.zeros(6)).read_bytes()
    folder = saved_folder(tmp_path, x=X)
    array = (folder / "x.npy").read_bytes()
    for length in range(0, len(whole), 7):
        cut = tmp_path / "cut.npz"
        cut.write_bytes(whole[:length])
        with pytest.raises(BadData, match=r"cut.npz"):
            read_dataset(cut)
    for length in range(0, len(array), 5):
        (folder / "x.npy").write_bytes(array[:length])
        with pytest.raises(BadData, match=r"x.npy"):
            read_dataset(folder)


def test_a_damaged_file_is_bad_data_or_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.arange(600.0).reshape(200, 3), y=np.arange(200) % 2)
    whole, rng, refused = buffer.getvalue(), np.random.default_rng(0), 0
    path = tmp_path / "damaged.npz"
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(len(damaged), size=2):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert len(read_dataset(path)) == 200
        except BadData:
            refused += 1
    assert refused > 200


def test_a_zip_without_arrays_is_bad_data(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "not an array")
    with pytest.raises(BadData, match=r"other.npz: x is \|S12"):
        read_dataset(path)


def test_a_folder_is_memory_mapped(tmp_path: Path) -> None:
    data = read_dataset(saved_folder(tmp_path, x=X))
    assert isinstance(data.x, np.memmap)
    assert not data.x.flags.writeable
    batches = list(data.batches(np.array([4, 0, 1]), 2))
    assert [rows.tolist() for rows, _ in batches] == [[4, 0], [1]]
    for rows, x in batches:
        assert (type(x), x.dtype, x.flags.c_contiguous) == (np.ndarray, np.float32, True)
        np.testing.assert_array_equal(x, X[rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_check_finite_names_the_first_bad_place(bad: float, chunk_bytes: int) -> None:
    x = WINDOWS.copy()
    Dataset(Path("d"), x).check_finite(chunk_bytes)
    Dataset(Path("d"), np.zeros((3, 2), np.int16)).check_finite(chunk_bytes)
    x[2, 1, 4] = x[3, 0, 0] = bad
    with pytest.raises(BadData, match=rf"d: x\[2, 1, 4\] is {bad}; expected a finite number"):
        Dataset(Path("d"), x).check_finite(chunk_bytes)


def test_the_digest_is_of_the_data_and_not_of_the_file(tmp_path: Path) -> None:
    y = np.array([0, 1, 0, 1, 255, 0])
    one, other = read_dataset(saved(tmp_path, x=X, y=y)), read_dataset(saved_folder(tmp_path, x=X, y=np.where(y == 255, -1, y)))
    assert one.digest() == other.digest()
    assert one.digest() != read_dataset(saved(tmp_path, x=X)).digest()
    assert one.digest() != read_dataset(saved(tmp_path, x=X.astype(np.float64), y=y)).digest()
    assert Dataset(Path(), X).digest() != Dataset(Path(), X.reshape(3, 4)).digest()


def test_row_indices_may_be_empty() -> None:
    assert row_indices("rows", np.array([], np.int32), 3).tolist() == []


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int64, np.float32])
def test_targets_of_any_dtype(dtype: type) -> None:
    found = target_codes("y", np.array([[0, 1], [1, 0]]).astype(dtype))
    assert (found.dtype, found.tolist()) == (np.uint8, [[0, 1], [1, 0]])


@pytest.mark.parametrize("targets", [[[2]], [[0.5]], [[-2]], [[254]], [[float("inf")]]])
def test_other_targets_are_refused(targets: list[list[float]]) -> None:
    with pytest.raises(BadData, match=r"y\[0, 0\] is .*; expected 0, 1, or -1, 255 or NaN"):
        target_codes("y", np.array(targets))
