"""What weights and sampler do to the prior of each label, for people to read."""

from collections.abc import Sequence

import numpy as np
from cutpoint.bundle import LabelPrior
from cutpoint.terminal import SHOWN_LABELS, plain_table
from rich.markup import escape
from rich.table import Table
from scipy.special import expit, logit

from .config import LossSettings, NoSampler, Sampler
from .prior import label_priors

SMALL = 0.1  # log-odds; what adds less is not worth a warning
LATER = "after training"  # a shift that is fitted then


def prior_table(priors: Sequence[LabelPrior], names: Sequence[str]) -> Table:
    """One line a label: its rate, the rate as sampled, its weight and the shift of its log-odds, and what that means in words.

    Of more than 20 labels those with the largest shifts, and the range over the others.
    """
    table = plain_table("label", "rate", "as sampled", "weight", "shift", title="what training does to the prior")
    order = np.arange(len(priors))
    if len(priors) > SHOWN_LABELS:
        order = np.argsort([-abs(prior.shift) for prior in priors], kind="stable")
    for i in order[:SHOWN_LABELS].tolist():
        table.add_row(escape(names[i]), *_cells(priors[i]))
    rest = [priors[i] for i in order[SHOWN_LABELS:].tolist()]
    if rest:
        ranges = [
            _range([getattr(prior, field) for prior in rest]) for field in ("rate", "sampled_rate", "pos_weight", "shift")
        ]
        table.add_row(f"{len(rest)} more", *ranges)
    table.caption = _in_words(priors)
    return table


def double_correction(priors: Sequence[LabelPrior], names: Sequence[str], sampler: Sampler, loss: LossSettings) -> str | None:
    """The warning that sampler and loss both make positives more common, with the numbers per label; None when they do not.

    A weight that is derived from the rates as sampled (auto, sqrt, effective, a loss that adjusts for the prior) adds what the
    sampler has left over, so that the two correct once. A weight or an alpha that is given comes on top of the sampler.

    Args:
        priors: of the labels, from `label_priors`.
        names: of the labels.
        sampler: its settings.
        loss: its settings.
    """
    if isinstance(sampler, NoSampler):
        return None
    even = np.repeat(np.array([[0], [1]], np.uint8), len(names), axis=1)
    given = np.array([prior.pos_weight for prior in label_priors(even, None, loss, names)])  # derived ones are 1 at even rates
    rate, sampled, weight = (
        np.array([getattr(prior, field) for prior in priors]) for field in ("rate", "sampled_rate", "pos_weight")
    )
    by_sampler, by_loss = logit(sampled) - logit(rate), np.log(weight)
    twice = np.flatnonzero((by_sampler > SMALL) & (np.log(given) > SMALL))
    if not len(twice):
        return None
    both = by_sampler + by_loss
    which = f"by sampler {sampler.kind} and by loss {loss.name}, for {len(twice)} of {len(names)} labels"
    lines = [f"THE PRIOR IS SHIFTED TWICE, {which}:"]
    for i in twice[np.argsort(-both[twice], kind="stable")][:SHOWN_LABELS].tolist():
        first = f"rate {rate[i]:.3g}, sampled at {sampled[i]:.3g}: log-odds {by_sampler[i]:+.2f}"
        second = f"weight {weight[i]:.4g}: {by_loss[i]:+.2f}"
        reported = f"an event of 1 % would be reported at {_reported(both[i])}"
        lines.append(f"  {names[i]}: {first}; {second}; together {both[i]:+.2f}: {reported}")
    if len(twice) > SHOWN_LABELS:
        lines.append(f"  and {len(twice) - SHOWN_LABELS} more labels")
    lines.append(
        "  The exported graph undoes both, but a model to which nearly everything looks like an event learns less well. Take "
        "one of them, or a weight that is derived from the rates as sampled: pos_weight auto, sqrt or effective."
    )
    return "\n".join(lines)


def _cells(prior: LabelPrior) -> tuple[str, ...]:
    later = prior.undone == "fitted" and prior.shift == 0
    shift = LATER if later else f"{prior.shift:+.2f}"
    return f"{prior.rate:.3g}", f"{prior.sampled_rate:.3g}", f"{prior.pos_weight:.4g}", shift


def _range(found: Sequence[float]) -> str:
    return f"{min(found):.3g} to {max(found):.3g}"


def _in_words(priors: Sequence[LabelPrior]) -> str:
    if priors[0].undone == "fitted":
        return (
            "the loss has no inverse: what it does to the log-odds is fitted to the validation rows after training, and undone"
        )
    if max(abs(prior.shift) for prior in priors) < 0.005:
        return "weights and sampler leave the log-odds as they are"
    shift = float(np.mean([prior.shift for prior in priors]))
    mean = "" if len(priors) == 1 else " on average"
    reported = f"an event of 1 % would be reported at {_reported(shift)}, but the exported graph undoes it"
    return f"weights and sampler move the log-odds by {shift:+.2f}{mean}: {reported}"


def _reported(shift: float) -> str:
    """The probability, in words, at which an event of 1 % is reported when its log-odds are moved by `shift`."""
    return f"{100 * float(expit(logit(0.01) + shift)):.3g} %"
