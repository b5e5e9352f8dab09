"""Outcomes and the life of a server: kill -9, restarts, models that come and go, several workers."""

import signal
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.client import Client, Connection
from cutpoint.errors import DeadlineExceeded, ModelNotFound, PermissionDenied, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import outcome_pb2 as v1
from processes import ServerProcess, cutpoint, serving

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
Y = (X[:, :2] > 0.3).astype(np.uint8)


@pytest.fixture
def repository(models: Path) -> Path:
    path = linear_bundle(models)
    write_policy(path, policy(path, {"a": 0.0, "b": 0.0}))
    return models


def counted(server: ServerProcess) -> float:
    return sum(value for line, value in server.metrics().items() if line.startswith("cutpoint_outcomes_total{"))


def test_what_was_acknowledged_survives_kill_9_and_is_counted_once(repository: Path) -> None:
    acknowledged: list[int] = []
    with serving(repository) as server, Client(server.target) as client:
        client.score("linear", X, request_id="r")

        def report() -> None:
            with suppress(Unavailable, DeadlineExceeded):
                for row in range(200):
                    client.report_outcomes("linear", Y[row : row + 1], request_id="r", rows=[row], sampling="all", timeout_s=5)
                    acknowledged.append(row)

        thread = threading.Thread(target=report)
        thread.start()
        while len(acknowledged) < 50 and thread.is_alive():
            threading.Event().wait(0.001)
        server.process.send_signal(signal.SIGKILL)  # in the middle of it
        server.process.wait(60)
        thread.join(60)
    assert len(acknowledged) >= 50
    with serving(repository) as server, Client(server.target) as client:
        before = client.outcome_summary("linear")
        assert len(acknowledged) <= before.rows <= len(acknowledged) + 1  # the last one may have been written, and not said
        done = client.report_outcomes("linear", Y[acknowledged], request_id="r", rows=acknowledged, sampling="all")
        assert (done.taken, done.repeated, done.unmatched) == (0, len(acknowledged), [])
        assert counted(server) == 0
        done = client.report_outcomes("linear", Y, request_id="r", sampling="all")
        assert (done.taken + before.rows, done.unmatched) == (200, [])
        assert client.outcome_summary("linear").rows == 200
        assert counted(server) == 2 * done.taken


def test_an_id_that_is_used_again_when_its_decision_is_kept_no_more(repository: Path) -> None:
    with serving(repository, "--decisions-mib", 1) as server, Client(server.target) as client:
        many, all_of = np.ones((1024, 4), np.float32), np.ones((1, 2), np.uint8)
        client.score("linear", many[:1], request_id="monday")
        # Parts of one array, of which the oldest go first.
        client.score("linear", np.tile(many, (20, 1)), request_id="large")
        for request_id in ("monday", "large"):
            done = client.report_outcomes("linear", all_of, request_id=request_id, rows=[0], sampling="all")
            assert (done.taken, done.unmatched) == (1, [])
        for i in range(1, 1000):
            done = client.report_outcomes("linear", all_of, request_id="large", rows=[i], sampling="all")
            if done.unmatched:
                break
            client.score("linear", many[:512], request_id=f"other {i}")
        assert [miss.reason for miss in done.unmatched] == ["no_such_row"]
        again = client.report_outcomes("linear", all_of, request_id="large", rows=[0], sampling="all")
        assert (again.repeated, again.unmatched) == (1, [])  # of a part that is gone, with an outcome that is kept
        client.score("linear", -many[:1], request_id="monday")
        for replace in (False, True):
            done = client.report_outcomes("linear", all_of, request_id="monday", sampling="all", replace=replace)
            assert dict(done.unmatched_reasons) == {"ambiguous_request": 1}
            assert "request 'monday' is kept with another answer" in done.unmatched[0].text


def test_outcomes_come_after_a_version_is_gone(repository: Path) -> None:
    with serving(repository, "--model-control", "explicit", "--load", "linear") as server, Client(server.target) as client:
        client.score("linear", X, request_id="old")
        assert counted(server) == 0
        path = linear_bundle(repository, version=2, labels=("a", "b", "c"))
        write_policy(path, policy(path, {"a": 0.0, "b": 0.0, "c": 0.0}))
        (repository / "linear" / "1").rename(repository.parent / "away")
        with grpc.insecure_channel(server.target) as channel:
            load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
            load(oip.RepositoryModelLoadRequest(model_name="linear").SerializeToString(), timeout=60)
        lines = [line for line in server.metrics() if line.startswith("cutpoint_outcomes_total{")]
        assert len(lines) == 12 and all('version="2"' in line for line in lines)  # those of version 1 are gone
        assert client.report_outcomes("linear", Y, request_id="old", sampling="all").taken == 200
        assert counted(server) == 0  # and do not come back
        assert client.outcome_summary("linear", version=1).rows == 200
        assert client.outcome_summary("linear").rows == 0
        client.score("linear", X, request_id="new")
        unknown = client.report_outcomes("linear", Y[:1, :1], labels=["c"], request_id="old", sampling="all")
        assert dict(unknown.unmatched_reasons) == {"unknown_label": 1}
        assert client.report_outcomes("linear", [1], labels=["c"], request_id="new", sampling="all").taken == 1
        with pytest.raises(ModelNotFound):
            client.outcome_summary("linear", version=3)


