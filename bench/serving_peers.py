"""The servers that Cutpoint is compared with: each in an environment of its own, by its script in bench/peers/NAME/serve.py.

Each is at the setting at which it was fastest here, bound to 127.0.0.1, and runs the same graph with onnxruntime, one thread a
run. An environment is made by pip at first use.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serving_load import INFER, Caller, HttpCaller, Request, framed, grpc_request, infer_message, logits_of
from serving_process import Server, peer_serve

FOLDER = Path(__file__).parent / "peers"
BOUNDARY = "cutpointbench"


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: that of its folder in bench/peers.
        grpc: whether it speaks the Open Inference Protocol over gRPC; else HTTP.
        request: the request for a model and its rows `x`.
        decode: the logits in the body of an answer, in one row of numbers.
        conv_target: how many times its rate on conv140 Cutpoint must reach.
    """

    name: str
    grpc: bool
    request: Callable[[str, NDArray[np.float32]], Request]
    decode: Callable[[bytes], NDArray[np.float32]]
    conv_target: float


def _over_grpc(model: str, x: NDArray[np.float32]) -> Request:
    return grpc_request(INFER, infer_message(model, x))


def _raw(model: str, x: NDArray[np.float32]) -> Request:
    return Request("/inference", x.tobytes(), (("content-type", "application/octet-stream"),), False)


def _multipart(model: str, x: NDArray[np.float32]) -> Request:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n'.encode()
    body = head + x.tobytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Request("/predict", body, (("content-type", f"multipart/form-data; boundary={BOUNDARY}"),), False)


def _json(model: str, x: NDArray[np.float32]) -> Request:
    return Request("/score", json.dumps({"x": x.tolist()}).encode(), (("content-type", "application/json"),), False)


def _from_grpc(answer: bytes) -> NDArray[np.float32]:
    return logits_of(answer).ravel()


def _from_raw(answer: bytes) -> NDArray[np.float32]:
    return np.frombuffer(answer, np.float32)


def _from_json(answer: bytes) -> NDArray[np.float32]:
    found = json.loads(answer)
    return np.array(found["logits"] if isinstance(found, dict) else found, np.float32).ravel()


PEERS = (
    Peer("mosec", False, _raw, _from_raw, 1.05),
    Peer("kserve", True, _over_grpc, _from_grpc, 1.15),
    Peer("pytriton", True, _over_grpc, _from_grpc, 1.3),
    Peer("mlserver", True, _over_grpc, _from_grpc, 1.9),
    Peer("litserve", False, _multipart, _from_json, 2.0),
    Peer("bentoml", False, _json, _from_json, 2.0),
)


def environment(peer: Peer, folder: Path) -> Path:
    """The peer's Python, in a virtual environment in `folder` made now where there is none; RuntimeError where pip cannot."""
    python = folder / peer.name / "bin" / "python"
    done = folder / peer.name / ".requirements"
    wanted = FOLDER / peer.name / "requirements.txt"
    if python.exists() and done.exists() and done.read_text() == wanted.read_text():
        return python
    folder.mkdir(parents=True, exist_ok=True)
    print(f"note | installing {peer.name} into {python.parents[1].name}/ of the peers' folder", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", folder / peer.name],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted],
    ):
        ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"cannot be installed: {ran.stderr.strip()[-500:]}")
    patch = FOLDER / peer.name / "patch.py"
    if patch.exists():
        subprocess.run([python, patch], check=True)
    done.write_text(wanted.read_text())
    return python


@contextmanager
def serving_peer(
    peer: Peer, folder: Path, scratch: Path, model: Path, name: str, x: NDArray[np.float32]
) -> Iterator[tuple[Server, Request]]:
    """A ready peer that serves the graph `model` as `name`, and the request for `x` with the length of its answer.

    Raises:
        RuntimeError: it cannot be installed, does not start, or its answer is not that of `want`.
    """
    python = environment(peer, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    request = peer.request(name, x)

    def once() -> bytes:
        target = f"127.0.0.1:{port}"
        caller = Caller(target) if peer.grpc else HttpCaller(target, request)
        try:
            return caller.infer(_message(request))
        finally:
            caller.close()

    command = [str(python), str(FOLDER / peer.name / "serve.py"), str(model), name, str(port)]
    work = scratch / peer.name
    work.mkdir(exist_ok=True)
    with peer_serve(command, port, work / f"{name}.log", once) as server:
        answer = once()
        length = len(framed(answer)) if peer.grpc else len(answer)
        yield server, Request(request.path, request.body, request.headers, request.grpc, length)


def _message(request: Request) -> bytes:
    return request.body[5:] if request.grpc else request.body
