"""The order of the training rows: a random rounding of how often each row is expected."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray


@dataclass(frozen=True)
class Order:
    """The rows of every epoch: a pure function of the seed and the epoch's number.

    So it is the same in every process, whatever was drawn before: a resumed run goes on in it, and what processes take of it in
    slices is together what one process would take. Any number of rows will do (torch's WeightedRandomSampler refuses more than
    2^24).

    A row that is expected d times comes floor(d) or ceil(d) times, d on average exactly: an epoch is more even than one drawn
    with replacement, and leaves out no row that is expected once or more.

    Attributes:
        rows: how many training rows there are.
        seed: of the order.
        draws: float64 [row], how often each row is expected in an epoch, from 0, the sum of them a whole number above 0; None
            where every row comes once.
    """

    rows: int
    seed: int
    draws: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """How many rows an epoch has, the same in each."""
        return self.rows if self.draws is None else round(float(self.draws.sum()))

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Positions in the training rows, int64 [len], of epoch `number` (from 0) in the order in which they come."""
        generator = Generator(Philox(SeedSequence([self.seed, number])))
        if self.draws is None:
            return generator.permutation(self.rows)
        whole = np.floor(self.draws)
        shares = self.draws - whole
        certain = np.flatnonzero(whole)
        often = np.repeat(certain, whole[certain].astype(np.int64))
        some = generator.permutation(np.flatnonzero(shares))
        once = some[_round(shares[some], len(self) - len(often), generator)]
        drawn = np.concatenate([often, once])
        generator.shuffle(drawn)
        return drawn


def _round(shares: NDArray[np.float64], total: int, generator: Generator) -> NDArray[np.bool_]:
    """True with the probability of each share, [row], `total` times in all: systematic sampling (Madow 1949).

    The shares, which come in random order, lie end to end on a line from 0 to `total`; those that hold a tooth of the comb
    1 - u, 2 - u, ... are drawn. They are summed in float64, so that even the last of 2^24 lies right to 1e-8 of a row.
    """
    if total == 0:
        return np.zeros(len(shares), np.bool_)
    edges = np.cumsum(shares)
    edges *= total / edges[-1]  # of what the sum has rounded off
    edges += generator.random()
    teeth = np.minimum(np.floor(edges, out=edges), total, out=edges)
    teeth[-1] = total
    return np.diff(teeth, prepend=0.0) > 0
