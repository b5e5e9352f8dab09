"""Run in a process of its own: tritonclient's model control; prints what it found as JSON.

Arguments: the server's target, and what to do: "explicit" or "refused".
"""

import json
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

target, mode = sys.argv[1:]
found = {}


def error_of(call):
    try:
        call()
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def index(client):
    models = client.get_model_repository_index().models
    return [[model.name, model.version, model.state] for model in models]


with triton.InferenceServerClient(target) as client:
    found["index"] = index(client)
    found["ready"] = client.is_model_ready("linear")
    found["extensions"] = list(client.get_server_metadata().extensions)
    found["load"] = error_of(lambda: client.load_model("linear"))
    if mode == "explicit":
        found["after load"] = [index(client), client.is_model_ready("linear"), client.is_model_ready("linear", "1")]
        tensor = triton.InferInput("x", (1, 4), "FP32")
        tensor.set_data_from_numpy(np.float32([[1, 2, 3, 4]]))
        answer = client.infer("linear", [tensor])
        found["answer"] = [answer.get_response().model_version, answer.as_numpy("logits").tolist()]
        found["config"] = error_of(lambda: client.load_model("linear", config='{"name": "linear"}'))
        found["files"] = error_of(lambda: client.load_model("linear", config="{}", files={"file:1/model.onnx": b"x"}))
        found["unknown"] = [error_of(lambda: client.load_model("none")), error_of(lambda: client.unload_model("none"))]
        found["bad name"] = error_of(lambda: client.load_model("../linear"))
        found["broken"] = error_of(lambda: client.load_model("broken"))
    found["unload"] = error_of(lambda: client.unload_model("linear", unload_dependents=True))
    if mode == "explicit":
        found["after unload"] = [client.is_model_ready("linear"), error_of(lambda: client.infer("linear", [tensor]))]
        # kserve's message has the model's name in field 1.
        request = service_pb2.RepositoryModelLoadRequest(repository_name="linear")
        client._client_stub.RepositoryModelLoad(request)
        found["kserve"] = client.is_model_ready("linear")
        request = service_pb2.RepositoryIndexRequest(ready=True)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
        found["ready ones"] = [[model.name, model.version] for model in stub.RepositoryIndex(request).models]
        broken = [model for model in client.get_model_repository_index().models if model.name == "broken"]
        found["reason"] = broken[0].reason

print(json.dumps(found))
