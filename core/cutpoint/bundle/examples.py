"""Recorded examples: a few rows and the logits that the graph gave for them, for whoever loads it to check against.

They are no one's rows. Every value is that of some row at the same place, each place drawn by itself, so that the numbers are
where the model expects them and nobody's record goes out with the model; of a single row there is nothing to mix.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BadBundle

EXAMPLES_FILE = "examples.npz"
_ROWS = 4
_BYTES = 4 << 20  # they travel with the model and are run at every load


@dataclass(frozen=True)
class Examples:
    """Rows and their logits.

    Attributes:
        x: float32 [row, ...], what the graph takes.
        logits: float32 [row, ..., label], what it gave, all finite.
    """

    x: NDArray[np.float32]
    logits: NDArray[np.float32]


def mix_rows(x: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """A few rows mixed from those of `x` [row, ...]: four, fewer where they are large, one at least; the same for a seed."""
    size = max(1, x[:1].nbytes)
    count = max(1, min(_ROWS, _BYTES // size))
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(x), (count, *x.shape[1:]))
    return np.ascontiguousarray(np.take_along_axis(x, chosen, axis=0), np.float32)


def encode_examples(examples: Examples) -> bytes:
    """The file's bytes: an .npz of `x` and `logits`, the same for the same numbers."""
    buffer = io.BytesIO()
    np.savez(buffer, x=examples.x, logits=examples.logits)
    return buffer.getvalue()


def read_examples(folder: Path) -> Examples | None:
    """The examples of the bundle in `folder`; None where it has none.

    Raises:
        BadBundle: the file cannot be read, or holds something else.
    """
    file = folder / EXAMPLES_FILE
    if not file.exists():
        return None
    try:
        # From bytes: numpy leaves a file open that is no archive.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as found:
            x, logits = found["x"], found["logits"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError, TypeError) as error:
        raise BadBundle(f"{file} cannot be read: {error}; expected an .npz of x and logits") from error
    for name, array in (("x", x), ("logits", logits)):
        if array.dtype != np.float32 or array.ndim < 2 or not np.isfinite(array).all():
            raise BadBundle.of(f"{file}: {name}", f"{array.dtype} {list(array.shape)}", "float32 [row, ...], all finite")
    if len(x) != len(logits) or not len(x):
        raise BadBundle.of(f"{file}: rows", f"{len(x)} of x and {len(logits)} of logits", "as many of both, one at least")
    return Examples(x, logits)
