"""A score histogram: what stands for any amount of labelled scores, from any number of machines, in a few megabytes.

The grid is fixed, and its edges are multiples of a power of two, so that binning a float32 logit is exact: every count at an
edge is the count that the scores themselves give there. Histograms of one grid are added; whole counts give the same sum in
any order. Sketches (KLL, t-digest) are not used: their additive rank errors are larger than the tails that matter here.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData, BadInput
from .curve import Counted, Curve, check_weights
from .encoding import FORMAT, Header, decode_counts, decode_header, encode, smallest_dtype, units_of
from .expected import expected_at
from .guarantee import RateName
from .policy import Counts, DataSummary, Expected
from .scores import Cuts, for_rows, group_scores

_MOST_LABELS, _MOST_BINS = 1 << 17, 1 << 22
_EXACT_FLOAT32: Final = 1 << 24  # up to which float32 holds every whole number; a block has no more bins
_BLOCK_LABELS: Final = 128  # of which the bins stay in the processor's cache while they are counted
_CHUNK: Final = 1 << 17  # scores of a block that are counted at a time, likewise
_CHUNK_ROWS: Final = 1 << 14  # looked at at a time

T = TypeVar("T")


class ScoreHistogram:
    """Counts of labelled scores on a fixed grid of logits, per label.

    Bins are [edge, edge + step) with step 2**-bits, from -limit up to limit; scores under -limit and from limit up have
    a bin of their own each. With the defaults a bin is 0.4 % of the odds wide.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        limit: int = 32,
        bits: int = 8,
        weighted: bool = False,
        labelled: bool = True,
        grouped: bool = False,
    ) -> None:
        """An empty histogram.

        Args:
            labels: names, in the order of the scores' last axis.
            limit: the grid reaches from -limit to limit, logits.
            bits: a bin is 2**-bits wide.
            weighted: whether weights are summed instead of rows counted.
            labelled: whether classes are known; without them only alert rates follow.
            grouped: whether rows come in groups, which are then counted beside them: guarantees by group follow from it.

        Raises:
            BadData: no labels, one twice, a grid of more than 2**22 bins, or groups of weighted or unlabelled rows.
        """
        self.labels = tuple(labels)
        if not 1 <= len(self.labels) <= _MOST_LABELS or len(set(self.labels)) != len(self.labels):
            raise BadData.of("histogram labels", list(self.labels[:5]), f"1 to {_MOST_LABELS} different names")
        if grouped and (weighted or not labelled):
            raise BadData.of("grouped histogram", f"{weighted=}, {labelled=}", "of labelled rows without weights")
        if not (limit >= 1 and 0 <= bits <= 16 and 2 * limit << bits <= _MOST_BINS):
            raise BadData.of(
                "histogram grid", f"limit {limit}, bits {bits}", f"limit from 1, bits 0 to 16, {_MOST_BINS} bins at most"
            )
        self.limit, self.bits, self.weighted, self.labelled = limit, bits, weighted, labelled
        # Groups as units (`group_scores`), two where a group has both classes; of no rate that rows have.
        self._units = ScoreHistogram(self.labels, limit=limit, bits=bits) if grouped else None
        self._edge = limit << bits  # index of the overflow bin; bin i begins at i * step; -edge - 1 is the underflow bin
        # Only the occupied window of bins is held: [label, class, bin - first]; class 1 is positive.
        self._first = 0
        self._counts: NDArray[Any] = np.zeros((len(self.labels), 2, 0), np.float64 if weighted else np.int32)
        self._most = 0  # no bin holds more; int32 holds it until it no longer would, at half the memory
        self._squares = np.zeros((len(self.labels), 2))  # sums of squared weights; only where weighted

    @property
    def step(self) -> float:
        """Width of a bin, logits."""
        return 2.0**-self.bits

    @property
    def has_groups(self) -> bool:
        """Whether groups are counted beside the rows."""
        return self._units is not None

    @property
    def nbytes(self) -> int:
        """Memory that the counts take."""
        return self._counts.nbytes + (0 if self._units is None else self._units.nbytes)

    @property
    def rows(self) -> int:
        """Rows counted, of the label that has most; effective ones where they are weighted."""
        if self.weighted:
            return round(max(sum(self._effective(i, total)) for i, total in enumerate(self.totals)))
        return int(self.totals.sum(axis=1).max())

    @property
    def totals(self) -> Counted:
        """Negatives and positives counted, [label, 2]."""
        totals: Counted = self._counts.sum(axis=2, dtype=np.float64 if self.weighted else np.int64)
        return totals

    def update(
        self,
        scores: NDArray[Any],
        targets: NDArray[Any] | None,
        weights: NDArray[Any] | None = None,
        groups: NDArray[Any] | None = None,
    ) -> None:
        """Count more scores; on an error nothing is counted.

        Args:
            scores: [..., label] logits, any float dtype; compared as float32.
            targets: the same shape: 0, 1 or `UNLABELLED` (255), which is left out. None where no classes are known.
            weights: [...], one for each row, finite and not negative; given exactly where the histogram is weighted. A row of
                weight 0 is left out.
            groups: [...], one for each row, or of the first axis only, integers or text; given exactly where the histogram is
                grouped. A group must be whole in one update: in two it would count twice.

        Raises:
            BadData: shapes differ, a target is none of the three values, a score that counts is NaN, weights do not fit.
        """
        scores = np.asarray(scores)
        count = len(self.labels)
        if scores.ndim < 1 or scores.shape[-1] != count:
            raise BadData.of("shape of scores", list(scores.shape), f"[..., {count} labels]")
        if (targets is None) == self.labelled:
            raise BadData.of("targets", "missing" if targets is None else "given", f"{self.labelled=}: the other way round")
        if targets is not None and np.asarray(targets).shape != scores.shape:
            raise BadData.of("shape of targets", list(np.asarray(targets).shape), f"{list(scores.shape)}, as the scores")
        if (weights is not None) != self.weighted:
            raise BadData.of("weights", "missing" if weights is None else "given", f"{self.weighted=}: the other way round")
        if (groups is not None) != self.has_groups:
            raise BadData.of("groups", "missing" if groups is None else "given", f"{self.has_groups=}: the other way round")
        flat = scores.reshape(-1, count)
        classes = None if targets is None else np.asarray(targets).reshape(-1, count)
        each = None if weights is None else check_weights(np.asarray(weights), scores.shape[:-1]).reshape(-1)
        names = None if groups is None else for_rows("groups", np.asarray(groups), scores.shape[:-1])
        if each is not None and not each.all():
            kept = each > 0
            flat, classes, each = flat[kept], None if classes is None else classes[kept], each[kept]
        if flat.size == 0:
            return
        masked = classes is not None and _check_targets(classes)
        self._widen(*self._window(flat, classes if masked else None))
        self._expect(len(flat))

        wide = max(1, min(_BLOCK_LABELS, _EXACT_FLOAT32 // (2 * self._counts.shape[2])))
        for first in range(0, count, wide):
            block = slice(first, min(first + wide, count))
            rows = max(256, _CHUNK // (block.stop - first))
            shape = (min(rows, len(flat)), block.stop - first)
            scratch = np.empty(shape, np.float32), np.empty(shape, np.int64)  # used again and again: fresh memory costs as much
            for start in range(0, len(flat), rows):
                chunk = slice(start, start + rows)
                self._count(
                    block,
                    flat[chunk, block],
                    None if classes is None else classes[chunk, block],
                    None if each is None else each[chunk],
                    masked,
                    scratch,
                )
        if self._units is not None and classes is not None and names is not None:
            self._units.update(*group_scores(flat, classes, names))

    def unit_curve(self, label: int, rate: RateName) -> Curve:
        """The curve of one label that counts groups, for a guarantee of `rate` by group.

        Raises:
            BadData: groups are not counted.
            BadInput: a rate for which counts of peaks do not do: of others than recall and fpr.
        """
        if self._units is None:
            raise BadData.of("groups", "not given", "a histogram of rows in groups, for a guarantee by group")
        if rate not in ("recall", "fpr"):
            raise BadInput.of("rate of a guarantee by group from a histogram", rate, "recall or fpr: others need the scores")
        return self._units.curve(label)

    def expected(self, label: int, threshold: float, counts: Counts, effective: tuple[float, float] | None) -> Expected:
        """The rates expected at a cut of one label; rows are taken as independent, since counts do not say otherwise."""
        return expected_at(counts, effective)

    def summary(self) -> DataSummary:
        """What a policy says that it was made from."""
        return DataSummary(source="histogram", rows=self.rows, labelled=self.labelled, weighted=self.weighted, step=self.step)

    def curve(self, label: int) -> Curve:
        """The curve of one label, exact at the lower edges of its occupied bins; none offers what scores below -limit."""
        counts = self._counts[label].astype(np.float64 if self.weighted else np.int64)
        occupied = np.flatnonzero(counts.any(axis=0))[::-1]
        index = occupied + self._first
        tp, fp = np.cumsum(counts[1, occupied]), np.cumsum(counts[0, occupied])
        next_lower = np.append(index[1:], np.int64(0)) * self.step
        if len(index):
            gap = (index[-2] - index[-1]) * self.step if len(index) > 1 else math.inf
            next_lower[-1] = index[-1] * self.step - min(gap, 1.0) - self.step
        offered = index >= -self._edge
        # The sums' own ends: added in another order, weights would give totals that differ from them in the last bits.
        totals = np.array([fp[-1], tp[-1]]) if len(index) else np.zeros(2, counts.dtype)
        return Curve(
            cuts=(index[offered] * self.step).astype(np.float32),
            tp=tp[offered],
            fp=fp[offered],
            positives=totals[1].item(),
            negatives=totals[0].item(),
            below=next_lower[offered].astype(np.float32),
            top=self._top(index),
            step=self.step,
            labelled=self.labelled,
            effective=self._effective(label, totals) if self.weighted else None,
        )

    def map_curves(
        self, function: Callable[[int, Curve], T], cuts: Sequence[Cuts] = (), only: Sequence[int] | None = None
    ) -> Iterator[T]:
        """`function(label, curve)` for all labels, or `only` some, in order; whatever `cuts`, with all that the grid offers."""
        return (function(label, self.curve(label)) for label in (range(len(self.labels)) if only is None else only))

    def merge(self, other: "ScoreHistogram") -> "ScoreHistogram":
        """The sum of both, a new histogram; BadData where labels or grids differ."""
        return merge_histograms((self, other))

    def to_bytes(self) -> bytes:
        """Compact bytes, from which `from_bytes` makes an equal histogram."""
        first, counts = self._occupied()
        units = b"" if self._units is None else self._units.to_bytes()
        return encode(self._header(first, counts, smallest_dtype(counts, self.weighted), len(units)), counts, units)

    @classmethod
    def from_bytes(cls, data: bytes, labels: Sequence[str] | None = None, most_bytes: int | None = None) -> Self:
        """Read what `to_bytes` wrote, on another machine perhaps.

        Args:
            data: the bytes.
            labels: that they must be of, in this order; None for any.
            most_bytes: what its whole grid may take in memory; None for any.

        Raises:
            BadData: no histogram, of another format, damaged, of other labels, or too large; checked before it is unpacked.
        """
        header, begin = decode_header(data, labels, most_bytes)
        made = cls(
            header.labels, limit=header.limit, bits=header.bits, weighted=header.weighted, labelled=header.labelled,
            grouped=header.units_bytes > 0,
        )  # fmt: skip
        if not -made._edge - 1 <= header.first <= header.first + header.width <= made._edge + 1:
            window = f"bins {header.first} to {header.first + header.width}"
            raise BadData.of("histogram window", window, f"within {-made._edge - 1} and {made._edge + 1}")
        counts = decode_counts(header, data, begin)
        made._expect(int(counts.max(initial=0)))
        made._first, made._counts = header.first, counts.astype(made._counts.dtype)
        if header.squares is not None:
            made._squares = np.array(header.squares, np.float64).reshape(-1, 2)
        if made._units is not None:
            units = cls.from_bytes(units_of(header, data), header.labels, most_bytes)
            if (units.limit, units.bits, units.weighted, units.has_groups) != (header.limit, header.bits, False, False):
                raise BadData.of("histogram of groups", "of another kind", "the grid of that of the rows, and plain counts")
            made._units = units
        return made

    def digest(self) -> str:
        """SHA-256, in hex, of labels, grid and counts: the same for the same scores, however they were sharded."""
        first, counts = self._occupied()
        total = hashlib.sha256(self._header(first, counts, "<f8" if self.weighted else "<i8").model_dump_json().encode())
        total.update(counts.astype("<f8" if self.weighted else "<i8").tobytes())
        if self._units is not None:
            total.update(self._units.digest().encode())
        return total.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScoreHistogram):
            return NotImplemented
        return self.digest() == other.digest()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def _window(self, scores: NDArray[Any], classes: NDArray[Any] | None) -> tuple[int, int]:
        """The lowest and highest bin of the scores that count; BadData where one is NaN. `classes`: None if all count."""
        low, high = float(np.float32(scores.min())), float(np.float32(scores.max()))
        if classes is not None:
            low, high = math.inf, -math.inf
            for start in range(0, len(scores), _CHUNK_ROWS):
                counted = scores[start : start + _CHUNK_ROWS][classes[start : start + _CHUNK_ROWS] != UNLABELLED]
                if len(counted):
                    low, high = np.minimum(low, np.float32(counted.min())), np.maximum(high, np.float32(counted.max()))
            if low > high:  # nothing is labelled
                return self._first, self._first
        if math.isnan(low):
            counted = np.isnan(scores) if classes is None else np.isnan(scores) & (classes != UNLABELLED)
            label = self.labels[int(np.argmax(counted.any(axis=0)))]
            raise BadData.of(f"scores of label {label!r}", f"NaN in {int(counted.sum())} entries", "numbers")
        scale = 1 << self.bits
        bins = np.clip(np.floor(np.array([low, high], np.float64) * scale), -self._edge - 1, self._edge)
        return int(bins[0]), int(bins[1])

    def _count(
        self,
        block: slice,
        scores: NDArray[Any],
        targets: NDArray[Any] | None,
        weights: NDArray[np.float64] | None,
        masked: bool,
        scratch: tuple[NDArray[np.float32], NDArray[np.int64]],
    ) -> None:
        """Count a chunk of a block of labels, [row, label]; `masked` says whether some entries are not labelled."""
        scaled, keys = scratch[0][: len(scores)], scratch[1][: len(scores)]
        # By a power of two: exact; clipped before, so that nothing overflows. Floor, not truncation, below zero.
        np.clip(scores, -self.limit - self.step, self.limit, out=scaled, casting="unsafe")
        np.multiply(scaled, np.float32(1 << self.bits), out=scaled)
        np.floor(scaled, out=scaled)
        known = targets != UNLABELLED if masked and targets is not None else None
        if known is not None:
            scaled[~known] = 0  # whatever they are, NaN included
        # Flat indices: numpy adds at them at a nanosecond or two each while the block's bins are in cache.
        width = self._counts.shape[2]
        np.add(scaled, (2 * width * np.arange(keys.shape[1]) - self._first).astype(np.float32), out=scaled)
        np.copyto(keys, scaled, casting="unsafe")
        flat = self._counts[block].reshape(-1)
        if weights is None:
            one = flat.dtype.type(1)  # of another dtype it would take numpy 15 times as long
            np.add.at(flat, keys.reshape(-1) if known is None else keys[known], one)
            if targets is not None:  # of all, counted as negatives: these are few
                hits = keys.reshape(-1)[np.flatnonzero(targets == 1)]
                np.subtract.at(flat, hits, one)
                np.add.at(flat, hits + width, one)
            return
        each = np.broadcast_to(weights[:, None], keys.shape)
        positive = np.zeros(keys.shape, bool) if targets is None else targets == 1
        for c in (0, 1):
            chosen = positive if c else ~positive
            chosen = chosen if known is None else chosen & known
            np.add.at(flat, keys[chosen] + c * width, each[chosen])
            self._squares[block, c] += np.sum(np.where(chosen, each**2, 0.0), axis=0)

    def _widen(self, low: int, high: int) -> None:
        """Make the window hold the bins from `low` to `high`."""
        width = self._counts.shape[2]
        first, last = (self._first, self._first + width) if width else (low, low)
        if width and first <= low and high < last:
            return
        new_first, new_last = min(first, low), max(last, high + 1)
        wider = np.zeros((len(self.labels), 2, new_last - new_first), self._counts.dtype)
        wider[:, :, first - new_first : first - new_first + width] = self._counts
        self._first, self._counts = new_first, wider

    def _expect(self, more: int) -> None:
        """Make the counts hold `more` in any bin."""
        self._most += more
        if self._counts.dtype == np.int32 and self._most > np.iinfo(np.int32).max:
            self._counts = self._counts.astype(np.int64)

    def _effective(self, label: int, totals: Counted) -> tuple[float, float]:
        negatives, positives = (
            float(total) ** 2 / square if square else 0.0 for total, square in zip(totals, self._squares[label], strict=True)
        )
        return positives, negatives

    def _top(self, descending: NDArray[np.int64]) -> float:
        if len(descending) == 0:
            return -math.inf
        return math.inf if descending[0] == self._edge else (int(descending[0]) + 1) * self.step

    def _occupied(self) -> tuple[int, NDArray[Any]]:
        """The index of the first occupied bin and the counts from there to the last, so that equal counts look alike."""
        occupied = np.flatnonzero(self._counts.any(axis=(0, 1)))
        if not len(occupied):
            return 0, self._counts[:, :, :0]
        return self._first + int(occupied[0]), self._counts[:, :, occupied[0] : occupied[-1] + 1]

    def _header(self, first: int, counts: NDArray[Any], dtype: Any, units_bytes: int = 0) -> Header:
        squares = tuple((a, b) for a, b in self._squares.tolist()) if self.weighted else None
        return Header(
            format=FORMAT, labels=self.labels, limit=self.limit, bits=self.bits, weighted=self.weighted, labelled=self.labelled,
            first=first, width=counts.shape[2], dtype=dtype, squares=squares, units_bytes=units_bytes,
        )  # fmt: skip


def merge_histograms(shards: Sequence[ScoreHistogram]) -> ScoreHistogram:
    """The sum of histograms, a new one: whole counts bit for bit the same in any order, sums of weights to rounding.

    Raises:
        BadData: none given, or labels, grid, unit or kind differ; the message says which.
    """
    if not shards:
        raise BadData.of("histograms", "none", "at least one")
    first = shards[0]
    for i, shard in enumerate(shards[1:], 1):
        for name in ("labels", "limit", "bits", "weighted", "labelled", "has_groups"):
            if getattr(shard, name) != getattr(first, name):
                raise BadData.of(
                    f"histogram {i}: {name}", repr(getattr(shard, name))[:200], f"{getattr(first, name)!r}, as in histogram 0"
                )
    merged = ScoreHistogram(first.labels, limit=first.limit, bits=first.bits, weighted=first.weighted, labelled=first.labelled)
    units = [shard._units for shard in shards if shard._units is not None]
    merged._units = merge_histograms(units) if units else None
    filled = [shard for shard in shards if shard._counts.shape[2]]
    if filled:
        merged._widen(min(shard._first for shard in filled), max(shard._first + shard._counts.shape[2] for shard in filled) - 1)
    merged._expect(sum(shard._most for shard in shards))
    # Label by label, so that the sum stays in the processor's cache while the shards stream through it.
    for label in range(len(merged.labels)):
        total = merged._counts[label]
        for shard in filled:
            begin = shard._first - merged._first
            total[:, begin : begin + shard._counts.shape[2]] += shard._counts[label]
    merged._squares = np.sum([shard._squares for shard in shards], axis=0)
    return merged


def _check_targets(targets: NDArray[Any]) -> bool:
    """Whether some entries are not labelled; BadData where one is neither that nor 0 or 1."""
    if targets.dtype.kind in "bu" and targets.max() <= 1:
        return False
    masked = False
    for start in range(0, len(targets), _CHUNK_ROWS):
        chunk = targets[start : start + _CHUNK_ROWS]
        unlabelled = chunk == UNLABELLED
        wrong = ~(unlabelled | (chunk == 0) | (chunk == 1))
        if wrong.any():
            raise BadData.of("targets", np.unique(chunk[wrong])[:5].tolist(), "0, 1, or 255 for not labelled")
        masked = masked or bool(unlabelled.any())
    return masked
