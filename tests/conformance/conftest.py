"""A server for other people's clients, and environments for those that cannot live in ours."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from authority import Authority
from bundles import IR, OPSET, linear_bundle, policy, simple_onnx, slow_onnx, text_onnx
from conformance_server import Ask
from cutpoint.bundle import POLICY_FILE
from onnx import TensorProto, helper
from processes import ROOT, ServerProcess, run_script, serving

HERE = Path(__file__).parent
# Where environments are made and found again. Whoever names a folder wants all clients tested: one that cannot be installed
# fails. Without it they go to dist/, and one that cannot be installed is left out.
PEERS = "CUTPOINT_PEERS"


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triton's `simple`, `simple_string` and `simple_int8`, a model that decides, one of text, and one that takes seconds."""
    folder = tmp_path_factory.mktemp("conformance") / "models"
    folder.mkdir()
    simple_onnx(folder / "simple" / "1" / "model.onnx")
    _through_integers(folder / "simple_string" / "1" / "model.onnx", TensorProto.STRING)
    _through_integers(folder / "simple_int8" / "1" / "model.onnx", TensorProto.INT8)
    text_onnx(folder / "text" / "1" / "model.onnx")
    slow_onnx(folder / "slow" / "1" / "model.onnx", 500_000)
    linear = linear_bundle(folder)
    (linear / POLICY_FILE).write_text(policy(linear, {"a": 0.5, "b": 2.0}).to_json())
    return folder


def _through_integers(path: Path, kind: int) -> None:
    """Sum and difference of [N, 16] of any kind, as Triton's models of that name."""
    shape = ["N", 16]
    integer = TensorProto.INT32
    nodes = [
        helper.make_node("Cast", ["INPUT0"], ["a"], to=integer),
        helper.make_node("Cast", ["INPUT1"], ["b"], to=integer),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
        helper.make_node("Cast", ["sum"], ["OUTPUT0"], to=kind),
        helper.make_node("Cast", ["difference"], ["OUTPUT1"], to=kind),
    ]
    graph = helper.make_graph(
        nodes,
        "through_integers",
        [helper.make_tensor_value_info(name, kind, shape) for name in ("INPUT0", "INPUT1")],
        [helper.make_tensor_value_info(name, kind, shape) for name in ("OUTPUT0", "OUTPUT1")],
    )
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)


@pytest.fixture(scope="package")
def server(models: Path) -> Iterator[ServerProcess]:
    loads = [word for path in models.iterdir() for word in ("--load", path.name)]
    with serving(models, "--name", "triton", "--model-control", "explicit", *loads) as process:
        yield process


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="package")
def secured(models: Path, authority: Authority) -> Iterator[ServerProcess]:
    """The same over TLS."""
    made = authority.issue("server")
    with serving(models, "--state", models.parent / "secured", "--tls-cert", made.cert, "--tls-key", made.key) as process:
        yield process


@pytest.fixture(scope="session")
def environment() -> Callable[..., str]:
    """The Python of an environment that holds some requirements, with or without what they depend on."""
    given = os.environ.get(PEERS)

    def python(*requirements: str, dependencies: bool = True) -> str:
        folder = Path(given or ROOT / "dist" / "peers").resolve() / requirements[0]
        found, done, wanted = folder / "bin" / "python", folder / ".installed", " ".join(requirements)
        if not done.exists() or done.read_text() != wanted:
            options = ["--quiet", "--disable-pip-version-check", *([] if dependencies else ["--no-deps"])]
            for command in (
                [sys.executable, "-m", "venv", "--clear", folder],
                [found, "-m", "pip", "install", *options, *requirements],
            ):
                ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900, check=False)
                if ran.returncode:
                    said = f"{wanted} cannot be installed: THIS CLIENT IS NOT TESTED: {ran.stderr.strip()[-300:]}"
                    pytest.fail(said) if given else pytest.skip(said)
            done.write_text(wanted)
        return str(found)

    return python


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Run a script of this folder in a process of its own; the JSON that it prints."""

    def run(python: str, script: str, *arguments: object) -> dict[str, Any]:
        found: dict[str, Any] = run_script(HERE / script, *arguments, python=python)
        return found

    return run
