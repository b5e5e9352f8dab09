"""What two things take, in turns, until it is clear which one takes less."""

from collections.abc import Iterator

import pytest
from cutpoint.server.runs.turns import in_turns

DOUBT = (0.8, 1.2)


class _Two:
    """Two things that take the seconds they were given, the last of them for ever, on a clock of their own."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        self.now, self.made = 0.0, ""
        self._first, self._second = self._seconds(first), self._seconds(second)

    @staticmethod
    def _seconds(given: list[float]) -> Iterator[float]:
        yield from given
        while True:
            yield given[-1]

    def first(self) -> None:
        self.made += "a"
        self.now += next(self._first)

    def second(self) -> None:
        self.made += "b"
        self.now += next(self._second)

    def compared(self, *, least: int = 3, limit_s: float = 5.0) -> tuple[float, float]:
        return in_turns(self.first, self.second, DOUBT, least=least, limit_s=limit_s, clock=lambda: self.now)


@pytest.mark.parametrize("second_s", [0.5, 2.0])
def test_what_is_clear_ends_after_the_least_turns(second_s: float) -> None:
    two = _Two([1.0], [second_s])
    assert two.compared(limit_s=10.0) == (1.0, second_s) and two.made == "ababab"


def test_what_is_in_doubt_goes_on_to_the_limit() -> None:
    two = _Two([1.0], [1.1])
    assert two.compared(limit_s=10.0) == pytest.approx((1.0, 1.1)) and two.made == "ab" * 5


def test_the_least_of_each_counts() -> None:
    two = _Two([3.0, 1.0, 2.0], [4.0, 9.0, 3.0])
    assert two.compared(limit_s=50.0) == (1.0, 3.0) and two.made == "ababab"


def test_what_became_clear_late_ends_then() -> None:
    two = _Two([1.0], [1.0, 1.0, 1.0, 0.5])
    assert two.compared(limit_s=30.0)[1] == 0.5 and two.made == "ab" * 4


def test_what_takes_microseconds_is_made_as_often_as_can_be() -> None:
    two = _Two([1e-6], [9e-6])
    two.compared()
    assert two.made == "ab" * 20


def test_two_turns_are_always_made() -> None:
    two = _Two([9.0], [9.0])
    two.compared(least=1, limit_s=0.0)
    assert two.made == "abab"
