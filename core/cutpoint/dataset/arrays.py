"""Arrays by key, from one .npz or from a folder of .npy that is memory-mapped; never a pickle."""

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData

# What numpy lets through from zipfile, zlib and its own header parser when a file is damaged.
_UNREADABLE = (
    ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, tokenize.TokenError, NotImplementedError, RuntimeError,
)  # fmt: skip


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a .npz file, or of a folder of .npy files (memory-mapped), by key; BadData where one cannot be read."""
    return _read_folder(path) if path.is_dir() else _read_npz(path)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise BadData.of("data path", f"{path} (no such file)", "an .npz file or a folder of .npy files")
    try:
        with path.open("rb") as file:  # opened here, since numpy leaves the files of damaged archives open
            begins = file.read(6)
            if not begins.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY")):
                raise BadData(f"{path} cannot be read as .npz (it begins otherwise); expected arrays saved by numpy.savez")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadData.of(str(path), "a single array", "an .npz file or a folder of .npy files")
            return {key: _read_key(path, archive, key) for key in archive.files}
    except BadData:
        raise
    except _UNREADABLE as error:
        raise BadData(f"{path} cannot be read as .npz ({error}); expected arrays saved by numpy.savez") from error


def _read_key(path: Path, archive: Any, key: str) -> NDArray[Any]:
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        raise _refused(f"{path}: {key}", error) from error


def _read_folder(path: Path) -> dict[str, NDArray[Any]]:
    return {file.stem: load_array(file, memory_map=True) for file in sorted(path.glob("*.npy"))}


def load_array(path: Path, memory_map: bool = False) -> NDArray[Any]:
    """One .npy file; BadData where it cannot be read."""
    try:
        return np.asanyarray(np.load(path, mmap_mode="r" if memory_map else None, allow_pickle=False))
    except _UNREADABLE as error:
        raise _refused(str(path), error) from error


def _refused(name: str, error: Exception) -> BadData:
    if any(words in str(error) for words in ("allow_pickle", "Object arrays", "Python objects")):
        return BadData.of(name, "a pickled object array, which could run code", "plain numbers or text")
    return BadData(f"{name} cannot be read ({error}); expected an array saved by numpy.save")
