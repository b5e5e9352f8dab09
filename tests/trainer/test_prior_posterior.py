"""On data with a known posterior, honest logits of what each loss trained are that posterior's.

Thirty thousand rows, 4.6 % positive, whose log-odds 1.5 x - 4 a spline of x can express; fitted to the optimum with the
trainer's own loss, priors and head. The bar is the mean gap over the mean size of the true log-odds, over all rows.
"""

import numpy as np
import pytest
import torch
from cutpoint.trainer import parse_config
from cutpoint.trainer.loss import build_loss
from cutpoint.trainer.prior import has_inverse, honest_head, label_priors, settle_priors, start_logits
from scipy.special import expit

ROWS, KNOTS = 30_000, np.linspace(-2.4, 2.4, 9)


def draw(seed: int, rows: int = ROWS):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    true = 1.5 * x - 4
    return x, true, (rng.random(rows) < expit(true)).astype(np.uint8)[:, None]


def spline(x):
    """Hats between the knots, lines beyond them, [row, 9]."""
    inner = np.stack([np.interp(x, KNOTS, unit) for unit in np.eye(len(KNOTS))], 1)
    step = KNOTS[1] - KNOTS[0]
    low, high = np.minimum(x - KNOTS[0], 0) / step, np.maximum(x - KNOTS[-1], 0) / step
    inner[:, 0] -= low
    inner[:, 1] += low
    inner[:, -1] += high
    inner[:, -2] -= high
    return torch.from_numpy(inner)


def settings_of(loss):
    return parse_config(
        {
            "name": "known",
            "task": "binary",
            "data": {"path": "known.npz"},
            "split": {"by": "random"},
            "model": {"kind": "mlp"},
            "loss": loss,
        }
    ).loss


def train(loss, sampled=False, rows=ROWS):
    """Honest logits and true log-odds of rows that trained nothing, and the prior."""
    settings = settings_of(loss)
    x, _, y = draw(1, rows)
    valid_x, _, valid_y = draw(2, rows)
    draws = None
    drawn = np.arange(rows)
    if sampled:
        chance = np.where(y[:, 0] == 1, 0.3 / y.sum(), 0.7 / (1 - y).sum())
        draws = chance * rows
        drawn = np.random.default_rng(3).choice(rows, rows, p=chance)
    priors = label_priors(y, draws, settings, ["event"])
    module = build_loss(settings, priors)
    module.begin_epoch(10, 10)
    assert module.settled
    both = settings.two_class
    weight = torch.zeros(len(KNOTS), 2 if both else 1, dtype=torch.float64)
    weight[:, -1] = float(start_logits(priors, settings)[0])
    # Columns that are uncorrelated: a few dozen steps instead of hundreds.
    features, mixing = torch.linalg.qr(spline(x[drawn]))
    features, targets = features * rows**0.5, torch.from_numpy(y[drawn])
    turned = (mixing @ weight / rows**0.5).detach().requires_grad_()
    optimizer = torch.optim.LBFGS([turned], max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = module(features @ turned, targets)
        value.backward()
        return value

    optimizer.step(closure)
    weight = torch.linalg.solve(mixing, turned.detach()) * rows**0.5

    def logits_of(split):
        return (spline({"train": x, "valid": valid_x}[split]) @ weight).numpy()

    priors = settle_priors(settings, priors, logits_of, y, valid_y, sampled)
    new_x, true, _ = draw(4, rows)
    with torch.no_grad():
        found = honest_head(settings, priors)(spline(new_x) @ weight)[:, 0].numpy()
    return found, true, priors[0]


INVERTIBLE = [
    {"name": "weighted_bce"},
    {"name": "weighted_bce", "pos_weight": "effective=0.999"},
    {"name": "weighted_ce", "class_weight": [0.5, 10]},
    {"name": "focal"},
    {"name": "focal", "alpha": None, "gamma": 0.5, "pos_weight": 10},
    {"name": "focal_ce", "alpha": 0.75, "gamma": 1},
    {"name": "asymmetric", "margin": 0},
    {"name": "class_balanced"},
    {"name": "class_balanced", "gamma": 1},
    {"name": "logit_adjusted"},
    {"name": "balanced_softmax", "tau": 0.5},
    {"name": "ldam"},
    {"name": "ldam_ce", "scale": 5, "defer": 1},
    {"name": "poly1", "epsilon": 2, "pos_weight": 5},
]


@pytest.mark.parametrize("sampled", [False, True], ids=["weights", "sampler"])
@pytest.mark.parametrize("loss", INVERTIBLE, ids=str)
def test_honest_logits_are_the_posterior(loss, sampled):
    found, true, prior = train(loss, sampled)
    assert prior.undone == "closed_form"
    gap = np.abs(found - true)
    assert gap.mean() <= 0.1 * np.abs(true).mean()
    assert (gap <= 0.1 * np.abs(true)).mean() > 0.8
    # What LDAM makes of a line in x bends between its margins more sharply than the spline does.
    assert expit(found).mean() == pytest.approx(expit(true).mean(), rel=0.1 if loss["name"] == "ldam" else 0.05)


@pytest.mark.parametrize("sampled", [False, True], ids=["weights", "sampler"])
@pytest.mark.parametrize(
    ("loss", "skill"),
    # Of the truth's own skill. Taken to their optimum, Tversky and Dice leave little but yes and no.
    [({"name": "asymmetric"}, 0.9), ({"name": "smooth_ap"}, 0.7), ({"name": "tversky"}, 0.1), ({"name": "dice"}, 0.2)],
    ids=str,
)
def test_fitted_lines_are_honest_on_average(loss, skill, sampled):
    found, true, prior = train(loss, sampled, ROWS if loss["name"] != "smooth_ap" else 3000)
    assert not has_inverse(settings_of(loss))
    assert prior.undone == "fitted"
    assert prior.slope > 0
    assert expit(found).mean() == pytest.approx(expit(true).mean(), rel=0.15)
    p = expit(true)

    def log_loss(z):
        return (p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z)).mean()

    none = log_loss(np.full_like(true, np.log(p.mean() / (1 - p.mean()))))
    assert (none - log_loss(found)) / (none - log_loss(true)) > skill
