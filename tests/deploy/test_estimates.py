"""Precision, recall and prevalence without labels, from promtool, against numpy and against scores whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from estimating import KINDS, Scores, Sums, moved_each
from rules_files import promtool, unit_test

ROWS = 100_000


def test_promtool_says_what_numpy_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    series, checks = {}, []

    def expect(expr: str, wanted: float) -> None:
        checks.append(
            {
                "expr": f"sum(abs({expr} - {wanted!r}) < bool 1e-6)",
                "eval_time": "3h",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        )

    for kind in KINDS:
        cut, tpr, fpr = kind.cut()
        for prevalence in (0.0, 0.003, 0.03):
            probability, _ = kind.draw(rng, 20_000, prevalence)
            sums = Sums.of(probability, cut)
            label = f'{{model="m",version="1",label="{kind.name} {prevalence}"}}'
            counters = {
                "decisions": sums.decisions,
                "promised_decisions": sums.decisions,
                "promised_recall": sums.decisions * tpr,
                "promised_false_positive_rate": sums.decisions * fpr,
                "positives": sums.positives,
                "probability": sums.probability,
                "alerted_probability": sums.alerted_probability,
            }
            for name, value in counters.items():
                series[f"cutpoint_{name}_total{label}"] = " ".join(repr(float(value) * i / 60) for i in range(241))
            for window in ("1h", "1d"):
                expect(f"model_version_label:cutpoint_prevalence:rogan_gladen{window}{label}", sums.prevalence(tpr, fpr))
                expect(f"model_version_label:cutpoint_precision:estimated{window}{label}", sums.precision(tpr, fpr))
                expect(f"model_version_label:cutpoint_recall:estimated{window}{label}", tpr)
                expect(f"model_version_label:cutpoint_precision:cbpe{window}{label}", sums.cbpe()[0])
                expect(f"model_version_label:cutpoint_recall:cbpe{window}{label}", sums.cbpe()[1])
    # A cut that tells nothing, a label without positives, one that decides nothing, one that a policy without recall decided in
    # part, and one of a server that does not say: nothing is estimated.
    names = ("blind", "silent", "undecided", "part", "older")
    blind, silent, undecided, part, older = (f'{{model="m",version="1",label="{name}"}}' for name in names)
    for label, decisions, positives, recall, known in (
        (blind, 100, 10, 0.105, 1), (silent, 100, 0, 0.5, 1), (undecided, 0, 0, 0, 0), (part, 100, 20, 0.5, 0.9)
    ):  # fmt: skip
        promised = decisions * known
        series[f"cutpoint_decisions_total{label}"] = f"0+{decisions}x240"
        series[f"cutpoint_positives_total{label}"] = f"0+{positives}x240"
        series[f"cutpoint_promised_decisions_total{label}"] = f"0+{promised}x240"
        series[f"cutpoint_promised_recall_total{label}"] = f"0+{recall * promised}x240"
        series[f"cutpoint_promised_false_positive_rate_total{label}"] = f"0+{0.1 * promised}x240"
    series[f"cutpoint_decisions_total{older}"], series[f"cutpoint_positives_total{older}"] = "0+100x240", "0+20x240"
    for label, name in (
        (blind, "prevalence:rogan_gladen1h"), (blind, "precision:estimated1h"), (silent, "precision:estimated1h"),
        (undecided, "prevalence:rogan_gladen1h"), (undecided, "recall:estimated1h"),
        (part, "prevalence:rogan_gladen1h"), (part, "precision:estimated1h"), (part, "recall:estimated1h"),
        (older, "prevalence:rogan_gladen1h"), (older, "precision:estimated1h"), (older, "recall:estimated1h"),
    ):  # fmt: skip
        checks.append({"expr": f"model_version_label:cutpoint_{name}{label}", "eval_time": "3h", "exp_samples": []})
    promtool("test", "rules", unit_test(tmp_path / "test.yml", "1m", series, checks))


@pytest.mark.parametrize("prevalence", [0.003, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_precision_and_prevalence_are_near_the_truth_whatever_the_shares(kind: Scores, prevalence: float) -> None:
    """Within four standard errors of what so many rows can tell, as near as moving each probability comes."""
    probability, events = kind.draw(np.random.default_rng(1), ROWS, prevalence)
    cut, tpr, fpr = kind.cut()
    sums = Sums.of(probability, cut)
    rate = sums.positives / sums.decisions
    error = np.sqrt(rate * (1 - rate) / ROWS) / (tpr - fpr)
    assert abs(sums.prevalence(tpr, fpr) - prevalence) < 4 * error
    truth = float(events[probability >= cut].mean())
    each = moved_each(probability, cut, sums.prevalence(tpr, fpr))
    found = sums.precision(tpr, fpr)
    assert abs(found - truth) < 6 * tpr * error / rate
    assert abs(found - each) < 6 * tpr * error / rate


def test_moving_the_mean_probability_is_not_good_enough() -> None:
    """Why the rules do not do that."""
    kind = KINDS[2]
    cut, tpr, fpr = kind.cut()
    probability, events = kind.draw(np.random.default_rng(2), ROWS, 0.1)
    sums = Sums.of(probability, cut)
    truth = float(events[probability >= cut].mean())
    assert sums.moved(tpr, fpr) > truth + 0.3
    assert abs(sums.precision(tpr, fpr) - truth) < 0.02
