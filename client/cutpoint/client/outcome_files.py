"""Outcomes from files: `.csv` with a line for each, `.jsonl` with an object for each, `.npz` with arrays.

    request_id  the id that it was scored with; with row, from 0, unless that request had one only, and, of models of windows,
                window
    key         or: your own name for the decision, with logit (or logits, of all labels); also policy_version, time_s
    outcome     1, 0, or -1 and nothing for not known, of the label in `label`, or of the only one

A line of `.jsonl` may have `positive` and `negative` (lists of labels) or `targets` (of all labels) for `outcome`; an `.npz`
has `y` [outcome] or [outcome, label] (and `label_names`), or is a data set as `cutpoint score` takes it.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cutpoint.errors import BadData

from .outcomes import Outcomes

_COLUMNS = ("request_id", "row", "window", "key", "logit", "policy_version", "time_s", "label", "outcome")
_FIELDS = (*_COLUMNS, "logits", "positive", "negative", "targets")
_AHEAD_S = 86_400.0  # how far the clock by which it was decided may be ahead of this one, as the server has it
_LONGEST_KEY = 1000  # bytes, likewise
_WORDS = {"1": 1, "0": 0, "-1": -1, "": -1, "true": 1, "false": 0, "positive": 1, "negative": 0}


@dataclass(frozen=True)
class FromFile:
    """Outcomes that are alike, and where each of them is in the file, for messages."""

    outcomes: Outcomes
    places: list[str]


@dataclass(frozen=True)
class _Line:
    place: str
    request_id: str
    row: int | None
    window: int | None
    key: str
    logits: list[float] | None
    policy_version: int
    time_s: float
    said: dict[str, int] | list[int]


def read_outcomes(path: Path, request_id: str = "", now_s: Callable[[], float] = time.time) -> list[FromFile]:
    """The outcomes in a file, all of it checked as far as it can be without the server; BadData naming the line.

    Args:
        path: .csv, .jsonl, .npz, or a folder of .npy files.
        request_id: of all of them, where the file has none.
        now_s: seconds since 1970.
    """
    if path.suffix == ".npz" or path.is_dir():
        return [_arrays(path, request_id, now_s())]
    if path.suffix not in (".csv", ".jsonl"):
        raise BadData.of("outcome file", str(path), ".csv, .jsonl, .npz, or a folder of .npy files")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            read = _csv(path, file) if path.suffix == ".csv" else _json(path, file)
            lines = [replace(line, request_id=line.request_id or ("" if line.key else request_id)) for line in read]
            for line in lines:
                _check(line, now_s())
    except UnicodeDecodeError as error:
        raise BadData.of("outcome file", f"{path} ({error})", "text in UTF-8") from None
    if not lines:
        raise BadData.of("outcome file", f"{path}, which is empty", "at least one outcome")
    return list(_alike(lines))


def _csv(path: Path, file: Any) -> Iterator[_Line]:
    reader = csv.DictReader(file)
    columns = reader.fieldnames or []
    if not columns:
        return  # empty
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or "outcome" not in columns:
        mark = next((mark for mark in ";\t|" if unknown and mark in unknown[0]), None)
        if mark is not None:
            raise BadData.of(f"{path}: its first line {unknown[0][:100]!r}", f"divided by {mark!r}", "commas between columns")
        found = f"{path}: columns {', '.join(columns)[:100]}"
        raise BadData.of(found, f"{unknown[0]!r} among them" if unknown else "no outcome", "some of " + ", ".join(_COLUMNS))
    for values in reader:
        place = f"{path}:{reader.line_num}"
        if None in values or None in values.values():
            raise BadData.of(place, "of another number of columns", f"{len(columns)}, as the first line")
        yield _line(place, {name: value for name, value in values.items() if value != "" or name == "outcome"})


def _json(path: Path, file: Any) -> Iterator[_Line]:
    for number, text in enumerate(file, 1):
        place = f"{path}:{number}"
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except ValueError as error:
            raise BadData(f"{place} is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise BadData.of(place, type(values).__name__, "an object")
        unknown = [name for name in values if name not in _FIELDS]
        if unknown:
            raise BadData.of(f"{place}: field", repr(unknown[0]), "some of " + ", ".join(_FIELDS))
        yield _line(place, values)


def _line(place: str, values: Mapping[str, Any]) -> _Line:
    logits, name = values.get("logits"), "logits"
    if logits is None and "logit" in values:
        logits, name = [values["logit"]], "logit"
    elif logits is not None and not isinstance(logits, list):
        raise BadData.of(f"{place}: logits", repr(logits), "a list, one for each label")
    return _Line(
        place,
        _text(place, values, "request_id"),
        _whole(place, values, "row"),
        _whole(place, values, "window"),
        _text(place, values, "key"),
        None if logits is None else [np.nan if each is None else _float(place, name, each) for each in logits],
        _whole(place, values, "policy_version") or 0,
        _time(place, values),
        _said(place, values),
    )


def _said(place: str, values: Mapping[str, Any]) -> dict[str, int] | list[int]:
    """Targets by label ("" for the only one), or of all labels."""
    forms = [name for name in ("outcome", "targets") if name in values]
    named = [name for name in ("positive", "negative") if name in values]
    if len(forms) + bool(named) != 1:
        raise BadData.of(
            place, ", ".join([*forms, *named]) or "no outcome", "one of outcome, targets, or positive and negative"
        )
    if named:
        found: dict[str, int] = {}
        for name in named:
            labels = values[name]
            if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
                raise BadData.of(f"{place}: {name}", repr(labels), "a list of labels")
            both = found.keys() & set(labels)
            if both:
                raise BadData.of(f"{place}: positive and negative", repr(min(both)), "each label in one of them")
            found |= {label: int(name == "positive") for label in labels}
        if not found:
            raise BadData.of(place, "without labels", "at least one, positive or negative")
        return found
    if forms == ["targets"]:
        if not isinstance(values["targets"], list):
            raise BadData.of(f"{place}: targets", repr(values["targets"]), "a list, one for each label")
        return [_target(place, each) for each in values["targets"]]
    return {_text(place, values, "label"): _target(place, values["outcome"])}


def _target(place: str, value: Any) -> int:
    if value is None:
        return -1
    text = str(value).strip().lower()
    if text in _WORDS:
        return _WORDS[text]
    try:
        # A table that lacks some of its outcomes has the others as 1.0 and 0.0, and NaN for those.
        number = float(text)
    except ValueError:
        number = 0.5
    if number not in (1, 0, -1) and not np.isnan(number):
        raise BadData.of(f"{place}: outcome", repr(value), "1, 0, or -1 for not known")
    return -1 if np.isnan(number) else int(number)


def _text(place: str, values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadData.of(f"{place}: {name}", repr(value), "text")
    return str(value)


def _whole(place: str, values: Mapping[str, Any], name: str) -> int | None:
    """A number as the protocol has it, 32 bits; None where there is none."""
    value = values.get(name)
    if value is None:
        return None
    try:
        # Text is of a table, which may have written 3 as 3.0.
        found = int(value) if isinstance(value, str) and value.strip().isdecimal() else float(value)
        whole = not isinstance(value, bool) and 0 <= found < 1 << 32 and found == int(found)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise BadData.of(f"{place}: {name}", repr(value), f"a whole number from 0 to {(1 << 32) - 1}")
    return int(found)


def _time(place: str, values: Mapping[str, Any]) -> float:
    """Seconds since 1970; 0 where they are not given."""
    value = values.get("time_s")
    if value is None:
        return 0.0
    return _float(place, "time_s", value)


def _float(place: str, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadData.of(f"{place}: {name}", repr(value), "a number") from None


def _check(line: _Line, now_s: float) -> None:
    """Refuse what a server would, but before anything of the file is sent."""
    if bool(line.request_id) == bool(line.key):
        found = "both" if line.key else "neither"
        raise BadData.of(f"{line.place}: request_id and key", found, "one of them")
    _check_name(line.place, "key" if line.key else "request_id", line.key or line.request_id)
    _check_time(line.place, line.time_s, now_s)
    if not line.key:
        return
    if line.logits is None:
        raise BadData.of(f"{line.place}: logit", "not given", "what was answered, with a key")
    said = line.said if isinstance(line.said, list) else list(line.said.values())
    if isinstance(line.said, list) and len(said) != len(line.logits):
        raise BadData.of(f"{line.place}: targets and logits", f"{len(said)} and {len(line.logits)}", "as many of both")
    if len(said) == len(line.logits) and any(
        target >= 0 and np.isnan(logit) for target, logit in zip(said, line.logits, strict=True)
    ):
        raise BadData.of(f"{line.place}: logit", "NaN", "a number, for a label with an outcome")


def _check_name(place: str, name: str, text: str) -> None:
    if not 1 <= len(text.encode()) <= _LONGEST_KEY:
        found = f"{len(text.encode())} bytes" if text else "empty"
        raise BadData.of(f"{place}: {name}", found, f"1 to {_LONGEST_KEY} bytes of text")


def _check_time(place: str, time_s: float, now_s: float) -> None:
    if not 0 <= time_s <= now_s + _AHEAD_S:
        expected = f"seconds since 1970, of a decision that was made; it is {now_s:.0f} now"
        raise BadData.of(f"{place}: time_s", f"{time_s:.15g}", expected)


def _alike(lines: list[_Line]) -> Iterator[FromFile]:
    """Lines in groups that one report can take: of the same label, and named in the same way."""
    groups: dict[Any, list[tuple[_Line, Any]]] = {}
    for line in lines:
        width = None if line.logits is None else len(line.logits)
        how = (bool(line.key), line.row is None, line.window is None, line.policy_version, width)
        said = {None: line.said} if isinstance(line.said, list) else line.said
        for label, target in said.items():
            groups.setdefault((label, len(target) if isinstance(target, list) else 0, *how), []).append((line, target))
    for (label, _, keyed, rowless, windowless, policy_version, _), some in groups.items():
        of = [line for line, _ in some]
        targets = np.array([target for _, target in some], np.int64)
        labels = [label] if label else []
        if keyed:
            times = np.array([line.time_s for line in of])
            outcomes = Outcomes(
                targets, keys=[line.key for line in of], logits=np.array([line.logits for line in of], np.float32),
                labels=labels, policy_version=policy_version, times_s=times if times.any() else None,
            )  # fmt: skip
        else:
            outcomes = Outcomes(
                targets, request_id=[line.request_id for line in of],
                rows=None if rowless else np.array([line.row for line in of]),
                windows=None if windowless else np.array([line.window for line in of]), labels=labels,
            )  # fmt: skip
        yield FromFile(outcomes, [line.place for line in of])


def _arrays(path: Path, request_id: str, now_s: float) -> FromFile:
    names = ("y", "label_names", "request_id", "row", "window", "key", "logits", "policy_version", "time_s")
    try:
        if path.is_dir():
            found = {name: np.load(path / f"{name}.npy") for name in names if (path / f"{name}.npy").is_file()}
        else:
            with np.load(path) as file:
                found = {name: file[name] for name in names if name in file}
    except (ValueError, OSError) as error:
        raise BadData.of("outcome file", f"{path} ({error})", "an .npz of arrays without pickles") from None
    if "y" not in found:
        raise BadData.of(f"{path}: keys", "no y", "y, what became of each")
    y = found["y"]
    if not (y.ndim and y.size):
        raise BadData.of(f"{path}: y", f"of shape {list(y.shape)}", "[outcome] or [outcome, label], one at least")
    labels = [str(label) for label in found["label_names"].tolist()] if "label_names" in found else []
    places = [f"{path}: row {i}" for i in range(y.size if y.ndim == 1 else y.size // y.shape[-1])]
    for name in ("key", "request_id"):
        for place, text in zip(places, np.atleast_1d(found[name]).tolist() if name in found else [], strict=False):
            _check_name(place, name, str(text))
    if "key" in found:
        version = found.get("policy_version", np.zeros((), np.int64))
        if version.size != 1 or version.dtype.kind not in "iu":
            raise BadData.of(f"{path}: policy_version", f"{version.dtype} {list(version.shape)}", "one whole number")
        times = np.atleast_1d(found.get("time_s", np.zeros(1)))
        if times.dtype.kind not in "iuf":
            raise BadData.of(f"{path}: time_s", str(times.dtype), "numbers, seconds since 1970")
        for place, time_s in zip(places, times.tolist(), strict=False):
            _check_time(place, time_s, now_s)
        outcomes = Outcomes(
            y, keys=[str(key) for key in found["key"].tolist()], logits=found.get("logits"), labels=labels,
            policy_version=int(version.item()), times_s=found.get("time_s"),
        )  # fmt: skip
    else:
        ids = found["request_id"].tolist() if "request_id" in found else request_id
        if not ids:
            raise BadData.of(f"{path}: request_id", "not given", "in the file or as --request-id; or key and logits")
        outcomes = Outcomes(
            y, request_id=[str(each) for each in ids] if isinstance(ids, list) else str(ids), rows=found.get("row"),
            windows=found.get("window"), labels=labels,
        )  # fmt: skip
    return FromFile(outcomes, places)
