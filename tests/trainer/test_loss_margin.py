"""Losses that move logits by prior or margin, and Poly-1: the papers' formulas written down."""

import pytest
import torch
import torch.nn.functional as F
from cutpoint.trainer.loss import LDAM, Deferred, balanced_softmax, ldam, ldam_ce, ldam_margins, logit_adjusted, poly1
from losses import draw


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_logit_adjusted(tau):
    z, y, _ = draw(20, 4, 3)
    prior = torch.tensor([0.1, 0.5, 0.01], dtype=torch.float64)
    moved = z + tau * torch.log(prior / (1 - prior))
    wanted = F.binary_cross_entropy_with_logits(moved, y.double(), reduction="none")
    torch.testing.assert_close(logit_adjusted(z, y, prior=prior, tau=tau, reduction="none"), wanted)


@pytest.mark.parametrize("shape", [(20,), (20, 6)])
def test_balanced_softmax_is_rens(shape):
    """-log(n_y e^z_y / sum n_j e^z_j), by counts or shares."""
    counts = torch.tensor([700.0, 20, 280], dtype=torch.float64)
    z = draw(20, 3, *shape[1:])[0]
    y = torch.randint(3, shape, generator=torch.Generator().manual_seed(0))
    weighed = counts.view(-1, *[1] * (z.ndim - 2)) * z.exp()
    wanted = -(weighed / weighed.sum(1, keepdim=True)).gather(1, y.unsqueeze(1)).squeeze(1).log()
    torch.testing.assert_close(balanced_softmax(z, y, prior=counts, reduction="none"), wanted)
    torch.testing.assert_close(balanced_softmax(z, y, prior=counts / 1000, reduction="none"), wanted)


def caos(x, target, cls_num_list, max_m=0.5, s=30.0, weight=None):
    """LDAMLoss.forward of the paper's code, without its cuda calls; before the mean."""
    m_list = 1.0 / torch.sqrt(torch.sqrt(cls_num_list))
    m_list = m_list * (max_m / m_list.max())
    index = F.one_hot(target, x.shape[1])
    batch_m = (m_list[None] * index.double()).sum(1, keepdim=True)
    output = torch.where(index == 1, x - batch_m, x)
    return F.cross_entropy(s * output, target, weight=weight, reduction="none")


def test_ldam_is_caos():
    counts = torch.tensor([700.0, 20, 280], dtype=torch.float64)
    z = draw(20, 3)[0] / 10
    y = torch.arange(20) % 3
    weight = torch.tensor([0.2, 2.0, 0.8], dtype=torch.float64)
    for class_weight in (None, weight):
        ours = ldam_ce(z, y, share=counts, class_weight=class_weight, reduction="none")
        torch.testing.assert_close(ours, caos(z, y, counts, weight=class_weight))
    windows = ldam_ce(z.view(5, 4, 3).transpose(1, 2), y.view(5, 4), share=counts, reduction="none")
    torch.testing.assert_close(windows.flatten(), caos(z, y, counts))


@pytest.mark.parametrize("rate", [0.02, 0.9])
def test_ldam_of_labels_is_that_of_two_classes(rate):
    z, y, _ = draw(20, 1)
    both = torch.cat([0.2 * z, -0.8 * z], 1)
    wanted = caos(both, y[:, 0].long(), torch.tensor([1 - rate, rate]).double(), s=10, weight=torch.tensor([0.5, 1.5]).double())
    ours = ldam(-z, y, rate=rate, scale=10, ratio=3.0, reduction="none")[:, 0]
    torch.testing.assert_close(ours, wanted)
    assert ldam_margins(torch.tensor([0.98, 0.02]), 0.5).tolist() == pytest.approx([0.5 * (0.02 / 0.98) ** 0.25, 0.5])


def test_weights_are_deferred():
    z, y, _ = draw(20, 1)
    plain, weighted = LDAM([0.02]), LDAM([0.02], ratio=[49.0])
    loss = Deferred(plain, weighted, 0.8)
    assert loss.settled
    found = []
    for epoch in range(1, 11):
        loss.begin_epoch(epoch, 10)
        found.append(loss.settled)
        assert loss(z, y) == (weighted if loss.settled else plain)(z, y)
    assert found == [False] * 8 + [True] * 2
    always, once = (Deferred(plain, weighted, defer) for defer in (0.0, 0.8))
    for each in (always, once):
        each.begin_epoch(1, 1)
        assert each.settled
        assert each(z, y) == weighted(z, y)


def test_weights_that_never_come_are_settled():
    plain = LDAM([0.02])
    loss = Deferred(plain, plain, 1.0)
    for epoch in (1, 10):
        loss.begin_epoch(epoch, 10)
        assert loss.settled


@pytest.mark.parametrize("epsilon", [-0.5, 0.0, 1.0, 4.0])
def test_poly1_is_lengs(epsilon):
    z, y, _ = draw(20, 3)
    p_t = torch.where(y == 1, torch.sigmoid(z), torch.sigmoid(-z))
    wanted = (-p_t.log() + epsilon * (1 - p_t)) * torch.where(y == 1, 7, 1)
    torch.testing.assert_close(poly1(z, y, epsilon=epsilon, pos_weight=7.0, reduction="none"), wanted)
