"""What training does to each label's prior, and the closed form that undoes it.

A model trained on weighted losses or resampled rows does not report the probability of its label, n(x), but that of another
world with more positives. For a positive weight w and rates changed from r to r' its logit is

    z = logit n(x) + log w + logit r' - logit r                                (Elkan 2001; Saerens et al. 2002)

and focal loss, stationary where n (d/dz) l(z, 1) + (1 - n) (d/dz) l(z, 0) = 0, gives in closed form

    logit n(x) = log((1 - a) / a) + (g - 1) z + log(g softplus(z) + e^z) - log(g softplus(-z) + e^-z)

(the family of Charoenphakdee et al. 2021). Both are exact for a model that can express n(x), and close for a useful one.

There is one case without a closed form: when whole rows of several entries (windows, labels) are sampled for the sake of one of
them, x says how likely the row was to be drawn, and the odds of an entry do not change by a constant. There the shift is the
intercept at which the mean probability over the unsampled training rows is the rate in them: right on average, not everywhere.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from cutpoint.bundle import LabelPrior
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray
from torch import Tensor, nn

from .config import FocalLoss, WeightedBCELoss, WeightedCELoss
from .loss import Focal, WeightedBCE, WeightedCE

LossSettings = WeightedBCELoss | WeightedCELoss | FocalLoss


def label_priors(
    y: NDArray[np.uint8], weights: NDArray[np.float64] | None, loss: LossSettings, names: Sequence[str]
) -> tuple[LabelPrior, ...]:
    """Rates, weights and shifts of every label.

    Args:
        y: uint8 [row, label] or [sequence, window, label] of the training split.
        weights: [row] of the sampler, or None.
        loss: its settings; `auto` is resolved here, against the rates that the sampler presents, so that sampling and weighting
            together do not correct twice.
        names: of the labels, for messages.

    Raises:
        BadData: a label has only one class.
        BadConfig: `pos_weight` is a list of another length.
    """
    windows = tuple(range(1, y.ndim - 1))
    positives = (y == 1).sum(axis=windows).astype(np.float64)  # [row, label]
    labelled = (y != UNLABELLED).sum(axis=windows).astype(np.float64)
    total = labelled.sum(axis=0)
    rate = positives.sum(axis=0) / np.maximum(total, 1)
    for i in np.flatnonzero((rate == 0) | (rate == 1)).tolist():
        found = f"{int(positives[:, i].sum())} positives in {int(total[i])} labelled entries"
        raise BadData.of(f"training data of label {names[i]!r}", found, "at least one of each class")
    sampled = rate if weights is None else (weights @ positives) / (weights @ labelled)
    weight = _pos_weights(sampled, loss)
    shift = np.log(weight) + _logit(sampled) - _logit(rate)
    return tuple(
        LabelPrior(rate=float(r), sampled_rate=float(s), pos_weight=float(w), shift=float(d))
        for r, s, w, d in zip(rate, sampled, weight, shift, strict=True)
    )


def match_rates(priors: Sequence[LabelPrior], logits: NDArray[np.floating], y: NDArray[np.uint8]) -> tuple[LabelPrior, ...]:
    """Replace every shift by the one at which the mean probability of the labelled entries is their rate.

    Args:
        priors: of the labels; their rates lie between 0 and 1.
        logits: [..., label] of the unsampled training rows, with focal loss inverted and nothing subtracted.
        y: uint8, the same shape.
    """
    matched = []
    for i, prior in enumerate(priors):
        z = logits[..., i][y[..., i] != UNLABELLED].astype(np.float64)
        low, high = float(z.min()) - 60, float(z.max()) + 60  # the mean falls as the shift grows
        for _ in range(80):
            middle = (low + high) / 2
            above = np.exp(-np.logaddexp(0, middle - z)).mean() > prior.rate
            low, high = (middle, high) if above else (low, middle)
        matched.append(prior.model_copy(update={"shift": (low + high) / 2}))
    return tuple(matched)


def build_loss(loss: LossSettings, priors: Sequence[LabelPrior]) -> WeightedBCE | WeightedCE | Focal:
    """The training loss with the weights that `priors` record."""
    if isinstance(loss, FocalLoss):
        return Focal(loss.alpha, loss.gamma)
    if isinstance(loss, WeightedBCELoss):
        return WeightedBCE(torch.tensor([prior.pos_weight for prior in priors]))
    (prior,) = priors
    w0 = 1.0 if loss.class_weight == "auto" else loss.class_weight[0]
    w1 = w0 * prior.pos_weight
    return WeightedCE(torch.tensor([w0, w1]), w0 + prior.sampled_rate * (w1 - w0))


def start_logits(priors: Sequence[LabelPrior], loss: LossSettings) -> NDArray[np.float64]:
    """The constant logit, [label], that minimises the loss: where a head's bias starts.

    Starting at 0 would spend the first epochs on learning that events are rare (Lin 2017, 4.1).
    """
    target = np.array([float(_logit(prior.sampled_rate)) + math.log(prior.pos_weight) for prior in priors])
    if not isinstance(loss, FocalLoss):
        return target
    # The inverse is increasing, so its own inverse is found by halving.
    low, high = np.full(len(target), -60.0), np.full(len(target), 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = invert_focal(torch.from_numpy(middle), loss.alpha, loss.gamma).numpy() > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray((low + high) / 2)


def invert_focal(z: Tensor, alpha: float, gamma: float) -> Tensor:
    """The logit of n(x) from the logit `z` of a model trained by focal loss; any shape, finite for finite z, increasing."""
    if gamma == 0:
        return z + math.log((1 - alpha) / alpha)
    log_gamma = math.log(gamma)
    up = _log_add_exp(log_gamma + _log_softplus(z), z)
    down = _log_add_exp(log_gamma + _log_softplus(-z), -z)
    return math.log((1 - alpha) / alpha) + (gamma - 1) * z + up - down


class UndoPrior(nn.Module):
    """Training logits [batch, ..., label] to logits of the label's own probability: the focal inverse, then the shift.

    The identity, and no node in the graph, where training changed nothing.
    """

    def __init__(self, priors: Sequence[LabelPrior], alpha: float | None = None, gamma: float | None = None) -> None:
        super().__init__()
        self.alpha, self.gamma = alpha, gamma
        self.register_buffer("shift", torch.tensor([prior.shift for prior in priors], dtype=torch.float32))
        self.shift: Tensor
        self.shifts = any(prior.shift != 0 for prior in priors)

    def forward(self, logits: Tensor) -> Tensor:
        """[batch, ..., label] to the same shape."""
        if self.alpha is not None and self.gamma is not None:
            logits = invert_focal(logits, self.alpha, self.gamma)
        return logits - self.shift.to(logits.dtype) if self.shifts else logits


class Margin(nn.Module):
    """Training logits to one logit per label: z1 - z0, [batch, 2, ...] to [batch, ..., 1], when there are two classes."""

    def __init__(self, two_class: bool) -> None:
        super().__init__()
        self.two_class = two_class

    def forward(self, logits: Tensor) -> Tensor:
        """[batch, ..., label]."""
        return (logits[:, 1] - logits[:, 0]).unsqueeze(-1) if self.two_class else logits


def honest_head(loss: LossSettings, priors: Sequence[LabelPrior]) -> nn.Sequential:
    """Training logits to honest logits [batch, ..., label]: the margin, then the prior undone; the end of the served graph."""
    alpha, gamma = (loss.alpha, loss.gamma) if isinstance(loss, FocalLoss) else (None, None)
    return nn.Sequential(Margin(isinstance(loss, WeightedCELoss)), UndoPrior(priors, alpha, gamma))


def _pos_weights(sampled: NDArray[np.float64], loss: LossSettings) -> NDArray[np.float64]:
    if isinstance(loss, FocalLoss):
        return np.ones_like(sampled)  # alpha is undone by the focal inverse
    if isinstance(loss, WeightedCELoss):
        wanted = loss.class_weight
        return (1 - sampled) / sampled if wanted == "auto" else np.full_like(sampled, wanted[1] / wanted[0])
    if loss.pos_weight == "auto":
        return (1 - sampled) / sampled
    if loss.pos_weight == "sqrt":
        return np.sqrt((1 - sampled) / sampled)
    given = np.asarray(loss.pos_weight, np.float64)
    if given.ndim == 1 and given.shape != sampled.shape:
        raise BadConfig.of("loss.pos_weight", f"a list of {len(given)}", f"{len(sampled)} weights, one per label")
    return np.asarray(np.broadcast_to(given, sampled.shape), np.float64)


def _logit(share: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(share) - np.log1p(-share))


def _log_softplus(z: Tensor) -> Tensor:
    # For small u = e^z, log(log(1 + u)) = z + log(1 - u/2 + u^2/3 - u^3/4 + ...): float32 cannot hold 1 + u.
    u = torch.exp(z.clamp(max=-4.0))
    series = z + torch.log(1 - u / 2 + u**2 / 3 - u**3 / 4)
    return torch.where(z < -4, series, torch.log(F.softplus(z.clamp(min=-4.0))))


def _log_add_exp(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b) + torch.log1p(torch.exp(-torch.abs(a - b)))
