"""What training does to each label's prior, and what undoes it.

A model trained on weighted losses or resampled rows does not report the probability of its label, n(x), but that of another
world with more positives. A loss whose expectation over n(x) has one minimiser z, stationary where
n (d/dz) l(z, 1) + (1 - n) (d/dz) l(z, 0) = 0, says what n(x) was. With positives that weigh w times a negative and a rate
changed from r to r'

    logit n(x) = inverse(z) - log w - logit r' + logit r          (Elkan 2001; Saerens et al. 2002)

where `inverse` is that of the loss without weights: z itself for cross-entropy, and for the others what `inverse.py` says. It
is exact for a model that can express n(x), and close for a useful one. Two things have no such form:

- Where whole rows of several entries (windows, labels) are sampled for the sake of one of them, x says how likely the row was
  to be drawn, and the odds of an entry do not change by a constant. There the shift is the intercept at which the mean
  probability over the unsampled training rows is the rate in them: right on average, not everywhere.
- Tversky, Dice and AP losses, and the asymmetric loss with a margin, have no inverse. There a line, a z + b, is fitted to the
  validation rows by logistic regression: right on average and in slope.
"""

from ..loss.build import build_loss as build_loss
from .head import UndoPrior as UndoPrior
from .head import honest_head as honest_head
from .head import start_logits as start_logits
from .inverse import has_inverse as has_inverse
from .inverse import invert_asymmetric as invert_asymmetric
from .inverse import invert_focal as invert_focal
from .inverse import invert_ldam as invert_ldam
from .inverse import invert_poly1 as invert_poly1
from .rates import label_priors as label_priors
from .settle import fit_lines as fit_lines
from .settle import match_rates as match_rates
from .settle import settle_priors as settle_priors
