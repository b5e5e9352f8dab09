"""Losses for rare events: pure functions of (logits, targets, labelled), and modules that hold their weights.

Everywhere: `logits` float [batch, label] or [batch, window, label]; `targets` of the same shape, 0 or 1 where `labelled`
(bool, the same shape, None for everywhere) is True, anything where it is False. An entry that is not labelled has no loss and
no gradient; with none labelled the mean is 0 and so is its gradient. `reduction` is "mean", "sum" or "none" (the shape of the
targets, 0 where not labelled). Losses are computed and returned in float32, or in float64 for float64 logits, whatever
autocast is on: half precision cannot hold them.
"""

from .arguments import Reduction as Reduction
from .focal import Focal as Focal
from .focal import focal as focal
from .weighted import WeightedBCE as WeightedBCE
from .weighted import WeightedCE as WeightedCE
from .weighted import weighted_bce as weighted_bce
from .weighted import weighted_ce as weighted_ce
