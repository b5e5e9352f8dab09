"""Several processes behind one port answer as one server: one policy, one repository, one set of metrics."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.client import Client
from cutpoint.errors import Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.policy.policies import Generation, PolicyStore
from cutpoint.server.workers.merged import merge
from processes import ServerProcess, cutpoint, serving
from prometheus_client.parser import text_string_to_metric_families

SERVICE = "inference.GRPCInferenceService"
X = np.array([[2.0, -2.0, 0, 0]], np.float32)


@pytest.fixture
def repository(models: Path) -> Path:
    path = linear_bundle(models)
    write_policy(path, policy(path, {"a": 0.0, "b": 0.0}))
    return models


def connections(server: ServerProcess, stack: ExitStack, count: int = 12) -> list[grpc.Channel]:
    """Connections of their own each; the system shares them out over the workers."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    return [stack.enter_context(grpc.insecure_channel(server.target, options)) for _ in range(count)]


def ask(channel: grpc.Channel, method: str, request: object, response: type) -> object:
    call = channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
    )
    return call(request, timeout=60)


def score(channel: grpc.Channel, model: str = "linear") -> int:
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[X.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    answer = ask(channel, "ModelInfer", request, oip.ModelInferResponse)
    return int(answer.parameters["policy_version"].int64_param)


@pytest.fixture
def server(repository: Path) -> Iterator[ServerProcess]:
    with serving(repository, "--workers", 2, "--model-control", "explicit", "--load", "linear") as process:
        yield process


def test_workers_are_one_server(server: ServerProcess, repository: Path) -> None:
    with ExitStack() as stack:
        channels = connections(server, stack)
        assert {score(channel) for channel in channels} == {1}
        # One set of metrics: what all of them counted.
        counted = server.metrics()
        assert counted['cutpoint_decisions_total{label="a",model="linear",version="1"}'] == len(channels)
        assert counted['cutpoint_positives_total{label="b",model="linear",version="1"}'] == 0
        assert counted['cutpoint_policy_version{model="linear",version="1"}'] == 1
        # One policy: the next request decides by it, whichever worker made it and whichever answers.
        with Client(server.target) as client:
            x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
            y = (x[:, :2] > 0).astype(np.uint8)
            for version in (2, 3, 4):
                made = client.calibrate("linear", "max_fbeta=1", inputs=x, targets=y)
                assert made.policy.version == version
                assert {score(channel) for channel in channels} == {version}
            client.activate("linear", 1, expected_active=4)
            assert {score(channel) for channel in channels} == {1}
        # One repository: loaded into all, and unloaded from all.
        linear_bundle(repository, name="second")
        load = oip.RepositoryModelLoadRequest(model_name="second")
        ask(channels[0], "RepositoryModelLoad", load, oip.RepositoryModelLoadResponse)
        assert {score(channel, "second") for channel in channels} == {0}
        statistics = ask(channels[1], "ModelStatistics", oip.ModelStatisticsRequest(name="second"), oip.ModelStatisticsResponse)
        assert statistics.model_stats[0].inference_stats.success.count == len(channels)
        unload = oip.RepositoryModelUnloadRequest(model_name="second")
        ask(channels[2], "RepositoryModelUnload", unload, oip.RepositoryModelUnloadResponse)
        for channel in channels:
            with pytest.raises(grpc.RpcError) as refused:
                score(channel, "second")
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        # What one of them refuses, the caller hears as it was said.
        load = oip.RepositoryModelLoadRequest(model_name="missing")
        with pytest.raises(grpc.RpcError, match="missing") as refused:
            ask(channels[0], "RepositoryModelLoad", load, oip.RepositoryModelLoadResponse)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0


def test_a_worker_that_dies_takes_the_server_with_it(server: ServerProcess) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    assert server.process.wait(60) == 2
    with Client(server.target, timeout_s=1) as client, pytest.raises(Unavailable):
        client.score("linear", X)


def test_what_a_worker_cannot_do_is_said_in_one_line(models: Path) -> None:
    linear_bundle(models)
    options = ("--models", models, "--port", 0, "--metrics-port", 0, "--workers", 2)
    done = cutpoint("serve", *options, "--model-control", "explicit", "--load", "missing")
    assert done.returncode == 2
    assert "error: failed to load 'missing', the model repository has no such model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_another_program_has_is_not_shared(server: ServerProcess, repository: Path, tmp_path: Path) -> None:
    port = server.target.rpartition(":")[2]
    options = ("--models", repository, "--port", port, "--metrics-port", 0, "--workers", 2, "--state", tmp_path / "other")
    done = cutpoint("serve", *options)
    assert (done.returncode, "cannot be bound" in done.stderr) == (2, True), done.stderr
    one = cutpoint("serve", "--models", repository, "--port", 0, "--metrics-port", 0)
    assert (one.returncode, "in use by another server" in one.stderr) == (2, True), one.stderr


def test_counts_are_added_and_shared_gauges_are_not() -> None:
    text = """# TYPE requests_total counter
requests_total{{code="OK"}} {count}
# TYPE seconds histogram
seconds_bucket{{le="1.0"}} {count}
seconds_bucket{{le="+Inf"}} {count}
seconds_sum {count}
seconds_count {count}
# TYPE cutpoint_threshold gauge
cutpoint_threshold {gauge}
# TYPE cutpoint_queue_rows gauge
cutpoint_queue_rows {gauge}
"""
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(merge([text.format(count=3, gauge=1.5), text.format(count=4, gauge=2.5)]))
        for sample in family.samples
    }
    assert found["requests_total", None] == 7
    assert (found["seconds_bucket", "1.0"], found["seconds_sum", None], found["seconds_count", None]) == (7, 7, 7)
    assert (found["cutpoint_threshold", None], found["cutpoint_queue_rows", None]) == (2.5, 4)


