"""Model control of a real server: tritonclient's load, unload and index, and bundles that come while many ask."""

import itertools
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from bundles import linear_onnx, manifest, policy
from cutpoint.bundle import write_bundle, write_policy
from cutpoint.client import Client
from cutpoint.oip import inference_pb2 as oip
from onnx import TensorProto, helper, numpy_helper
from processes import cutpoint, run_script, serving

X = np.float32([[1, 2, 3, 4]])


def scaled(models: Path, factor: float, version: int, name: str = "linear") -> Path:
    """A bundle whose logit `a` is the first feature times `factor`, decided at `factor`."""
    weights = np.zeros((4, 1), np.float32)
    weights[0] = factor
    scratch = linear_onnx(models.parent / f"scratch-{factor}.onnx", weights, ["batch", 4])
    path = write_bundle(models, manifest(name, ("a",), (-1, 4), version), scratch)
    write_policy(path, policy(path, {"a": float(factor)}))
    return path


def triton(target: str, mode: str) -> dict[str, Any]:
    found: dict[str, Any] = run_script(Path(__file__).with_name("repository_script.py"), target, mode)
    return found


def test_tritonclient_loads_unloads_and_lists(models: Path) -> None:
    scaled(models, 1, 1)
    scaled(models, 2, 2)
    broken = scaled(models, 1, 1, name="broken")
    (broken / "manifest.json").write_text("{")
    with serving(models, "--model-control", "explicit") as server:
        found = triton(server.target, "explicit")
    unavailable = [["broken", "1", "UNAVAILABLE"], ["linear", "1", "UNAVAILABLE"], ["linear", "2", "UNAVAILABLE"]]
    assert found["index"] == unavailable
    assert found["ready"] is False
    assert "model_repository" in found["extensions"]
    assert found["load"] is None
    ready = [unavailable[0], ["linear", "1", "READY"], ["linear", "2", "READY"]]
    assert found["after load"] == [ready, True, True]
    assert found["answer"] == ["2", [[2.0]]]
    for key, parameter in (("config", "config"), ("files", "config")):
        code, text = found[key]
        assert code == "StatusCode.INVALID_ARGUMENT"
        assert f"parameter '{parameter}' of load is given; expected none" in text
    assert [code for code, _ in found["unknown"]] == ["StatusCode.NOT_FOUND"] * 2
    assert found["unknown"][0][1].startswith("failed to load 'none'")
    assert found["bad name"][0] == "StatusCode.INVALID_ARGUMENT"
    assert found["broken"][0] == "StatusCode.INVALID_ARGUMENT"
    assert found["broken"][1].startswith("failed to load 'broken', ")
    assert found["unload"] is None
    gone = "Request for unknown model: 'linear' has no available versions"
    assert found["after unload"] == [False, ["StatusCode.NOT_FOUND", gone]]
    assert found["kserve"] is True
    assert found["ready ones"] == [["linear", "1"], ["linear", "2"]]
    assert "manifest.json" in found["reason"]


@pytest.mark.parametrize(("control", "text"), [("poll", "if polling is enabled"), ("none", "see --model-control")])
def test_without_explicit_control_only_the_index_is_answered(models: Path, control: str, text: str) -> None:
    scaled(models, 1, 1)
    with serving(models, "--model-control", control) as server:
        found = triton(server.target, "refused")
    assert found["index"] == [["linear", "1", "READY"]]
    assert found["ready"] is True
    for key in ("load", "unload"):
        code, said = found[key]
        assert code == "StatusCode.UNAVAILABLE"
        assert text in said


