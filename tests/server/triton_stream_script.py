"""Run in a process of its own: tritonclient's streams against a server; prints what it found as JSON."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton

target = sys.argv[1]
found = {}


def an_input(name, array, datatype):
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def simple(i):
    """Inputs of the model `simple` that say which request they are of."""
    one, two = np.full((1 + i % 3, 16), i, np.int32), np.ones((1 + i % 3, 16), np.int32)
    return [an_input("INPUT0", one, "INT32"), an_input("INPUT1", two, "INT32")]


def stream(client, requests, wanted, **options):
    """The answers to `requests`, as (id or None, error or None, result)."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), **options)
    for model, i in requests:
        client.async_stream_infer(model, simple(i), request_id=str(i))
    got = [answers.get(timeout=60) for _ in range(wanted)]
    client.stop_stream()
    return got


with triton.InferenceServerClient(target) as client:
    got = stream(client, [("simple", i) for i in range(200)], 200)
    found["errors"] = [str(error) for _, error in got if error is not None]
    found["ids"] = [result.get_response().id for result, _ in got] == [str(i) for i in range(200)]
    found["sums"] = all(
        (result.as_numpy("OUTPUT0") == i + 1).all() and len(result.as_numpy("OUTPUT0")) == 1 + i % 3
        for i, (result, _) in enumerate(got)
    )

    got = stream(client, [("simple", 1), ("none", 2), ("simple", 3)], 3)
    found["between"] = [str(error.message()) if error is not None else result.get_response().id for result, error in got]

    got = stream(client, [("simple", 1), ("none", 2)], 2, headers={"triton_grpc_error": "true"})
    found["status"] = [got[0][0].get_response().id, got[1][1].status(), got[1][1].message()]

    got = stream(client, [("simple", i) for i in range(20)], 20, compression_algorithm="gzip")
    found["gzip"] = all((result.as_numpy("OUTPUT0") == i + 1).all() for i, (result, _) in enumerate(got))

    # Triton's decoupled models: a client may want to know which response is the last of its request.
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("simple", simple(5), request_id="5", enable_empty_final_response=True)
    response = answers.get(timeout=60)[0].get_response()
    client.stop_stream()
    found["final"] = [response.id, response.parameters["triton_final_response"].bool_param, len(response.outputs)]

print(json.dumps(found))
