"""Samples from a file that grows, a pipe or standard input, as they come."""

import io
import os
import re
import select
import stat
import sys
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray

Format = Literal["auto", "f32", "npy", "text"]
READ_BYTES = 1 << 20
POLL_S = 0.2
_TEXT = {".txt", ".csv", ".tsv"}
_F32 = {"", ".f32", ".raw", ".bin", ".dat"}
_LONGEST_LINE = 1 << 20
_NPY_MAGIC = b"\x93NUMPY"


class Samples:
    """Chunks of [sample, channel] as they can be read, until the end of a pipe, `stop`, or nothing came for `idle_s`.

    A file is read from its begin and then as it grows, as `tail -f` does it; a pipe or standard input ends where it ends. A
    partial last sample is not given; in a file that may grow further, nor is a last line without its end. Formats:

    f32: float32, little-endian, the channels of one sample beside each other.
    npy: an array [sample] or [sample, channel] of numbers, without pickles; how many its header says does not matter.
    text: a line for each sample, channels apart by commas, semicolons or blanks; empty lines and what follows a # are skipped.
    auto: by the file's name (.npy; .txt, .csv and .tsv are text; .f32, .raw, .bin, .dat and pipes f32); others are to be named.
    """

    def __init__(
        self, source: Path, form: Format = "auto", channels: int = 1, *, idle_s: float = 0.0, poll_s: float = POLL_S
    ) -> None:
        """Nothing is opened yet.

        Args:
            source: the file; "-" for standard input.
            form: its format.
            channels: of f32; the others say it themselves.
            idle_s: end where nothing came for so long; 0: never.
            poll_s: how often to look whether a file has grown.

        Raises:
            BadConfig: a number is outside its range.
        """
        if channels < 1:
            raise BadConfig.of("channels", channels, "a whole number from 1")
        if not 0 <= idle_s < float("inf"):
            raise BadConfig.of("idle_s", idle_s, "seconds from 0")
        if form == "auto":
            form = _form_of(source)
        self._source, self._form, self._channels = source, form, channels
        self._name = "standard input" if str(source) == "-" else str(source)
        self._idle_s, self._poll_s = idle_s, poll_s
        self._stop = threading.Event()
        self._whole = False  # it ended by itself, so that the last line is whole

    def stop(self) -> None:
        """End the iteration soon, as if the source had ended; from any thread."""
        self._stop.set()

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Raises BadData where the source cannot be read or holds something else than the format says."""
        decode = {"f32": self._f32, "npy": self._npy, "text": self._text}[self._form]
        return decode(self._bytes())

    def _bytes(self) -> Iterator[bytes]:
        """What there is to read, as it comes."""
        with ExitStack() as stack:
            try:
                if str(self._source) == "-":
                    file, grows = sys.stdin.fileno(), False
                else:
                    file = os.open(self._source, os.O_RDONLY)
                    stack.callback(os.close, file)
                    grows = stat.S_ISREG(os.fstat(file).st_mode)
                regular = stat.S_ISREG(os.fstat(file).st_mode)
                last_s, at = time.monotonic(), 0
                while not self._stop.is_set():
                    if not regular and not select.select((file,), (), (), self._poll_s)[0]:
                        data = b""
                    else:
                        data = os.read(file, READ_BYTES)
                        if not data and not grows:
                            self._whole = True
                            return
                    if data:
                        last_s, at = time.monotonic(), at + len(data)
                        yield data
                    elif self._idle_s and time.monotonic() - last_s >= self._idle_s:
                        return
                    elif grows:
                        if os.fstat(file).st_size < at:
                            raise BadData.of(self._name, f"shorter than the {at} bytes that were read", "a file that grows")
                        self._stop.wait(self._poll_s)
            except OSError as error:
                raise BadData(f"{self._name} cannot be read: {error.strerror}") from error

    def _f32(self, parts: Iterator[bytes]) -> Iterator[NDArray[Any]]:
        return _whole_samples(parts, np.dtype("<f4"), self._channels, b"")

    def _npy(self, parts: Iterator[bytes]) -> Iterator[NDArray[Any]]:
        head = b""
        for part in parts:
            head += part
            size = _npy_header_size(head)
            if head[: len(_NPY_MAGIC)] != _NPY_MAGIC[: len(head)]:
                raise BadData.of(self._name, "without the first bytes of a .npy file", "a .npy file; or --format")
            if size is not None and len(head) >= size:
                break
        else:
            if head:
                raise BadData.of(self._name, f"{len(head)} bytes, less than its header", "a whole .npy header")
            return
        dtype, channels = self._npy_header(head[:size])
        yield from _whole_samples(parts, dtype, channels, head[size:])

    def _npy_header(self, head: bytes) -> tuple[np.dtype[Any], int]:
        try:
            file = io.BytesIO(head)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_column, dtype = read(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:  # its header is Python
            raise BadData(f"{self._name} is no .npy file: {error}") from error
        if len(shape) not in (1, 2) or (len(shape) == 2 and (by_column or shape[1] == 0)) or dtype.kind not in "biuf":
            order = ", column by column" if by_column else ""
            raise BadData.of(self._name, f"{dtype} {list(shape)}{order}", "numbers [sample] or [sample, channel], row by row")
        return dtype, 1 if len(shape) == 1 else int(shape[1])

    def _text(self, parts: Iterator[bytes]) -> Iterator[NDArray[Any]]:
        rest, number, channels = b"", 0, 0
        for part in parts:
            *lines, rest = (rest + part).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise BadData.of(f"{self._name}:{number + len(lines) + 1}", "a line without an end", "a sample on each line")
            rows = self._rows(lines, number, channels)
            number += len(lines)
            if rows:
                channels = len(rows[0])
                yield np.array(rows, np.float32)
        rows = self._rows([rest], number, channels) if self._whole else []
        if rows:
            yield np.array(rows, np.float32)

    def _rows(self, lines: list[bytes], before: int, channels: int) -> list[list[float]]:
        rows: list[list[float]] = []
        for i, line in enumerate(lines, before + 1):
            words = re.split(rb"[,;\s]+", line.partition(b"#")[0].strip())
            if words == [b""]:
                continue
            try:
                rows.append([float(word) for word in words])
            except ValueError:
                found = line.decode("utf-8", "replace").strip()[:60]
                raise BadData.of(f"{self._name}:{i}", repr(found), "numbers apart by commas or blanks") from None
            channels = channels or len(rows[0])
            if len(rows[-1]) != channels:
                raise BadData.of(f"{self._name}:{i}", f"{len(rows[-1])} numbers", f"{channels}, as on the lines before")
        return rows


def _npy_header_size(head: bytes) -> int | None:
    """Bytes before the data; None where too little is there to say."""
    if len(head) < 12:
        return None
    return 10 + int.from_bytes(head[8:10], "little") if head[6] == 1 else 12 + int.from_bytes(head[8:12], "little")


def _whole_samples(parts: Iterator[bytes], dtype: np.dtype[Any], channels: int, rest: bytes) -> Iterator[NDArray[Any]]:
    size = dtype.itemsize * channels

    def cut(data: bytes) -> tuple[NDArray[Any], bytes]:
        whole = len(data) // size * size
        return np.frombuffer(data[:whole], dtype).reshape(-1, channels), data[whole:]

    first, rest = cut(rest)
    if len(first):
        yield first
    for part in parts:
        samples, rest = cut(rest + part)
        if len(samples):
            yield samples


def _form_of(source: Path) -> Format:
    """What a file's name says; BadConfig where it says nothing, since numbers can be made of any bytes."""
    if source.suffix == ".npy":
        return "npy"
    if source.suffix in _TEXT:
        return "text"
    if source.suffix in _F32:
        return "f32"
    raise BadConfig.of("format", f"auto, and {source} has no ending that says it", "f32, npy or text")
