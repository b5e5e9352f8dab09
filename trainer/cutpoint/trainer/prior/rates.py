"""What weights and sampler do to each label, from the training labels."""

from collections.abc import Sequence

import numpy as np
from cutpoint.bundle import LabelPrior
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray

from ..config import loss as configured
from ..weights import positive_weights
from .inverse import has_inverse


def label_priors(
    y: NDArray[np.uint8], draws: NDArray[np.float64] | None, settings: configured.LossSettings, names: Sequence[str]
) -> tuple[LabelPrior, ...]:
    """Rates, weights and shifts of every label.

    Args:
        y: uint8 [row, label] or [sequence, window, label] of the training split.
        draws: [row], how often the sampler is expected to draw each in an epoch; None for once.
        settings: of the loss; `auto` and its like are resolved here, against the entries that the sampler presents, so that
            sampling and weighting together do not correct twice.
        names: of the labels.

    Returns:
        For each label; without shift, and to be fitted after training, where the loss has no inverse.

    Raises:
        BadData: a label has only one class.
        BadConfig: a parameter of the loss is a list of another length, or names a label that does not exist.
    """
    _check_lengths(settings, names)
    windows = tuple(range(1, y.ndim - 1))
    positives = (y == 1).sum(axis=windows).astype(np.float64)  # [row, label]
    labelled = (y != UNLABELLED).sum(axis=windows).astype(np.float64)
    total = labelled.sum(axis=0)
    rate = positives.sum(axis=0) / np.maximum(total, 1)
    for i in np.flatnonzero((rate == 0) | (rate == 1)).tolist():
        found = f"{int(positives[:, i].sum())} positives in {int(total[i])} labelled entries"
        raise BadData.of(f"training data of label {names[i]!r}", found, "at least one of each class")
    if draws is None:
        draws = np.ones(len(y))
    drawn, among = draws @ positives, draws @ labelled
    weight = _weight_ratio(settings, drawn, among - drawn, names)
    sampled = drawn / among
    shift = np.log(weight) + logit(sampled) - logit(rate) if has_inverse(settings) else np.zeros_like(rate)
    return tuple(
        LabelPrior(
            rate=float(r),
            sampled_rate=float(s),
            pos_weight=float(w),
            shift=float(d),
            undone="closed_form" if has_inverse(settings) else "fitted",
        )
        for r, s, w, d in zip(rate, sampled, weight, shift, strict=True)
    )


def logit(share: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds."""
    return np.asarray(np.log(share) - np.log1p(-share))


def _weight_ratio(
    settings: configured.LossSettings, positives: NDArray[np.float64], negatives: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    """What a positive weighs over a negative, [label], all weights of the loss together."""
    none = np.ones_like(positives)
    match settings:
        case configured.WeightedBCELoss() | configured.Poly1Loss():
            return positive_weights(settings.pos_weight, positives, negatives, names)
        case configured.WeightedCELoss():
            wanted = settings.class_weight
            return negatives / positives if wanted == "auto" else none * wanted[1] / wanted[0]
        case configured.FocalLoss():
            return positive_weights(settings.pos_weight, positives, negatives, names) * _odds(settings.alpha)
        case configured.FocalCELoss():
            return none * _odds(settings.alpha)
        case configured.ClassBalancedLoss():
            return _effective(settings.beta, positives, negatives, names)
        case configured.LDAMLoss():
            return none if settings.defer == 1 else _effective(settings.beta, positives, negatives, names)
        case configured.LogitAdjustedLoss() | configured.BalancedSoftmaxLoss():
            return np.asarray((negatives / positives) ** settings.tau)  # the weight that shifts the odds as far
        case _:
            return none


def _effective(
    beta: float, positives: NDArray[np.float64], negatives: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    return positive_weights(f"effective={beta!r}" if beta else 1.0, positives, negatives, names)


def _odds(alpha: float | tuple[float, ...] | None) -> NDArray[np.float64]:
    share = np.asarray(0.5 if alpha is None else alpha)
    return np.asarray(share / (1 - share))


def _check_lengths(settings: configured.LossSettings, names: Sequence[str]) -> None:
    for field in ("alpha", "gamma", "gamma_pos", "gamma_neg"):
        given = getattr(settings, field, None)
        if isinstance(given, tuple) and len(given) != len(names):
            raise BadConfig.of(f"loss.{field}", f"a list of {len(given)}", f"{len(names)} numbers, one per label")
