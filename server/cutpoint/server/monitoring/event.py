"""What a log line says to programs: a word for what happened, and fields beside it.

`log.info(Event("reload", model="m", version=2))` is the line `reload model=m version=2` (logfmt), or an object of JSON where
the server was told so.
"""

import json
import re
from typing import Any

# Written as it is; anything else is quoted as in JSON, which logfmt's readers take.
# Characters of a value; callers give some of them, and a log is not theirs to fill.
_MOST = 400
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")


class Event:
    """One thing that happened.

    Attributes:
        name: what, a word that stays the same.
        fields: about it, in the order in which they are written.
    """

    def __init__(self, name: str, **fields: Any) -> None:
        """Fields that are None are left out, long texts and lists cut."""
        self.name, self.fields = name, {key: _short(value) for key, value in fields.items() if value is not None}

    def __str__(self) -> str:
        """The line: the name and key=value for each field."""
        return " ".join([self.name, *(f"{key}={_written(value)}" for key, value in self.fields.items())])


def _short(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    if isinstance(value, tuple | list):
        kept: list[Any] = []
        left = _MOST
        for each in value:
            text = str(each)
            kept.append(each if len(text) <= left else text[: max(0, left)] + "...")
            if len(text) > left:
                break
            left -= len(text) + 1
        return tuple(kept) if isinstance(value, tuple) else kept
    text = str(value)
    return text if len(text) <= _MOST else text[:_MOST] + "..."


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text, ensure_ascii=not text.isprintable())
