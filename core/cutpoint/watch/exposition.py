"""Prometheus's text format, read: as much of it as a server of ours writes, and strictly.

A page of 512 labels and several versions is tens of thousands of lines, most of them the same as two seconds ago but for their
numbers. What stands before a number is therefore taken apart once and known from then on.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SERIES = re.compile(rf"({_NAME})[ \t]*(?:\{{(.*)\}})?")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
# A name with labels, whose values may hold braces and blanks; a number; and, not of ours, a time in ms.
_LINE = re.compile(
    rf'({_NAME}[ \t]*(?:\{{(?:[^"}}]|"(?:[^"\\]|\\.)*")*\}})?)[ \t]*(?<=[ \t}}])([^ \t]+)(?:[ \t]+(-?[0-9]+))?[ \t]*'
)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|Inf|NaN)", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}
_MOST_KNOWN = 1 << 20


@dataclass(frozen=True)
class Series:
    """A metric's name and its labels, sorted by their names."""

    name: str
    labels: tuple[tuple[str, str], ...]

    def label(self, name: str) -> str:
        """The value of one label; empty where there is none, as Prometheus has it."""
        return next((value for key, value in self.labels if key == name), "")


class Reader:
    """Reads pages; only the series that are wanted are kept.

    Attributes:
        series: all that were ever found, in the order in which they came first.
    """

    def __init__(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """`wanted` says it of a metric's name."""
        self._wanted = wanted
        self.series: list[Series] = []
        self._known: dict[str, int] = {}
        self._numbers: dict[Series, int] = {}

    def read(self, page: str) -> NDArray[np.float64]:
        """The numbers on a page, float64 [series]; NaN where a series is not there, as where it is NaN.

        Raises:
            BadData: a line is none of the format, or a series is there twice.
        """
        places: list[int] = []
        values: list[float] = []
        known = self._known
        for line in page.split("\n"):  # not splitlines: a label's value may hold other ends of lines
            head, _, number = line.rpartition(" ")
            try:
                place = known[head]
                value = float(number)
            except (KeyError, ValueError):
                if not line or line[0] == "#" or not line.strip():
                    continue
                place, value = self._taken_apart(page, line)
            if place >= 0:
                places.append(place)
                values.append(value)
        found = np.full(len(self.series), np.nan)
        found[places] = values
        if len(set(places)) != len(places):
            twice = next(place for place, count in Counter(places).items() if count > 1)
            raise BadData.of("page of metrics", f"with {self.series[twice].name} twice for the same labels", "it once")
        return found

    def _taken_apart(self, page: str, line: str) -> tuple[int, float]:
        match = _LINE.fullmatch(line)
        if match is None or not _NUMBER.fullmatch(match[2]):
            raise self._bad(page, line)
        head = match[1].rstrip()
        series, place = self._series(page, line, head), -1
        if series is not None:
            place = self._numbers.setdefault(series, len(self.series))
            if place == len(self.series):
                self.series.append(series)
        if len(self._known) < _MOST_KNOWN:  # of a line with a time, which is longer, this is never asked
            self._known[head] = place
        return place, float(match[2])

    def _series(self, page: str, line: str, head: str) -> Series | None:
        match = _SERIES.fullmatch(head)
        if match is None:
            raise self._bad(page, line)
        labels, rest = {}, (match[2] or "").strip(" \t")
        while rest:
            label = _LABEL.match(rest)
            if label is None or label[1] in labels:
                raise self._bad(page, line)
            labels[label[1]] = self._unescaped(page, line, label[2])
            rest = rest[label.end() :].strip(" \t")
        return Series(match[1], tuple(sorted(labels.items()))) if self._wanted(match[1]) else None

    def _unescaped(self, page: str, line: str, text: str) -> str:
        if "\\" not in text:
            return text
        if any(found not in _ESCAPED for found in _ESCAPE.findall(text)):
            raise self._bad(page, line)
        return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], text)

    @staticmethod
    def _bad(page: str, line: str) -> BadData:
        number = page.split("\n").index(line) + 1
        return BadData.of(f"line {number} of the page of metrics", repr(line[:120]), 'name{label="value",...} number')
