"""Scores and labels from files: .npz, .csv and .parquet; and histograms of them.

    .npz               logits (or probabilities) [row], [row, label] or [sequence, window, label], and y alike;
                       label_names [label], group [row] and weight [row] if there are any;
                       what else `cutpoint score --out` writes is not read
    .csv, .parquet     one label: columns logit (or probability) and y
                       several: columns logit:NAME (or probability:NAME) and y:NAME for each; group and weight if there are any

y holds 0, 1, and -1, 255, NaN or nothing for "not labelled"; without y no classes are known, which is enough for alert rates.
Probabilities become logits here, in float64: thresholds are on logits.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..calibration import ScoreHistogram, Scores, refuse_probabilities
from ..dataset import read_arrays, target_codes
from ..errors import BadData, MissingPart

_TABLES = (".csv", ".parquet")
_KEYS = ("logits", "probabilities", "y", "label_names", "group", "weight")
_IGNORED = ("decisions", "policy_version", "rows", "scores")  # of `cutpoint score --out`, to which y was added
_CLASSES = "numbers 0 and 1, and -1, 255, NaN or nothing for not labelled"


def read_scores(path: Path, labels: Sequence[str] | None = None) -> Scores:
    """Read scores made elsewhere.

    Args:
        path: .npz, .csv or .parquet, as described above.
        labels: names that they must have, in that order; a file without names must have as many. None for any.

    Raises:
        BadData: no such file, a pickle, missing or unknown keys or columns, shapes that differ, probabilities outside 0 to 1,
            logits that are plainly probabilities, labels other than 0, 1, -1, 255 and NaN; the message names file and key.
        MissingPart: a table needs pyarrow, which is not installed.
    """
    arrays, names = _read_table(path) if path.suffix.lower() in _TABLES else (_read_npz(path), None)
    if ("logits" in arrays) == ("probabilities" in arrays):
        raise BadData.of(f"{path}: keys", sorted(arrays), "either logits or probabilities, and y")
    key = "logits" if "logits" in arrays else "probabilities"
    logits, y = arrays[key], arrays.get("y")
    if logits.dtype.kind not in "biuf":
        raise BadData.of(f"{path}: {key}", str(logits.dtype), "numbers")
    if logits.ndim == 1:
        logits = logits[:, None]
    if y is not None:
        y = _like(path, y, logits)
    if key == "probabilities":
        logits = _log_odds(path, logits)
    else:
        refuse_probabilities(f"{path}: logits", logits)
    if "label_names" in arrays:
        names = [str(name) for name in np.atleast_1d(arrays["label_names"])]
    count = logits.shape[-1]
    if names is not None and (len(names) != count or len(set(names)) != count):
        raise BadData.of(f"{path}: label_names", names[:5], f"{count} different names, one per label")
    if labels is not None and ((names is not None and tuple(names) != tuple(labels)) or count != len(labels)):
        found = names[:5] if names is not None else f"of {count} labels"
        raise BadData.of(f"{path}: labels", found, f"{list(labels[:5])}, {len(labels)} in all, the model's, in that order")
    targets = None if y is None else target_codes(f"{path}: y", y)
    chosen = labels if labels is not None else names if names is not None else [str(i) for i in range(count)]
    try:
        return Scores(
            logits.astype(np.float32, copy=False), targets, chosen, weights=arrays.get("weight"), groups=arrays.get("group")
        )
    except BadData as error:
        raise BadData(f"{path}: {error}") from None


def read_histogram(path: Path) -> ScoreHistogram:
    """Read a histogram from a file; BadData naming it where it holds none."""
    if not path.is_file():
        raise BadData.of("histogram", f"{path} (no such file)", "a file that `cutpoint histogram` wrote")
    try:
        return ScoreHistogram.from_bytes(path.read_bytes())
    except BadData as error:
        raise BadData(f"{path}: {error}") from None


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    arrays = read_arrays(path)
    unknown = sorted(set(arrays) - {*_KEYS, *_IGNORED})
    if unknown:
        raise BadData(
            f"{path}: keys that mean nothing here: {unknown[:5]}; expected logits and y, and of others only "
            + ", ".join(_KEYS[3:])
            + ", or probabilities in place of logits"
        )
    return {key: array for key, array in arrays.items() if key in _KEYS}


def _read_table(path: Path) -> tuple[dict[str, NDArray[Any]], list[str] | None]:
    """Arrays by the keys of an .npz, and the labels' names where the columns have them."""
    if not path.is_file():
        raise BadData.of("scores", f"{path} (no such file)", "an .npz, .csv or .parquet file")
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ModuleNotFoundError as error:
        raise MissingPart(f"{path.suffix} files need the package pyarrow: pip install 'cutpoint[tables]'") from error
    try:
        table = parquet.read_table(path) if path.suffix.lower() == ".parquet" else csv.read_csv(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path} cannot be read ({error}); expected a {path.suffix} table") from error
    columns = dict(zip(table.column_names, table.columns, strict=True))
    if len(columns) < table.num_columns:
        twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        raise BadData.of(f"{path}: columns", f"{twice[:5]} more than once", "each column once")
    arrays: dict[str, NDArray[Any]] = {}
    for key in ("group", "weight"):
        if key in columns:
            arrays[key] = _column(path, key, columns.pop(key))
            if arrays[key].dtype.kind == "O":
                arrays[key] = arrays[key].astype(str)
    kind = "probability" if any(name.partition(":")[0] == "probability" for name in columns) else "logit"
    names = [name.partition(":")[2] for name in columns if name.startswith(f"{kind}:")]
    scores = [f"{kind}:{name}" for name in names] if names else [kind]
    targets = [f"y:{name}" for name in names] if names else ["y"]
    labelled = any(name in columns for name in targets)
    wanted = [*scores, *(targets if labelled else [])]
    if sorted(columns) != sorted(wanted):
        lacking, more = sorted(set(wanted) - set(columns))[:5], sorted(set(columns) - set(wanted))[:5]
        found = [f"{what}: {some}" for what, some in (("missing", lacking), ("that mean nothing here", more)) if some]
        raise BadData(
            f"{path}: columns {'; columns '.join(found)}; expected logit (or probability) and y, or logit:NAME and y:NAME for "
            "each label, and group and weight if there are any"
        )
    key = "logits" if kind == "logit" else "probabilities"
    arrays[key] = np.stack([_column(path, name, columns[name]) for name in scores], axis=-1)
    if labelled:
        arrays["y"] = np.stack([_column(path, name, columns[name]) for name in targets], axis=-1)
    return arrays, names or None


