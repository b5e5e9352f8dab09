"""Learning rates, against torch's own schedules."""

import pytest
import torch
from cutpoint.trainer.config import Fit
from cutpoint.trainer.schedule import rate_share


def test_a_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
    wanted = []
    for _ in range(30):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rate_share(Fit(), step, 30) for step in range(30)] == pytest.approx(wanted)


def test_a_warm_up_rises_straight_to_the_top():
    settings = Fit(schedule="constant", warmup=0.3)
    assert [rate_share(settings, step, 10) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75] + [1] * 7)
    cosine = Fit(warmup=0.5)
    assert [rate_share(cosine, step, 8) for step in (0, 3, 4, 6)] == pytest.approx([0.2, 0.8, 1, 0.5])
