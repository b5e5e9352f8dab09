"""The labelled scores of one Calibrate call, in bounded memory: as they are while they are few, counted once they are many."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cutpoint.calibration import ScoreHistogram, Scores, merge_histograms, refuse_probabilities
from cutpoint.errors import BadData, BadRequest, Uncalibratable
from numpy.typing import NDArray

# What a chunk and a group's name take beside their own bytes: a million chunks of one row are not a few megabytes.
_CHUNK_BYTES, _NAME_BYTES = 1024, 160
# Weights and groups are sorted along with their rows: what that takes at its most, in times of themselves, as measured.
_WEIGHTS_TIMES, _GROUPS_TIMES = 12, 6


class Collection:
    """Chunks in, a source of curves out. Not for several threads at a time."""

    def __init__(self, labels: Sequence[str], max_bytes: int) -> None:
        """Take `max_bytes` for scores of `labels` at most; beyond it they are counted in a histogram of small bins."""
        self.labels = tuple(labels)
        self._max_bytes = max_bytes
        self._logits: list[NDArray[Any]] = []
        self._targets: list[NDArray[Any]] = []
        self._weights: list[NDArray[Any]] = []
        self._groups: list[NDArray[np.int64]] = []
        self._names: dict[bytes, int] = {}  # of groups: their codes, where they are text
        self._held = 0
        self._histogram: ScoreHistogram | None = None
        self._kind: dict[str, str] | None = None

    def add(
        self,
        name: str,
        logits: NDArray[np.float32],
        targets: NDArray[np.uint8] | None,
        weights: NDArray[np.float64] | None,
        groups: NDArray[Any] | None,
        *,
        known_logits: bool = False,
    ) -> None:
        """Take logits and targets [row, label], weights and groups [row], int64 or bytes; `name` is of the chunk, for messages.

        `known_logits`: a graph gave them, so that probabilities are not looked for among them.

        Raises:
            BadRequest: something is given here and was not before, or the other way round.
            BadData: the logits are plainly probabilities, or there are too many of them with groups.
        """
        has_groups = "missing" if groups is None else "text" if groups.dtype.kind == "O" else "integers"
        self._same_kind(name, {"data": "scores", "targets": _given(targets), "weights": _given(weights), "groups": has_groups})
        if not known_logits:
            refuse_probabilities(f"{name}: logits", logits)
        if self._histogram is not None:
            self._count(name, logits, targets, weights)
            return
        parts = (targets, weights, None if groups is None else self._codes(groups))
        self._logits.append(logits)
        self._held += _CHUNK_BYTES + logits.nbytes
        for kept, part, times in zip(
            (self._targets, self._weights, self._groups), parts, (1, _WEIGHTS_TIMES, _GROUPS_TIMES), strict=True
        ):
            if part is not None:
                kept.append(part)
                self._held += times * part.nbytes
        if 2 * self._held > self._max_bytes:  # they are joined in the end, and then are there twice
            self._fold(groups is not None)

    def add_histogram(self, name: str, data: bytes) -> None:
        """Take a histogram of the same labels and grid as those before; BadRequest where it is not one."""
        self._same_kind(name, {"data": "a histogram"})
        try:
            # Half of what may be held: two are there while they are added, and of a narrow one and a wide one the sum is wide.
            found = ScoreHistogram.from_bytes(data, self.labels, self._max_bytes // 2)
            self._histogram = found if self._histogram is None else merge_histograms((self._histogram, found))
        except BadData as error:
            raise BadRequest(f"{name}: {error}") from error

    def data(self) -> Scores | ScoreHistogram:
        """Everything taken; nothing more may be added. Uncalibratable where nothing came."""
        if self._histogram is not None:
            return self._histogram
        if not self._logits:
            raise Uncalibratable("no labels: no chunk came after the header")
        groups = _joined(self._groups) if self._groups else None
        if groups is not None and self._names:  # from the order they came in to that of the text, as whoever sorts it has it
            names = sorted(self._names)
            order = np.empty(len(names), np.int64)
            order[[self._names[each] for each in names]] = np.arange(len(names))
            groups = order[groups]
        return Scores(
            _joined(self._logits),
            _joined(self._targets) if self._targets else None,
            self.labels,
            weights=_joined(self._weights) if self._weights else None,
            groups=groups,
        )

    def _same_kind(self, name: str, kind: dict[str, str]) -> None:
        before = self._kind or kind
        for part, found in kind.items():
            if found != before.get(part, found):
                raise BadRequest.of(f"{name}: {part}", found, f"{before[part]}, as in the chunks before it")
        self._kind = kind

    def _codes(self, groups: NDArray[Any]) -> NDArray[np.int64]:
        """A number for each group's name: arrays of text are as wide as their longest one, a dictionary is not."""
        if groups.dtype.kind != "O":
            return groups
        names, codes = self._names, np.empty(len(groups), np.int64)
        for start in range(0, len(groups), 1 << 14):  # a whole list at a time would keep the event loop waiting
            some = groups[start : start + (1 << 14)].tolist()
            for each in set(some).difference(names):
                names[each] = len(names)
                self._held += _NAME_BYTES + len(each)
            codes[start : start + len(some)] = [names[each] for each in some]
        return codes

    def _fold(self, grouped: bool) -> None:
        """From scores to counts."""
        if grouped:
            raise BadData.of(
                "labelled scores with groups", f"over {self._max_bytes / 2**21:g} MiB",
                "at most half of --max-calibration-mib, or histograms of rows in groups: a group cannot be counted in parts",
            )  # fmt: skip
        self._histogram = ScoreHistogram(self.labels, weighted=bool(self._weights), labelled=bool(self._targets))
        chunks, self._logits = self._logits, []
        for i in range(len(chunks)):
            targets = self._targets[i] if self._targets else None  # all have them, or none
            self._count(f"chunk {i}", chunks[i], targets, self._weights[i] if self._weights else None)
        self._targets, self._weights = [], []

    def _count(
        self, name: str, logits: NDArray[Any], targets: NDArray[Any] | None, weights: NDArray[np.float64] | None
    ) -> None:
        assert self._histogram is not None
        try:
            self._histogram.update(logits, targets, weights)
        except BadData as error:
            raise BadData(f"{name}: {error}") from error


def _given(part: object) -> str:
    return "missing" if part is None else "given"


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """All parts as one array; they are let go as they are copied."""
    if len(parts) == 1:
        return parts.pop()
    whole: NDArray[Any] = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
    at = 0
    parts.reverse()
    while parts:
        part = parts.pop()
        whole[at : at + len(part)] = part
        at += len(part)
    return whole
