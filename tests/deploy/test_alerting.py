"""The alerts in numpy, which the simulation of a year runs on, against promtool on the rules themselves."""

from pathlib import Path

import numpy as np
import pytest
from alerting import FOR_S, KEEP_S, WINDOWS, Live, deviance, firing, holds, record
from rules_files import promtool, unit_test
from scipy.stats import norm, poisson

STEP_S, DAYS = 1200, 9
PER_DAY = 86400 // STEP_S
STEPS = DAYS * PER_DAY
CHANGE, BACK = 7 * PER_DAY + PER_DAY // 2, 8 * PER_DAY  # drift is in the second half of the eighth day
FINE = STEP_S // 300  # positives are drawn by five minutes


def live(rate: float, factor: float, seed: int, rse: float) -> Live:
    """Days of `rate` positives an hour in clusters, more by day than by night, `factor` times as many at drift."""
    rng = np.random.default_rng(seed)
    at = np.arange(STEPS * FINE)
    mean = rate / 12 * (1 + 0.6 * np.sin(2 * np.pi * at / 288))
    actual = mean.copy()
    actual[CHANGE * FINE : BACK * FINE] *= factor
    positives = np.cumsum(rng.poisson(actual / 1.5) * rng.integers(1, 3, len(at))) * 1.0
    return Live(positives[::FINE], np.cumsum(mean)[::FINE], rse, STEP_S)


def test_numpy_says_what_promtool_says(tmp_path: Path) -> None:
    labels = {
        "many-more": live(300, 2, 0, 0.05),
        "many-fewer": live(300, 0.4, 1, 0.05),
        "some-more": live(20, 3, 2, 0.1),
        "few-fewer": live(20, 0, 5, 0.0),
        "rare-more": live(0.1, 100, 6, 0.1),
        "calm": live(50, 1, 7, 0.1),
    }
    series, checks = {}, []
    at = sorted({*range(3, STEPS, 25), *range(CHANGE, BACK + PER_DAY // 2, 3)})
    seen: dict[str, set[bool]] = {"high": set(), "low": set()}
    for label, counters in labels.items():
        of = f'{{model="m",version="1",label="{label}",instance="x"}}'
        series |= {
            f"cutpoint_decisions_total{of}": " ".join(str(10 * i) for i in range(STEPS)),
            f"cutpoint_positives_total{of}": " ".join(f"{v:.0f}" for v in counters.positives - counters.positives[0]),
            f"cutpoint_expected_positives_total{of}": " ".join(
                repr(float(v)) for v in counters.expected - counters.expected[0]
            ),
            f"cutpoint_expected_positives_standard_error_total{of}": " ".join(
                repr(float(v)) for v in counters.rse * (counters.expected - counters.expected[0])
            ),
        }
        recorded = record(counters)
        wanted = {f"z{window.name}": recorded.z(window.name) for window in WINDOWS} | {"dispersion7d": recorded.dispersion}
        for name, values in wanted.items():
            expr = "sum(abs(model_version_label:cutpoint_positives:{}{{label={!r}}} - ({!r})) < bool 1e-6)"
            checks += [
                {
                    "expr": expr.format(name, label, float(values[i])),
                    "eval_time": f"{STEP_S // 60 * i}m",
                    "exp_samples": [one("{}", 1)],
                }
                for i in at
            ]
        for side, alert in (("high", "High"), ("low", "Low")):
            on = np.zeros(STEPS, bool)
            for begin, end in firing(holds(recorded, side), FOR_S[side], KEEP_S, STEP_S):
                on[begin:end] = True
            expr = f'sum(ALERTS{{alertname="CutpointPositiveRate{alert}",alertstate="firing",label="{label}"}})'
            checks += [
                {"expr": expr, "eval_time": f"{STEP_S // 60 * i}m", "exp_samples": [one("{}", 1)] if on[i] else []} for i in at
            ]
            seen[side] |= set(on[at].tolist())
            assert on.any() == (label.endswith({"high": "more", "low": "fewer"}[side])), (label, side)
    assert seen == {"high": {True, False}, "low": {True, False}}
    others = {"cutpoint-estimates", "cutpoint-outcomes", "cutpoint-serving"}
    promtool("test", "rules", unit_test(tmp_path / "test.yml", f"{STEP_S // 60}m", series, checks, without=others))


def one(labels: str, value: float) -> dict[str, object]:
    return {"labels": labels, "value": value}


@pytest.mark.parametrize("expected", [0.5, 2.0, 10.0, 100.0, 3000.0])
def test_deviance_is_as_normal_as_the_poisson_distribution_lets_it_be(expected: float) -> None:
    """The tail that it names is, within a factor of three, the tail that it has, down to one in a hundred million."""
    found = np.arange(int(expected * 4) + 40, dtype=float)
    z = deviance(found, np.full_like(found, expected))
    assert (np.diff(z) >= 0).all()
    for side, tail in ((1, poisson.sf(found - 1, expected)), (-1, poisson.cdf(found, expected))):
        far = (side * z > 2) & (tail > 1e-8)
        named = norm.sf(side * z[far])
        assert (np.abs(np.log(named / tail[far])) < np.log(3)).all()


def test_an_alert_waits_and_is_kept() -> None:
    on = np.zeros(100, bool)
    on[[3, 4]] = True  # too short
    on[10:20] = True
    on[24:25] = True  # kept on through the gap
    on[60:90] = True
    assert firing(on, 300, 300, 60) == [(15, 30), (65, 95)]
