"""Run in kserve's own environment: its InferenceGRPCClient against a server; prints what it found as JSON.

Arguments: the server's target, and the PEM of its roots where it speaks TLS.
"""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

logging.disable(logging.CRITICAL)
target, *root = sys.argv[1:]
found = {}
ONE = np.arange(32, dtype=np.int32).reshape(2, 16)
TWO = np.full((2, 16), 3, np.int32)


def simple(raw, request_id=None, parameters=None):
    inputs = []
    for name, array in (("INPUT0", ONE), ("INPUT1", TWO)):
        tensor = InferInput(name, list(array.shape), "INT32")
        tensor.set_data_from_numpy(array, binary_data=raw)
        inputs.append(tensor)
    return InferRequest("simple", inputs, request_id=request_id, parameters=parameters)


def right(response):
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    return bool((outputs["OUTPUT0"] == ONE + TWO).all() and (outputs["OUTPUT1"] == ONE - TWO).all())


async def error_of(call):
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return None


async def main():
    tls = {"use_ssl": True, "root_certificates": root[0]} if root else {}
    async with InferenceGRPCClient(target, **tls) as client:
        found["states"] = [await client.is_server_live(), await client.is_server_ready()]
        found["models"] = [await client.is_model_ready("simple"), await client.is_model_ready("none")]
        # Raw and typed contents; it reads raw ones, or typed ones, whichever come.
        response = await client.infer(simple(True, "seven"))
        found["raw"], found["response"] = right(response), [response.id, response.model_name, response.model_version]
        found["typed"] = right(await client.infer(simple(False)))
        found["many"] = sum(map(right, await asyncio.gather(*(client.infer(simple(True)) for _ in range(50)))))
        found["headers"] = right(await client.infer(simple(True), headers=(("test", "1"),), timeout=30))
        found["parameters"] = right(await client.infer(simple(True, parameters={"own": "text", "yes": True, "number": 3})))

        x = np.array([[1, 3, 0, 0], [0, 1, 0, 0]], np.float32)
        tensor = InferInput("x", [2, 4], "FP32")
        tensor.set_data_from_numpy(x)
        response = await client.infer(InferRequest("linear", [tensor]))
        outputs = {output.name: output.as_numpy().tolist() for output in response.outputs}
        found["decisions"] = [outputs["logits"], outputs["decisions"]]
        found["policy"] = response.parameters["policy_version"].int64_param if response.parameters else None

        text = InferInput("s", [2], "BYTES")
        text.set_data_from_numpy(np.array(["é".encode(), b""], object))
        (output,) = (await client.infer(InferRequest("text", [text]))).outputs
        found["text"] = [item if isinstance(item, str) else item.decode() for item in output.as_numpy().ravel().tolist()]

        wrong = InferInput("x", [2, 3], "FP32")
        wrong.set_data_from_numpy(x[:, :3])
        found["wrong shape"] = await error_of(client.infer(InferRequest("linear", [wrong])))
        found["unknown model"] = await error_of(client.infer(InferRequest("none", [tensor])))
        slow = InferInput("x", [1, 2], "FP32")
        slow.set_data_from_numpy(np.full((1, 2), 1000, np.float32))
        found["too late"] = (await error_of(client.infer(InferRequest("slow", [slow]), timeout=0.2)))[0]


asyncio.run(main())
print(json.dumps(found))
