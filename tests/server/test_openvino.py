"""OpenVINO for real, in an interpreter that has its build of onnxruntime: CUTPOINT_OPENVINO_PYTHON names one.

python3 -m venv ov && ov/bin/pip install -c constraints.txt '.[openvino]'
CUTPOINT_OPENVINO_PYTHON=ov/bin/python pytest tests/server/test_openvino.py
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_onnx, slow_onnx, text_onnx
from processes import ENVIRONMENT

PYTHON = os.environ.get("CUTPOINT_OPENVINO_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="set CUTPOINT_OPENVINO_PYTHON to an interpreter with cutpoint[openvino]")

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cutpoint.errors import CutpointError
from cutpoint.server.runs.provider_settings import provider_settings
from cutpoint.server.runs.rows import row_invariance
from cutpoint.server.runs.session import Abort, OnnxSession

asked = json.loads(sys.argv[1])
rows = {"x": np.load(asked["rows"])} if "rows" in asked else {}
try:
    session = OnnxSession(Path(asked["model"]), provider_settings(**asked["settings"]))
    answer = {"logits": session.run(rows)["logits"].tolist()}
    answer["wide"] = session.prepare(rows).wide_s is None or (session.run(rows, wide=True)["logits"].tolist())
    answer["variance"] = row_invariance(session, rows, [4, 3])
    stopped = Abort()
    stopped.set()
    try:
        session.run(rows, abort=stopped)
    except CutpointError as error:
        answer["aborted"] = error.reason
except CutpointError as error:
    answer = {"error": str(error), "reason": error.reason}
print(json.dumps(answer))
"""


def asked(model: Path, rows: Path | None = None, **settings: Any) -> dict[str, Any]:
    """What a session in the other interpreter answers; stdout and warnings must be clean."""
    question = {"model": str(model), "settings": {"provider": "openvino", **settings}}
    if rows is not None:
        question["rows"] = str(rows)
    done = subprocess.run(
        [PYTHON, "-W", "error", "-c", SCRIPT, json.dumps(question)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A graph, rows for it, and the logits in float64."""
    folder = tmp_path_factory.mktemp("openvino")
    rng = np.random.default_rng(3)
    weights, x = rng.normal(size=(256, 8)).astype(np.float32), rng.normal(size=(5, 256)).astype(np.float32)
    np.save(folder / "x.npy", x)
    model = linear_onnx(folder / "model.onnx", weights, ["batch", 256])
    return model, folder / "x.npy", x.astype(np.float64) @ weights.astype(np.float64)


def test_f32_agrees_with_numpy_to_float32(linear: tuple[Path, Path, np.ndarray]) -> None:
    model, rows, wanted = linear
    found = asked(model, rows, lanes=2, wide_threads=2)
    np.testing.assert_allclose(found["logits"], wanted, atol=1e-4)
    assert found["wide"] is True or found["wide"] == found["logits"]
    assert found["variance"] <= 1e-4
    assert found["aborted"] == "aborted"


def test_bf16_is_what_was_asked_for(linear: tuple[Path, Path, np.ndarray]) -> None:
    """Eight bits of mantissa, where the machine has bfloat16; never more than that off."""
    model, rows, wanted = linear
    found = asked(model, rows, precision="bf16")
    difference = np.abs(np.array(found["logits"]) - wanted).max()
    assert difference < 16 * 2**-8 * 3
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    if "bf16" in flags:
        assert difference > 1e-4, "that was float32"


def test_a_device_that_is_not_there_is_an_error(linear: tuple[Path, Path, np.ndarray]) -> None:
    assert asked(linear[0], linear[1], devices=["NPU"]) == {
        "error": "device is NPU; expected one that OpenVINO finds on this machine: CPU", "reason": "bad_config",
    }  # fmt: skip


def test_a_graph_of_which_it_knows_no_node_is_an_error(tmp_path: Path) -> None:
    found = asked(text_onnx(tmp_path / "model.onnx"))
    assert found["reason"] == "bad_config"
    assert "onnxruntime runs all of them on the CPU" in found["error"]


def test_a_graph_that_it_cannot_compile_is_an_error(tmp_path: Path) -> None:
    found = asked(slow_onnx(tmp_path / "model.onnx", 10))
    assert found["reason"] == "bad_config"
    assert "openvino on CPU" in found["error"]


def test_another_builds_provider_names_its_extra(linear: tuple[Path, Path, np.ndarray]) -> None:
    found = asked(linear[0], linear[1], provider="cuda")
    assert found["reason"] == "bad_config"
    assert "cutpoint[gpu]" in found["error"]
