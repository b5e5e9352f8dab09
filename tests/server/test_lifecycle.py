"""From start to stop, and to kill -9: what was acknowledged is kept, what was accepted is finished, what is wrong is said."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
import pytest
from bundles import linear_bundle, linear_onnx, policy, slow_onnx
from cutpoint.bundle import write_policy
from cutpoint.client import Client
from cutpoint.errors import DeadlineExceeded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server import Listening
from cutpoint.wire import encode_input
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import ENVIRONMENT, cutpoint, serving

X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
Y = (X[:, :2] > 1).astype(np.uint8)


@contextmanager
def a_taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def serve(models: Path, *arguments: object) -> str:
    """The one error line of a server that must not start."""
    done = cutpoint("serve", "--models", models, "--port", 0, "--metrics-port", 0, *arguments, timeout_s=30)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def test_an_acknowledged_calibration_survives_kill_9(models: Path) -> None:
    linear_bundle(models)
    with serving(models) as server, Client(server.target) as client:
        client.calibrate("linear", "max_fbeta=1", targets=Y, inputs=X)
        policy_made = client.calibrate("linear", "recall_at_least=0.9", targets=Y, inputs=X, author="ann").policy
        server.process.send_signal(signal.SIGKILL)  # with nothing in between
        assert server.process.wait(60) == -signal.SIGKILL
    with serving(models) as server, Client(server.target) as client:
        scores = client.score("linear", X)
        assert scores.policy_version == 2
        np.testing.assert_array_equal(scores.decisions, X[:, :2] >= policy_made.thresholds())
        assert client.policy("linear") == policy_made
        assert server.metrics()['cutpoint_policy_version{model="linear",version="1"}'] == 2
        assert client.activate("linear", 1) == 2
        server.process.kill()
        server.process.wait()
    with serving(models) as server, Client(server.target) as client:
        assert client.score("linear", X).policy_version == 1
        assert [line.version for line in client.policies("linear")] == [2, 1]


def test_sigterm_turns_health_off_finishes_what_was_accepted_and_exits_0(models: Path) -> None:
    slow_onnx(models / "slow" / "1" / "model.onnx", 400_000)
    tensor, raw = encode_input("x", np.ones((1, 2), np.float32))
    request = oip.ModelInferRequest(model_name="slow", inputs=[tensor], raw_input_contents=[raw], id="accepted")
    with serving(models, "--grace-s", 60) as server, grpc.insecure_channel(server.target) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            oip.ModelInferRequest.SerializeToString,
            oip.ModelInferResponse.FromString,
        )
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        answer = infer.future(request, timeout=60)
        while server.metrics()['cutpoint_inflight_requests{model="slow"}'] == 0 and not answer.done():
            pass
        assert not answer.done(), "the model must be slower than a scrape"
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        assert answer.result().id == "accepted"
        assert server.process.wait(60) == 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_exits_0_without_a_traceback(models: Path, sign: signal.Signals) -> None:
    linear_bundle(models)
    with serving(models) as server:
        server.process.send_signal(sign)
        assert server.process.wait(60) == 0
    log = (models.parent / "server.log").read_text()
    assert "stopping: finishing what was accepted" in log
    assert "Traceback" not in log and "Warning" not in log


def test_a_port_in_use_is_named(models: Path) -> None:
    linear_bundle(models)
    with a_taken_port() as port:
        assert f"error: port is 127.0.0.1:{port}, which cannot be bound (in use?)" in serve(models, "--port", port)
        assert f"error: metrics_port is 127.0.0.1:{port}, which cannot be" in serve(models, "--metrics-port", port)


def test_two_servers_never_share_a_port(models: Path) -> None:
    linear_bundle(models)
    with serving(models) as server:
        other = ("--state", models.parent / "other")
        assert "error: port is" in serve(models, "--port", server.target.rpartition(":")[2], *other)
        assert "in use by another server" in serve(models)
        assert server.process.poll() is None


def test_models_that_cannot_be_served_are_named(models: Path, tmp_path: Path) -> None:
    assert "models folder is" in serve(tmp_path / "nowhere")
    assert "(no models); expected <name>/<version>/model.onnx" in serve(models)
    path = linear_bundle(models)
    (path / "model.onnx").write_bytes((path / "model.onnx").read_bytes()[:-10])
    assert f"{path / 'model.onnx'} has SHA-256" in serve(models)
    (path / "manifest.json").unlink()
    assert f"{path / 'model.onnx'} cannot be loaded by onnxruntime" in serve(models)


def test_a_shipped_policy_of_another_graph_stops_the_server(models: Path) -> None:
    path, other = linear_bundle(models), linear_bundle(models, name="other", features=5)
    (path / "policy.json").write_text(policy(other, {"a": 0.5, "b": 0.5}).to_json())
    assert "policy.json was made for another graph" in serve(models)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_policy_of_another_number_of_labels_stops_the_server(models: Path, columns: int) -> None:
    path = linear_onnx(models / "foreign" / "1" / "model.onnx", np.eye(3, 2), ["n", 3]).parent
    (path / "policy.json").write_text(policy(path, {str(i): 0.5 for i in range(columns)}).to_json())
    assert "policy.json" in serve(models)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--port", "70000"), "serve: port is 70000"),
        (("--max-batch-rows", "0"), "serve: max_batch_rows is 0"),
        (("--max-message-mib", "5000"), "serve: max_message_mib is 5000"),
        (("--grace-s", "nan"), "serve: grace_s is nan"),
        (("--state", "/proc/none"), "state folder /proc/none cannot be used"),
        (("--host", "256.0.0.1"), "port is 256.0.0.1:0, which cannot be bound"),
    ],
)
def test_a_wrong_setting_is_named(models: Path, arguments: tuple[str, ...], text: str) -> None:
    linear_bundle(models)
    assert text in serve(models, *arguments)


def test_an_unavailable_provider_is_an_error_and_never_a_fall_back(models: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    linear_bundle(models)
    said = serve(models, "--provider", "cuda")
    assert "provider is cuda; expected one that onnxruntime" in said
    assert "install cutpoint[gpu]" in said


def test_a_shipped_policy_decides_from_the_start(models: Path) -> None:
    path = linear_bundle(models)
    write_policy(path, policy(path, {"a": 0.5, "b": None}))
    with serving(models, "--name", "triton", "--no-reflection") as server, Client(server.target) as client:
        client.wait_ready(60)
        assert client.ready()
        scores = client.score("linear", X)
        assert (scores.policy_version, scores.undecided_labels) == (1, 1)
        assert scores.decisions is not None
        np.testing.assert_array_equal(scores.decisions[:, 0], X[:, 0] >= 0.5)
        assert not scores.decisions[:, 1].any()
        with urlopen(server.metrics_url, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
    assert (models.parent / "state" / "policies.sqlite3").is_file()


def test_a_watch_without_end_does_not_hold_up_the_stop(models: Path) -> None:
    linear_bundle(models)
    with serving(models, "--grace-s", 600) as server, grpc.insecure_channel(server.target) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.process.wait(60) == 0


def test_outputs_of_the_graph_that_would_be_taken_for_decisions_are_refused(models: Path) -> None:
    path = linear_onnx(models / "m/1/model.onnx", np.ones((4, 2)), ["n", 4])
    graph = onnx.load(path)
    graph.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["decisions"]))
    graph.graph.output.append(onnx.helper.make_tensor_value_info("decisions", onnx.TensorProto.FLOAT, ["n", 2]))
    onnx.save(graph, path)
    assert "outputs beside 'logits' is ['decisions']" in serve(models)


@pytest.mark.parametrize("settles", [True, False])
def test_what_the_first_calibration_needs_is_imported_after_the_server_is_ready(settles: bool) -> None:
    code = f"""
