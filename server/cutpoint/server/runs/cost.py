"""What a run costs, learned from the runs; and the sizes that runs are padded to."""

import bisect

# Sorts of rows that are remembered.
_SORTS = 256
# A run that takes so long is not to be made where it is submitted a second time.
_LONG_S = 0.02


class Cost:
    """What a run takes, learned from the runs: seconds by sort of row and number of rows, in powers of two."""

    def __init__(self) -> None:
        self._seconds: dict[object, dict[int, float]] = {}

    def of(self, sort: object, rows: int) -> float:
        """Seconds that a run of so many rows is expected to take; from fewer rows as if all of it went with them."""
        seconds, size = self._seconds.get(sort, {}), rows.bit_length()
        found = seconds.get(size)
        if found is not None:
            return found
        known = max((each for each in tuple(seconds) if each < size), default=None)  # lanes learn meanwhile
        return float("inf") if known is None else seconds[known] * 2.0 ** (size - known)

    def learn(self, sort: object, rows: int, seconds: float) -> None:
        """A run of `rows` took `seconds` of a core: less is believed at once, more by and by, much more at once."""
        known = self._seconds.get(sort)
        if known is None:
            if len(self._seconds) >= _SORTS:  # whoever sends a new shape each time must not fill the memory
                self._seconds.clear()
            known = self._seconds.setdefault(sort, {})
        size = rows.bit_length()
        known[size] = seconds if seconds > _LONG_S else min(seconds, 1.002 * known.get(size, seconds))


def padded_size(rows: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` (increasing) that holds `rows`; `rows` itself where none does."""
    at = bisect.bisect_left(sizes, rows)
    return sizes[at] if at < len(sizes) else rows
