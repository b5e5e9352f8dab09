"""The error that a policy admits of its expected rate, against how much that rate really varies between calibrations."""

from collections.abc import Callable

import numpy as np
import pytest
from cutpoint.calibration import Plan, Scores, fit_policy
from cutpoint.server.monitoring.promises import RATE, RSE, promises_of
from numpy.typing import NDArray

ROWS, DRAWS, SHARE = 2000, 200, 0.06
# Logits, weights and groups of a calibration's rows; both or one of the last may be None.
Drawn = tuple[NDArray[np.float64], NDArray[np.float64] | None, NDArray[np.int64] | None]


def plain(rng: np.random.Generator) -> Drawn:
    return rng.random(ROWS), None, None


def all_weigh_100(rng: np.random.Generator) -> Drawn:
    return rng.random(ROWS), np.full(ROWS, 100.0), None


def unequal(rng: np.random.Generator) -> Drawn:
    return rng.random(ROWS), rng.lognormal(sigma=1.0, size=ROWS), None


def grouped(rng: np.random.Generator) -> Drawn:
    """A group's rows are of one level and alert together."""
    groups = np.repeat(np.arange(100), ROWS // 100)
    return np.where(rng.random(100) < 3 * SHARE, rng.random(100) / 3, 1.0)[groups] * rng.uniform(0.5, 1, ROWS), None, groups


def grouped_and_unequal(rng: np.random.Generator) -> Drawn:
    drawn, _, groups = grouped(rng)
    return drawn, rng.lognormal(sigma=0.5, size=ROWS), groups


def promised(drawn: Drawn, cut: float) -> tuple[float, float]:
    """The rate and its error, of rows that alert below `cut`."""
    values, weights, groups = drawn
    logits = np.where(values < cut, 1.0, -1.0).astype(np.float32)[:, None]
    targets = (logits > 0).astype(np.uint8)
    data = Scores(logits, targets, ("a",), weights=weights, groups=groups)
    policy = fit_policy(
        data, Plan.of("recall_at_least=0.9"), model="m", model_version=1, model_digest="0", created="", author="", previous=None
    )
    found = promises_of(policy)
    return float(found[RATE, 0]), float(found[RSE, 0])


@pytest.mark.parametrize("draw", [plain, all_weigh_100, unequal, grouped, grouped_and_unequal], ids=lambda draw: draw.__name__)
def test_the_error_of_the_expected_rate_is_how_much_it_varies(draw: Callable[[np.random.Generator], Drawn]) -> None:
    rng = np.random.default_rng(0)
    found = np.array([promised(draw(rng), SHARE) for _ in range(DRAWS)])
    varies = found[:, 0].std(ddof=1) / found[:, 0].mean()
    # A standard deviation of 200 draws is known to 5 %; exact intervals are a little wide, those of few rows above all.
    assert np.median(found[:, 1]) == pytest.approx(1.05 * varies, rel=0.2)


def test_weights_are_no_rows() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.random(ROWS)
    once = promised((drawn, None, None), SHARE)
    assert promised((drawn, np.full(ROWS, 100.0), None), SHARE) == pytest.approx(once, rel=1e-6)
    assert promised((drawn, None, np.repeat(np.arange(ROWS // 2), 2)), SHARE)[1] == pytest.approx(once[1], rel=0.1)
