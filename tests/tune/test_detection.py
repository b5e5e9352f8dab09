"""What a computation costs in detection: average precision beside scikit-learn's, and the rates at its own cut."""

from pathlib import Path

import numpy as np
import pytest
from cutpoint.bundle import Computation
from cutpoint.calibration import Counts, LabelPolicy, Plan, Policy, expected_at, fit_policy
from cutpoint.calibration.scores import Scores
from cutpoint.dataset import Dataset
from cutpoint.errors import BadScores
from cutpoint.tune.detection import Judge, broken_promise, plan_of
from sklearn.metrics import average_precision_score

RNG = np.random.default_rng(5)
Y = (RNG.random((2000, 2)) < 0.1).astype(np.uint8)
LOGITS = (RNG.normal(size=Y.shape) + 2 * Y).astype(np.float32)
DATA = Dataset(Path("data"), np.zeros((len(Y), 1), np.float32), Y, ("a", "b"))
ROWS = np.arange(len(Y))
INT8 = Computation(graph="int8", weight_bits=7)


def judge(**settings: float) -> Judge:
    given = {"max_ap_loss": 0.002, "tolerance": 1e-4, **settings}
    return Judge(LOGITS, DATA, ROWS, ("a", "b"), Plan.of("recall_at_least=0.9"), **given)


def test_the_same_logits_cost_nothing() -> None:
    found = judge().judge(INT8, LOGITS, 0.0).detection
    assert (found.loss, found.max_abs_difference, found.changed, found.refused) == (0, 0, 0, "")


def test_average_precision_and_what_changed_are_what_they_are_by_definition() -> None:
    noisy = (LOGITS + 0.3 * RNG.normal(size=LOGITS.shape)).astype(np.float32)
    judged = judge(max_ap_loss=1).judge(INT8, noisy, 0.0)
    before, after = (average_precision_score(Y, each, average="macro") for each in (LOGITS, noisy))
    assert judged.detection.loss == pytest.approx(before - after, abs=1e-9)
    assert judged.detection.average_precision == pytest.approx(after, abs=1e-9)
    assert judged.detection.max_abs_difference == pytest.approx(np.abs(noisy - LOGITS).max())
    cuts = [np.float32(label.threshold) for label in judged.labels]
    plain = [np.quantile(LOGITS[Y[:, i] == 1, i], 0.1, method="lower") for i in range(2)]
    assert judged.detection.changed == pytest.approx(float(np.mean((noisy >= cuts) != (plain <= LOGITS))), abs=0.002)
    low, high = judged.detection.low, judged.detection.high
    assert low is not None and high is not None and low <= judged.detection.loss <= high


def test_a_cut_is_chosen_for_the_logits_that_are_served() -> None:
    moved = judge().judge(INT8, LOGITS + 3, 0.0)
    assert moved.detection.refused == "" and moved.detection.changed == 0  # every logit moved, and the cut with it


@pytest.mark.parametrize(
    ("noise", "moved", "said"),
    [(1.0, 0.0, "of average precision, more than 0.002"), (0.0, 0.5, "a batch moves a row's logit by 0.5")],
)
def test_what_loses_too_much_or_depends_on_its_neighbours_is_refused(noise: float, moved: float, said: str) -> None:
    logits = (LOGITS + noise * np.random.default_rng(1).normal(size=LOGITS.shape)).astype(np.float32)
    assert said in judge().judge(INT8, logits, moved).detection.refused


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(BadScores):
        judge().judge(INT8, np.full_like(LOGITS, np.nan), 0.0)


def label(tp: int, fp: int) -> LabelPolicy:
    counts = Counts(positives=100, negatives=1000, tp=tp, fp=fp)
    return LabelPolicy(
        label="a", objective="recall_at_least=0.9", status="OK", threshold=0.0, counts=counts, expected=expected_at(counts)
    )


@pytest.mark.parametrize(
    ("tp", "fp", "said"),
    [
        (90, 100, ""),
        (88, 105, ""),  # within the intervals
        (99, 20, ""),  # better than promised
        (70, 100, "recall 0.7, outside"),
        (90, 200, "a: precision 0.31, outside"),
    ],
)
def test_a_rate_that_is_worse_than_its_interval_breaks_the_promise(tp: int, fp: int, said: str) -> None:
    found = broken_promise([label(90, 100)], [label(tp, fp)])
    assert (said in found) if said else found == ""


def test_a_label_that_loses_its_cut_breaks_the_promise() -> None:
    none = LabelPolicy(
        label="a", objective="recall_at_least=0.9", status="INSUFFICIENT", threshold=None, reason="too few",
        counts=Counts(positives=0, negatives=9, tp=0, fp=0), expected=None,
    )  # fmt: skip
    assert broken_promise([label(90, 100)], [none]) == "a gets no threshold: too few"
    assert broken_promise([none], [label(90, 100)]) == ""


def test_the_plan_of_a_policy_makes_it_again() -> None:
    plan = Plan.of(["recall_at_least=0.8", "b:max_fbeta=1"], calibrator="none", delta=None)
    scores = Scores(LOGITS, Y, ("a", "b"))
    fields = {"model": "m", "model_version": 1, "model_digest": "0", "created": "", "author": ""}
    policy: Policy = fit_policy(scores, plan, **fields)
    assert fit_policy(scores, plan_of(policy), **fields).labels == policy.labels