import sys
from cutpoint.server.app import wait_for

class Stop:
    def wait(self, timeout=None):
        print(timeout is None, "scipy.special" in sys.modules)
        return timeout is None or not {settles}

wait_for(Stop())
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["False False", *["True True"][: int(settles)]]


def test_an_ipv6_host_is_written_as_one() -> None:
    at = Listening("::1", 8001, "::1", 8002)
    assert (at.grpc_target, at.metrics_url) == ("[::1]:8001", "http://[::1]:8002/metrics")


def test_answers_that_are_being_sent_at_sigterm_arrive(models: Path) -> None:
    linear_bundle(models, labels=tuple(f"label{i}" for i in range(512)))
    tensor, raw = encode_input("x", np.ones((4000, 4), np.float32))
    request = oip.ModelInferRequest(model_name="linear", inputs=[tensor], raw_input_contents=[raw])
    # Callers that read slowly, so that the handlers return long before their 16 MB are sent.
    slow = (
        ("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1),
        ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.max_frame_size", 16384),
    )  # fmt: skip
    started = (
        'grpc_server_started_total{grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService",grpc_type="unary"}'
    )
    with serving(models, "--grace-s", 60, "--max-waiting-rows", 8000) as server, ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(server.target, slow)) for _ in range(2)]
        infer = [
            channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                oip.ModelInferRequest.SerializeToString,
                oip.ModelInferResponse.FromString,
            )
            for channel in channels
        ]
        answers = [call.future(request, timeout=60) for call in infer]
        while server.metrics().get(started, 0) < len(answers):
            pass
        server.process.send_signal(signal.SIGTERM)
        assert [list(answer.result().outputs[0].shape) for answer in answers] == [[4000, 512]] * 2
        assert server.process.wait(60) == 0


def test_a_deadline_that_passes_is_counted_as_one(models: Path) -> None:
    slow_onnx(models / "slow" / "1" / "model.onnx", 400_000)
    counted = 'grpc_server_handled_total{grpc_code="%s",grpc_method="ModelInfer",grpc_service="inference.GRPCInferenceService",'
    counted += 'grpc_type="unary"}'
    with serving(models) as server, Client(server.target) as client:
        found = [0.0] * 3
        while not any(found):  # on a busy machine the deadline may pass before the call has left
            with pytest.raises(DeadlineExceeded):
                client.score("slow", np.full((1, 2), 1000.0), timeout_s=0.05)
            found = [server.metrics().get(counted % code, 0) for code in ("DeadlineExceeded", "Canceled", "OK")]
        assert found[0] >= 1
        assert found[1:] == [0, 0]
