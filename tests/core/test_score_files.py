"""Scores from .npz, .csv and .parquet: the same data in every form, and what is wrong said with file and key."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cutpoint.calibrate.files import read_histogram, read_scores
from cutpoint.calibration import ScoreHistogram, Scores
from cutpoint.errors import BadData, MissingPart
from pyarrow import csv, parquet

LOGITS = np.array([[4.0, -1], [2.5, -2], [0, 3], [-1, -8]], np.float32)
Y = np.array([[1, 0], [0, 255], [1, 1], [0, 0]], np.uint8)
GROUPS, WEIGHTS = np.array(["x", "x", "y", "z"]), np.array([1.0, 2, 0.5, 1])


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "scores.npz", **arrays)
    return folder / "scores.npz"


def table(folder: Path, suffix: str, columns: dict[str, Any]) -> Path:
    path, made = folder / f"scores{suffix}", pa.table({name: pa.array(values) for name, values in columns.items()})
    if suffix == ".csv":
        csv.write_csv(made, path)
    else:
        parquet.write_table(made, path)
    return path


def text(folder: Path, content: str) -> Path:
    (folder / "scores.csv").write_text(content)
    return folder / "scores.csv"


def check(
    scores: Scores, logits: np.ndarray = LOGITS, y: np.ndarray | None = Y, labels: tuple[str, ...] = ("a", "b:c")
) -> None:
    assert scores.labels == labels and scores.logits.dtype == np.float32
    np.testing.assert_array_equal(scores.logits, logits.reshape(-1, len(labels)))
    if y is None:
        assert scores.targets is None
    else:
        assert scores.targets is not None and scores.targets.dtype == np.uint8
        np.testing.assert_array_equal(scores.targets, y.reshape(-1, len(labels)))


def two(score: str = "logit", **more: Any) -> dict[str, Any]:
    values = LOGITS if score == "logit" else 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    return {
        f"{score}:a": values[:, 0].tolist(), "y:a": [1, 0, 1, 0],
        f"{score}:b:c": values[:, 1].tolist(), "y:b:c": [0, None, 1, 0], **more,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_several_labels_is_the_npz(tmp_path: Path, suffix: str) -> None:
    from_table = read_scores(table(tmp_path, suffix, two(group=GROUPS, weight=WEIGHTS)))
    from_npz = read_scores(npz(tmp_path, logits=LOGITS, y=Y, label_names=["a", "b:c"], group=GROUPS, weight=WEIGHTS))
    for scores in (from_table, from_npz):
        check(scores)
        assert scores.groups is not None and scores.groups.tolist() == [0, 0, 1, 2] and scores.group_count == 3
        np.testing.assert_array_equal(scores.weights, WEIGHTS)  # type: ignore[arg-type]
    assert from_table.digest() == from_npz.digest()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_probabilities_become_logits(tmp_path: Path, suffix: str) -> None:
    found = read_scores(table(tmp_path, suffix, two("probability")))
    np.testing.assert_allclose(found.logits, LOGITS, rtol=1e-6, atol=1e-6)
    p = np.array([[0.0, 0.5], [1, 1e-12]])
    ends = read_scores(npz(tmp_path, probabilities=p)).logits
    np.testing.assert_allclose(ends, np.array([[-np.inf, 0], [np.inf, np.log(1e-12)]]), rtol=1e-6)
    both = npz(tmp_path, probabilities=p, logits=p)
    with pytest.raises(BadData, match=r"scores.npz: keys is .*expected either logits or probabilities"):
        read_scores(both)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_one_label_needs_no_name(tmp_path: Path, suffix: str) -> None:
    columns = {"logit": LOGITS[:, 0].tolist(), "y": [1, 0, 1, -1]}
    path = npz(tmp_path, logits=LOGITS[:, 0], y=[1, 0, 1, -1]) if suffix == ".npz" else table(tmp_path, suffix, columns)
    check(read_scores(path), LOGITS[:, 0], np.array([1, 0, 1, 255]), ("0",))
    check(read_scores(path, ("name",)), LOGITS[:, 0], np.array([1, 0, 1, 255]), ("name",))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_without_y_no_classes_are_known(tmp_path: Path, suffix: str) -> None:
    columns = {name: values for name, values in two().items() if not name.startswith("y:")}
    path = npz(tmp_path, logits=LOGITS, label_names=["a", "b:c"]) if suffix == ".npz" else table(tmp_path, suffix, columns)
    check(read_scores(path), y=None)


def test_windows_and_their_labels(tmp_path: Path) -> None:
    windows, y = LOGITS.reshape(2, 2, 2), Y.reshape(2, 2, 2)
    scores = read_scores(npz(tmp_path, logits=windows, y=y, group=["p", "q"], label_names=["a", "b:c"]))
    check(scores)
    assert scores.shape == (2, 2, 2) and scores.groups is not None and scores.groups.tolist() == [0, 0, 1, 1]
    one = read_scores(npz(tmp_path, logits=windows[..., :1], y=y[..., 0]))
    check(one, windows[..., 0], y[..., 0], ("0",))


@pytest.mark.parametrize("y", [[1, 0, 1, np.nan], [1.0, 0, 1, -1], [1, 0, 1, 255], np.array([1, 0, 1, 255], np.uint8)])
def test_every_mark_for_not_labelled(tmp_path: Path, y: Any) -> None:
    check(read_scores(npz(tmp_path, logits=LOGITS[:, 0], y=y)), LOGITS[:, 0], np.array([1, 0, 1, 255]), ("0",))


@pytest.mark.parametrize(
    "column", [[True, False, True, None], [1, 0, 1, None], [1.0, 0, 1, np.nan], [1, 0, 1, -1], [1, 0, 1, 255]]
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_mark_for_not_labelled_in_a_table(tmp_path: Path, column: list[Any], suffix: str) -> None:
    path = table(tmp_path, suffix, {"logit": LOGITS[:, 0].tolist(), "y": column})
    check(read_scores(path), LOGITS[:, 0], np.array([1, 0, 1, 255]), ("0",))


def test_a_label_of_which_nothing_is_labelled(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        columns = two()
        columns["y:a"] = [None] * 4
        scores = read_scores(table(tmp_path, suffix, columns))
        assert scores.targets is not None and scores.targets[:, 0].tolist() == [255] * 4


def test_a_csv_written_by_hand(tmp_path: Path) -> None:
    path = text(tmp_path, "y,logit,group\n1,4,7\n,2.5,x\n0,-1,NA\nNaN,1e3,x\n")
    scores = read_scores(path)
    assert scores.targets is not None and scores.targets[:, 0].tolist() == [1, 255, 0, 255]
    assert scores.logits[:, 0].tolist() == [4, 2.5, -1, 1000] and scores.group_count == 3


def test_a_models_labels_must_be_those_of_the_file_in_that_order(tmp_path: Path) -> None:
    named = npz(tmp_path, logits=LOGITS, y=Y, label_names=["a", "b"])
    check(read_scores(named, ("a", "b")), labels=("a", "b"))
    for labels in (("b", "a"), ("a",), ("a", "b", "c"), ("a", "c")):
        with pytest.raises(BadData, match=r"scores.npz: labels is .*the model's, in that order"):
            read_scores(named, labels)
    unnamed = npz(tmp_path, logits=LOGITS, y=Y)
    check(read_scores(unnamed, ("k", "l")), labels=("k", "l"))
    check(read_scores(unnamed), labels=("0", "1"))
    with pytest.raises(BadData, match="labels is of 2 labels; expected"):
        read_scores(unnamed, ("k",))


P = np.full(4, 0.5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y}, r"keys is \['y'\]; expected either logits or probabilities, and y"),
        (
            {"logits": LOGITS, "x": Y, "id": Y},
            r"keys that mean nothing here: \['id', 'x'\]; expected logits and y, and of others only label",
        ),
        ({"logits": LOGITS, "y": Y[:3]}, r"shapes of logits and y is \[4, 2\] and \[3, 2\]; expected the same"),
        ({"logits": LOGITS, "y": Y[:, 0]}, r"shapes of logits and y is \[4, 2\] and \[4\]"),
        ({"logits": LOGITS, "y": Y + 1}, r"y\[0, 0\] is 2; expected 0, 1, or -1, 255 or NaN for not labelled"),
        ({"logits": LOGITS, "y": np.full((4, 2), "1")}, "y is <U1; expected numbers 0 and 1, and -1, 255"),
        ({"logits": np.full((4, 2), "x"), "y": Y}, "logits is <U1; expected numbers"),
        ({"logits": LOGITS, "y": Y, "label_names": ["a"]}, r"label_names is \['a'\]; expected 2 different names"),
        ({"logits": LOGITS, "y": Y, "label_names": ["a", "a"]}, "label_names is .*2 different names"),
        ({"logits": LOGITS, "y": Y, "group": [1]}, r"shape of groups is \[1\]; expected \[4\]"),
        ({"logits": LOGITS, "y": Y, "weight": [1, 1, 1, -1]}, r"weights is \[-1\]; expected finite numbers from 0"),
        (
            {"probabilities": P + np.array([0, 0, 0.6, 0]), "y": P * 0},
            r"probabilities is \[1.1\] in 1 entries; expected numbers from 0 to 1",
        ),
        ({"probabilities": -P, "y": P * 0}, "probabilities is .* in 4 entries"),
        ({"logits": np.tile(np.linspace(0, 1, 50), 2), "y": np.zeros(100)}, "logits is all from 0 to 1, as probabilities are"),
        ({"logits": np.array([{}, {}]), "y": [0, 1]}, "pickled object array"),
    ],
)
def test_a_bad_npz_names_file_and_key(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData, match=message) as raised:
        read_scores(npz(tmp_path, **arrays))
    assert "scores.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("y\n1\n", r"columns missing: \['logit'\]; expected"),
        ("logit,y,id\n1,1,1\n", r"columns that mean nothing here: \['id'\]; expected logit \(or probability\) and y"),
        ("logit:a,y:b\n1,1\n", r"columns that mean nothing here: \['y:b'\]"),
        ("logit:a,logit:b,y:b\n1,1,1\n", r"columns missing: \['y:a'\]; expected"),
        ("logit,yes\n1,1\n", r"columns that mean nothing here: \['yes'\]"),
        ("y,z\n1,1\n", r"columns missing: \['logit'\]; columns that mean nothing here: \['z'\]; expected"),
        ("logit:a,probability:b\n1,1\n", "columns that mean nothing here: .*'logit:a'"),
        ("logit,logit,y\n1,1,1\n", r"columns is \['logit'\] more than once; expected each column once"),
        ("logit,y\n1,1\n,0\n", "logit is missing in 1 rows; expected a value in every row"),
        ("logit,y,weight\n1,1,\n2,0,1\n", "weight is missing in 1 rows"),
        ("logit,y,group\n1,1,3\n2,0,\n", "group is missing in 1 rows"),
        ("logit,y\nx,1\n", "logit is string; expected numbers"),
        ("logit,y\n1,yes\n2,no\n", "y is string; expected numbers 0 and 1, and -1, 255"),
        ("logit,y\n1,2\n", r"y\[0, 0\] is 2"),
        ("logit,y\n1,1\n2\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_bad_csv_names_file_and_column(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(BadData, match=message) as raised:
        read_scores(text(tmp_path, content))
    assert "scores.csv" in str(raised.value)


def test_what_cutpoint_score_writes_needs_only_a_y(tmp_path: Path) -> None:
    written = {
        "logits": LOGITS, "label_names": ["a", "b:c"], "scores": LOGITS / 9, "decisions": LOGITS > 0, "rows": np.arange(4),
        "policy_version": np.array(3),
    }  # fmt: skip
    check(read_scores(npz(tmp_path, **written, y=Y)))
    check(read_scores(npz(tmp_path, **written)), y=None)


def test_a_text_file_named_npz_is_not_taken_for_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_text("logit,y\n1,1\n")
    with pytest.raises(BadData, match=r"s.npz cannot be read as .npz \(it begins otherwise\); expected arrays") as raised:
        read_scores(tmp_path / "s.npz")
    assert "pickle" not in str(raised.value)


@pytest.mark.parametrize("name", ["none.npz", "none.csv", "none.parquet"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadData, match=rf"{name} \(no such file\)"):
        read_scores(tmp_path / name)


@pytest.mark.parametrize("name", ["bad.npz", "bad.parquet"])
def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 or PAR1, but not really")
    with pytest.raises(BadData, match=rf"{name} cannot be read"):
        read_scores(tmp_path / name)


def test_without_pyarrow_a_table_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, ".csv", {"logit": [1.0, 2.0], "y": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPart, match=r"\.csv files need the package pyarrow: pip install 'cutpoint\[tables\]'"):
        read_scores(path)


def test_a_histogram_file(tmp_path: Path) -> None:
    made = ScoreHistogram(("a", "b"))
    made.update(LOGITS, Y)
    (tmp_path / "h").write_bytes(made.to_bytes())
    assert read_histogram(tmp_path / "h") == made
    (tmp_path / "cut").write_bytes(made.to_bytes()[:-1])
    (tmp_path / "other").write_bytes(b"something else")
    for name, message in (("none", "no such file"), ("cut", "damaged"), ("other", "bytes that begin otherwise")):
        with pytest.raises(BadData, match=rf"{name}.*{message}"):
            read_histogram(tmp_path / name)
