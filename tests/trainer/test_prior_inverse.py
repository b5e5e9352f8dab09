"""Every inverse recovers the probability, found by brute force: minimise the expected loss, then invert the minimiser."""

from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from cutpoint.trainer.config import (
    AsymmetricLoss,
    BalancedSoftmaxLoss,
    ClassBalancedLoss,
    FocalCELoss,
    FocalLoss,
    LDAMCELoss,
    LDAMLoss,
    Poly1Loss,
)
from cutpoint.trainer.export import export_graph
from cutpoint.trainer.loss import asymmetric, build_loss, focal, ldam, poly1
from cutpoint.trainer.prior import (
    honest_head,
    invert_asymmetric,
    invert_focal,
    invert_ldam,
    invert_poly1,
    label_priors,
)
from scipy.special import logit

ETAS = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9)
PAIRS = {
    **{f"focal {g}": (partial(focal, alpha=None, gamma=g), partial(invert_focal, gamma=g)) for g in (0.0, 0.5, 1.0, 2.0, 5.0)},
    **{
        f"asymmetric {p} {n}": (
            partial(asymmetric, gamma_pos=p, gamma_neg=n, margin=0),
            partial(invert_asymmetric, gamma_pos=p, gamma_neg=n),
        )
        for p, n in ((0.0, 4.0), (1.0, 4.0), (4.0, 1.0), (0.5, 3.0), (0.0, 0.5))
    },
    **{f"poly1 {e}": (partial(poly1, epsilon=e), partial(invert_poly1, epsilon=e)) for e in (-0.9, 0.5, 1.0, 5.0)},
    **{
        f"ldam {r} {s}": (
            partial(ldam, rate=r, max_margin=m, scale=s),
            partial(invert_ldam, rate=r, max_margin=m, scale=s),
        )
        for r, m, s in ((0.01, 0.5, 30.0), (0.3, 0.5, 30.0), (0.9, 1.0, 1.0), (0.01, 0.2, 5.0))
    },
}


def minimiser(loss, eta: float) -> float:
    """Where eta l(z, 1) + (1 - eta) l(z, 0) is least, by grids ever finer."""
    low, high = -40.0, 40.0
    for _ in range(7):
        z = torch.linspace(low, high, 401, dtype=torch.float64)[:, None]
        one, zero = (loss(z, torch.full(z.shape, y), reduction="none")[:, 0] for y in (1, 0))
        k = int((eta * one + (1 - eta) * zero).argmin())
        low, high = float(z[max(k - 4, 0)]), float(z[min(k + 4, 400)])
    return (low + high) / 2


@pytest.mark.parametrize("name", PAIRS)
def test_the_minimiser_inverts_to_the_probability(name):
    loss, inverse = PAIRS[name]
    for eta in ETAS:
        z = torch.tensor([minimiser(loss, eta)], dtype=torch.float64)
        assert inverse(z).item() == pytest.approx(logit(eta), abs=1e-4)


