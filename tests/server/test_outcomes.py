"""Outcomes over the wire: matched with what was decided, each once, and what they say of every label."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from cutpoint.client import Client, Outcomes
from cutpoint.errors import BadRequest, ModelNotFound, Overloaded, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.outcomes.database import Graph
from cutpoint.server.outcomes.form import MOST_NAMES, MOST_OUTCOMES, refuse_many
from cutpoint.server.outcomes.reports import Matched, Reports
from cutpoint.server.outcomes.service import OutcomeService
from cutpoint.server.outcomes.store import LABEL, SCORED, Entry, OutcomeStore
from cutpoint.server.port.transport import Call
from cutpoint.server.protocol.infer_stream import varint
from cutpoint.v1 import outcome_pb2 as v1
from processes import ServerProcess
from scipy.stats import binomtest
from workplace import workplace

SERVICE = "cutpoint.v1.OutcomeService"


def data(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs whose first two features are the logits, and what became of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    return x, (x[:, :2] + rng.normal(size=(rows, 2)) > 1.5).astype(np.uint8)


@pytest.fixture
def calibrated(client: Client, fresh: str) -> str:
    x, y = data(seed=9)
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    return fresh


def report(channel: grpc.Channel, **fields: Any) -> v1.ReportOutcomesResponse:
    call = channel.unary_unary(
        f"/{SERVICE}/ReportOutcomes",
        request_serializer=v1.ReportOutcomesRequest.SerializeToString,
        response_deserializer=v1.ReportOutcomesResponse.FromString,
    )
    answer: v1.ReportOutcomesResponse = call(v1.ReportOutcomesRequest(**fields), timeout=60)
    return answer


def requested(row: int = 0, request_id: str = "r", **fields: Any) -> v1.Outcome:
    window = fields.pop("window", None)
    fields = fields or {"positive": ["a"]}
    return v1.Outcome(requested=v1.Requested(request_id=request_id, row=row, window=window), **fields)


def scored(key: str = "k", logits: Any = (1.0, -1.0), **fields: Any) -> v1.Outcome:
    of = {name: fields.pop(name) for name in ("policy_version", "time_s") if name in fields}
    fields = fields or {"positive": ["a"]}
    return v1.Outcome(scored=v1.Scored(key=key, logits=logits, **of), **fields)


def test_outcomes_of_a_request_are_counted_as_it_was_decided(client: Client, calibrated: str) -> None:
    x, y = data()
    scores = client.score(calibrated, x, request_id="monday")
    assert scores.decisions is not None
    # Another policy decides from now on; the outcomes are still of what was decided before.
    client.calibrate(calibrated, "recall_at_least=0.99", inputs=x, targets=y)
    done = client.report_outcomes(calibrated, y, request_id="monday", sampling="all")
    assert (done.taken, done.repeated, done.corrected, done.unmatched) == (400, 0, 0, [])
    summary = client.outcome_summary(calibrated)
    assert (summary.model, summary.model_version, summary.rows) == (calibrated, 1, 400)
    for i, label in enumerate(summary.labels):
        alerts, there = scores.decisions[:, i], y[:, i] == 1
        counts = tuple(int(found.sum()) for found in (alerts & there, alerts & ~there, ~alerts & there, ~alerts & ~there))
        assert counts == (
            label.true_positives, label.false_positives, label.false_negatives, label.true_negatives,
        )  # fmt: skip
        assert (label.undecided_positives, label.undecided_negatives, label.recall_reason) == (0, 0, "")
        tp, fp, fn, _ = counts
        for rate, of in ((label.precision, tp + fp), (label.recall, tp + fn)):
            exact = binomtest(tp, of).proportion_ci(method="exact")
            assert rate is not None
            np.testing.assert_allclose([rate.value, rate.low, rate.high], [tp / of, exact.low, exact.high], rtol=1e-9)


def test_outcomes_come_late_out_of_order_in_parts_and_twice(client: Client, calibrated: str) -> None:
    x, y = data(50)
    client.score(calibrated, x, request_id="r")
    order = np.random.default_rng(0).permutation(50)
    assert client.report_outcomes(calibrated, y[order, 1], labels=["b"], request_id="r", rows=order, sampling="all").taken == 50
    partly = np.where(np.arange(50) % 2 == 0, y[:, 0], 255)
    assert client.report_outcomes(calibrated, partly, labels=["a"], request_id="r", sampling="all").taken == 25
    again = client.report_outcomes(calibrated, y, request_id="r", sampling="all")
    assert (again.taken, again.repeated) == (25, 25)  # rows with a label that was not known before
    assert client.report_outcomes(calibrated, y, request_id="r", sampling="all").repeated == 50
    summary = client.outcome_summary(calibrated)
    assert summary.rows == 50
    for label in summary.labels:
        assert label.true_positives + label.false_positives + label.false_negatives + label.true_negatives == 50


def test_a_large_array_is_one_request_for_its_outcomes(client: Client, calibrated: str) -> None:
    x, y = data(2500)  # sent as three requests
    client.score(calibrated, x, request_id="large")
    rows = [0, 1023, 1024, 2499]
    done = client.report_outcomes(calibrated, y[rows], request_id="large", rows=rows, sampling="all")
    assert (done.taken, done.unmatched) == (4, [])
    done = client.report_outcomes(calibrated, [1], labels=["a"], request_id="large", rows=[2500], sampling="all")
    assert [(miss.row, miss.reason) for miss in done.unmatched] == [(0, "no_such_row")]
    assert "row 2500 of request 'large', which had 2500" in done.unmatched[0].text
    scores = client.score(calibrated, x)
    assert scores.decisions is not None
    label = client.outcome_summary(calibrated).labels[0]
    assert label.true_positives == int((scores.decisions[rows, 0] & (y[rows, 0] == 1)).sum())


def test_a_stream_is_kept_under_its_own_name_or_not_at_all(client: Client, calibrated: str) -> None:
    x, y = data(30)
    assert len(list(client.stream(calibrated, [x[:10], x[10:30]], request_id="stream"))) == 2
    list(client.stream(calibrated, [x[:10], x[10:30]]))
    done = client.report_outcomes(calibrated, y, request_id="stream", sampling="all")
    assert (done.taken, done.unmatched) == (30, [])
    numbered = client.report_outcomes(calibrated, y[:2], request_id=["0", "1"], sampling="all")
    assert [miss.reason for miss in numbered.unmatched] == ["unknown_request"] * 2


def test_the_same_request_made_again_is_one_decision_and_another_by_its_name_is_none(client: Client, calibrated: str) -> None:
    x, y = data(5)
    for _ in range(2):
        client.score(calibrated, x, request_id="r")
    assert client.report_outcomes(calibrated, y, request_id="r", sampling="all").taken == 5
    for rows in (x, x + 1):
        client.score(calibrated, rows, request_id="again")
    done = client.report_outcomes(calibrated, y, request_id="again", sampling="all")
    assert (done.taken, dict(done.unmatched_reasons)) == (0, {"ambiguous_request": 5})


def test_what_is_answered_without_decisions_is_labelled_but_decided_nothing(client: Client, fresh: str) -> None:
    x, y = data(20)
    client.score(fresh, x, request_id="before any policy")
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    client.score(fresh, x, request_id="logits only", outputs=["logits"])
    client.score(fresh, x, request_id="decided", outputs=["decisions"])
    for request_id in ("before any policy", "logits only", "decided"):
        assert client.report_outcomes(fresh, y, request_id=request_id, sampling="all").taken == 20
    label = client.outcome_summary(fresh).labels[0]
    positives = int(y[:, 0].sum())
    assert (label.undecided_positives, label.undecided_negatives) == (2 * positives, 2 * (20 - positives))
    assert label.true_positives + label.false_negatives == positives


def test_windows_are_reported_one_by_one_or_as_whole_rows(client: Client, channel: grpc.Channel) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 6, 5)).astype(np.float32)
    y = (x[..., :3] > 0.5).astype(np.uint8)
    client.calibrate("windows", "max_fbeta=1", inputs=x, targets=y)
    begun = time.time()
    scores = client.score("windows", x, request_id="w")
    done = client.report_outcomes("windows", y[1, :4], request_id="w", rows=[1] * 4, windows=range(4), sampling="all")
    assert done.taken == 4
    done = client.report_outcomes("windows", y, request_id="w", sampling="all")
    assert (done.taken, done.repeated) == (20, 4)
    summary = client.outcome_summary("windows", since_s=begun)
    assert scores.decisions is not None and summary.rows == 24
    for i, label in enumerate(summary.labels):
        assert label.true_positives == int((scores.decisions[..., i] & (y[..., i] == 1)).sum())
    wrong = client.report_outcomes("windows", [1], labels=["a"], request_id="w", rows=[0], windows=[6], sampling="all")
    assert "window 6 of request 'w', whose rows had 6" in wrong.unmatched[0].text
    with pytest.raises(BadRequest, match=r"requested.window is not given; expected given, for what windows answers"):
        client.report_outcomes("windows", [1], labels=["a"], request_id="w", sampling="all")


def test_outcomes_by_score_are_counted_once_by_their_key(client: Client, calibrated: str) -> None:
    x, y = data(60)
    scores = client.score(calibrated, x)
    assert scores.decisions is not None and scores.policy_version == 1
    client.calibrate(calibrated, "recall_at_least=1", inputs=x, targets=y)
    of = {"keys": [f"k{i}" for i in range(60)], "logits": scores.logits, "sampling": "all"}
    assert client.report_outcomes(calibrated, y, policy_version=1, **of).taken == 60  # type: ignore[arg-type]
    assert client.report_outcomes(calibrated, y, policy_version=1, **of).repeated == 60  # type: ignore[arg-type]
    assert client.report_outcomes(calibrated, y, **of).repeated == 60  # type: ignore[arg-type]
    label = client.outcome_summary(calibrated).labels[0]
    assert label.true_positives == int((scores.decisions[:, 0] & (y[:, 0] == 1)).sum())
    others = client.report_outcomes(calibrated, y, **{**of, "logits": scores.logits + 1})  # type: ignore[arg-type]
    assert dict(others.unmatched_reasons) == {"other_logits": 60}
    # Without a policy's number it is the active one that decided: all of recall 1.
    client.report_outcomes(calibrated, y, **{**of, "keys": [f"n{i}" for i in range(60)]})  # type: ignore[arg-type]
    assert client.outcome_summary(calibrated).labels[0].false_negatives == int(
        (~scores.decisions[:, 0] & (y[:, 0] == 1)).sum()
    )  # fmt: skip


def test_a_changed_mind_is_a_conflict_unless_it_is_said(client: Client, calibrated: str) -> None:
    x, y = data(10)
    client.score(calibrated, x, request_id="r")
    client.report_outcomes(calibrated, y, request_id="r", sampling="all")
    before = client.outcome_summary(calibrated)
    other = y.copy()
    other[3, 1] ^= 1
    done = client.report_outcomes(calibrated, other, request_id="r", sampling="all")
    assert (done.repeated, [(miss.row, miss.reason) for miss in done.unmatched]) == (9, [(3, "conflict")])
    assert done.unmatched[0].text == "outcomes[3]: label 'b' is known otherwise; `replace` corrects it"
    assert client.outcome_summary(calibrated) == before
    done = client.report_outcomes(calibrated, other, request_id="r", sampling="all", replace=True)
    assert (done.repeated, done.corrected, done.unmatched) == (9, 1, [])
    assert client.outcome_summary(calibrated) != before


@pytest.mark.parametrize("sampling", ["all", "alerted", "random", "alerted_and_random", "unknown"])
def test_recall_comes_only_from_reviews_that_see_misses_and_is_not_biased(
    client: Client, calibrated: str, sampling: str
) -> None:
    rng = np.random.default_rng(5)
    x, y = data(8000, seed=1)
    x[:, 1], y[:, 1] = -9, 0  # label b never alerts, so that a row alerts when a does
    scores = client.score(calibrated, x, request_id="r")
    assert scores.decisions is not None
    alerts, probability = scores.decisions[:, 0], 0.25
    drawn = rng.random(len(x)) < probability
    chosen = {
        "all": np.full(len(x), True), "alerted": alerts, "unknown": alerts | (y[:, 0] == 1), "random": drawn,
        "alerted_and_random": alerts | drawn,
    }[sampling]  # fmt: skip
    given = probability if "random" in sampling else None
    rows = np.flatnonzero(chosen)
    done = client.report_outcomes(
        calibrated, y[rows, 0], labels=["a"], request_id="r", rows=rows, sampling=sampling, probability=given,  # type: ignore[arg-type]
    )  # fmt: skip
    assert done.taken == len(rows)
    label = client.outcome_summary(calibrated).labels[0]
    there = y[:, 0] == 1
    precision, recall = (alerts & there).sum() / alerts.sum(), (alerts & there).sum() / there.sum()
    assert label.precision is not None and label.precision.low <= precision <= label.precision.high
    if sampling in ("alerted", "unknown"):
        assert label.recall is None
        assert label.recall_reason.startswith("no positive outcome is of a review that has seen what did not alert")
        return
    assert label.recall is not None
    assert label.recall.low <= recall <= label.recall.high
    # The oracle: sums over what was reviewed, each by the inverse of its probability.
    weights = np.where(chosen, {"all": 1.0, "random": 4.0}.get(sampling, np.where(alerts, 1.0, 4.0)), 0)[there]
    assert label.recall.value == pytest.approx(weights[alerts[there]].sum() / weights.sum())
    width = {"all": 0.1, "random": 0.2}.get(sampling, 0.2)
    assert label.recall.high - label.recall.low < width


def test_a_label_that_alerts_makes_its_row_one_that_was_looked_at_for_sure(client: Client, calibrated: str) -> None:
    policy = client.policy(calibrated)
    cut = policy.thresholds()
    logits = np.array([[cut[0] + 1, cut[1] - 1], [cut[0] - 1, cut[1] - 1]], np.float32)
    client.report_outcomes(
        calibrated, [[1, 1], [1, 1]], keys=["x", "y"], logits=logits, sampling="alerted_and_random", probability=0.1
    )
    recalls = [label.recall for label in client.outcome_summary(calibrated).labels]
    assert recalls[0] is not None and recalls[0].value == pytest.approx(1 / 11)  # found with 1, missed with 10
    assert recalls[1] is not None and recalls[1].value == 0


def test_only_the_decisions_of_the_time_asked_for_are_summed(client: Client, calibrated: str) -> None:
    logits = np.full((10, 2), 9, np.float32)
    client.report_outcomes(
        calibrated,
        np.ones((10, 2)),
        keys=[f"{i}" for i in range(10)],
        logits=logits,
        times_s=1000 + np.arange(10),
        sampling="all",
    )
    assert client.outcome_summary(calibrated, since_s=1003, until_s=1006).rows == 3
    assert client.outcome_summary(calibrated, since_s=1003).rows == 7
    assert client.outcome_summary(calibrated, until_s=1003).rows == 3
    with pytest.raises(BadRequest, match=r"until_s is 5\.0; expected more than since_s, 6"):
        client.outcome_summary(calibrated, since_s=6, until_s=5)
    with pytest.raises(BadRequest, match="since_s is nan"):
        client.outcome_summary(calibrated, since_s=float("nan"))


def test_each_unmatched_outcome_has_a_reason_and_the_others_are_taken(
    client: Client, channel: grpc.Channel, calibrated: str
) -> None:
    x, _ = data(3)
    client.score(calibrated, x, request_id="r")
    found = report(
        channel, model=calibrated,
        outcomes=[
            requested(0), requested(3), requested(0, "none"), requested(1, positive=["a", "c"]), requested(1, targets=b"\1"),
            requested(1, negative=["b"]), scored(),
        ],
    )  # fmt: skip
    assert (found.taken, found.repeated, found.corrected) == (3, 0, 0)
    assert [(each.outcome, each.reason) for each in found.unmatched] == [
        (1, "no_such_row"), (2, "unknown_request"), (3, "unknown_label"), (4, "unknown_label"),
    ]  # fmt: skip
    assert dict(found.unmatched_reasons) == {"no_such_row": 1, "unknown_request": 1, "unknown_label": 2}
    assert found.unmatched[2].text == f"outcomes[3]: label 'c'; {calibrated}/1 has 'a', 'b'"
    other = report(channel, model=calibrated, model_version="2", outcomes=[requested(0)])
    assert [each.reason for each in other.unmatched] == ["other_version"]
    many = report(channel, model=calibrated, outcomes=[requested(9)] * 1500)
    assert (len(many.unmatched), dict(many.unmatched_reasons)) == (1000, {"no_such_row": 1500})


def test_what_did_not_alert_is_not_taken_as_an_alert_that_was_looked_at(
    client: Client, channel: grpc.Channel, calibrated: str
) -> None:
    x, y = data()
    scores = client.score(calibrated, x, request_id="r")
    assert scores.decisions is not None
    alerts = scores.decisions.any(axis=1)
    done = client.report_outcomes(calibrated, y, request_id="r", sampling="alerted")
    assert (done.taken, dict(done.unmatched_reasons)) == (alerts.sum(), {"not_alerted": (~alerts).sum()})
    assert [miss.row for miss in done.unmatched] == np.flatnonzero(~alerts).tolist()
    kept = client.report_outcomes(calibrated, [[0, 0]], keys=["quiet"], logits=[[-50, -50]], sampling="alerted")
    assert kept.unmatched[0].text == "outcomes[0]: key 'quiet' did not alert; with sampling alerted only alerts are taken"
    assert client.report_outcomes(calibrated, y, request_id="r", sampling="unknown").taken == (~alerts).sum()


def test_alerts_alone_may_be_said_of_what_nothing_decided(client: Client, fresh: str) -> None:
    x, y = data(5)
    client.score(fresh, x, request_id="before any policy")
    assert client.report_outcomes(fresh, y, request_id="before any policy", sampling="alerted").taken == 5


def test_a_row_need_not_be_named_where_there_is_one(client: Client, channel: grpc.Channel, calibrated: str) -> None:
    x, y = data(5)
    client.score(calibrated, x[:1], request_id="one")
    client.score(calibrated, x, request_id="many")
    done = client.report_outcomes(calibrated, y[:2], request_id=["one", "many"], sampling="all")
    assert done.taken == 1
    assert [(miss.row, miss.reason, miss.text) for miss in done.unmatched] == [
        (1, "row_not_given", "outcomes[1]: the row of request 'many' is not given, which had 5; expected 0 to 4")
    ]
    # Who sends no `only_row`, as a client of before it, means row 0.
    assert report(channel, model=calibrated, outcomes=[requested(request_id="many")]).taken == 1
    wrong = v1.Outcome(requested=v1.Requested(request_id="many", row=2, only_row=True), positive=["a"])
    with pytest.raises(grpc.RpcError, match=r"outcomes\[0\].requested.row is 2; expected 0 beside only_row"):
        report(channel, model=calibrated, outcomes=[wrong])


NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is empty; expected the name of a model"),
        ({"outcomes": []}, "outcomes is 0 of them; expected 1 to 10000"),
        ({"outcomes": [requested()] * (MOST_OUTCOMES + 1)}, "outcomes is more than 10000 of them; expected 1 to 10000"),
        ({"sampling": 9}, "sampling is 9; expected SAMPLING_UNKNOWN, SAMPLING_ALL"),
        ({"sampling": v1.SAMPLING_RANDOM}, "probability is 0.0; expected 1e-06 to 1, with SAMPLING_RANDOM"),
        ({"sampling": v1.SAMPLING_ALERTED_AND_RANDOM, "probability": 1.5}, "probability is 1.5; expected 1e-06 to 1"),
        ({"sampling": v1.SAMPLING_RANDOM, "probability": NAN}, "probability is nan; expected 1e-06 to 1"),
        ({"sampling": v1.SAMPLING_ALL, "probability": 0.5}, "probability is 0.5; expected 0, with SAMPLING_ALL"),
        ({"probability": NAN}, "probability is nan; expected 0, with SAMPLING_UNKNOWN"),
        ({"outcomes": [requested(), v1.Outcome(positive=["a"])]}, r"outcomes\[1\] is without a decision"),
        ({"outcomes": [requested(request_id="")]}, r"outcomes\[0\].requested.request_id is empty; expected 1 to 1000 bytes"),
        ({"outcomes": [requested(request_id="ü" * 501)]}, r"request_id is 1002 bytes; expected 1 to 1000"),
        ({"outcomes": [scored(key="")]}, r"outcomes\[0\].scored.key is empty"),
        ({"outcomes": [scored(time_s=NAN)]}, r"outcomes\[0\].scored.time_s is nan; expected seconds since 1970"),
        ({"outcomes": [scored(time_s=-1)]}, r"scored.time_s is -1.0"),
        (
            {"outcomes": [scored(time_s=99999999999)]},
            r"scored.time_s is 99999999999.0; expected seconds since 1970, of a decision",
        ),
        ({"outcomes": [scored(logits=[1])]}, r"outcomes\[0\].scored.logits is 1 numbers; expected 2, one for each label of"),
        ({"outcomes": [scored(logits=[NAN, 1])]}, r"outcomes\[0\].scored.logits of label 'a' is NaN; expected a number"),
        (
            {"outcomes": [scored(policy_version=77)]},
            r"outcomes\[0\].scored.policy_version is 77; expected a policy that decided",
        ),
        ({"outcomes": [scored(positive=["c"])]}, r"outcomes\[0\]: label 'c'; .*/1 has 'a', 'b'"),
        ({"outcomes": [scored(targets=b"\1\1\1")]}, r"outcomes\[0\]: targets of 3 labels; .*/1 has 2"),
        ({"outcomes": [scored(targets=b"\1\2")]}, r"outcomes\[0\].targets is 2; expected 0, 1, or 255"),
        ({"outcomes": [scored(targets=b"\xff\xff")]}, r"outcomes\[0\].targets is all not known"),
        ({"outcomes": [scored(targets=b"\1\1", positive=["a"])]}, r"outcomes\[0\].targets is given beside names"),
        ({"outcomes": [scored(positive=["a", "b"], negative=["b"])]}, r"outcomes\[0\].positive and .negative is 'b'"),
        ({"outcomes": [scored(positive=[], negative=[])]}, r"outcomes\[0\] is without labels; expected positive or negative"),
        ({"outcomes": [requested(window=0)]}, r"outcomes\[0\].requested.window is 0; expected not given, for what"),
    ],
)
def test_what_is_wrong_in_itself_is_refused_whole(
    client: Client, channel: grpc.Channel, fields: dict[str, Any], text: str
) -> None:
    client.score("uncalibrated", np.ones((1, 4)), request_id="r")
    right = [scored("right"), requested(0)]
    given = {"model": "uncalibrated", "outcomes": right, **fields}
    if fields.get("outcomes"):
        given["outcomes"] = [*fields["outcomes"], *right] if len(fields["outcomes"]) < 10 else fields["outcomes"]
    with pytest.raises(grpc.RpcError, match=text) as refused:
        report(channel, **given)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client.outcome_summary("uncalibrated").rows == 0


def test_many_names_are_refused_before_they_are_read(channel: grpc.Channel, calibrated: str) -> None:
    inner = requested().SerializeToString() + b"\x1a\x01a" * (MOST_NAMES + 1)
    data = v1.ReportOutcomesRequest(model=calibrated).SerializeToString() + b"\x1a" + varint(len(inner)) + inner
    with pytest.raises(grpc.RpcError, match="outcomes is more than 1000000 names of labels; expected") as refused:
        channel.unary_unary(f"/{SERVICE}/ReportOutcomes")(data, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError, match="more than 1000000 names"):
        next(channel.stream_stream(f"/{SERVICE}/StreamOutcomes")(iter([data]), timeout=60))


def test_names_and_outcomes_are_counted_as_they_are() -> None:
    """What is at its limit passes; the parser is the oracle of how many there are."""
    name = b"\x1a\x01a" + b"\x22\x00"  # positive, and an empty negative
    inner = requested().SerializeToString() + name * (MOST_NAMES // 20)
    data = (b"\x1a" + varint(len(inner)) + inner) * 9  # with one more each of the request itself
    rest = v1.Outcome(positive=["b" * 9] * (MOST_NAMES // 10 - 10)).SerializeToString()
    data += b"\x1a" + varint(len(rest)) + rest
    parsed = v1.ReportOutcomesRequest.FromString(data)
    assert sum(len(each.positive) + len(each.negative) for each in parsed.outcomes) == MOST_NAMES - 1
    refuse_many(data)
    refuse_many(data + b"\x1a\x02\x22\x00")
    with pytest.raises(BadRequest, match="names of labels"):
        refuse_many(data + b"\x1a\x04\x22\x00\x1a\x00")
    refuse_many(b"\x1a\x00" * MOST_OUTCOMES + b"\x0a\x01m")
    with pytest.raises(BadRequest, match="outcomes is more than 10000 of them"):
        refuse_many(b"\x0a\x01m" + b"\x1a\x00" * (MOST_OUTCOMES + 1))
    for broken in (b"\xff" * 100, b"\x1a\xff\xff\xff\x7f", b"\x1b", b""):  # left to the parser
        refuse_many(broken)


class Matching:
    """Reports that find the same entries in every message."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def match(self, request: v1.ReportOutcomesRequest) -> Matched:
        return Matched(list(range(len(self.entries))), self.entries)


