"""Our messages are Triton's: every field and method that we have is where tritonclient's own descriptors have it."""

import json
import subprocess
import sys

import pytest
from processes import ENVIRONMENT

# Triton's and ours cannot be compared in the test's process: importing Triton's fills protobuf's default pool for good.
DESCRIBE = """
import json
from google.protobuf.descriptor_pb2 import FileDescriptorProto

def describe(*modules):
    found = {"messages": {}, "enums": {}, "methods": {}}
    def add_enum(prefix, enum):
        found["enums"][f"{prefix}.{enum.name}"] = {value.name: value.number for value in enum.value}
    def add(prefix, message):
        name = f"{prefix}.{message.name}"
        found["messages"][name] = {
            field.name: [field.number, field.label, field.type, field.type_name,
                         message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""]
            for field in message.field
        }
        for nested in message.nested_type:
            add(name, nested)
        for enum in message.enum_type:
            add_enum(name, enum)
    for module in modules:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            add(f".{file.package}", message)
        for enum in file.enum_type:
            add_enum(f".{file.package}", enum)
        for service in file.service:
            for method in service.method:
                found["methods"][f"{file.package}.{service.name}/{method.name}"] = [
                    method.input_type, method.output_type, method.client_streaming, method.server_streaming]
    return found

from tritonclient.grpc import model_config_pb2, service_pb2
from cutpoint.oip import inference_pb2
print(json.dumps([describe(inference_pb2), describe(service_pb2, model_config_pb2)]))
"""

# What we leave out, and nothing else: other messages are whole.
PARTIAL = {
    ".inference.ModelConfig", ".inference.ModelInput", ".inference.ModelOutput", ".inference.ModelInstanceGroup",
}  # fmt: skip
ABSENT = {
    "inference.GRPCInferenceService/CudaSharedMemoryStatus", "inference.GRPCInferenceService/CudaSharedMemoryRegister",
    "inference.GRPCInferenceService/CudaSharedMemoryUnregister", "inference.GRPCInferenceService/TraceSetting",
    "inference.GRPCInferenceService/LogSettings",
}  # fmt: skip

Described = dict[str, dict[str, dict[str, object]]]


@pytest.fixture(scope="module")
def both() -> tuple[Described, Described]:
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    return ours, theirs


def test_every_field_is_where_tritons_is(both: tuple[Described, Described]) -> None:
    ours, theirs = both
    assert len(ours["messages"]) > 60
    for name, fields in ours["messages"].items():
        assert name in theirs["messages"], f"{name} is no message of Triton's"
        for field, described in fields.items():
            assert described == theirs["messages"][name].get(field), f"{name}.{field}: number, label, type, type's name, oneof"


def test_messages_are_whole_but_for_the_configuration(both: tuple[Described, Described]) -> None:
    ours, theirs = both
    assert {name for name, fields in ours["messages"].items() if fields != theirs["messages"][name]} == PARTIAL


def test_enums_are_tritons(both: tuple[Described, Described]) -> None:
    ours, theirs = both
    assert {name.rsplit(".", 1)[1] for name in ours["enums"]} == {"DataType", "Kind", "Format", "TimeoutAction"}
    for name, values in ours["enums"].items():
        assert values == theirs["enums"][name], name


def test_methods_are_tritons_but_for_what_answers_unimplemented(both: tuple[Described, Described]) -> None:
    ours, theirs = both
    for name, described in ours["methods"].items():
        assert described == theirs["methods"][name], name
    assert set(theirs["methods"]) - set(ours["methods"]) == ABSENT
    assert [name for name, described in ours["methods"].items() if described[2:] != [False, False]] == [  # type: ignore[index]
        "inference.GRPCInferenceService/ModelStreamInfer"
    ]


def test_enums_of_the_private_pool_have_names_and_values() -> None:
    from cutpoint.oip import inference_pb2 as oip

    assert oip.DataType.Value("TYPE_FP32") == oip.TYPE_FP32 == 11
    assert oip.DataType.Name(oip.TYPE_STRING) == "TYPE_STRING"
    assert oip.ModelInstanceGroup.KIND_GPU == oip.ModelInstanceGroup.Kind.Value("KIND_GPU") == 1
    group = oip.ModelInstanceGroup(kind=oip.ModelInstanceGroup.KIND_CPU)
    assert oip.ModelInstanceGroup.FromString(group.SerializeToString()).kind == oip.ModelInstanceGroup.KIND_CPU
