"""A model's configuration: what Triton's clients conclude from it is what the server does."""

import json
import subprocess
import sys

import pytest
from cutpoint.errors import BadConfig
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.protocol.model_config import model_config
from cutpoint.server.runs.session import TensorSpec
from cutpoint.wire import DATATYPES
from processes import ENVIRONMENT

X = TensorSpec("x", "FP32", (-1, -1, 5))
LOGITS = TensorSpec("logits", "FP32", (-1, -1, 3))
LABELS = TensorSpec("labels", "BYTES", (3,))

# Independent of ours: Triton's own descriptors, and the conclusions that perf_analyzer (model_parser.cc: Init, GetInt,
# DetermineSchedulerType) and pytriton (model_config/parser.py) draw from the JSON form.
READ = """
import json, sys
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype
message = model_config_pb2.ModelConfig.FromString(sys.stdin.buffer.read())
unknown = message.SerializeToString(deterministic=True)
message.DiscardUnknownFields()
config = MessageToDict(message, preserving_proto_field_name=True)
scheduler = "DYNAMIC" if "dynamic_batching" in config else "NONE"
kinds = {entry["kind"]: entry.get("count") for entry in config.get("instance_group", [])}
def tensors(key):
    return [[t["name"], t["data_type"], [int(d) for d in t["dims"]], "reshape" in t] for t in config.get(key, [])]
print(json.dumps({
    "unknown": len(unknown) - len(message.SerializeToString(deterministic=True)),
    "name": config["name"], "platform": config["platform"], "backend": config["backend"],
    "max_batch_size": config.get("max_batch_size", 0), "scheduler": scheduler, "kinds": kinds,
    "gpus": config["instance_group"][0].get("gpus"), "inputs": tensors("input"), "outputs": tensors("output"),
    "versions": config["version_policy"]["specific"]["versions"],
    "delay": config.get("dynamic_batching", {}).get("max_queue_delay_microseconds"),
    "decoupled": config["model_transaction_policy"].get("decoupled", False),
}))
"""


def read_by_triton(config: oip.ModelConfig) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", READ], input=config.SerializeToString(),
        env=ENVIRONMENT, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_triton_reads_a_batched_model() -> None:
    config = model_config(
        "m", [X], [LOGITS, LABELS], max_batch_rows=64, batchable=True, versions=[1, 3], instances=2, queue_delay_s=0.0015
    )
    assert read_by_triton(config) == {
        "unknown": 0, "name": "m", "platform": "onnxruntime_onnx", "backend": "onnxruntime",
        "max_batch_size": 64, "scheduler": "DYNAMIC", "kinds": {"KIND_CPU": 2}, "gpus": None,
        "inputs": [["x", "TYPE_FP32", [-1, 5], False]],
        "outputs": [["logits", "TYPE_FP32", [-1, 3], False], ["labels", "TYPE_STRING", [3], False]],
        "versions": ["1", "3"], "delay": "1500", "decoupled": False,
    }  # fmt: skip


def test_triton_reads_a_model_without_a_batch() -> None:
    config = model_config("m", [X], [LOGITS], max_batch_rows=64, batchable=False, versions=[1], instances=4, gpus=[0, 1])
    found = read_by_triton(config)
    assert (found["max_batch_size"], found["scheduler"], found["delay"]) == (0, "NONE", None)
    assert (found["kinds"], found["gpus"]) == ({"KIND_GPU": 4}, [0, 1])
    assert found["inputs"] == [["x", "TYPE_FP32", [-1, -1, 5], False]]


def test_a_fixed_first_axis_is_no_batch() -> None:
    fixed = TensorSpec("x", "FP32", (1, 5))
    config = model_config("m", [X, fixed], [LOGITS], max_batch_rows=8, batchable=True, versions=[1], instances=1)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in config.input] == [[-1, -1, 5], [1, 5]]


def test_there_is_always_a_dimension() -> None:
    text = TensorSpec("s", "BYTES", (-1,))
    config = model_config("m", [text], [text], max_batch_rows=8, batchable=True, versions=[1], instances=1)
    for tensor in (config.input[0], config.output[0]):
        assert list(tensor.dims) == [1]
        assert tensor.HasField("reshape")
        assert list(tensor.reshape.shape) == []
    scalar = TensorSpec("k", "INT64", ())
    alone = model_config("m", [scalar], [scalar], max_batch_rows=8, batchable=True, versions=[1], instances=1)
    assert (alone.max_batch_size, list(alone.input[0].dims)) == (0, [1])


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_has_its_name(datatype: str) -> None:
    config = model_config(
        "m", [TensorSpec("x", datatype, (-1, 2))], [], max_batch_rows=8, batchable=True, versions=[1], instances=1
    )
    wanted = "STRING" if datatype == "BYTES" else datatype
    assert oip.DataType.Name(config.input[0].data_type) == f"TYPE_{wanted}"


def test_an_unknown_datatype_is_named() -> None:
    with pytest.raises(BadConfig, match="datatype of 'x' is FP8; expected one of BOOL"):
        model_config("m", [TensorSpec("x", "FP8", (-1,))], [], max_batch_rows=8, batchable=True, versions=[1], instances=1)
