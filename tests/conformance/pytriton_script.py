"""Run in pytriton's own environment: its clients of models that answer once, against a server; prints what it found as JSON.

Arguments: the server's target.
"""

import asyncio
import json
import logging
import sys
import warnings

import numpy as np
from pytriton.client import AsyncioModelClient, FuturesModelClient, ModelClient
from pytriton.client.exceptions import PyTritonClientError

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
url = f"grpc://{sys.argv[1]}"
found = {}
ONE = np.arange(32, dtype=np.int32).reshape(2, 16)
TWO = np.full((2, 16), 3, np.int32)
x = np.array([[1, 3, 0, 0], [0, 1, 0, 0]], np.float32)


def right(outputs):
    return bool((outputs["OUTPUT0"] == ONE + TWO).all() and (outputs["OUTPUT1"] == ONE - TWO).all())


def error_of(call):
    try:
        call()
    except PyTritonClientError as error:
        return [type(error).__name__, str(error)]
    return None


with ModelClient(url, "simple") as client:
    client.wait_for_model(60)
    config = client.model_config
    found["config"] = [config.model_name, config.max_batch_size, config.decoupled, [each.name for each in config.inputs]]
    found["batching"] = client.is_batching_supported
    found["positional"] = right(client.infer_batch(ONE, TWO))
    found["named"] = right(client.infer_batch(INPUT0=ONE, INPUT1=TWO))
    sample = client.infer_sample(ONE[0], TWO[0])
    found["sample"] = bool((sample["OUTPUT0"] == ONE[0] + TWO[0]).all())
    found["parameters"] = right(client.infer_batch(ONE, TWO, parameters={"own": "text", "yes": True}, headers={"test": "1"}))
    found["wrong shape"] = error_of(lambda: client.infer_batch(ONE[:, :3], TWO))
with ModelClient(url, "simple", lazy_init=False) as client:
    found["at once"] = right(client.infer_batch(ONE, TWO))
with ModelClient(url, "linear", "1") as client:
    outputs = client.infer_batch(x)
    found["decisions"] = [outputs["logits"].tolist(), outputs["decisions"].tolist()]
    found["outputs"] = sorted(outputs)
with ModelClient(url, "text") as client:
    # No batch: one axis, and any size of it.
    found["text"] = [item.decode() for item in client.infer_batch(np.array(["é".encode(), b"b"], object))["o"].ravel()]
with ModelClient(url, "slow", inference_timeout_s=0.3) as client:
    found["too late"] = error_of(lambda: client.infer_batch(np.full((1, 2), 1000, np.float32)))[0]
with ModelClient(url, "none", init_timeout_s=1) as client:
    found["unknown model"] = error_of(lambda: client.infer_batch(x))[0]
with ModelClient(url, "text") as client:
    client.unload_model()
    client.load_model()
    client.wait_for_model(60)
    found["loaded again"] = True


async def over_asyncio():
    async with AsyncioModelClient(url, "simple") as client:
        answers = await asyncio.gather(*(client.infer_batch(ONE, TWO) for _ in range(20)))
        return sum(map(right, answers))


found["asyncio"] = asyncio.run(over_asyncio())
# With more workers its own further clients forget that the address is gRPC's and speak HTTP to it (0.7.0).
with FuturesModelClient(url, "simple", max_workers=1) as client:
    futures = [client.infer_batch(ONE, TWO) for _ in range(20)]
    found["futures"] = sum(right(future.result(timeout=60)) for future in futures)
print(json.dumps(found))
