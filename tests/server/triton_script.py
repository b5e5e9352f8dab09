"""Run in a process of its own: everything that tritonclient can ask of a server; prints what it found as JSON."""

import asyncio
import json
import sys

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

target = sys.argv[1]
found = {}
rng = np.random.default_rng(0)


def an_input(name, array, datatype):
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def error_of(call):
    try:
        call()
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return None


with triton.InferenceServerClient(target) as client:
    found["live"], found["ready"] = client.is_server_live(), client.is_server_ready()
    found["model_ready"] = [
        client.is_model_ready("simple"),
        client.is_model_ready("simple", "1"),
        client.is_model_ready("simple", "2"),
        client.is_model_ready("none"),
    ]
    found["server"] = client.get_server_metadata(as_json=True)
    found["simple"] = client.get_model_metadata("simple", as_json=True)
    found["windows"] = client.get_model_metadata("sequences", as_json=True)
    found["versions"] = client.get_model_metadata("versions", as_json=True)["versions"]

    one = np.arange(32, dtype=np.int32).reshape(2, 16)
    two = np.full((2, 16), 3, np.int32)
    inputs = [an_input("INPUT0", one, "INT32"), an_input("INPUT1", two, "INT32")]
    answer = client.infer("simple", inputs, request_id="seven")
    found["sum"] = bool((answer.as_numpy("OUTPUT0") == one + two).all())
    found["difference"] = bool((answer.as_numpy("OUTPUT1") == one - two).all())
    response = answer.get_response()
    found["response"] = [response.id, response.model_name, response.model_version, len(response.raw_output_contents)]
    wanted = [triton.InferRequestedOutput("OUTPUT1"), triton.InferRequestedOutput("OUTPUT0")]
    answer = client.infer("simple", inputs, outputs=wanted, model_version="1")
    found["order"] = [output.name for output in answer.get_response().outputs]
    gzip = client.infer("simple", inputs, compression_algorithm="gzip")
    found["gzip"] = bool((gzip.as_numpy("OUTPUT0") == one + two).all())

    x = rng.normal(size=(5, 7, 5)).astype(np.float32)
    answer = client.infer("sequences", [an_input("x", x, "FP32")])
    found["logits"] = bool((answer.as_numpy("logits") == x[..., :3]).all())
    sigmoid = 1 / (1 + np.exp(-x[..., :3].astype(np.float64)))
    found["scores"] = bool(np.allclose(answer.as_numpy("scores"), sigmoid, atol=1e-6))
    found["labels"] = [label.decode() for label in answer.as_numpy("labels")]
    found["decisions"] = answer.as_numpy("decisions") is not None

    text = np.array(["é", "plain", ""], object)
    found["text"] = [item.decode() for item in client.infer("text", [an_input("s", text, "BYTES")]).as_numpy("o")]

    found["unknown model"] = error_of(lambda: client.infer("none", inputs))
    found["unknown version"] = error_of(lambda: client.infer("simple", inputs, model_version="9"))
    found["one input"] = error_of(lambda: client.infer("simple", inputs[:1]))
    found["unknown output"] = error_of(lambda: client.infer("simple", inputs, outputs=[triton.InferRequestedOutput("O")]))
    found["no decisions"] = error_of(
        lambda: client.infer("sequences", [an_input("x", x, "FP32")], outputs=[triton.InferRequestedOutput("decisions")])
    )

# Typed contents, as Triton's grpc_explicit_int_content_client.py sends them; and mixed with raw, as its refusal wants.
with grpc.insecure_channel(target) as channel:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = service_pb2.ModelInferRequest(model_name="simple")
    for name, array in (("INPUT0", one), ("INPUT1", two)):
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[2, 16])
        tensor.contents.int_contents.extend(array.ravel().tolist())
    answer = triton.InferResult(stub.ModelInfer(request))
    found["typed"] = bool((answer.as_numpy("OUTPUT0") == one + two).all())
    request.raw_input_contents.extend([one.tobytes(), two.tobytes()])
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        found["mixed"] = [error.code().name, error.details()]


async def concurrently():
    """Sixty requests at a time; how many came back with exactly their own rows."""

    async def one_request(client, i):
        x = np.full((1 + i % 3, 4, 5), i, np.float32)
        answer = await client.infer("sequences", [an_input("x", x, "FP32")], request_id=str(i))
        return answer.get_response().id == str(i) and bool((answer.as_numpy("logits") == x[..., :3]).all())

    async with triton_aio.InferenceServerClient(target) as client:
        return sum(await asyncio.gather(*(one_request(client, i) for i in range(60))))


found["concurrent"] = asyncio.run(concurrently())
print(json.dumps(found))