def test_stores_of_two_workers_see_each_others_changes(models: Path, tmp_path: Path) -> None:
    path = linear_bundle(models)
    first, second = PolicyStore(tmp_path / "state", shared=True), PolicyStore(tmp_path / "state", shared=True)
    assert first.generation is not None and second.generation is not None
    before = second.generation.value
    stored = first.add(policy(path, {"a": 1.0, "b": 1.0}))
    first.activate("linear", 1, stored.version, 0.0)
    assert second.generation.value > before
    active = second.active("linear", 1)
    assert active is not None and active.policy == stored
    first.close()
    second.close()


def test_the_generation_starts_where_the_file_is(tmp_path: Path) -> None:
    one, other = Generation(tmp_path / "generation"), Generation(tmp_path / "generation")
    one.bump()
    assert (one.value, other.value) == (1, 1)
    other.bump()
    assert one.value == 2
    one.close()
    other.close()


def test_tokens_are_asked_for_by_every_worker(repository: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    made = [cutpoint("token", name, "--role", name, "--tokens", tokens) for name in ("score", "admin")]
    assert all(each.returncode == 0 for each in made), made
    score_token, admin_token = (each.stdout.strip() for each in made)
    options = ("--workers", 2, "--model-control", "explicit", "--load", "linear", "--tokens", tokens)
    with serving(repository, *options) as server, ExitStack() as stack:
        load = oip.RepositoryModelLoadRequest(model_name="linear")
        for channel in connections(server, stack, 8):
            call = channel.unary_unary(
                f"/{SERVICE}/RepositoryModelLoad",
                request_serializer=type(load).SerializeToString,
                response_deserializer=oip.RepositoryModelLoadResponse.FromString,
            )
            for token, code in ((None, grpc.StatusCode.UNAUTHENTICATED), (score_token, grpc.StatusCode.PERMISSION_DENIED)):
                metadata = () if token is None else (("authorization", f"Bearer {token}"),)
                with pytest.raises(grpc.RpcError) as refused:
                    call(load, timeout=60, metadata=metadata)
                assert refused.value.code() is code
            call(load, timeout=60, metadata=(("authorization", f"Bearer {admin_token}"),))
