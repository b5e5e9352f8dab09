"""From the logit that minimises the expected loss to the log-odds of the label, in closed form; weights aside.

All are increasing, finite for finite float32 logits, and made of what ONNX has: it has no logsigmoid and no logaddexp, and the
exporter's log of a sigmoid, or of a sum of exponentials, overflows. For losses without weights, p = s(z) and q = 1 - p,

    focal        (g - 1) z + log(g softplus(z) + e^z) - log(g softplus(-z) + e^-z)      (of Charoenphakdee et al. 2021's family)
    asymmetric   g_n log p - g_p log q - z + log(g_n softplus(z) + e^z) - log(g_p softplus(-z) + e^-z)
    poly1        z + log(1 + e q) - log(1 + e p)
    ldam         log s(s (z + m_0)) - log s(-s (z - m_1))

each from (d/dz) l(z, 0) over -(d/dz) l(z, 1), whose log is the logit of the probability at which z is stationary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from cutpoint.bundle import LabelPrior
from torch import Tensor, nn

from ..config import loss as configured
from ..loss.arguments import PerLabel
from ..loss.ldam import ldam_margins


def invert_focal(z: Tensor, gamma: PerLabel) -> Tensor:
    """The logit of n(x) from the logit `z` [..., label] of a model trained by focal loss without weights."""
    return invert_asymmetric(z, gamma, gamma)


def invert_asymmetric(z: Tensor, gamma_pos: PerLabel, gamma_neg: PerLabel) -> Tensor:
    """The same of the asymmetric loss with margin 0."""
    pos, neg = _like(gamma_pos, z), _like(gamma_neg, z)
    up = _log_add_exp(z, neg.log() + _log_softplus(z))
    down = _log_add_exp(-z, pos.log() + _log_softplus(-z))
    return pos * F.softplus(z) - neg * F.softplus(-z) - z + up - down


def invert_poly1(z: Tensor, epsilon: PerLabel) -> Tensor:
    """The same of Poly-1."""
    e = _like(epsilon, z)
    return z + torch.log1p(e * torch.sigmoid(-z)) - torch.log1p(e * torch.sigmoid(z))


def invert_ldam(z: Tensor, rate: PerLabel, max_margin: float, scale: float) -> Tensor:
    """The same of LDAM; nearly flat between the margins, -m_0 to m_1, where every probability about a half has its optimum."""
    share = _like(rate, z)
    m0, m1 = ldam_margins(torch.stack([1 - share, share]), max_margin)
    return F.softplus(scale * (z - m1)) - F.softplus(-scale * (z + m0))


class Inverse(nn.Module):
    """One of these with its parameters; numbers, or buffers [label]."""

    def __init__(self, function: Callable[..., Tensor], **parameters: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """[..., label] to the same shape."""
        return self.function(z, **dict(self.named_buffers()))


def has_inverse(settings: configured.LossSettings) -> bool:
    """Whether the loss can be undone in closed form."""
    match settings:
        case configured.TverskyLoss() | configured.DiceLoss() | configured.SmoothAPLoss():
            return False
        case configured.AsymmetricLoss():
            return settings.margin == 0
        case _:
            return True


def inverse_of(settings: configured.LossSettings, priors: Sequence[LabelPrior]) -> Inverse | None:
    """The inverse of a loss; None where it is the identity, or there is none."""
    match settings:
        case configured.FocalLoss() | configured.FocalCELoss() | configured.ClassBalancedLoss() if torch.tensor(
            settings.gamma
        ).any():
            return Inverse(invert_focal, gamma=settings.gamma)
        case configured.AsymmetricLoss(margin=0):
            return Inverse(invert_asymmetric, gamma_pos=settings.gamma_pos, gamma_neg=settings.gamma_neg)
        case configured.Poly1Loss():
            return Inverse(invert_poly1, epsilon=settings.epsilon)
        case configured.LDAMLoss():
            rates = [prior.rate for prior in priors]
            return Inverse(invert_ldam, rate=rates, max_margin=settings.max_margin, scale=settings.scale)
        case _:
            return None


def _like(value: PerLabel, z: Tensor) -> Tensor:
    return value.to(z.dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=z.dtype, device=z.device)


def _log_softplus(z: Tensor) -> Tensor:
    # For small u = e^z, log(log(1 + u)) = z + log(1 - u/2 + u^2/3 - u^3/4 + ...): float32 cannot hold 1 + u.
    u = torch.exp(z.clamp(max=-4.0))
    series = z + torch.log(1 - u / 2 + u**2 / 3 - u**3 / 4)
    return torch.where(z < -4, series, torch.log(F.softplus(z.clamp(min=-4.0))))


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b) + torch.log1p(torch.exp(-torch.abs(a - b)))