def test_a_state_folder_that_cannot_be_written_is_no_internal_error(tmp_path: Path) -> None:
    graph = Graph("m", 1, "0" * 64, ("a",))
    entries = [Entry(graph, SCORED, f"{i}".encode(), 0, -1, 5.0, np.zeros(1, LABEL)) for i in range(2000)]
    store = OutcomeStore(tmp_path, 8 << 20)
    with workplace(tmp_path, start=False) as place:
        service = OutcomeService(place.models, store, cast(Reports, Matching(entries)), place.metrics.outcomes)
        ask = v1.ReportOutcomesRequest(model="m")
        store._db.execute("PRAGMA max_page_count=20")
        with pytest.raises(Overloaded, match="disk is full"):
            service.report(ask, cast(Call, None))
        store._db.execute("PRAGMA max_page_count=100000")
        store._db.execute("PRAGMA busy_timeout=0")
        other = sqlite3.connect(tmp_path / "outcomes.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="in use"):
            service.report(ask, cast(Call, None))
        other.execute("ROLLBACK")
        other.close()
        assert service.report(ask, cast(Call, None)).taken == 0 + len(entries)
    store.close()


def test_unknown_models_are_not_found(client: Client, channel: grpc.Channel, calibrated: str) -> None:
    for fields in (
        {"model": "none", "outcomes": [requested()]}, {"model": "none", "outcomes": [scored()]},
        {"model": calibrated, "model_version": "9", "outcomes": [scored()]},
    ):  # fmt: skip
        with pytest.raises(grpc.RpcError) as refused:
            report(channel, **fields)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    for version in ("2", "x", "²", "9" * 30):
        with pytest.raises(ModelNotFound):
            client.outcome_summary(calibrated, version=version)
    with pytest.raises(BadRequest, match="simple"):
        client.outcome_summary("simple")
    with pytest.raises(BadRequest, match="simple"):
        client.report_outcomes("simple", [1], keys=["k"], logits=[1.0], sampling="all")


def test_a_stream_answers_each_message_when_it_is_taken(client: Client, channel: grpc.Channel, calibrated: str) -> None:
    x, y = data(30)
    client.score(calibrated, x, request_id="r")
    batches = (Outcomes(y[i : i + 10], request_id="r", rows=range(i, i + 10)) for i in (20, 0, 10, 0))
    found = list(client.stream_outcomes(calibrated, batches, sampling="all"))
    assert [(each.taken, each.repeated) for each in found] == [(10, 0), (10, 0), (10, 0), (0, 10)]
    call = channel.stream_stream(
        f"/{SERVICE}/StreamOutcomes",
        request_serializer=v1.ReportOutcomesRequest.SerializeToString,
        response_deserializer=v1.ReportOutcomesResponse.FromString,
    )

    def messages() -> Iterator[v1.ReportOutcomesRequest]:
        yield v1.ReportOutcomesRequest(model=calibrated, outcomes=[scored("one")])
        yield v1.ReportOutcomesRequest(model=calibrated, outcomes=[scored("two", logits=[])])
        yield v1.ReportOutcomesRequest(model=calibrated, outcomes=[scored("three")])

    answers = call(messages(), timeout=60)
    assert next(answers).taken == 1
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert client.outcome_summary(calibrated).rows == 31  # what was answered before it stays, and nothing came after
    assert list(call(iter(()), timeout=60)) == []


def test_outcomes_are_counted_for_prometheus(server: ServerProcess, client: Client, fresh: str) -> None:
    def counts(name: str, **labels: str) -> dict[str, float]:
        """Of the last scrape."""
        of = [f'{key}="{value}"' for key, value in ({"model": fresh} | labels).items()]
        found = {line: value for line, value in scraped.items() if line.startswith(name + "{")}
        return {line: value for line, value in found.items() if all(each in line for each in of)}

    scraped = server.metrics()
    zero = counts("cutpoint_outcomes_total")
    assert len(zero) == 8 and set(zero.values()) == {0}  # both labels, both ways, before any outcome
    assert set(counts("cutpoint_outcomes_unmatched_total").values()) == {0}
    assert list(counts("cutpoint_outcome_pool_rows").values()) == [0]
    x, y = data(100)
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    scores = client.score(fresh, x, request_id="r")
    assert scores.decisions is not None
    for _ in range(2):
        client.report_outcomes(fresh, y, request_id="r", sampling="random", probability=0.5)
    client.report_outcomes(fresh, [[1, 1]], request_id="gone", sampling="all")
    scraped = server.metrics()
    for i, label in enumerate("ab"):
        for predicted in (0, 1):
            for actual in (0, 1):
                words = [("negative", "positive")[which] for which in (predicted, actual)]
                (found,) = counts("cutpoint_outcomes_total", label=label, predicted=words[0], actual=words[1]).values()
                assert found == ((scores.decisions[:, i] == predicted) & (y[:, i] == actual)).sum()
            (weight,) = counts("cutpoint_outcomes_recallable_positives_total", label=label, predicted=words[0]).values()
            assert weight == 2 * ((scores.decisions[:, i] == predicted) & (y[:, i] == 1)).sum()
    assert counts("cutpoint_outcomes_unmatched_total", reason="unknown_request").popitem()[1] == 1
    assert list(counts("cutpoint_outcome_pool_rows").values()) == [100]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("cutpoint_decision", {"int64_param": 5}, "parameter 'cutpoint_decision' is 5; expected text"),
        ("cutpoint_decision", {}, "parameter 'cutpoint_decision' is empty; expected text"),
        ("cutpoint_first_row", {"string_param": "1"}, "parameter 'cutpoint_first_row' is 1; expected a whole number from 0"),
        ("cutpoint_first_row", {"int64_param": -1}, "parameter 'cutpoint_first_row' is -1; expected a whole number from 0"),
    ],
)
def test_a_decisions_name_is_text_and_its_first_row_a_number(
    channel: grpc.Channel, name: str, value: dict[str, Any], text: str
) -> None:
    request = oip.ModelInferRequest(model_name="uncalibrated", raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.parameters[name].CopyFrom(oip.InferParameter(**value))
    with pytest.raises(grpc.RpcError, match=text) as refused:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_decision_may_have_another_name_than_its_request(client: Client, channel: grpc.Channel, calibrated: str) -> None:
    for name, first_row in (("claims", 0), ("claims", 2), ("", 0)):
        request = oip.ModelInferRequest(model_name=calibrated, id="id", raw_input_contents=[bytes(32)])
        request.inputs.add(name="x", datatype="FP32", shape=[2, 4])
        request.parameters["cutpoint_decision"].string_param = name
        request.parameters["cutpoint_first_row"].int64_param = first_row
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=60)
    assert client.report_outcomes(calibrated, np.ones((4, 2)), request_id="claims", sampling="all").taken == 4
    done = client.report_outcomes(calibrated, np.ones((1, 2)), request_id="id", sampling="all")
    assert dict(done.unmatched_reasons) == {"unknown_request": 1}
