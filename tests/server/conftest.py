"""One server process for all tests of this folder; each test that changes a model's policies takes a model of its own."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, mean_onnx, nan_onnx, simple_onnx, text_onnx
from cutpoint.client import Client
from processes import ServerProcess, serving

FRESH = tuple(f"fresh-{i}" for i in range(125))


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("server") / "models"
    models.mkdir()
    for name in FRESH:
        linear_bundle(models, name=name)
    linear_bundle(models, name="uncalibrated")
    for name in ("windows", "sequences"):  # the second one stays uncalibrated, for tritonclient
        linear_bundle(models, name=name, labels=("a", "b", "c"), features=5, windows=True)
    linear_bundle(models, name="many", labels=tuple(f"label {i}" for i in range(512)), features=64)
    linear_bundle(models, name="versions", version=1)
    linear_bundle(models, name="versions", version=12, labels=("only",))
    linear_onnx(models / "foreign" / "1" / "model.onnx", np.eye(3, 2), ["n", 3])
    linear_onnx(models / "fixed" / "1" / "model.onnx", np.eye(3, 2), [2, 3])
    linear_onnx(models / "other-output" / "1" / "model.onnx", np.eye(3, 2), ["n", 3], output="y")
    simple_onnx(models / "simple" / "1" / "model.onnx")
    text_onnx(models / "text" / "1" / "model.onnx")
    nan_onnx(models / "log" / "1" / "model.onnx")
    mean_onnx(models / "mean" / "1" / "model.onnx")
    return models


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[ServerProcess]:
    with serving(repository, "--max-message-mib", 16, "--max-calibration-mib", 4) as process:
        yield process


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.target) as connected:
        yield connected


@pytest.fixture(scope="session")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    with grpc.insecure_channel(server.target, options) as connected:
        yield connected


_names = iter(FRESH)


@pytest.fixture
def fresh(server: ServerProcess) -> str:
    """A model with labels a and b, whose logits are its first two of four features, that no other test touches."""
    return next(_names)
