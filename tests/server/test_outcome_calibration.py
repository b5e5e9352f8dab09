"""Thresholds from the outcomes that the server keeps: those that the same labelled scores give when they are sent."""

import time
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint.client import Client, FromOutcomes
from cutpoint.errors import BadInput, BadRequest, Uncalibratable
from cutpoint.v1 import calibration_pb2 as v1


def data(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    y = (x[:, :2] + rng.normal(size=(rows, 2)) > 1.5).astype(np.uint8)
    y[rng.random(y.shape) < 0.1] = 255
    return x, y


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("max_fbeta=1", {}), ("recall_at_least=0.9", {"delta": 0.1}),
        (["precision_at_least=0.5", "b:fpr_at_most=0.05"], {"calibrator": "platt", "shrink": 4.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["request", "score"])
def test_they_are_those_of_the_same_scores_sent(
    client: Client, fresh: str, objective: Any, settings: dict[str, Any], by: str
) -> None:
    x, y = data()
    scores = client.score(fresh, x, request_id="r")
    given: dict[str, Any] = {"request_id": "r"} if by == "request" else {
        "keys": [f"{i}" for i in range(len(x))], "logits": scores.logits,
    }  # fmt: skip
    client.report_outcomes(fresh, y, sampling="all", **given)
    sent = client.calibrate(fresh, objective, logits=scores.logits, targets=y, activate=False, **settings)
    kept = client.calibrate(fresh, objective, from_outcomes=FromOutcomes(), author="ann", **settings)
    assert kept.policy.labels == sent.policy.labels
    assert kept.activated and kept.policy.author == "ann"
    assert kept.policy.data is not None
    assert (kept.policy.data.source, kept.policy.data.rows, kept.policy.data.weighted) == (
        "outcomes", int((y != 255).any(axis=1).sum()), False,
    )  # fmt: skip
    assert client.policy(fresh) == kept.policy
    assert client.score(fresh, x[:1]).policy_version == kept.policy.version


def test_logits_of_one_weight_may_look_like_probabilities(client: Client, fresh: str) -> None:
    rng = np.random.default_rng(2)
    alerts, rest = rng.uniform(0.05, 0.95, (300, 2)), rng.normal(-3, 1, (300, 2))
    of: dict[str, Any] = {"sampling": "random", "probability": 0.1}
    for name, logits, how in (("alert", alerts, {"sampling": "all"}), ("rest", rest, of)):
        y = (rng.random((300, 2)) < 0.3).astype(np.uint8)
        keys = [f"{name} {i}" for i in range(300)]
        assert client.report_outcomes(fresh, y, keys=keys, logits=logits.astype(np.float32), **how).taken == 300
    made = client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes())
    assert made.policy.data is not None and made.policy.data.rows == 600
    with pytest.raises(BadInput, match="as probabilities are"):  # of what is sent nobody knows where it comes from
        client.calibrate(fresh, "max_fbeta=1", logits=alerts.astype(np.float32), targets=y)


def test_outcomes_of_a_sample_are_weighed(client: Client, fresh: str) -> None:
    """Of the rows reported as drawn with 1/4 each stands for four of those reported as all."""
    x, y = data()
    scores = client.score(fresh, x, request_id="r")
    client.report_outcomes(fresh, y[:200], request_id="r", rows=range(200), sampling="all")
    client.report_outcomes(fresh, y[200:], request_id="r", rows=range(200, 400), sampling="random", probability=0.25)
    weights = np.repeat([1.0, 4.0], 200)
    sent = client.calibrate(fresh, "max_fbeta=1", logits=scores.logits, targets=y, weights=weights, activate=False)
    kept = client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes())
    for mine, theirs in zip(kept.policy.labels, sent.policy.labels, strict=True):
        assert mine.threshold == theirs.threshold
        assert mine.counts == theirs.counts
    assert kept.policy.data is not None and kept.policy.data.weighted
    with pytest.raises(BadInput, match=r"weights is given; expected none with a guarantee"):
        client.calibrate(fresh, "recall_at_least=0.5", delta=0.1, from_outcomes=FromOutcomes())


def test_labels_of_one_row_may_come_from_different_reviews(client: Client, fresh: str) -> None:
    x, y = data()
    y = np.where(y == 255, 0, y)
    scores = client.score(fresh, x, request_id="r")
    client.report_outcomes(fresh, y[:, 0], labels=["a"], request_id="r", sampling="all")
    half = np.arange(0, 400, 2)
    client.report_outcomes(fresh, y[half, 1], labels=["b"], request_id="r", rows=half, sampling="random", probability=0.5)
    kept = client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes())
    only_a = client.calibrate(
        fresh, "max_fbeta=1", logits=scores.logits, targets=np.where([True, False], y, 255), activate=False
    )
    b = np.where([False, True], y, 255)[half]
    only_b = client.calibrate(fresh, "max_fbeta=1", logits=scores.logits[half], targets=b, activate=False)
    assert [label.threshold for label in kept.policy.labels] == [
        only_a.policy.labels[0].threshold, only_b.policy.labels[1].threshold,
    ]  # fmt: skip
    counts = kept.policy.labels[1].counts
    assert (counts.positives, counts.rows) == (2 * y[half, 1].sum(), 400)


