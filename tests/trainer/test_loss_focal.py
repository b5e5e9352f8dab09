"""Focal loss against Lin 2017 and torchvision's formula, and where that one is wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from cutpoint.trainer.loss import class_balanced, effective_ratio, focal, focal_ce
from losses import draw, gradient


def textbook(z: float, y: int, alpha: float, gamma: float) -> float:
    """Lin 2017, equation 5, written with probabilities."""
    s = z if y else -z
    at = alpha if y else 1 - alpha
    return at * (1 / (1 + math.exp(s))) ** gamma * math.log1p(math.exp(-s))  # 1 - pt and -log pt without their rounding


def torchvisions(inputs, targets, alpha=0.25, gamma=2.0):
    """torchvision.ops.sigmoid_focal_loss as documented, reduction none."""
    p = torch.sigmoid(inputs)
    ce_loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = ce_loss * ((1 - p_t) ** gamma)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * loss


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 0.5), (0.1, 3.0)])
def test_it_is_the_textbooks(alpha, gamma):
    z, y, _ = draw(6, 3, 2)
    wanted = [textbook(float(a), int(b), alpha, gamma) for a, b in zip(z.flatten(), y.flatten(), strict=True)]
    ours = focal(z, y, alpha=alpha, gamma=gamma, reduction="none")
    assert ours.flatten().tolist() == pytest.approx(wanted, rel=1e-10)
    theirs = torchvisions(z, y.double(), alpha, gamma)
    torch.testing.assert_close(ours, theirs)
    grads = [
        gradient(f, z)
        for f in (lambda x: focal(x, y, alpha=alpha, gamma=gamma), lambda x: torchvisions(x, y.double(), alpha, gamma).mean())
    ]
    torch.testing.assert_close(*grads)


def test_parameters_of_each_label():
    z, y, _ = draw(50, 3)
    alpha, gamma, weight = [0.2, 0.5, 0.9], [0.0, 0.5, 3.0], [1.0, 7.0, 2.0]
    ours = focal(z, y, None, alpha, gamma, weight, "none")
    for i in range(3):
        alone = torchvisions(z[:, i], y[:, i].double(), alpha[i], gamma[i]) * torch.where(y[:, i] == 1, weight[i], 1)
        torch.testing.assert_close(ours[:, i], alone)
    torch.testing.assert_close(focal(z, y, None, None, 2.0), 2 * focal(z, y, None, 0.5, 2.0))
    bce = F.binary_cross_entropy_with_logits(z, y.double(), pos_weight=torch.tensor(weight, dtype=torch.float64))
    torch.testing.assert_close(focal(z, y, None, None, 0.0, weight), bce)


def test_trap_1_hard_negatives_keep_their_loss():
    p = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99], dtype=torch.float64)
    z, y = torch.logit(p)[:, None], torch.zeros(5, 1)
    right = -0.75 * p**2 * torch.log(1 - p)
    torch.testing.assert_close(focal(z, y, reduction="none")[:, 0], right)
    wrong = -0.75 * (1 - p) ** 2 * torch.log(1 - p)
    assert (wrong / right)[0] > 3000


def test_trap_3_gamma_below_1_where_torchvisions_gradient_is_nan():
    z, y = torch.tensor([[120.0]]), torch.tensor([[1.0]])
    assert torch.isnan(gradient(lambda x: torchvisions(x, y, gamma=0.5).sum(), z)).all()
    assert gradient(lambda x: focal(x, y, gamma=0.5), z).item() == 0
    both = torch.tensor([[-60.0, 60.0]])
    for gamma in (0.0, 0.5, 1.0):
        assert torch.isfinite(gradient(lambda x, g=gamma: focal_ce(x, y[0], gamma=g), both)).all()


def test_trap_4_alpha_is_of_positives():
    zero = torch.zeros(1, 1)
    negative, positive = (focal(zero, torch.tensor([[y]]), alpha=0.25, gamma=2).item() for y in (0, 1))
    assert (negative, positive) == pytest.approx((0.1300, 0.0433), abs=1e-4)


def test_trap_5_the_focus_does_not_depend_on_the_weight():
    z, y, _ = draw(20, 1)
    ratio = focal(z, y, pos_weight=50.0, reduction="none") / focal(z, y, reduction="none")
    torch.testing.assert_close(ratio, torch.where(y == 1, 50.0, 1.0).double())
    # LDAM-DRW's code takes p_t from cross-entropy times its weight: at p = 0.5 it is not 0.5.
    assert math.exp(-10 * math.log(2)) < 0.001


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_what_a_compiler_traces_is_the_same(gamma, monkeypatch):
    z, y, labelled = draw(50, 3)
    z[0], z[1], z[2] = 0, 120, -120
    z, y = z.float().masked_fill(~labelled, math.inf), y.masked_fill(~labelled, 255)

    def loss(x):
        return focal(x, y, labelled, 0.3, gamma, [1.0, 5.0, 2.0])

    value, grad = loss(z), gradient(loss, z)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(loss(z), value)
    torch.testing.assert_close(gradient(loss, z), grad)


def test_it_cannot_be_differentiated_twice():
    z, y, _ = draw(3, 2)
    z.requires_grad_()
    with pytest.raises(RuntimeError, match="focal has no second derivative"):
        torch.autograd.grad(focal(z, y), z, create_graph=True)


def test_softmax_of_two_classes_is_the_sigmoid_of_their_difference():
    z, y, labelled = draw(9, 4)
    both = torch.stack([-0.3 * z, 0.7 * z], 1)
    for gamma in (0.0, 0.5, 2.0):
        ours = focal_ce(both, y, labelled, [0.7, 0.3], gamma, "none")
        torch.testing.assert_close(ours, focal(z, y, labelled, 0.3, gamma, reduction="none"))


def test_softmax_of_many_classes_is_the_formula():
    z = draw(9, 5)[0]
    y = torch.arange(9) % 5
    p = torch.softmax(z, 1)[torch.arange(9), y]
    alpha = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    torch.testing.assert_close(focal_ce(z, y, alpha=alpha, gamma=2.5, reduction="none"), -alpha[y] * (1 - p) ** 2.5 * p.log())
    torch.testing.assert_close(focal_ce(z, y, gamma=0.0), F.cross_entropy(z, y))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_class_balanced_is_cuis(gamma):
    """Weights (1 - beta) / (1 - beta^n) that sum to the number of classes, on cross-entropy or focal loss without alpha."""
    z, y, _ = draw(30, 3)
    counts = torch.tensor([[9000.0, 9990, 50], [1000, 10, 9950]], dtype=torch.float64)  # of negatives, of positives
    for beta in (0.9, 0.999, 0.9999):
        weight = (1 - beta) / (1 - beta**counts)
        weight = 2 * weight / weight.sum(0)
        p_t = torch.where(y == 1, torch.sigmoid(z), torch.sigmoid(-z))
        wanted = torch.where(y == 1, weight[1], weight[0]) * (1 - p_t) ** gamma * -p_t.log()
        ratio = effective_ratio(counts[1], counts[0], beta)
        torch.testing.assert_close(class_balanced(z, y, ratio=ratio, gamma=gamma, reduction="none"), wanted)
    torch.testing.assert_close(effective_ratio(counts[1], counts[0], 0.0), torch.ones(3, dtype=torch.float64))