def test_a_decision_that_is_kept_no_more_is_known_by_its_outcomes(repository: Path) -> None:
    with serving(repository) as server, Client(server.target) as client:
        client.score("linear", X, request_id="r")
        client.report_outcomes("linear", Y[:100, 0], labels=["a"], request_id="r", sampling="all")
    for file in (repository.parent / "state").glob("decisions.sqlite3*"):
        file.unlink()
    with serving(repository, "--decisions-mib", 0) as server, Client(server.target) as client:
        client.score("linear", X, request_id="r")
        done = client.report_outcomes("linear", Y, request_id="r", sampling="alerted_and_random", probability=0.5)
        assert (done.taken, dict(done.unmatched_reasons)) == (100, {"unknown_request": 100})
        assert done.unmatched[0].text.endswith("is kept for request 'r': this server keeps none (--decisions-mib 0)")
        unsaid = client.report_outcomes("linear", [[1, 1]], request_id=["r"], sampling="all")  # which of its rows?
        assert dict(unsaid.unmatched_reasons) == {"row_not_given": 1}
        label = client.outcome_summary("linear").labels[1]
        alerts, there = X[:100, 1] >= 0, Y[:100, 1] == 1
        assert (label.true_positives, label.false_positives) == ((alerts & there).sum(), (alerts & ~there).sum())
        assert not list((repository.parent / "state").glob("decisions.sqlite3"))


def test_a_graph_that_changed_begins_anew(repository: Path) -> None:
    with serving(repository) as server, Client(server.target) as client:
        client.score("linear", X, request_id="r")
        client.report_outcomes("linear", Y[:10], request_id="r", sampling="all")
    path = linear_bundle(repository.parent / "other", features=5)  # another graph under the same name and version
    target = repository / "linear" / "1"
    for file in target.iterdir():
        file.unlink()
    for file in path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    with serving(repository) as server, Client(server.target) as client:
        assert client.outcome_summary("linear").rows == 0
        assert client.report_outcomes("linear", Y[10:20], request_id="r", rows=range(10, 20), sampling="all").taken == 10
        assert client.outcome_summary("linear").rows == 0  # of what the other graph decided
        assert counted(server) == 0


def test_any_worker_takes_outcomes_of_what_any_worker_decided(repository: Path) -> None:
    with serving(repository, "--workers", 3) as server, ExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [stack.enter_context(grpc.insecure_channel(server.target, options)) for _ in range(12)]

        def infer(i: int) -> None:
            request = oip.ModelInferRequest(model_name="linear", id=f"r{i}", raw_input_contents=[X[i : i + 1].tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
            channels[i % 12].unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=60)

        def report(i: int, through: int) -> v1.ReportOutcomesResponse:
            outcome = v1.Outcome(requested=v1.Requested(request_id=f"r{i}"), targets=Y[i].tobytes())
            request = v1.ReportOutcomesRequest(model="linear", outcomes=[outcome], sampling="SAMPLING_ALL")
            call = channels[through % 12].unary_unary("/cutpoint.v1.OutcomeService/ReportOutcomes")
            return v1.ReportOutcomesResponse.FromString(call(request.SerializeToString(), timeout=60))

        for i in range(24):
            infer(i)
            assert report(i, i * 7 + 5).taken == 1, i  # at once, through another
        assert {report(i, i * 5 + 2).repeated for i in range(24)} == {1}
        assert counted(server) == 48
        rows = [value for line, value in server.metrics().items() if line.startswith("cutpoint_outcome_pool_rows")]
        assert rows == [24]
        with Client(server.target) as client:
            assert client.outcome_summary("linear").rows == 24


def test_reporting_is_for_who_may_calibrate_and_the_summary_for_who_scores(repository: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    for name in ("score", "calibrate"):
        (tmp_path / name).write_text(cutpoint("token", name, "--role", name, "--tokens", tokens).stdout)
    with serving(repository, "--tokens", tokens) as server:
        scorer, reporter = (Client(server.target, Connection(token_file=tmp_path / name)) for name in ("score", "calibrate"))
        with scorer, reporter:
            scorer.score("linear", X, request_id="r")
            with pytest.raises(PermissionDenied):
                scorer.report_outcomes("linear", Y, request_id="r", sampling="all")
            with pytest.raises(PermissionDenied):
                list(scorer.stream_outcomes("linear", [], sampling="all"))
            assert reporter.report_outcomes("linear", Y, request_id="r", sampling="all").taken == 200
            assert scorer.outcome_summary("linear").rows == 200


def test_a_stream_that_waits_ends_when_the_server_stops(repository: Path) -> None:
    with serving(repository) as server, grpc.insecure_channel(server.target) as channel:
        stop = threading.Event()

        def messages() -> object:
            outcome = v1.Outcome(scored=v1.Scored(key="k", logits=[1, 1]), positive=["a"])
            yield v1.ReportOutcomesRequest(model="linear", outcomes=[outcome]).SerializeToString()
            stop.wait(60)

        answers = channel.stream_stream("/cutpoint.v1.OutcomeService/StreamOutcomes")(messages(), timeout=60)
        assert v1.ReportOutcomesResponse.FromString(next(answers)).taken == 1
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(30) == 0
        stop.set()
