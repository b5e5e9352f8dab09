"""Run in a process of its own: what tritonclient's callers use beyond a plain call; prints what it found as JSON.

Arguments: the server's target.
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

target = sys.argv[1]
found = {}
WAIT_S = 60
ONE = np.arange(32, dtype=np.int32).reshape(2, 16)
TWO = np.full((2, 16), 3, np.int32)


def an_input(name, array, datatype):
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def status(error):
    return [error.status(), error.message()]


def error_of(call):
    try:
        call()
    except triton.InferenceServerException as error:
        return status(error)
    return None


def right(answer):
    return bool((answer.as_numpy("OUTPUT0") == ONE + TWO).all() and (answer.as_numpy("OUTPUT1") == ONE - TWO).all())


simple = [an_input("INPUT0", ONE, "INT32"), an_input("INPUT1", TWO, "INT32")]
slow = [an_input("x", np.full((1, 2), 1000, np.float32), "FP32")]
x = np.array([[1, 3, 0, 0], [0, 1, 0, 0]], np.float32)
linear = [an_input("x", x, "FP32")]

with triton.InferenceServerClient(target) as client:
    # async_infer: answers and errors come by a callback; what is cancelled is told so, and nothing is run for it.
    answers = queue.Queue()
    told = lambda result, error: answers.put((result, error))  # noqa: E731
    for _ in range(50):
        client.async_infer("simple", simple, told)
    found["async"] = sum(right(result) for result, error in (answers.get(timeout=WAIT_S) for _ in range(50)) if error is None)
    client.async_infer("none", simple, told)
    found["async error"] = status(answers.get(timeout=WAIT_S)[1])
    client.async_infer("slow", slow, told).cancel()
    found["cancelled"] = status(answers.get(timeout=WAIT_S)[1])[0]
    found["after it"] = right(client.infer("simple", simple))

    client.async_infer("slow", slow, told, client_timeout=0.2)
    found["async too late"] = status(answers.get(timeout=WAIT_S)[1])[0]
    found["too late"] = error_of(lambda: client.infer("slow", slow, client_timeout=0.2))
    found["in time"] = right(client.infer("simple", simple, client_timeout=60.0))

    found["compressed"] = [right(client.infer("simple", simple, compression_algorithm=name)) for name in ("gzip", "deflate")]
    found["unknown compression"] = right(client.infer("simple", simple, compression_algorithm="none"))

    # Priority and timeout, as parameters of the scheduler, and anybody's own.
    own = {"text": "é", "yes": True, "number": 1 << 40, "share": 0.5}
    found["parameters"] = right(client.infer("simple", simple, priority=1, timeout=60_000_000, parameters=own))
    found["reserved parameter"] = error_of(lambda: client.infer("simple", simple, parameters={"priority": "high"}))
    found["sequence"] = error_of(lambda: client.infer("simple", simple, sequence_id=5, sequence_start=True))
    found["headers"] = right(client.infer("simple", simple, headers={"test": "1", "other": "two"}))

    configuration = client.get_model_config("simple", as_json=True)["config"]
    found["config"] = {
        "max_batch_size": configuration["max_batch_size"],
        "input": [[each["name"], each["data_type"], each["dims"]] for each in configuration["input"]],
        "output": [each["name"] for each in configuration["output"]],
        "batching": "dynamic_batching" in configuration,
    }
    found["config of linear"] = [each.name for each in client.get_model_config("linear", "1").config.output]
    (before,) = client.get_inference_statistics("simple").model_stats
    client.infer("simple", simple)
    (after,) = client.get_inference_statistics("simple", "1").model_stats
    found["statistics"] = [
        after.inference_count - before.inference_count,
        after.execution_count - before.execution_count,
        after.inference_stats.success.count - before.inference_stats.success.count,
        after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns,
    ]
    found["statistics of all"] = sorted(each.name for each in client.get_inference_statistics().model_stats)
    found["index"] = sorted([each.name, each.version, each.state] for each in client.get_model_repository_index().models)
    client.unload_model("text")
    found["unloaded"] = [client.is_model_ready("text"), error_of(lambda: client.infer("text", simple))]
    client.load_model("text")
    found["loaded"] = client.is_model_ready("text", "1")

    wanted = [triton.InferRequestedOutput("OUTPUT0", class_count=2), triton.InferRequestedOutput("OUTPUT1")]
    answer = client.infer("simple", simple, outputs=wanted)
    found["classes"] = [[item.decode() for item in row] for row in answer.as_numpy("OUTPUT0")]
    answer = client.infer("linear", linear, outputs=[triton.InferRequestedOutput("logits", class_count=1)])
    found["labels"] = [[item.decode() for item in row] for row in answer.as_numpy("logits")]
    answer = client.infer("linear", linear)
    found["decisions"] = [answer.as_numpy("logits").tolist(), answer.as_numpy("decisions").tolist()]
    found["as json"] = client.infer("simple", simple, request_id="7").get_response(as_json=True)["id"]

    digits = [np.array([[str(i).encode() for i in row] for row in array], object) for array in (ONE, TWO)]
    texts = [an_input(name, array, "BYTES") for name, array in zip(("INPUT0", "INPUT1"), digits, strict=True)]
    answer = client.infer("simple_string", texts)
    found["strings"] = [
        bool((answer.as_numpy("OUTPUT0").astype(np.int32) == ONE + TWO).all()),
        bool((answer.as_numpy("OUTPUT1").astype(np.int32) == ONE - TWO).all()),
    ]
    # As callers do who keep their inputs.
    simple[0].set_data_from_numpy(ONE)
    found["used twice"] = right(client.infer("simple", simple))

    # A stream whose caller cancels what is under way.
    client.start_stream(told)
    client.async_stream_infer("slow", slow)
    client.stop_stream(cancel_requests=True)
    found["stream cancelled"] = status(answers.get(timeout=WAIT_S)[1])[0]
    client.start_stream(told, stream_timeout=0.3)
    client.async_stream_infer("slow", slow)
    found["stream too late"] = status(answers.get(timeout=WAIT_S)[1])[0]
    client.stop_stream()
    client.start_stream(told)
    client.async_stream_infer("simple", simple, request_id="9", priority=2, timeout=60_000_000, parameters=own)
    result, error = answers.get(timeout=WAIT_S)
    found["stream"] = [error is None and right(result), result.get_response().id]
    client.stop_stream()

keepalive = triton.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
with triton.InferenceServerClient(target, keepalive_options=keepalive) as client:
    found["keepalive"] = right(client.infer("simple", simple))
options = [("grpc.lb_policy_name", "pick_first"), ("grpc.primary_user_agent", "custom")]
with triton.InferenceServerClient(target, channel_args=options) as client:
    found["channel arguments"] = right(client.infer("simple", simple))


async def over_aio():
    """The same by asyncio: calls, a stream of many, compression, a deadline, a cancelled call."""
    said = {}
    async with triton_aio.InferenceServerClient(target) as client:
        said["states"] = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("simple")]
        said["name"] = (await client.get_server_metadata()).name
        said["inputs"] = [each.name for each in (await client.get_model_metadata("simple")).inputs]
        said["config"] = (await client.get_model_config("simple")).config.name
        said["statistics"] = (await client.get_inference_statistics("simple")).model_stats[0].name
        said["index"] = len((await client.get_model_repository_index()).models)
        said["many"] = sum(map(right, await asyncio.gather(*(client.infer("simple", simple) for _ in range(50)))))
        said["gzip"] = right(await client.infer("simple", simple, compression_algorithm="gzip"))

        async def requests():
            for i in range(100):
                yield {"model_name": "simple" if i != 50 else "none", "inputs": simple, "request_id": str(i)}

        ids, errors, correct = [], [], 0
        async for result, error in client.stream_infer(requests(), compression_algorithm="deflate"):
            if error is not None:
                errors.append(error.message())
            else:
                ids.append(result.get_response().id)
                correct += right(result)
        said["stream"] = [ids == [str(i) for i in range(100) if i != 50], errors, correct]
        try:
            await client.infer("slow", slow, client_timeout=0.2)
        except triton.InferenceServerException as error:
            said["too late"] = error.status()
        task = asyncio.create_task(client.infer("slow", slow))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            said["cancelled"] = True
        said["after it"] = right(await client.infer("simple", simple))
    return said


found["aio"] = asyncio.run(over_aio())
print(json.dumps(found))
