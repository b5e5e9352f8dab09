"""Data on disk: what is read, what is refused and how it is said."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutpoint.dataset import (
    KEYS,
    SPARSE_KEYS,
    UNLABELLED,
    Dataset,
    SparseRows,
    as_rows,
    read_dataset,
    row_indices,
    target_codes,
)
from cutpoint.errors import BadData
from processes import ENVIRONMENT
from scipy.sparse import csr_array, random_array

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
    assert set(arrays) == set(KEYS) - set(SPARSE_KEYS)
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


def csr(rows: int = 50, features: int = 7, density: float = 0.3, dtype: type = np.float32) -> csr_array:
    found = csr_array(random_array((rows, features), density=density, rng=np.random.default_rng(3), dtype=np.float64))
    found.data -= 0.5
    return found.astype(dtype)


def csr_keys(matrix: csr_array) -> dict[str, np.ndarray]:
    return {
        "x_data": matrix.data, "x_indices": matrix.indices, "x_indptr": matrix.indptr, "x_shape": np.array(matrix.shape),
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_sparse_rows_are_indexed_like_an_array(tmp_path: Path, dtype: type) -> None:
    matrix = csr(dtype=dtype) if dtype != np.int16 else (csr() * 100).astype(np.int16)
    dense = matrix.toarray().astype(np.float32)
    mask = np.arange(50) % 3 == 0
    for read in (saved(tmp_path, **csr_keys(matrix)), saved_folder(tmp_path, **csr_keys(matrix))):
        x = read_dataset(read).x
        assert isinstance(x, SparseRows)
        assert (x.shape, x.ndim, x.dtype, len(x)) == ((50, 7), 2, np.float32, 50)
        for rows in (0, -1, 49, slice(None), slice(3, 40, 5), slice(9, 9), slice(None, None, -1), [4, 4, 0], [-1, 2], mask, [],
                     np.array([[1, 2], [3, 4]])):  # fmt: skip
            at = np.array(rows, np.int64) if isinstance(rows, list) else rows
            found = x[at]
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, dense[at])
        np.testing.assert_array_equal(np.asarray(x), dense)
        assert as_rows(x) is x
        with pytest.raises(IndexError):
            x[50]
        with pytest.raises(IndexError):
            x[np.array([0, -51])]


def test_entries_that_name_a_column_twice_are_added() -> None:
    x = SparseRows(np.array([1, 2, 4.0]), np.array([2, 2, 0]), np.array([0, 3, 3]), (2, 3))
    np.testing.assert_array_equal(x[:], [[4, 0, 3], [0, 0, 0]])


def test_sparse_data_are_used_as_dense_ones_are(tmp_path: Path) -> None:
    matrix, y = csr(), np.arange(50) % 2
    (tmp_path / "dense").mkdir()
    sparse = read_dataset(saved(tmp_path, **csr_keys(matrix), y=y, train=np.arange(30), group=np.arange(50)))
    dense = read_dataset(saved(tmp_path / "dense", x=matrix.toarray(), y=y, train=np.arange(30), group=np.arange(50)))
    assert (len(sparse), sparse.label_names, sparse.splits["train"].tolist()) == (50, ("0",), list(range(30)))
    assert sparse.y is not None
    assert sparse.y.shape == (50, 1)
    rows = np.random.default_rng(0).permutation(50)
    for (at, x), (wanted_at, wanted) in zip(sparse.batches(rows, 8), dense.batches(rows, 8), strict=True):
        assert (type(x), x.dtype, x.flags.c_contiguous) == (np.ndarray, np.float32, True)
        np.testing.assert_array_equal(at, wanted_at)
        np.testing.assert_array_equal(x, wanted)
    sparse.check_finite()
    assert sparse.digest() == read_dataset(saved_folder(tmp_path, **csr_keys(matrix), y=y)).digest()
    changed = csr_keys(matrix) | {"x_shape": np.array([50, 8])}
    assert sparse.digest() != read_dataset(saved(tmp_path, **changed, y=y)).digest()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x_data": np.zeros(2)}, r"x_indices is int32 \[3\]; expected 2 integers, as many as data"),
        ({"x_data": np.zeros((3, 1))}, r"x_data is float64 \[3, 1\]; expected real numbers, \[entry\]"),
        ({"x_data": np.zeros(3, complex)}, "x_data is complex128"),
        ({"x_data": np.array(["a", "b", "c"])}, "x_data is <U1"),
        ({"x_indices": np.zeros(3)}, "x_indices is float64"),
        ({"x_indptr": np.array([0, 1, 3])}, r"x_indptr is int64 \[3\]; expected 4 integers, one more than rows"),
        ({"x_indptr": np.array([0, 1, 2, 4])}, "x_indptr is from 0 to 4; expected from 0 to 3"),
        ({"x_indptr": np.array([1, 1, 2, 3])}, "x_indptr is from 1 to 3"),
        ({"x_indptr": np.array([0, 2, 1, 3])}, r"x_indptr\[2\] is 1; expected no less than the 2 before it"),
        ({"x_indptr": np.zeros(4)}, "x_indptr is float64"),
        ({"x_shape": np.array([3])}, r"x_shape is int64 \[1\]; expected two integers"),
        ({"x_shape": np.array([3.0, 2.0])}, "x_shape is float64"),
        ({"x_shape": np.array([0, 2])}, r"x_shape is \[0, 2\]; expected at least one row and one feature"),
        ({"x_shape": np.array([3, 0])}, r"x_shape is \[3, 0\]"),
        ({"x": np.zeros((3, 2))}, r"keys is \['x', 'x_data'.*expected either 'x' or all of"),
        ({"y": np.zeros(4)}, r"y is \[4, 1\]; expected shape \[3, label\]"),
    ],
)
def test_sparse_arrays_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, np.ndarray], text: str) -> None:
    good = {
        "x_data": np.array([1.0, 2, 3], np.float32), "x_indices": np.array([0, 1, 0], np.int32),
        "x_indptr": np.array([0, 1, 1, 3]), "x_shape": np.array([3, 2]),
    }  # fmt: skip
    assert len(read_dataset(saved(tmp_path, **good))) == 3
    with pytest.raises(BadData, match=text):
        read_dataset(saved(tmp_path, **(good | change)))


def test_a_missing_part_of_sparse_x_is_named(tmp_path: Path) -> None:
    keys = csr_keys(csr())
    del keys["x_indptr"]
    with pytest.raises(BadData, match=r"keys is \['x_data', 'x_indices', 'x_shape'\]; expected either 'x' or all of"):
        read_dataset(saved(tmp_path, **keys))


@pytest.mark.parametrize("column", [7, -1, 2**31 - 1])
def test_a_column_out_of_range_is_found_when_it_is_read(tmp_path: Path, column: int) -> None:
    keys = csr_keys(csr())
    keys["x_indices"][20] = column
    data = read_dataset(saved(tmp_path, **keys))
    assert data.x[0].shape == (7,)
    with pytest.raises(BadData, match=rf"data.npz: x_indices\[20\] is {column}; expected a column from 0 to 6"):
        data.check_finite()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_sparse_values_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    matrix = csr(dtype=np.float64)
    entry = int(matrix.indptr[31])
    matrix.data[entry] = bad
    with pytest.raises(BadData, match=rf"x\[31, {matrix.indices[entry]}\] is (nan|inf); expected a finite number"):
        read_dataset(saved(tmp_path, **csr_keys(matrix))).check_finite(chunk_bytes=200)


def test_a_dense_value_beyond_float32_is_named() -> None:
    with pytest.raises(BadData, match=r"x\[1, 0\] is 1e\+39; expected a finite number, as float32"):
        Dataset(Path("d"), np.array([[1.0], [1e39]])).check_finite()


class Counted(np.ndarray):
    """An array that remembers the largest part of it that was asked for."""

    most = 0

    def __getitem__(self, rows: Any) -> Any:
        part = np.asarray(self)[rows]
        Counted.most = max(Counted.most, part.nbytes)
        return part


def test_x_is_never_read_whole() -> None:
    x = np.zeros((5000, 100), np.float32).view(Counted)
    data = Dataset(Path("d"), x)
    Counted.most = 0
    data.check_finite(chunk_bytes=1 << 16)
    assert 0 < Counted.most <= 1 << 16
    Counted.most = 0
    for _ in data.batches(np.arange(5000), 64):
        pass
    assert Counted.most == 64 * 400
    Counted.most = 0
    data.digest()
    assert 0 < Counted.most <= 1 << 20
    sparse = SparseRows(np.ones(5000).view(Counted), np.zeros(5000, int).view(Counted), np.arange(5001), (5000, 100))
    Counted.most = 0
    Dataset(Path("d"), sparse).check_finite(chunk_bytes=1 << 16)
    assert 0 < Counted.most < 2000


MEMORY = """
import resource, sys
import numpy as np
from cutpoint.dataset import read_dataset
data = read_dataset(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))  # of what is allocated; mapped files do not count
data.check_finite(1 << 20)
data.digest()
print(sum(float(x.sum()) for _, x in data.batches(np.arange(len(data)), 1000)))
"""


def test_a_folder_larger_than_memory_streams(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.mkdir()
    x = np.lib.format.open_memmap(path / "x.npy", "w+", np.float32, (100_000, 800))  # 320 MB, a hole but for one number
    x[-1, -1] = 5
    x.flush()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, str(path)],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "5.0\n"), done.stderr
