"""Samples as they are read from files that grow, pipes, and formats."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from cutpoint.client.samples import Samples
from cutpoint.errors import BadConfig, BadData

VALUES = np.arange(12, dtype=np.float32) / 4


def all_of(source: Path, form: str = "auto", channels: int = 1) -> np.ndarray:
    found = list(Samples(source, form, channels, idle_s=0.05, poll_s=0.01))  # type: ignore[arg-type]
    return np.concatenate(found) if found else np.empty((0, channels))


@pytest.mark.parametrize(("name", "form"), [("x.f32", "auto"), ("x.bin", "auto"), ("x.txt", "f32")])
@pytest.mark.parametrize("channels", [1, 3])
def test_raw_floats_without_a_last_partial_sample(tmp_path, name, form, channels):
    (tmp_path / name).write_bytes(VALUES.astype("<f4").tobytes() + b"\x01\x02\x03")
    np.testing.assert_array_equal(all_of(tmp_path / name, form, channels), VALUES.reshape(-1, channels))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|u1"])
def test_npy_of_any_numbers(tmp_path, dtype):
    values = np.arange(12).astype(dtype)
    np.save(tmp_path / "one.npy", values)
    np.testing.assert_array_equal(all_of(tmp_path / "one.npy"), values[:, None])
    np.save(tmp_path / "two.npy", values.reshape(6, 2))
    np.testing.assert_array_equal(all_of(tmp_path / "two.npy"), values.reshape(6, 2))
    np.save(tmp_path / "empty.npy", values[:0])
    assert len(all_of(tmp_path / "empty.npy")) == 0


def test_text_with_blanks_commas_and_comments(tmp_path):
    (tmp_path / "x.csv").write_text("# left, right\n1, 2\n\n3;-4 # bump\n 5\t6e-1\r\n7,8")
    found = all_of(tmp_path / "x.csv")
    np.testing.assert_array_equal(found, np.array([[1, 2], [3, -4], [5, 0.6]], np.float32))  # the last line may go on


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.txt", b"1\n2\nthree\n", r"x.txt:3 is 'three'; expected numbers"),
        ("x.txt", b"1 2\n3\n", r"x.txt:2 is 1 numbers; expected 2"),
        ("x.txt", b"1" * (3 << 20), r"x.txt:1 is a line without an end"),
        ("x.npy", b"not this", r"without the first bytes of a .npy file"),
        ("x.npy", b"\x93NUMPY\x01", r"7 bytes, less than its header"),
        ("x.npy", b"\x93NUMPY\x01\x00\x04\x00{}}}", r"x.npy is no .npy file"),
    ],
)
def test_what_is_something_else_is_refused_by_line(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadData, match=text):
        all_of(tmp_path / name)


def test_arrays_that_are_no_signals_are_refused(tmp_path):
    for values in (np.zeros((2, 2, 2)), np.asfortranarray(np.zeros((3, 2))), np.zeros((3, 0)), np.array(["a"]), np.array(1.0)):
        np.save(tmp_path / "x.npy", values)
        with pytest.raises(BadData, match=r"expected numbers \[sample\] or \[sample, channel\], row by row"):
            all_of(tmp_path / "x.npy")
    with pytest.raises(BadData, match="cannot be read: No such file"):
        all_of(tmp_path / "missing")
    for settings in ({"channels": 0}, {"idle_s": -1}, {"idle_s": float("inf")}):
        with pytest.raises(BadConfig, match=next(iter(settings))):
            Samples(tmp_path / "x", **settings)  # type: ignore[arg-type]


def test_a_file_is_followed_as_it_grows_until_it_is_stopped(tmp_path):
    path = tmp_path / "x.f32"
    path.write_bytes(VALUES[:5].astype("<f4").tobytes()[:-2])  # half a sample short
    samples = Samples(path, poll_s=0.01)
    chunks = iter(samples)
    np.testing.assert_array_equal(next(chunks)[:, 0], VALUES[:4])
    with path.open("r+b") as file:
        file.seek(18)
        file.write(VALUES.astype("<f4").tobytes()[18:])
    found = [next(chunks)]
    while sum(map(len, found)) < 8:
        found.append(next(chunks))
    np.testing.assert_array_equal(np.concatenate(found)[:, 0], VALUES[4:])
    samples.stop()
    assert list(chunks) == []


def test_a_file_that_shrinks_is_no_signal(tmp_path):
    path = tmp_path / "x.f32"
    path.write_bytes(VALUES.tobytes())
    chunks = iter(Samples(path, poll_s=0.01))
    next(chunks)
    path.write_bytes(b"1234")
    with pytest.raises(BadData, match="shorter than the 48 bytes that were read; expected a file that grows"):
        next(chunks)


def test_a_pipe_ends_where_it_ends_with_its_last_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(b"1\n2")
            pipe.write(b"5\n3")

    thread = threading.Thread(target=write)
    thread.start()
    found = np.concatenate(list(Samples(tmp_path / "pipe", "text")))
    thread.join()
    np.testing.assert_array_equal(found[:, 0], [1, 25, 3])
