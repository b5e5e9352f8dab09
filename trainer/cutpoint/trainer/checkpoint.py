"""Checkpoints without pickle: one safetensors file, its header holding everything that is no tensor as JSON.

A new one is written beside the last, synced to the disk, and takes its place by a rename: there is always a whole one.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from cutpoint.errors import BadConfig
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1
KEY = "cutpoint-checkpoint"


class SafeCheckpoints(CheckpointIO):
    """How Lightning's Trainer writes and reads its checkpoints here.

    Args:
        identity: what a checkpoint must have been made from to be gone on with: digests of configuration and data.
    """

    def __init__(self, identity: Mapping[str, str]) -> None:
        self.identity = dict(identity)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `checkpoint` to `path`, whole or not at all; OSError naming the file when the disk is full."""
        write_checkpoint(Path(path), checkpoint, self.identity)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """The checkpoint, its tensors on the CPU; BadConfig for one that is damaged or not of this run."""
        return read_checkpoint(Path(path), self.identity)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete it, if it is there."""
        Path(path).unlink(missing_ok=True)


def write_checkpoint(path: Path, state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Write nested dicts, lists, tensors, text and numbers to `path`; tuples are read back as lists.

    Raises:
        OSError: it cannot be written; what was at `path` before is still there.
    """
    tensors: dict[str, Tensor] = {}
    document = {"format": FORMAT, **identity, "state": _pack(state, tensors), "crc": _checksum(tensors)}
    beside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, {KEY: json.dumps(document)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        kept = f"the last good checkpoint is {path}" if path.exists() else "there is no checkpoint yet"
        raise OSError(f"checkpoint {path} cannot be written ({' '.join(str(error).split())}); {kept}") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the rename may be lost with the power
    finally:
        os.close(folder)


def read_checkpoint(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Raises:
        BadConfig: it is missing, damaged, of another kind or format, or of another configuration or other data.
    """
    try:
        with safe_open(path, "pt") as file:
            document = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise BadConfig(f"{path} is not a checkpoint of `cutpoint train` ({problem}); start again with --force") from error
    if document["format"] != FORMAT:
        raise BadConfig.of(f"{path}: format", document["format"], f"{FORMAT}; start again with --force")
    for what, digest in identity.items():
        if document.get(what) != digest:
            found = f"{str(document.get(what))[:12]}..."
            raise BadConfig.of(
                f"{path}: digest of the {what}",
                found,
                f"{digest[:12]}...: a run goes on with the same {what}, or again with --force",
            )
    if document["crc"] != _checksum(tensors):
        raise BadConfig(f"{path} is damaged: its tensors do not have the checksum in its header; start again with --force")
    state = _unpack(document["state"], tensors)
    assert isinstance(state, dict)
    return state


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()  # cloned, since tensors that share memory are refused
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[_pack(key, tensors), _pack(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_pack(each, tensors) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a checkpoint")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {_unpack(key, tensors): _unpack(each, tensors) for key, each in value["items"]}


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
