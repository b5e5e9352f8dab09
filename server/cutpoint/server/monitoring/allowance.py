"""How much of what comes may be looked at closely, so that looking costs a bounded share of a core whatever the load."""

import math
import time
from collections.abc import Callable

# However little is left, this share of the most may be taken at a time.
_LEAST_SHARE = 1 / 1024


class Allowance:
    """Units that come in at a rate and are saved up to a limit: a token bucket. Not locked: for who holds a lock already."""

    def __init__(self, per_s: float, saved: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with `saved` units, the most there can be; `per_s` come in a second of `clock`."""
        self._per_s, self._most, self._clock = per_s, saved, clock
        self._left, self._then = saved, clock()

    def take(self, units: float) -> None:
        """Take these, whether they are there or not."""
        self._left -= units

    def stride(self, units: float) -> int:
        """Of work of `units`, one part of how many may be done; 1 for all of it.

        All of it while half of the most is there, and it is no more than half of that; below, this rises as it empties, so that
        it settles where as much is taken as comes in, and does not jump. It depends on the clock and on amounts, never on what
        the work finds: so a sum over parts drawn with a chance of one in k, taken k times, is right on average.
        """
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._then) * self._per_s)
        self._then = now
        least = self._most * _LEAST_SHARE
        return max(math.ceil(self._most / max(2 * self._left, least)), math.ceil(units / max(self._left / 2, least)))
