"""What a positive weighs in the loss, per label."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from cutpoint.errors import BadConfig
from cutpoint.terminal import SHOWN_LABELS
from numpy.typing import NDArray

from .config.weight import PosWeight, effective_beta


def positive_weights(
    setting: PosWeight, positives: NDArray[np.float64], negatives: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    """What a positive weighs over a negative, float64 [label], above 0.

    auto is negatives / positives; sqrt its square root; effective the ratio of the effective numbers (1 - beta^n) / (1 - beta)
    of negatives and positives (Cui 2019, 1901.05555), which is auto where both are few and 1 where both are many. A number is
    for every label, a list is in their order, and labels that a mapping leaves out weigh 1.

    Args:
        setting: from the loss's settings.
        positives: [label], how many labelled entries an epoch has of them, as the sampler presents them; above 0.
        negatives: [label], the same of negatives.
        names: of the labels.

    Raises:
        BadConfig: a list of another length, or a weight for a label that does not exist.
    """
    if setting == "auto":
        return negatives / positives
    if setting == "sqrt":
        return np.sqrt(negatives / positives)
    if isinstance(setting, str):
        log_beta = np.log(effective_beta(setting))
        return np.asarray(np.expm1(negatives * log_beta) / np.expm1(positives * log_beta))
    if isinstance(setting, Mapping):
        for name in setting:
            if name not in names:
                raise BadConfig.of("loss.pos_weight", f"a weight for label {name!r}", _existing(name, names))
        return np.array([setting.get(name, 1.0) for name in names], np.float64)
    given = np.asarray(setting, np.float64)
    if given.ndim and len(given) != len(names):
        raise BadConfig.of("loss.pos_weight", f"a list of {len(given)}", f"{len(names)} weights, one per label")
    return np.array(np.broadcast_to(given, len(names)))


def _existing(name: str, names: Sequence[str]) -> str:
    """The labels that exist, those first that `name` may have meant."""
    near = difflib.get_close_matches(name, names, 3)
    shown = [*near, *(other for other in names if other not in near)][:SHOWN_LABELS]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"a label that exists: {', '.join(repr(each) for each in shown)}{more}"
