"""Losses of a whole batch: Tversky and Dice by their formula, Smooth-AP by the paper's and by scikit-learn's AP."""

import pytest
import torch
from cutpoint.trainer.loss import dice, smooth_ap, tversky
from losses import draw, gradient
from sklearn.metrics import average_precision_score


@pytest.mark.parametrize(
    ("alpha", "beta", "gamma", "smooth"), [(0.3, 0.7, 1.0, 1.0), (0.5, 0.5, 0.75, 0.1), (1.0, 2.0, 2.0, 5.0)]
)
def test_tversky_is_the_formula(alpha, beta, gamma, smooth):
    z, y, labelled = draw(9, 4, 3)
    for i in range(3):
        on = labelled[..., i]
        p, t = torch.sigmoid(z[..., i][on]), y[..., i][on].double()
        tp, fp, fn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        wanted = (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** gamma
        found = tversky(z, y, labelled, alpha, beta, gamma, smooth, "none")[i]
        torch.testing.assert_close(found, wanted)


def test_dice_is_an_f1_of_probabilities():
    z, y, _ = draw(30, 2)
    p, t = torch.sigmoid(z), y.double()
    f1 = (2 * (p * t).sum(0) + 2e-9) / (p.sum(0) + t.sum(0) + 2e-9)
    torch.testing.assert_close(dice(z, y, smooth=1e-9), (1 - f1).mean())


def test_tversky_without_positives_lowers_false_positives():
    z, none = draw(30, 2)[0], torch.zeros(30, 2)
    assert (gradient(lambda x: tversky(x, none), z) > 0).all()
    # Without smoothing, as it is often written, nothing would.
    assert gradient(lambda x: tversky(x, none, smooth=1e-12), z).abs().max() < 1e-12


def test_a_power_below_1_has_a_gradient_where_all_is_right():
    z = torch.tensor([[120.0], [-120.0]])
    y = torch.tensor([[1], [0]])
    assert torch.isfinite(gradient(lambda x: tversky(x, y, gamma=0.5), z)).all()


def test_smooth_ap_is_browns():
    """Loops over the paper's equation 6, per label."""
    z, y, labelled = draw(7, 3, 2, seed=3)
    y[..., 1] = 0
    y[2, 1, 1] = 1
    labelled[2, 1, 1] = True
    tau, wanted = 0.3, []
    for i in range(2):
        scores, targets = z[..., i][labelled[..., i]], y[..., i][labelled[..., i]]
        positives = [k for k in range(len(scores)) if targets[k] == 1]
        total = 0.0
        for k in positives:
            above = torch.sigmoid((scores - scores[k]) / tau)
            among = 1 + sum(above[j] for j in positives if j != k)
            total += among / (among + sum(above[j] for j in range(len(scores)) if targets[j] == 0))
        wanted.append(1 - total / len(positives))
    torch.testing.assert_close(smooth_ap(z, y, labelled, tau, "none"), torch.stack(wanted))
    torch.testing.assert_close(smooth_ap(z, y, labelled, tau), torch.stack(wanted).mean())


def test_smooth_ap_tends_to_average_precision():
    z, y, _ = draw(200, 4, seed=5)
    found = smooth_ap(z, y, temperature=1e-5, reduction="none")
    wanted = [1 - average_precision_score(y[:, i], z[:, i]) for i in range(4)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_smooth_ap_without_positives_is_nothing():
    z, y, _ = draw(20, 3)
    y[:, 1] = 0
    grad = gradient(lambda x: smooth_ap(x, y), z)
    assert (grad[:, 1] == 0).all()
    assert (grad[:, 0] != 0).all()
    assert smooth_ap(z, torch.zeros_like(y)).item() == 0
    assert (gradient(lambda x: smooth_ap(x, torch.zeros_like(y)), z) == 0).all()
    everything = smooth_ap(z, torch.ones_like(y))
    assert everything.item() == 0


def test_smooth_ap_does_not_see_the_level():
    z, y, _ = draw(20, 3)
    torch.testing.assert_close(smooth_ap(z + 50, y), smooth_ap(z, y))
