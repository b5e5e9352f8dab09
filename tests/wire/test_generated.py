"""Generated code: regenerates to no difference, and lives beside tritonclient's own."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from cutpoint.oip import inference_pb2
from google.protobuf import descriptor_pool
from processes import ENVIRONMENT, ROOT

OURS = "from cutpoint.oip import inference_pb2 as ours"
THEIRS = "from tritonclient.grpc import service_pb2 as theirs"
EXCHANGE = """
request = ours.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"0123"])
request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
request.parameters["policy"].int64_param = 3
read = theirs.ModelInferRequest.FromString(request.SerializeToString())
assert (read.model_name, read.id, read.raw_input_contents[0]) == ("m", "7", b"0123")
assert (read.inputs[0].name, list(read.inputs[0].shape), read.parameters["policy"].int64_param) == ("x", [1, 1], 3)
answer = theirs.ModelInferResponse(model_name="m", raw_output_contents=[b"4567"])
assert ours.ModelInferResponse.FromString(answer.SerializeToString()).raw_output_contents[0] == b"4567"
from cutpoint.v1 import calibration_pb2
from cutpoint.client import Client
"""


def test_regenerating_gives_no_difference(tmp_path: Path) -> None:
    assert version("grpcio-tools") == "1.76.0", "the generated code is pinned to this version of protoc"
    subprocess.run([sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)], check=True, timeout=120)
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*_pb2*") if path.suffix in (".py", ".pyi")}
    assert made == kept
    for path in made:
        assert (tmp_path / path).read_text() == (ROOT / "proto" / path).read_text(), f"{path}: run python proto/generate.py"


@pytest.mark.parametrize("imports", [f"{OURS}\n{THEIRS}", f"{THEIRS}\n{OURS}"])
def test_both_sets_of_messages_live_in_one_process(imports: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", imports + EXCHANGE],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_standards_names_are_not_in_the_default_pool() -> None:
    assert inference_pb2.DESCRIPTOR.package == "inference"
    assert inference_pb2.POOL is not descriptor_pool.Default()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindFileByName(inference_pb2.DESCRIPTOR.name)
