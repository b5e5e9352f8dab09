"""Checkpoints: what goes in comes out; whole or not at all."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cutpoint.errors import BadConfig
from cutpoint.trainer.checkpoint import read_checkpoint, write_checkpoint
from safetensors.torch import save_file

IDENTITY = {"configuration": "c" * 64, "data": "d" * 64}
SHARED = torch.arange(12.0).reshape(3, 4)
STATE = {
    "epoch": 3,
    "rates": [0.1 + 0.2, float("inf")],
    "flags": {"on": True, "off": None, "name": "über"},
    "optimizer": [{"state": {0: {"step": torch.tensor(7.0), "avg": SHARED}, 1: {}}, "groups": [{"betas": (0.9, 0.999)}]}],
    "weights": {"a": SHARED, "b": SHARED.T, "c": torch.zeros(0, 3), "d": torch.ones(3, dtype=torch.bfloat16)},
    "integers": torch.tensor([2**60 + 1]),
}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def test_what_goes_in_comes_out(tmp_path):
    path = tmp_path / "new" / "last.safetensors"
    write_checkpoint(path, STATE, IDENTITY)
    assert same(STATE, read_checkpoint(path, IDENTITY))
    write_checkpoint(path, {"epoch": 4}, IDENTITY)
    assert read_checkpoint(path, IDENTITY) == {"epoch": 4}
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_it_is_on_the_disk_before_it_takes_the_place_of_the_last(tmp_path, monkeypatch):
    path, calls = tmp_path / "last.safetensors", []
    write_checkpoint(path, {"epoch": 1}, IDENTITY)
    sync, replace = os.fsync, Path.replace

    def synced(number: int) -> None:
        calls.append(("sync", os.fstat(number).st_ino))
        sync(number)

    def replaced(self: Path, target: Path) -> Path:
        calls.append(("rename", self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_checkpoint(path, STATE, IDENTITY)
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("sync", file), ("rename", file), ("sync", folder)]


def test_what_has_no_place_in_it_is_refused_and_nothing_changes(tmp_path):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"epoch": 1}, IDENTITY)
    with pytest.raises(TypeError, match="object has no place"):
        write_checkpoint(path, {"epoch": object()}, IDENTITY)
    assert read_checkpoint(path, IDENTITY) == {"epoch": 1}


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


def foreign(path: Path) -> None:
    save_file({"w": torch.ones(2)}, path)


def pickled(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path)


@pytest.mark.parametrize("harm", [shorten, flip, foreign, pickled, Path.unlink])
def test_damaged_and_foreign_files_are_named(tmp_path, harm):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, STATE, IDENTITY)
    harm(path)
    with pytest.raises(BadConfig, match=r"last\.safetensors is (damaged|not a checkpoint of `cutpoint train`).*--force"):
        read_checkpoint(path, IDENTITY)


@pytest.mark.parametrize("what", ["configuration", "data"])
def test_a_checkpoint_of_another_run_is_named(tmp_path, what):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, STATE, IDENTITY)
    with pytest.raises(BadConfig, match=rf"last\.safetensors: digest of the {what} is .*the same {what}"):
        read_checkpoint(path, IDENTITY | {what: "e" * 64})


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """The nearest thing to a full disk that needs no rights: a write past `size` bytes fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"epoch": 1}, IDENTITY)
    with files_up_to(20_000), pytest.raises(OSError, match=rf"{path} cannot be written .*the last good checkpoint is {path}"):
        write_checkpoint(path, {"epoch": 2, "w": torch.zeros(50_000)}, IDENTITY)
    assert read_checkpoint(path, IDENTITY) == {"epoch": 1}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    with files_up_to(100), pytest.raises(OSError, match="there is no checkpoint yet"):
        write_checkpoint(tmp_path / "other.safetensors", {"w": torch.zeros(50_000)}, IDENTITY)
