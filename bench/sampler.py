"""Drawing an epoch of 2^24 weighted rows, all that torch's WeightedRandomSampler takes, against that sampler."""

import numpy as np
import torch
from claims import Claim, report, timed
from cutpoint.trainer.config import WeightedSampler
from cutpoint.trainer.sampler import build_order

ROWS = 2**24


def main() -> None:
    """Print and judge the claim; both draw as many rows as there are, half of them with a positive."""
    torch.set_num_threads(1)
    y = np.zeros((ROWS, 1), np.uint8)
    y[::1000] = 1
    order = build_order(WeightedSampler(), y, 0)
    weights = torch.from_numpy(order.draws)
    generator = torch.Generator().manual_seed(0)
    ours_s, theirs_s = timed(
        lambda: order.epoch(0), lambda: torch.multinomial(weights, ROWS, replacement=True, generator=generator)
    )
    report([Claim("an epoch of 2^24 weighted rows against torch.multinomial", ours_s, theirs_s, 1.0, "s", least=False)])


if __name__ == "__main__":
    main()
