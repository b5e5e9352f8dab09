"""From settings and the priors on record to the training loss."""

from collections.abc import Sequence

import torch
from cutpoint.bundle import LabelPrior

from ..config import loss as configured
from .adjusted import BalancedSoftmax, LogitAdjusted
from .asymmetric import Asymmetric
from .class_balanced import ClassBalanced
from .focal import Focal, FocalCE
from .ldam import LDAM, LDAMCE, Deferred
from .poly import Poly1
from .smooth_ap import SmoothAP
from .training import TrainingLoss
from .tversky import Dice, Tversky
from .weighted import WeightedBCE, WeightedCE


def build_loss(settings: configured.LossSettings, priors: Sequence[LabelPrior]) -> TrainingLoss:
    """The training loss with the weights and rates that `priors` record."""
    ratio, rate, sampled = (
        torch.tensor([getattr(prior, name) for prior in priors]) for name in ("pos_weight", "rate", "sampled_rate")
    )
    match settings:
        case configured.WeightedBCELoss():
            return WeightedBCE(ratio)
        case configured.WeightedCELoss():
            w0 = 1.0 if settings.class_weight == "auto" else settings.class_weight[0]
            w1 = w0 * float(ratio)
            return WeightedCE((w0, w1), w0 + float(sampled) * (w1 - w0))
        case configured.FocalLoss():
            share = 0.5 if settings.alpha is None else torch.tensor(settings.alpha)
            return Focal(settings.alpha, settings.gamma, ratio * (1 - share) / share)
        case configured.FocalCELoss():
            return FocalCE(None if settings.alpha is None else (1 - settings.alpha, settings.alpha), settings.gamma)
        case configured.AsymmetricLoss():
            return Asymmetric(settings.gamma_pos, settings.gamma_neg, settings.margin)
        case configured.ClassBalancedLoss():
            return ClassBalanced(ratio, settings.gamma)
        case configured.LogitAdjustedLoss():
            return LogitAdjusted(sampled, settings.tau)
        case configured.BalancedSoftmaxLoss():
            return BalancedSoftmax((1 - float(sampled), float(sampled)), settings.tau)
        case configured.LDAMCELoss():
            shares, weight = (1 - float(rate), float(rate)), (2 / (1 + float(ratio)), 2 * float(ratio) / (1 + float(ratio)))
            shape = (shares, settings.max_margin, settings.scale)
            return Deferred(LDAMCE(*shape), LDAMCE(*shape, weight), settings.defer)
        case configured.LDAMLoss():
            form = (rate, settings.max_margin, settings.scale)
            return Deferred(LDAM(*form), LDAM(*form, ratio), settings.defer)
        case configured.Poly1Loss():
            return Poly1(settings.epsilon, ratio)
        case configured.TverskyLoss():
            return Tversky(settings.alpha, settings.beta, settings.gamma, settings.smooth)
        case configured.DiceLoss():
            return Dice(settings.smooth)
        case configured.SmoothAPLoss():
            return SmoothAP(settings.temperature)
