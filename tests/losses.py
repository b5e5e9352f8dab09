"""Every loss with parameters that are not its defaults, and draws to try them on."""

from collections.abc import Callable
from functools import partial

import torch
from cutpoint.trainer import loss
from torch import Tensor

LABELS = 3
PER_LABEL = torch.tensor([0.3, 0.01, 0.6], dtype=torch.float64)  # as rates, weights or alphas

ENTRY: dict[str, Callable[..., Tensor]] = {
    "weighted_bce": partial(loss.weighted_bce, pos_weight=torch.tensor([2.0, 50, 1])),
    "focal": partial(loss.focal, alpha=PER_LABEL, gamma=torch.tensor([0.5, 2, 0]), pos_weight=3.0),
    "focal 0.5": partial(loss.focal, gamma=0.5),
    "asymmetric": loss.asymmetric,
    "asymmetric 0.5": partial(loss.asymmetric, gamma_pos=0.5, gamma_neg=0.7),
    "asymmetric, no margin": partial(loss.asymmetric, gamma_pos=[0.0, 1, 0.5], gamma_neg=[4.0, 0.5, 0], margin=0),
    "class_balanced": partial(loss.class_balanced, ratio=1 / PER_LABEL, gamma=0.5),
    "logit_adjusted": partial(loss.logit_adjusted, prior=PER_LABEL, tau=1.5),
    "ldam": partial(loss.ldam, rate=PER_LABEL, ratio=1 / PER_LABEL),
    "poly1": partial(loss.poly1, epsilon=[2.0, -0.5, 0], pos_weight=PER_LABEL),
}
CLASS: dict[str, Callable[..., Tensor]] = {
    "weighted_ce": partial(loss.weighted_ce, class_weight=torch.tensor([1.0, 50])),
    "focal_ce": partial(loss.focal_ce, alpha=[0.2, 0.8], gamma=0.5),
    "balanced_softmax": partial(loss.balanced_softmax, prior=[0.98, 0.02]),
    "ldam_ce": partial(loss.ldam_ce, share=[0.98, 0.02], class_weight=[0.1, 1.9]),
}
BATCH: dict[str, Callable[..., Tensor]] = {
    "tversky": partial(loss.tversky, alpha=[0.3, 0.5, 1], gamma=0.75),
    "dice": loss.dice,
    "smooth_ap": partial(loss.smooth_ap, temperature=0.7),
}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets with about a third positive, and a mask with about a fifth off."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    targets = (torch.rand(*shape, generator=generator) < 0.35).to(torch.uint8)
    labelled = torch.rand(*shape, generator=generator) < 0.8
    return logits.to(dtype), targets, labelled


def draw_for(name: str, windows: int | None = None, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Eight rows of the shapes that a loss takes."""
    axes = () if windows is None else (windows,)
    if name not in CLASS:
        return draw(8, *axes, LABELS, dtype=dtype)
    _, y, labelled = draw(8, *axes)
    return draw(8, 2, *axes, seed=1, dtype=dtype)[0], y, labelled


def gradient(function: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Of a scalar function at these logits."""
    at = logits.detach().clone().requires_grad_()
    function(at).backward()
    assert at.grad is not None
    return at.grad