def test_bundles_written_file_by_file_while_many_ask_give_no_wrong_answer_and_no_error(models: Path) -> None:
    scaled(models, 1, 1)
    outside = models.parent / "outside"
    outside.mkdir()
    last, stop = 8, threading.Event()
    wrong: list[object] = []
    seen: set[int] = set()
    asked = [0] * 4
    with serving(models, "--model-control", "poll", "--poll-s", "0.02", "--lanes", "2") as server:

        def ask(i: int) -> None:
            try:
                with Client(server.target) as client:
                    while not stop.is_set():
                        scores = client.score("linear", X)
                        version = int(scores.model_version)
                        if scores.logits.tolist() != [[float(version)]] or scores.decisions.tolist() != [[True]]:
                            wrong.append((version, scores.logits, scores.decisions))
                        seen.add(version)
                        asked[i] += 1
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        with Client(server.target) as client:
            for version in range(2, last + 1):
                source = scaled(outside, version, version)
                target = models / "linear" / str(version)
                target.mkdir()
                for name in ("manifest.json", "model.onnx", "policy.json"):
                    data = (source / name).read_bytes()
                    for part in range(3):
                        with (target / name).open("ab") as file:
                            file.write(data[len(data) * part // 3 : len(data) * (part + 1) // 3])
                        before = sum(asked)
                        while sum(asked) < before + 40 and not wrong:
                            pass
                while int(client.score("linear", X).model_version) != version and not wrong:
                    pass
                if version > 2:  # who was there before the last one is taken away
                    shutil.rmtree(models / "linear" / str(version - 2))
        stop.set()
        for thread in threads:
            thread.join()
        metrics = server.metrics()
    assert wrong == []
    assert seen == set(range(1, last + 1))
    assert not [name for name in metrics if 'model="linear"' in name and 'version="2"' in name]
    codes = {
        name for name, value in metrics.items() if name.startswith("grpc_server_handled") and "ModelInfer" in name and value
    }
    assert all('grpc_code="OK"' in name for name in codes)


def test_a_bad_bundle_stops_the_command_unless_it_may_go_on(models: Path) -> None:
    scaled(models, 1, 1)
    bad = scaled(models, 2, 2)
    (bad / "model.onnx").write_bytes(b"")
    done = cutpoint("serve", "--models", models, "--port", 0, "--metrics-port", 0)
    assert done.returncode == 2
    assert "model.onnx has SHA-256" in done.stderr
    with serving(models, "--no-exit-on-error", "--pin", "linear=1") as server, Client(server.target) as client:
        assert client.score("linear", X).model_version == 1
        assert server.metrics()['cutpoint_model_ready{model="linear",version="2"}'] == 0


def test_what_the_command_line_asks_of_models_is_checked(models: Path) -> None:
    scaled(models, 1, 1)
    for arguments, text in [
        (("--load", "linear"), "load is for model_control explicit"),
        (("--pin", "linear"), "pin is linear; expected NAME=VERSION"),
        (("--shadow", "linear=1@3"), "shadow is linear=1@3; expected NAME=VERSION or"),
        (("--model-control", "explicit", "--load", "none"), "failed to load 'none'"),
        (("--poll-s", "0"), "poll_s"),
    ]:
        done = cutpoint("serve", "--models", models, "--port", 0, "--metrics-port", 0, *arguments)
        assert (done.returncode, text in done.stderr) == (2, True), (arguments, done.stderr)


def test_a_server_that_is_stopped_while_it_loads_exits_as_usual(models: Path) -> None:
    scaled(models, 1, 1)
    deep = deep_onnx(models.parent / "deep.onnx", 3000)
    with serving(models, "--model-control", "poll", "--poll-s", "0.01") as server, Client(server.target) as client:
        assert client.score("linear", X).model_version == 1
        target = models / "linear" / ".2"
        target.mkdir()
        shutil.copy(deep, target / "model.onnx")
        target.rename(models / "linear" / "2")
        with grpc.insecure_channel(server.target) as channel:
            index = channel.unary_unary(
                "/inference.GRPCInferenceService/RepositoryIndex",
                oip.RepositoryIndexRequest.SerializeToString,
                oip.RepositoryIndexResponse.FromString,
            )
            while "LOADING" not in {model.state for model in index(oip.RepositoryIndexRequest(), timeout=60).models}:
                pass
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert "Traceback" not in (models.parent / "server.log").read_text()


def deep_onnx(path: Path, nodes: int) -> Path:
    """`logits = x` for x float32 [batch, 4], by many products with 1, which take a while to load."""
    ones = [numpy_helper.from_array(np.eye(4, dtype=np.float32), f"w{i}") for i in range(nodes)]
    names = ["x", *(f"h{i}" for i in range(nodes - 1)), "logits"]
    steps = [helper.make_node("MatMul", [a, f"w{i}"], [b]) for i, (a, b) in enumerate(itertools.pairwise(names))]
    x, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "logits"))
    graph = helper.make_graph(steps, "deep", [x], [logits], ones)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
