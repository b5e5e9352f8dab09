"""Fitting all labels of a model, and the policy as a document."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cutpoint.calibration import (
    Calibrator,
    Guarantee,
    Guaranteed,
    LabelPolicy,
    Needs,
    Plan,
    Policy,
    ScoreHistogram,
    Scores,
    fit_labels,
    fit_policy,
)
from cutpoint.errors import BadData, Uncalibratable
from pydantic import ValidationError

RECALL = Plan.of("recall_at_least=0.9", calibrator="none")
F1 = Plan.of("max_fbeta=1")


def many_labels(rows: int = 400, labels: int = 512) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    rng = np.random.default_rng(5)
    targets = (rng.random((rows, labels)) < 5 / 512).astype(np.uint8)
    targets[rng.random((rows, labels)) < 0.1] = 255
    logits = (rng.normal(size=(rows, labels)) + 2 * (targets == 1)).astype(np.float32)
    return logits, targets, tuple(f"label {i}" for i in range(labels))


def a_policy(**changes: Any) -> Policy:
    logits = np.array([[3.0, 0], [2, 0], [1, 0], [0, 0]], np.float32)
    targets = np.array([[1, 0], [0, 0], [1, 0], [0, 255]])
    fields: Mapping[str, Any] = {
        "model": "m", "model_version": 2, "model_digest": "d", "version": 3, "parent": 1,
        "created": "2026-01-01T00:00:00+00:00", "author": "é \n", "data_digest": Scores(logits, targets, ("a", "b")).digest(),
        "labels": fit_labels(Scores(logits, targets, ("a", "b")), RECALL),
    }  # fmt: skip
    return Policy(**{**fields, **changes})


def test_512_labels_are_each_fitted_as_alone() -> None:
    logits, targets, names = many_labels()
    fitted = fit_labels(Scores(logits, targets, names), RECALL)
    assert [label.label for label in fitted] == list(names)
    for i in range(0, 512, 37):
        assert fitted[i] == fit_labels(Scores(logits[:, [i, 5]], targets[:, [i, 5]], (names[i], "other")), RECALL)[0]
    for i, label in enumerate(fitted):
        known = targets[:, i] != 255
        assert (label.counts.positives, label.counts.negatives) == ((targets[:, i] == 1).sum(), (targets[:, i] == 0).sum())
        if label.threshold is None:
            assert (label.status, label.counts.positives) == ("INSUFFICIENT", 0)
            continue
        alerts = logits[known, i] >= np.float32(label.threshold)
        assert label.counts.tp == (alerts & (targets[known, i] == 1)).sum() >= 0.9 * label.counts.positives
        assert label.counts.fp == (alerts & (targets[known, i] == 0)).sum()
        assert label.expected is not None
        assert label.expected.alert_rate.value == alerts.mean()


def test_windows_are_rows() -> None:
    logits, targets, names = many_labels(60, 3)
    windows = fit_labels(Scores(logits.reshape(6, 10, 3), targets.reshape(6, 10, 3), names), F1)
    assert windows == fit_labels(Scores(logits, targets, names), F1)


def test_what_cannot_be_met_has_no_threshold_and_says_why() -> None:
    undecided = a_policy().labels[1]
    assert (undecided.status, undecided.threshold, undecided.needs) == ("INSUFFICIENT", None, Needs(count=1, of="positives"))
    policy = a_policy()
    assert policy.undecided == (undecided,)
    np.testing.assert_array_equal(policy.thresholds(), np.array([0.5, np.nan], np.float32))
    np.testing.assert_array_equal(policy.expected_rates(), [0.75, np.nan])
    assert policy.thresholds().dtype == np.float32


def test_when_no_label_gets_a_threshold_it_is_an_error_with_the_reasons() -> None:
    with pytest.raises(Uncalibratable, match=r"met for no label: a: INSUFFICIENT, 0 labelled pos.*; and 2 more$"):
        fit_labels(Scores(np.zeros((4, 7)), np.zeros((4, 7)), tuple("abcdefg")), RECALL)
    with pytest.raises(Uncalibratable, match="every entry is marked as not labelled"):
        fit_labels(Scores(np.zeros((4, 2)), np.full((4, 2), 255), ("a", "b")), RECALL)


@pytest.mark.parametrize(
    ("logits", "targets", "text"),
    [
        (np.zeros((4, 2)), np.zeros((4, 3)), "shapes of logits and targets"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "shapes of logits and targets"),
        (np.zeros(2), np.zeros(2), "shapes of logits and targets"),
        (np.zeros((4, 2)), np.full((4, 2), 2), r"targets is \[2\]; expected 0, 1, or 255"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), r"targets is \[nan\]"),
        (np.full((4, 2), np.nan), np.eye(4, 2), "label 'a': scores is NaN in 4 of 4"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(logits: np.ndarray, targets: np.ndarray, text: str) -> None:
    with pytest.raises(BadData, match=text):
        fit_labels(Scores(logits, targets, ("a", "b")), RECALL)


def test_a_policy_reads_back_equal() -> None:
    policy = a_policy()
    again = Policy.from_json(policy.to_json())
    assert again == policy
    assert again.to_json() == policy.to_json()
    assert Policy.from_json(policy.to_json().encode()) == policy
    assert "NaN" not in policy.to_json()
    np.testing.assert_array_equal(again.thresholds(), policy.thresholds())


def test_512_labels_read_back_with_every_bit() -> None:
    logits, targets, names = many_labels()
    policy = a_policy(labels=fit_labels(Scores(logits, targets, names), Plan.of("max_fbeta=2")))
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"version": 0},
        {"labels": []},
        {"unknown": 1},
        {"model_version": "x"},
    ],
)
def test_a_document_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Policy.from_json(json.dumps(json.loads(a_policy().to_json()) | change))


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": None},
        {"expected": None},
        {"status": "INFEASIBLE"},
        {"threshold": 0.1},  # no float32
        {"threshold": "NaN"},
        {"threshold": "Infinity"},
        {"objective": "foo=1"},
        {"objective": "recall_at_least=2"},
        {"counts": {"positives": -1, "negatives": 0, "tp": 0, "fp": 0}},
    ],
)
def test_a_label_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(a_policy().to_json())
    document["labels"][0] |= change
    with pytest.raises(ValidationError):
        Policy.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}'])
def test_a_truncated_document_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Policy.from_json(text)


def test_the_digest_tells_data_apart() -> None:
    logits, targets, _ = many_labels(8, 4)
    names = ("a", "b", "c", "d")
    same = Scores(logits.astype(np.float64), targets.astype(np.int64), names).digest()
    assert Scores(logits, targets, names).digest() == same
    assert Scores(logits.reshape(2, 4, 4), targets.reshape(2, 4, 4), names).digest() != same
    assert Scores(logits, targets, names, weights=np.ones(8)).digest() != same
    changed = targets.copy()
    changed[0, 0] ^= 1
    assert Scores(logits, changed, names).digest() != same


# As version 0.1.0 wrote it.
FORMAT_1 = """{
 "format": 1,
 "model": "bearings",
 "model_version": 1,
 "model_digest": "d",
 "version": 2,
 "parent": 1,
 "created": "2026-01-01T00:00:00+00:00",
 "author": "cutpoint calibrate",
 "data_digest": "e",
 "labels": [
  {
   "label": "outer",
   "objective": "recall_at_least=0.9",
   "status": "OK",
   "threshold": -1.5,
   "reason": "",
   "needs_positives": null,
   "counts": {"positives": 10, "negatives": 90, "tp": 9, "fp": 3},
   "expected": {
    "precision": {"value": 0.75, "low": 0.42, "high": 0.95},
    "recall": {"value": 0.9, "low": 0.55, "high": 1.0},
    "fpr": {"value": 0.03333333333333333, "low": 0.01, "high": 0.1},
    "alert_rate": {"value": 0.12, "low": 0.06, "high": 0.21}
   },
   "calibrator": {"kind": "none"}
  },
  {
   "label": "inner",
   "objective": "recall_at_least=0.9",
   "status": "INSUFFICIENT",
   "threshold": null,
   "reason": "3 labelled positives; needs at least 5",
   "needs_positives": 5,
   "counts": {"positives": 3, "negatives": 97, "tp": 0, "fp": 0},
   "expected": null,
   "calibrator": {"kind": "none"}
  },
  {
   "label": "cage",
   "objective": "precision_at_least=1",
   "status": "INFEASIBLE",
   "threshold": null,
   "reason": "it needs a positive that scores above every negative",
   "needs_positives": null,
   "counts": {"positives": 3, "negatives": 97, "tp": 0, "fp": 0},
   "expected": null,
   "calibrator": {"kind": "none"}
  }
 ]
}
"""


def test_a_document_of_format_1_is_read_and_written_as_format_2() -> None:
    policy = Policy.from_json(FORMAT_1)
    assert (policy.format, policy.version, policy.parent, policy.data, policy.guarantee) == (2, 2, 1, None, None)
    assert [label.needs for label in policy.labels] == [None, Needs(count=5, of="positives"), None]
    assert [label.status for label in policy.labels] == ["OK", "INSUFFICIENT", "INFEASIBLE"]
    assert policy.labels[0].calibrator == Calibrator() and policy.labels[0].guarantee is None
    counts = policy.labels[0].counts
    assert (counts.rows, counts.alerts, counts.unlabelled) == (100, 12, 0)
    np.testing.assert_array_equal(policy.thresholds(), np.array([-1.5, np.nan, np.nan], np.float32))
    written = policy.to_json()
    assert json.loads(written)["format"] == 2 and "needs_positives" not in written
    assert Policy.from_json(written) == policy
    for wrong in ({"needs_positives": -1}, {"needs": {"count": 5, "of": "positives"}, "format": 1, "unknown": 1}):
        document = json.loads(FORMAT_1)
        document["labels"][1] |= wrong
        with pytest.raises(ValidationError):
            Policy.model_validate(document)
    with pytest.raises(ValidationError, match="labels"):
        Policy.model_validate({**json.loads(FORMAT_1), "labels": []})
    with pytest.raises(ValidationError, match="format"):
        Policy.model_validate({**json.loads(FORMAT_1), "format": 2})  # which has no needs_positives, and no other is guessed


@pytest.mark.parametrize("change", [{"labels": None}, {"labels": 3}, {"labels": [3]}, {"labels": "ab"}, {"labels": [None]}])
def test_a_broken_document_of_format_1_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Policy.from_json(json.dumps({**json.loads(FORMAT_1), **change}))


def made(data: Scores | ScoreHistogram, plan: Plan) -> Policy:
    return fit_policy(
        data, plan, model="m", model_version=1, model_digest="d", created="2026-01-01T00:00:00+00:00", author="me"
    )  # fmt: skip


def grouped(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((900, 3)) < 0.2).astype(np.uint8)
    return (rng.normal(size=(900, 3)) + 2 * targets).astype(np.float32), targets


@pytest.mark.parametrize("kind", ["guarantee", "groups", "weights", "unlabelled", "histogram", "isotonic", "shrink"])
def test_everything_that_a_policy_can_hold_reads_back_equal(kind: str) -> None:
    logits, targets = grouped()
    names, groups = ("a", "b", "c"), np.arange(900) // 3
    data: Scores | ScoreHistogram = Scores(logits, targets, names)
    plan = Plan.of(["recall_at_least=0.8", "b:min_cost=1000000@0.001"])
    if kind == "guarantee":
        plan = Plan.of(["recall_at_least=0.8", "b:precision_at_least=0.999"], delta=0.1, simultaneous=True)
    elif kind == "groups":
        data, plan = Scores(logits, targets, names, groups=groups), Plan.of("fpr_at_most=0.1", delta=0.1, by_group=True)
    elif kind == "weights":
        data = Scores(logits, targets, names, weights=np.random.default_rng(0).uniform(0, 1, 900))
    elif kind == "unlabelled":
        data, plan = Scores(logits, None, names), Plan.of("alert_rate_at_most=0.1", delta=0.1)
    elif kind == "histogram":
        data = ScoreHistogram(names)
        data.update(logits, targets)
    elif kind == "isotonic":
        plan = Plan.of("max_fbeta=1", calibrator="isotonic")
    else:
        plan = Plan.of("max_fbeta=1", shrink=4.0)
    policy = made(data, plan)
    again = Policy.from_json(policy.to_json())
    assert again == policy and again.to_json() == policy.to_json()
    assert policy.data is not None and policy.data_digest == data.digest()
    assert (
        policy.data.rows == 900
        and policy.data.labelled == (kind != "unlabelled")
        and policy.data.weighted == (kind == "weights")
    )
    assert (policy.data.source, policy.data.step) == (("histogram", 2**-8) if kind == "histogram" else ("scores", None))
    assert policy.data.groups == (300 if kind == "groups" else None)
    assert policy.guarantee == plan.guarantee


def test_a_diff_of_two_policies_shows_the_label_that_changed_and_no_other() -> None:
    logits, targets = grouped()
    names = ("a", "b", "c")
    before = made(Scores(logits, targets, names), Plan.of("max_fbeta=1")).to_json().splitlines()
    after = made(Scores(logits, targets, names), Plan.of(["max_fbeta=1", "b:recall_at_least=0.95"])).to_json().splitlines()
    at = [i for i, line in enumerate(before) if line.strip().startswith('"label": ')]
    changed = [
        block for block in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes() if block[0] != "equal"
    ]
    assert changed
    assert all(at[1] < first <= last <= at[2] for _, first, last, _, _ in changed)
    assert max(map(len, before)) < 300  # a line holds one thing, so that a diff can be read


def test_thresholds_are_float32_between_the_scores() -> None:
    logits, targets = grouped()
    for plan in (Plan.of("max_fbeta=1"), Plan.of("fpr_at_most=0.1", delta=0.1), Plan.of("max_fbeta=1", shrink=4.0)):
        policy = made(Scores(logits, targets, ("a", "b", "c")), plan)
        assert policy.thresholds().dtype == np.float32
        for i, label in enumerate(policy.labels):
            assert label.threshold == float(policy.thresholds()[i])
            assert label.threshold not in logits[:, i].tolist()
    # Where there is no float between two scores it is the upper one, and decides as it was counted.
    tight = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(0))], [0]], np.float32)
    (label,) = fit_labels(Scores(tight, np.array([[1], [0], [0]]), ("a",)), Plan.of("precision_at_least=1", calibrator="none"))
    assert (label.threshold, label.counts.tp, label.counts.fp) == (1.0, 1, 0)


def test_delta_spent_is_the_sum_of_the_labels_that_have_a_guarantee() -> None:
    logits, targets = grouped()
    data = Scores(logits, targets, ("a", "b", "c"))
    assert made(data, Plan.of("recall_at_least=0.8")).delta_spent == 0
    assert made(data, Plan.of("recall_at_least=0.8", delta=0.02)).delta_spent == pytest.approx(0.06)
    assert made(data, Plan.of("recall_at_least=0.8", delta=0.02, simultaneous=True)).delta_spent == pytest.approx(0.02)
    assert made(data, Plan.of("recall_at_least=0.8", delta=0.9)).delta_spent == 1
    partly = made(data, Plan.of(["recall_at_least=0.8", "b:precision_at_least=0.999"], delta=0.02))
    assert partly.labels[1].guarantee is None and partly.delta_spent == pytest.approx(0.04)
    assert partly.guarantee == Guarantee(delta=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"needs": {"count": -1, "of": "positives"}},
        {"needs": {"count": 1, "of": "apples"}},
        {"guarantee": {"rate": "recall", "bound": 1.5, "delta": 0.1, "unit": "row", "counted": 3}},
        {"guarantee": {"rate": "f1", "bound": 0.5, "delta": 0.1, "unit": "row", "counted": 3}},
        {"guarantee": {"rate": "recall", "bound": 0.5, "delta": 0, "unit": "row", "counted": 3}},
        {"status": "FALLBACK", "threshold": None},
        {"calibrator": {"kind": "platt"}},
    ],
)
def test_a_label_with_a_wrong_new_field_is_refused(change: dict[str, Any]) -> None:
    document = json.loads(a_policy().to_json())
    document["labels"][0] |= change
    with pytest.raises(ValidationError):
        Policy.from_json(json.dumps(document))


def test_a_fallback_is_decided_and_a_guarantee_reads_back() -> None:
    document = json.loads(a_policy().to_json())["labels"][0]
    sure = Guaranteed(rate="recall", bound=0.9, delta=0.1, unit="group", counted=30)
    label = LabelPolicy.model_validate({**document, "status": "FALLBACK", "reason": "why", "guarantee": sure})
    assert LabelPolicy.model_validate_json(label.model_dump_json()) == label
