"""One server process for all tests of this folder; each test that changes a model's policies takes a model of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import linear_bundle, simple_onnx
from cutpoint.client import Client
from processes import ServerProcess, serving

FRESH = tuple(f"fresh-{i}" for i in range(28))
_names = iter(FRESH)


@pytest.fixture(scope="session")
def client_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models: Path = tmp_path_factory.mktemp("client") / "models"
    models.mkdir()
    for name in FRESH:
        linear_bundle(models, name=name)
    linear_bundle(models, name="windows", labels=("a", "b", "c"), features=1000, windows=True)
    linear_bundle(models, name="many", labels=tuple(f"label {i}" for i in range(512)), features=4)
    simple_onnx(models / "simple" / "1" / "model.onnx")
    with serving(models) as process:
        yield process


@pytest.fixture(scope="session")
def client(client_server: ServerProcess) -> Iterator[Client]:
    with Client(client_server.target) as connected:
        yield connected


@pytest.fixture
def fresh() -> str:
    """A model with labels a and b, whose logits are its first two of four features, that no other test touches."""
    return next(_names)
