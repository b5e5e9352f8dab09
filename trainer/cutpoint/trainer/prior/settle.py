"""What is undone by figures of a trained model, not in closed form."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from cutpoint.bundle import LabelPrior
from cutpoint.calibration import exact_curve, fit_calibrator
from cutpoint.dataset import UNLABELLED
from numpy.typing import NDArray

from ..config import loss as configured
from .head import honest_head
from .inverse import has_inverse

LEAST_POSITIVES = 10  # to fit a slope; calibration fits one from there on, too
LEAST_SLOPE = 1e-4  # of a label that validation shows no way to rank: the order of its logits is kept


def settle_priors(
    settings: configured.LossSettings,
    priors: Sequence[LabelPrior],
    logits_of: Callable[[Literal["train", "valid"]], NDArray[np.floating]],
    y_train: NDArray[np.uint8],
    y_valid: NDArray[np.uint8],
    sampled: bool,
) -> tuple[LabelPrior, ...]:
    """Settle, once the network is trained, the shifts that no closed form gives; the others stay.

    Args:
        settings: of the loss.
        priors: as `label_priors` gave them.
        logits_of: the network's training logits, [row, ..., label] or [row, 2, ...], of every row of a split; called for at
            most one of them.
        y_train: uint8 [row, ..., label].
        y_valid: uint8 [row, ..., label].
        sampled: whether a sampler drew the training rows.
    """

    def inverted(split: Literal["train", "valid"]) -> NDArray[np.floating]:
        plain = [prior.model_copy(update={"shift": 0.0, "slope": 1.0}) for prior in priors]
        with torch.no_grad():
            return honest_head(settings, plain)(torch.from_numpy(logits_of(split))).numpy()  # type: ignore[no-any-return]

    if not has_inverse(settings):
        return fit_lines(priors, inverted("valid"), y_valid)
    if sampled and y_train[0].size > 1:
        return match_rates(priors, inverted("train"), y_train)
    return tuple(priors)


def match_rates(priors: Sequence[LabelPrior], logits: NDArray[np.floating], y: NDArray[np.uint8]) -> tuple[LabelPrior, ...]:
    """Replace every shift by the one at which the mean probability of the labelled entries is their rate.

    Args:
        priors: of the labels; their rates lie between 0 and 1.
        logits: [..., label] of the unsampled training rows, with the loss inverted and nothing subtracted.
        y: uint8, the same shape.
    """
    return tuple(
        prior.model_copy(
            update={"shift": _matching_shift(logits[..., i][y[..., i] != UNLABELLED], prior.rate), "undone": "matched"}
        )
        for i, prior in enumerate(priors)
    )


def fit_lines(priors: Sequence[LabelPrior], logits: NDArray[np.floating], y: NDArray[np.uint8]) -> tuple[LabelPrior, ...]:
    """Replace every slope and shift by those of a logistic regression on the validation rows.

    Args:
        priors: of the labels; their rates lie between 0 and 1.
        logits: [..., label] of the validation rows, as trained.
        y: uint8, the same shape.

    Returns:
        Lines of a slope above 0, held by 5 positives' worth, as in calibration, to 1, or to the slope at which logits that
        spread wider deviate by 1: losses that only rank may drive them anywhere. A label with fewer than 10 positives or
        negatives keeps slope 1, with the shift at which its mean probability is the rate in the training rows.
    """
    fitted = []
    for i, prior in enumerate(priors):
        on = y[..., i] != UNLABELLED
        z, target = logits[..., i][on], y[..., i][on]
        positives = int((target == 1).sum())
        if min(positives, len(target) - positives) < LEAST_POSITIVES:
            line = {"slope": 1.0, "shift": _matching_shift(z, prior.rate) if len(z) else 0.0}
        else:
            scale = max(1.0, float(z.std(dtype=np.float64)))
            z = z / scale
            # Matched first: the fit is held to where the logits lie.
            level = _matching_shift(z, positives / len(target))
            slope, intercept = fit_calibrator(exact_curve(z, target), "platt", shift=level).coefficients
            slope = max(slope, LEAST_SLOPE)
            line = {"slope": slope / scale, "shift": slope * level - intercept}
        fitted.append(prior.model_copy(update={**line, "undone": "fitted"}))
    return tuple(fitted)


def _matching_shift(logits: NDArray[np.floating], rate: float) -> float:
    """What to subtract for a mean probability of `rate`, 0 to 1 exclusive."""
    z = logits.astype(np.float64)
    low, high = float(z.min()) - 60, float(z.max()) + 60  # the mean falls as the shift grows
    for _ in range(80):
        middle = (low + high) / 2
        above = np.exp(-np.logaddexp(0, middle - z)).mean() > rate
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2
