"""Load on a server's port: h2load for rates, a client on gRPC's C core and http.client for the latency of one caller.

h2load counts an answer as good by its HTTP status, which a gRPC error has too. So the bytes of all answers are compared with
what one good answer has: `load` raises where a byte is missing.
"""

import contextlib
import http.client
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cutpoint.oip import inference_pb2 as oip
from numpy.typing import NDArray

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIMITS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
TIMEOUT_S = 120


@dataclass(frozen=True)
class Request:
    """One request as bytes on the wire, and what must come back.

    Attributes:
        path: of the URL.
        body: with gRPC's 5 byte prefix, where it is gRPC.
        headers: sent with it.
        grpc: HTTP/2 and gRPC; else HTTP/1.1.
        answer_bytes: of the body of a good answer, gRPC's prefix included.
        items: what one request counts for: 1, or the messages of a stream.
    """

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    grpc: bool
    answer_bytes: int = 0
    items: int = 1


@dataclass(frozen=True)
class Load:
    """What a load saw: items a second, latencies of requests in ms, and cores that neither server nor client used."""

    rate: float
    p50_ms: float
    p99_ms: float
    outside_cores: float = 0.0


def infer_message(model: str, x: NDArray[np.float32], outputs: Sequence[str] = ("logits",), version: str = "") -> bytes:
    """A ModelInferRequest for `x`, [row, ...], raw; all outputs where `outputs` is empty."""
    request = oip.ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(np.ascontiguousarray(x, "<f4").tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


def framed(message: bytes) -> bytes:
    """A message with gRPC's prefix: not compressed, length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def grpc_request(path: str, *messages: bytes, answer_bytes: int = 0) -> Request:
    """A gRPC request with these messages: one for a unary call, several for a stream."""
    headers = (("content-type", "application/grpc"), ("te", "trailers"))
    return Request(path, b"".join(map(framed, messages)), headers, True, answer_bytes, len(messages))


def logits_of(answer: bytes) -> NDArray[np.float32]:
    """The `logits` in the bytes of a ModelInferResponse."""
    response = oip.ModelInferResponse.FromString(answer)
    i = [output.name for output in response.outputs].index("logits")
    return np.frombuffer(response.raw_output_contents[i], "<f4").reshape(tuple(response.outputs[i].shape))


class Caller:
    """One caller on gRPC's C core with a connection of its own, bytes in and out."""

    def __init__(self, target: str) -> None:
        """Connect lazily to `target`, "host:port"."""
        # Channels with the same options would share one connection, and one worker of several.
        self._channel = grpc.insecure_channel(target, (*LIMITS, ("grpc.use_local_subchannel_pool", 1)))
        self._infer: Any = self._channel.unary_unary(INFER)
        self._stream: Any = self._channel.stream_stream(STREAM)

    def infer(self, message: bytes) -> bytes:
        """The bytes of the answer."""
        return bytes(self._infer(message, timeout=TIMEOUT_S))

    def stream(self, messages: Sequence[bytes]) -> list[bytes]:
        """The bytes of every answer."""
        return [bytes(answer) for answer in self._stream(iter(messages), timeout=TIMEOUT_S)]

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class HttpCaller:
    """One caller on one HTTP/1.1 connection that is kept."""

    def __init__(self, target: str, request: Request) -> None:
        """Connect lazily to `target`; `request` gives path and headers."""
        self._connection = http.client.HTTPConnection(target, timeout=TIMEOUT_S)
        self._path, self._headers = request.path, dict(request.headers)

    def infer(self, body: bytes) -> bytes:
        """The body of the answer; OSError where it is not 200."""
        self._connection.request("POST", self._path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status}: {content[:200]!r}")
        return content

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def latencies_ms(call: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of `count` calls, one after the other."""
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - begun))
    return found


def require_h2load() -> str:
    """The path of h2load; exits with 2 where there is none."""
    found = shutil.which("h2load")
    if found is None:
        print("h2load is missing: on Debian and Ubuntu, apt-get install nghttp2-client")
        raise SystemExit(2)
    return found


def load(target: str, request: Request, callers: int, count: int) -> Load:
    """Send `count` requests from `callers` connections, each waiting for its answer before its next.

    The rate is that between the first start and the last end.

    Raises:
        RuntimeError: an answer was missing, no 200, or of other length than a good one.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(request.body)
        command = [require_h2load(), "-n", str(count), "-c", str(callers), "-m", "1", "-d", str(body), f"--log-file={log}"]
        command += [] if request.grpc else ["--h1"]
        for name, value in request.headers:
            command += ["-H", f"{name}: {value}"]
        ran = subprocess.run(
            [*command, f"http://{target}{request.path}"], capture_output=True, text=True, timeout=600, check=False
        )
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2) if log.exists() and log.stat().st_size else np.zeros((0, 3))
    good = re.search(r" (\d+) succeeded", ran.stdout)
    data = re.search(r"\((\d+)\) data", ran.stdout)
    if good is None or int(good[1]) != count or len(rows) != count or (rows[:, 1] != 200).any():
        raise RuntimeError(f"not every request was answered with 200: {ran.stdout[-600:]} {ran.stderr[-300:]}")
    if request.answer_bytes and (data is None or int(data[1]) != count * request.answer_bytes):
        wanted = f"{count} x {request.answer_bytes}"
        raise RuntimeError(f"answers have {data and data[1]} bytes, expected {wanted}: some were errors")
    start, took = rows[:, 0], rows[:, 2]
    seconds = float((start + took).max() - start.min()) / 1e6
    p50, p99 = np.quantile(took, (0.5, 0.99)) / 1e3
    return Load(request.items * count / seconds, float(p50), float(p99))


def takes(command: Path, option: str) -> bool:
    """Whether `cutpoint serve` has this option."""
    environment = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run([command, "serve", "--help"], capture_output=True, text=True, check=True, env=environment)
    return option in shown.stdout


class Machine:
    """How busy the machine is with others than this process and all it started, in cores."""

    def __init__(self) -> None:
        """Start counting now."""
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")
        self._at, self._busy, self._own = time.monotonic(), self._busy_s(), self._own_s()

    def outside_cores(self) -> float:
        """Cores that others used since this was made; time stolen by the host is theirs too."""
        wall = time.monotonic() - self._at
        return max(0.0, (self._busy_s() - self._busy - (self._own_s() - self._own)) / wall)

    def _busy_s(self) -> float:
        fields = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        user, nice, system, _, _, _, _, steal = fields[:8]
        return (user + nice + system + steal) * self._tick_s

    def _own_s(self) -> float:
        return sum(_ticks(pid) for pid in family(os.getpid())) * self._tick_s


def family(root: int) -> list[int]:
    """The process `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(OSError):  # it ended meanwhile
                parent = int((path / "stat").read_text().rsplit(") ", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(path.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _ticks(pid: int) -> int:
    """CPU of a process and of the children it waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))
