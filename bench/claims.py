"""Claims measured side by side: both sides in one run, interleaved, medians, one line each."""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Claim:
    """`ours` over `theirs`, in whatever unit, held against `target`; `least` says which way is good."""

    name: str
    ours: float
    theirs: float
    target: float
    unit: str
    least: bool = True

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs

    @property
    def holds(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= self.target if self.least else self.ratio <= self.target

    def line(self) -> str:
        """The line to print."""
        sign = ">=" if self.least else "<="
        verdict = "ok" if self.holds else "short"
        return (
            f"{self.name} | {self.ours:.4g} {self.unit} | {self.theirs:.4g} {self.unit} | {self.ratio:.3g} | "
            f"{sign} {self.target:g} | {verdict}"
        )


def timed(*sides: Callable[[], object], rounds: int = 5) -> list[float]:
    """Median seconds of each side over `rounds` interleaved rounds, after a round that does not count."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds + 1):
        for side, kept in zip(sides, seconds, strict=True):
            gc.collect()
            begun = time.perf_counter()
            side()
            if turn:
                kept.append(time.perf_counter() - begun)
    return [median(kept) for kept in seconds]


def report(claims: list[Claim]) -> None:
    """Print the claims and exit, with 1 where one falls short."""
    print("claim | ours | theirs or limit | ratio | target | ok or short")
    for claim in claims:
        print(claim.line())
    sys.exit(not all(claim.holds for claim in claims))