def test_those_that_do_not_say_how_they_were_chosen_are_left_out_unless_asked_for(client: Client, fresh: str) -> None:
    x, y = data()
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    scores = client.score(fresh, x, request_id="r")
    assert scores.decisions is not None
    with pytest.raises(Uncalibratable, match=r"no outcomes are kept of what .* has decided in this time"):
        client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes())
    alerts = np.flatnonzero(scores.decisions.any(axis=1))
    client.report_outcomes(fresh, y[alerts], request_id="r", rows=alerts, sampling="alerted")
    with pytest.raises(
        Uncalibratable, match=r"rows with outcomes .* none says how it came to be looked at, or for alerting only"
    ):
        client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes())
    sent = client.calibrate(fresh, "max_fbeta=1", logits=scores.logits[alerts], targets=y[alerts], activate=False)
    kept = client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes(any_sampling=True))
    assert [label.threshold for label in kept.policy.labels] == [label.threshold for label in sent.policy.labels]


def test_only_the_time_asked_for_and_known_logits_are_taken(client: Client, fresh: str) -> None:
    x, y = data(300)
    logits = x[:, :2].copy()
    targets = np.where(y == 255, 0, y)
    logits[::3, 1], targets[::3, 1] = np.nan, 255
    client.report_outcomes(
        fresh, targets, keys=[f"{i}" for i in range(300)], logits=logits, times_s=np.arange(1, 301), sampling="all"
    )
    kept = client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes(since_s=100, until_s=200))
    some = slice(99, 199)
    sent = client.calibrate(fresh, "max_fbeta=1", logits=np.nan_to_num(logits[some]), targets=targets[some], activate=False)
    assert kept.policy.labels == sent.policy.labels
    assert kept.policy.data is not None and kept.policy.data.rows == 100


def test_windows_of_a_row_are_a_group(client: Client) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6, 5)).astype(np.float32)
    y = (x[..., :3] + rng.normal(size=(40, 6, 3)) > 1).astype(np.uint8)
    begun = time.time()
    scores = client.score("windows", x, request_id="grouped")
    client.report_outcomes("windows", y, request_id="grouped", sampling="all")
    settings: dict[str, Any] = {"activate": False, "delta": 0.3, "by_group": True}
    sent = client.calibrate("windows", "recall_at_least=0.5", logits=scores.logits, targets=y, groups=np.arange(40), **settings)
    kept = client.calibrate("windows", "recall_at_least=0.5", from_outcomes=FromOutcomes(since_s=begun), **settings)
    assert kept.policy.labels == sent.policy.labels
    assert kept.policy.data is not None and kept.policy.data.groups == 40


def test_more_than_fits_is_counted(client: Client) -> None:
    """The server of these tests may hold 4 MiB of labelled scores in a call."""
    labels, rows = 512, 1500
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(rows, labels)).astype(np.float32)
    y = (logits + rng.normal(size=logits.shape) > 1).astype(np.uint8)
    client.report_outcomes("many", y, keys=[f"{i}" for i in range(rows)], logits=logits, sampling="all")
    kept = client.calibrate("many", "max_fbeta=1", from_outcomes=FromOutcomes(), activate=False)
    sent = client.calibrate("many", "max_fbeta=1", logits=logits, targets=y, activate=False)
    assert kept.policy.data is not None and sent.policy.data is not None
    assert (kept.policy.data.source, kept.policy.data.step) == ("outcomes", sent.policy.data.step)
    assert sent.policy.data.step
    assert kept.policy.thresholds().tolist() == sent.policy.thresholds().tolist()


def test_nothing_follows_and_nothing_goes_beside(client: Client, channel: grpc.Channel, fresh: str) -> None:
    header = v1.CalibrateRequest(
        header=v1.CalibrateHeader(model=fresh, objective="max_fbeta=1", outcomes=v1.KeptOutcomes(since_s=1))
    )
    call = channel.stream_unary(
        "/cutpoint.v1.CalibrationService/Calibrate",
        request_serializer=v1.CalibrateRequest.SerializeToString,
        response_deserializer=v1.CalibrateResponse.FromString,
    )
    with pytest.raises(
        grpc.RpcError, match="calibrate message is chunk; expected none after a header that asks for the"
    ) as wrong:
        call(iter((header, v1.CalibrateRequest(chunk=v1.LabelledChunk()))), timeout=60)
    assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    header.header.outcomes.until_s = 0.5
    with pytest.raises(grpc.RpcError, match=r"until_s is 0\.5; expected more than since_s, 1"):
        call(iter((header,)), timeout=60)
    for beside in ({"logits": [[1.0]]}, {"targets": [1]}, {"weights": [1.0]}):
        with pytest.raises(BadInput, match="calibrate takes"):
            client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes(), **beside)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="simple"):
        client.calibrate("simple", "max_fbeta=1", from_outcomes=FromOutcomes())
