"""Run in a process of its own: tritonclient over TLS, with a client's certificate and a token; prints what it found as JSON."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

target, root, key, cert, token = sys.argv[1:]
files = {"ssl": True, "root_certificates": root, "private_key": key or None, "certificate_chain": cert or None}
headers = {"authorization": f"Bearer {token}"} if token else None
found = {}
x = np.arange(8, dtype=np.float32).reshape(2, 4)
tensor = triton.InferInput("x", x.shape, "FP32")
tensor.set_data_from_numpy(x)

with triton.InferenceServerClient(target, **files) as client:
    found["live"] = client.is_server_live()
    found["server"] = client.get_server_metadata(headers=headers).name
    for compression in (None, "gzip", "deflate"):
        answer = client.infer("m", [tensor], headers=headers, compression_algorithm=compression)
        found[str(compression)] = answer.as_numpy("logits").tolist()
    answers = []
    client.start_stream(lambda result, error: answers.append(error or result), headers=headers)
    client.async_stream_infer("m", [tensor])
    client.stop_stream()
    found["stream"] = [answer.as_numpy("logits").tolist() for answer in answers]
    try:
        client.infer("m", [tensor])
        found["without a token"] = "OK"
    except triton.InferenceServerException as error:
        found["without a token"] = error.status()


async def over_aio():
    async with triton_aio.InferenceServerClient(target, **files) as client:
        return (await client.infer("m", [tensor], headers=headers)).as_numpy("logits").tolist()


found["aio"] = asyncio.run(over_aio())
print(json.dumps(found))