def _column(path: Path, name: str, column: Any) -> NDArray[Any]:
    """A column as an array; what is missing is NaN, which only labels may be."""
    if column.null_count and name.partition(":")[0] != "y":
        raise BadData.of(f"{path}: {name}", f"missing in {column.null_count} rows", "a value in every row")
    if str(column.type) in ("bool", "null"):  # of which, with missing ones, numpy would make objects
        column = column.cast("int8")
    found: NDArray[Any] = column.to_numpy()
    if name != "group" and found.dtype.kind not in "biuf":
        raise BadData.of(f"{path}: {name}", str(column.type), _CLASSES if name.partition(":")[0] == "y" else "numbers")
    return found


def _like(path: Path, y: NDArray[Any], logits: NDArray[Any]) -> NDArray[Any]:
    """`y` with the label axis that it may lack where there is one label."""
    if logits.ndim == y.ndim + 1 and logits.shape[-1] == 1:
        y = y[..., None]
    if y.dtype.kind not in "biuf":
        raise BadData.of(f"{path}: y", str(y.dtype), _CLASSES)
    if y.shape != logits.shape:
        raise BadData.of(
            f"{path}: shapes of logits and y", f"{list(logits.shape)} and {list(y.shape)}", "the same, [..., label]"
        )
    return y


def _log_odds(path: Path, probabilities: NDArray[Any]) -> NDArray[np.float64]:
    p = probabilities.astype(np.float64)
    wrong = (p < 0) | (p > 1)
    if wrong.any():
        raise BadData.of(
            f"{path}: probabilities", f"{p[wrong][:5].tolist()} in {int(wrong.sum())} entries", "numbers from 0 to 1"
        )
    with np.errstate(divide="ignore"):  # 0 and 1 are -inf and inf, ordinary scores
        odds: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return odds
