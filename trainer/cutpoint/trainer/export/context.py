"""How far a window looks: from the layers, and seen on the graph."""

import numpy as np
from cutpoint.errors import BadBundle

from ..config import Config, WindowEncoderModel
from .parity import Answer, Batch

CHANGE = 1e-6  # of a logit, times the largest logit when that is above 1: what counts as changed
_BEYOND = 3  # windows further than the context that are looked at


def derive_context(config: Config) -> int | None:
    """How many windows either way can change a window's logit; None where the whole sequence does, or nobody knows."""
    model = config.model
    if config.task != "windows" or not isinstance(model, WindowEncoderModel) or model.sequence_norm:
        return None
    if model.context == 0:
        return 0
    # What is usual among events is taken from as many events as there are, wherever they lie.
    return None if model.events else 2**model.context_layers - 1


def check_context(answer: Answer, batch: Batch, context: int) -> int:
    """Change windows of a sequence one by one, and return how far away a logit changed with it.

    Args:
        answer: the graph's logits.
        batch: [sequence, window, ...], rows of the run; its windows are repeated where there are too few for the context.
        context: what the layers allow.

    Raises:
        BadBundle: a logit changed further away.
    """
    wanted = 2 * (context + _BEYOND) + 1
    windows = batch.reshape(-1, *batch.shape[2:])
    x = windows[np.arange(wanted) % len(windows)][None]
    before = answer(x)[0].astype(np.float64)
    least = CHANGE * max(1.0, float(np.abs(before).max()))
    furthest = 0
    for place in (0, wanted // 2, wanted - 1):  # with nothing behind it, in the middle, with nothing after it
        window = x[0, place]
        for other in (-3 * window[..., ::-1], np.zeros_like(window), window + 5 * (1 + window.std())):
            changed = x.copy()
            changed[0, place] = other
            moved = np.abs(answer(changed)[0] - before).reshape(wanted, -1).max(axis=1) > least
            furthest = max([furthest, *np.abs(np.flatnonzero(moved) - place).tolist()])
    if furthest > context:
        raise BadBundle.of(
            "context of the exported graph", f"{furthest} windows at least", f"{context} by its layers; nothing was written"
        )
    return furthest
