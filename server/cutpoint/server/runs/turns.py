"""Which of two takes longer, and by how much."""

import math
import time
from collections.abc import Callable

_MOST = 20
_CLEAR = 0.2  # of the limit: sooner, as with runs of microseconds, to be sure costs nothing


def in_turns(
    first: Callable[[], object],
    second: Callable[[], object],
    doubt: tuple[float, float],
    *,
    least: int,
    limit_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """The least seconds that each of two takes, made in turns, since whoever else is on the machine disturbs both.

    Args:
        first: what is timed.
        second: what is compared with it.
        doubt: ratios of the second's seconds to the first's, (low, high), between which it is not clear yet what they are
            compared for: what lies outside is far enough from it not to be an error of so few turns.
        least: turns after which it may be clear, where they took a fifth of the limit.
        limit_s: no further turn is begun after this, in seconds; two always are.
        clock: seconds, increasing.
    """
    first_s = second_s = math.inf
    started = clock()
    for turn in range(_MOST):
        begun = clock()
        if turn > 1 and begun - started > limit_s:
            break
        if turn >= least and begun - started > _CLEAR * limit_s and not doubt[0] < second_s / first_s < doubt[1]:
            break
        first()
        between = clock()
        second()
        first_s, second_s = min(first_s, between - begun), min(second_s, clock() - between)
    return first_s, second_s
