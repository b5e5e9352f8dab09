"""Callers who leave take nothing with them: whatever they leave behind is given back, or the server would stop by and by."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server import app, running, server_config
from cutpoint.server.port.admission import Admission

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LABELS = tuple(f"label {i}" for i in range(512))


@pytest.fixture
def admissions(monkeypatch: pytest.MonkeyPatch) -> list[Admission]:
    """The admissions of servers that are started in this process."""
    found: list[Admission] = []

    class Seen(Admission):
        def __init__(self, *arguments: int) -> None:
            super().__init__(*arguments)
            found.append(self)

    monkeypatch.setattr(app, "Admission", Seen)
    return found


@pytest.fixture
def target(models: Path, admissions: list[Admission]) -> Iterator[str]:
    path = linear_bundle(models, labels=LABELS, features=512)
    write_policy(path, policy(path, dict.fromkeys(LABELS, 0.0)))
    config = server_config(models=models, port=0, metrics_port=0, max_inflight_mib=8)
    with running(config) as at:
        yield at.grpc_target


def test_nothing_is_held_for_callers_who_left_at_any_moment(target: str, admissions: list[Admission]) -> None:
    x = np.zeros((16, 512), np.float32)
    request = oip.ModelInferRequest(model_name="linear", raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    data = request.SerializeToString()

    starved: list[grpc.StatusCode] = []

    def leave_early(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            call = channel.unary_unary(METHOD)
            for _ in range(150):
                futures = [call.future(data, timeout=float(rng.choice([0.0005, 0.002, 0.01, 30]))) for _ in range(3)]
                for future in futures[:2]:
                    future.cancel()
                futures[2].code()  # waits for its end, whatever it is
                if starved:
                    return
                try:
                    call(data, timeout=30)
                except grpc.RpcError as error:  # an honest one is answered, whoever has left
                    starved.append(error.code())

    threads = [threading.Thread(target=leave_early, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not starved
    (admission,) = admissions
    with grpc.insecure_channel(target) as channel:  # what is asked now comes after all that was cancelled
        for _ in range(50):
            channel.unary_unary(METHOD)(data, timeout=60)
            if admission._requests <= 1 and admission.held_bytes <= 2 * len(data):
                break
    with admission._lock:
        assert (admission._requests, admission._reading) in ((0, 0), (1, 0))
        assert 0 <= admission.held_bytes <= 1 << 20
