"""Fitting all labels of a model, and the policy as a document."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cutpoint.calibration import Needs, Plan, Policy, Scores, fit_labels
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
