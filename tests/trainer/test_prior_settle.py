"""What is settled after training: rates matched, lines fitted, guards where validation says little."""

import numpy as np
import pytest
from cutpoint.bundle import LabelPrior
from cutpoint.trainer.config import DiceLoss, FocalLoss, WeightedBCELoss, WeightedCELoss
from cutpoint.trainer.prior import fit_lines, match_rates, settle_priors
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

PRIOR = LabelPrior(rate=0.1, sampled_rate=0.3, pos_weight=2, shift=1.5)


def draw(rows=20000, labels=2, seed=0):
    """Log-odds, and outcomes of them."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-3, 1.5, (rows, labels)).astype(np.float32)
    return true, (rng.random(true.shape) < expit(true)).astype(np.uint8)


def test_matching_finds_the_intercept():
    true, y = draw()
    y[::7, 0] = 255
    rates = [float((y[:, i] == 1).sum() / (y[:, i] != 255).sum()) for i in range(2)]
    priors = [PRIOR.model_copy(update={"rate": rate}) for rate in rates]
    for prior, rate, i in zip(match_rates(priors, true + 2, y), rates, range(2), strict=True):
        on = y[:, i] != 255
        assert expit(true[on, i] + 2.0 - prior.shift).mean() == pytest.approx(rate, rel=1e-6)
        assert prior.shift == pytest.approx(2, abs=0.1)
        assert (prior.undone, prior.slope) == ("matched", 1)


def test_a_line_is_a_logistic_regression():
    true, y = draw()
    y[::5, 1] = 255
    logits = 3 * true + [40, -200]
    for i, prior in enumerate(fit_lines([PRIOR, PRIOR], logits, y)):
        on = y[:, i] != 255
        theirs = LogisticRegression(C=np.inf).fit(true[on, i : i + 1], y[on, i])
        found = prior.slope * logits[on, i] - prior.shift
        np.testing.assert_allclose(found, theirs.decision_function(true[on, i : i + 1]), rtol=0.02, atol=0.05)
        assert prior.undone == "fitted"
        assert np.abs(found - true[on, i]).mean() < 0.15


def test_few_positives_keep_their_slope_and_match_the_training_rate():
    true, y = draw(3000)
    y[:, 0] = 0
    y[:9, 0] = 1
    y[:, 1] = 255
    few, none = fit_lines([PRIOR, PRIOR], true + 5, y)
    assert few.slope == 1
    assert expit(true[:, 0] + 5.0 - few.shift).mean() == pytest.approx(0.1, rel=1e-6)
    assert (none.slope, none.shift) == (1, 0)


def test_slopes_stay_above_0():
    """Logits that rank the wrong way are not turned round: the order is the model's."""
    true, y = draw(3000, 1)
    (prior,) = fit_lines([PRIOR], -true, y)
    assert 0 < prior.slope < 1e-3
    assert expit(prior.slope * -true[:, 0] - prior.shift).mean() == pytest.approx(y.mean(), rel=0.1)


def test_a_loss_says_what_is_settled():
    true, y = draw(4000)
    calls = []

    def logits_of(split):
        calls.append(split)
        return true

    fitted = PRIOR.model_copy(update={"undone": "fitted", "shift": 0.0})
    bce = WeightedBCELoss(name="weighted_bce")
    assert settle_priors(bce, [PRIOR] * 2, logits_of, y, y, sampled=False) == (PRIOR, PRIOR)
    assert not calls
    (matched, _) = settle_priors(bce, [PRIOR] * 2, logits_of, y, y, sampled=True)
    assert matched.undone == "matched"
    (dice, _) = settle_priors(DiceLoss(name="dice"), [fitted] * 2, logits_of, y, y, sampled=True)
    assert dice.undone == "fitted"
    assert calls == ["train", "valid"]


def test_rows_of_one_entry_need_no_matching_and_two_logits_become_one():
    true, y = draw(4000, 1)
    ce = WeightedCELoss(name="weighted_ce")
    assert settle_priors(ce, [PRIOR], lambda split: true, y, y, sampled=True) == (PRIOR,)
    windows = y.reshape(1000, 4, 1)
    both = np.stack([np.full((1000, 4), 1.0, np.float32), true.reshape(1000, 4)], 1)
    prior = PRIOR.model_copy(update={"rate": float(y.mean())})
    (matched,) = settle_priors(ce, [prior], lambda split: both, windows, windows, sampled=True)
    assert matched.shift == pytest.approx(-1, abs=0.1)


def test_matching_comes_after_the_inverse():
    true, y = draw(4000, 2)
    prior = PRIOR.model_copy(update={"rate": float(y.mean())})
    focal = FocalLoss(name="focal", gamma=2.0)
    (matched, _) = settle_priors(focal, [prior] * 2, lambda split: true / 3, y, y, sampled=True)
    assert matched.shift != pytest.approx(match_rates([prior] * 2, true / 3, y)[0].shift, abs=0.1)
