"""Losses for rare events: pure functions of (logits, targets, labelled), and modules that hold their parameters.

Everywhere: `logits` float [batch, label] or [batch, window, label]; `targets` of the same shape, 0 or 1 where `labelled`
(bool, the same shape, None for everywhere) is True, anything where it is False. An entry that is not labelled has no loss and
no gradient; with none labelled the mean is 0 and so is its gradient. `reduction` is "mean", "sum" or "none" (the shape of the
targets, 0 where not labelled). Losses are computed and returned in float32, or in float64 for float64 logits, whatever
autocast is on: half precision cannot hold them.
"""

from .adjusted import BalancedSoftmax as BalancedSoftmax
from .adjusted import LogitAdjusted as LogitAdjusted
from .adjusted import balanced_softmax as balanced_softmax
from .adjusted import logit_adjusted as logit_adjusted
from .arguments import Reduction as Reduction
from .asymmetric import Asymmetric as Asymmetric
from .asymmetric import asymmetric as asymmetric
from .build import build_loss as build_loss
from .class_balanced import ClassBalanced as ClassBalanced
from .class_balanced import class_balanced as class_balanced
from .class_balanced import effective_ratio as effective_ratio
from .focal import Focal as Focal
from .focal import FocalCE as FocalCE
from .focal import focal as focal
from .focal import focal_ce as focal_ce
from .ldam import LDAM as LDAM
from .ldam import LDAMCE as LDAMCE
from .ldam import Deferred as Deferred
from .ldam import ldam as ldam
from .ldam import ldam_ce as ldam_ce
from .ldam import ldam_margins as ldam_margins
from .poly import Poly1 as Poly1
from .poly import poly1 as poly1
from .smooth_ap import SmoothAP as SmoothAP
from .smooth_ap import smooth_ap as smooth_ap
from .training import TrainingLoss as TrainingLoss
from .tversky import Dice as Dice
from .tversky import Tversky as Tversky
from .tversky import dice as dice
from .tversky import tversky as tversky
from .weighted import WeightedBCE as WeightedBCE
from .weighted import WeightedCE as WeightedCE
from .weighted import weighted_bce as weighted_bce
from .weighted import weighted_ce as weighted_ce