@pytest.mark.parametrize("weight", [1 / 3, 1.0, 40.0])
def test_weights_are_a_shift_of_every_inverse(weight):
    for loss, inverse in (
        (partial(focal, alpha=0.25, gamma=2.0, pos_weight=3 * weight), partial(invert_focal, gamma=2.0)),
        (partial(poly1, epsilon=1.0, pos_weight=weight), partial(invert_poly1, epsilon=1.0)),
        (partial(ldam, rate=0.02, ratio=weight), partial(invert_ldam, rate=0.02, max_margin=0.5, scale=30.0)),
    ):
        for eta in (1e-3, 0.1, 0.9):
            z = torch.tensor([minimiser(loss, eta)], dtype=torch.float64)
            assert inverse(z).item() - np.log(weight) == pytest.approx(logit(eta), abs=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_inverses_are_finite_and_increasing_in_float32(name):
    inverse = PAIRS[name][1]
    z = torch.linspace(-200, 200, 20001)
    found = inverse(z)
    assert torch.isfinite(found).all()
    assert (found.diff() > 0).all()
    torch.testing.assert_close(found.double(), inverse(z.double()), rtol=1e-5, atol=2e-5)
    fine = inverse(torch.linspace(-30, 30, 30001, dtype=torch.float64))
    assert (fine.diff() > 0).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_inverse_is_the_definition(gamma):
    z = torch.linspace(-29, 29, 2001, dtype=torch.float64)
    soft, e = torch.logaddexp(z, torch.zeros(())), torch.exp(z)
    down = torch.log(gamma * torch.logaddexp(-z, torch.zeros(())) + 1 / e)
    wanted = (gamma - 1) * z + torch.log(gamma * soft + e) - down
    torch.testing.assert_close(invert_focal(z, gamma), wanted, rtol=1e-7, atol=1e-7)


SETTINGS = [
    FocalLoss(name="focal", alpha=(0.25, 0.5), gamma=(2.0, 0.0), pos_weight=(3.0, 1.0)),
    ClassBalancedLoss(name="class_balanced", gamma=0.5),
    AsymmetricLoss(name="asymmetric", gamma_pos=(0.0, 1.0), gamma_neg=4.0, margin=0),
    LDAMLoss(name="ldam"),
    Poly1Loss(name="poly1"),
]
TWO_CLASS = [FocalCELoss(name="focal_ce"), LDAMCELoss(name="ldam_ce"), BalancedSoftmaxLoss(name="balanced_softmax")]


@pytest.mark.parametrize("settings", SETTINGS + TWO_CLASS, ids=lambda settings: settings.name)
def test_the_whole_composes(settings):
    """Sampler, weights and inverse together, per label: minimise what is trained at what the sampler presents."""
    labels = 1 if settings.two_class else 2
    y = (np.random.default_rng(0).random((3000, labels)) < [0.05, 0.2][:labels]).astype(np.uint8)
    draws = np.where(y[:, 0] == 1, 4.0, 0.6)
    priors = label_priors(y, draws, settings, "ab"[:labels])
    module, head = build_loss(settings, priors), honest_head(settings, priors)
    assert all(prior.sampled_rate != prior.rate for prior in priors)
    for i, prior in enumerate(priors):
        # At an x of probability eta the sampler presents it at other odds.
        lift = logit(prior.sampled_rate) - logit(prior.rate)
        for eta in (0.002, 0.3):
            presented = 1 / (1 + np.exp(-logit(eta) - lift))

            def alone(z, target, reduction, i=i):
                targets = torch.full((len(z), labels), 255, dtype=torch.uint8)
                targets[:, i] = target[:, 0]
                z = z.expand(-1, labels)
                logits = torch.cat([-z, 0 * z], 1) if settings.two_class else z
                return torch.stack([module(a[None], b[None]) for a, b in zip(logits, targets, strict=True)])[:, None]

            z = coarse_minimiser(alone, presented)
            logits = torch.tensor([[-z, 0.0]]) if settings.two_class else torch.full((1, labels), z)
            assert head(logits.double())[0, i].item() == pytest.approx(logit(eta), abs=2e-3)


def coarse_minimiser(loss, eta: float) -> float:
    low, high = -16.0, 16.0
    for _ in range(7):
        z = torch.linspace(low, high, 17, dtype=torch.float64)[:, None]
        one, zero = (loss(z, torch.full(z.shape, y), reduction="none")[:, 0] for y in (1, 0))
        k = int((eta * one + (1 - eta) * zero).argmin())
        low, high = float(z[max(k - 1, 0)]), float(z[min(k + 1, 16)])
    return (low + high) / 2


@pytest.mark.parametrize("settings", SETTINGS + TWO_CLASS[1:2], ids=lambda settings: settings.name)
def test_heads_export(settings, tmp_path):
    labels = 1 if settings.two_class else 2
    y = (np.random.default_rng(0).random((300, labels)) < 0.2).astype(np.uint8)
    head = honest_head(settings, label_priors(y, None, settings, "ab"[:labels])).eval()
    rows = torch.linspace(-60, 60, 2 * 121).reshape(121, 2)
    export_graph(head, (2,), False, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, head(rows).numpy(), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(found, head(rows.double()).numpy(), rtol=1e-5, atol=1e-4)
