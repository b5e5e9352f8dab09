"""Servers as processes: started by a command, ready when they say so, their memory read from /proc, always stopped."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
from cutpoint.oip import inference_pb2 as oip
from serving_load import family

COMMAND = Path(sys.executable).parent / "cutpoint"
START_S = 60.0


@dataclass
class Server:
    """A server that is ready.

    Attributes:
        target: "host:port" that the load goes to.
        ready_s: from its command to ready.
        metrics_url: where it has one.
    """

    target: str
    process: subprocess.Popen[str]
    ready_s: float
    log: Path
    metrics_url: str = ""

    def peak_mb(self) -> dict[int, float]:
        """Peak resident MB (1e6 bytes) of each of its processes."""
        return {pid: 1.024e-3 * _status(pid, "VmHWM") for pid in family(self.process.pid)}

    def shared_mb(self) -> float:
        """Proportional resident MB of all its processes now: what they share is counted once."""
        return sum(1.024e-3 * _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in family(self.process.pid))

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        with urlopen(self.metrics_url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}

    def failures(self) -> float:
        """Calls that ended with another code than OK, by its own counters."""
        handled = {k: v for k, v in self.metrics().items() if k.startswith("grpc_server_handled_total")}
        return sum(v for k, v in handled.items() if 'grpc_code="OK"' not in k)


@contextmanager
def cutpoint_serve(models: Path, *arguments: object, command: Path = COMMAND) -> Iterator[Server]:
    """`cutpoint serve` on free ports with a state folder of its own; SIGTERM at the end, where it must exit with 0."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        start = [command, "serve", "--models", models, "--state", Path(scratch) / "state", "--port", 0, "--metrics-port", 0]
        with log.open("w") as errors:
            begun = time.monotonic()
            process = subprocess.Popen(
                list(map(str, [*start, *arguments])), stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"serving grpc=(\S+) metrics=(\S+)", line)
            if not found:
                raise RuntimeError(f"cutpoint serve said {line!r}; its log: {log.read_text()[-1000:]}")
            with grpc.insecure_channel(found[1]) as channel:
                ask: Any = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
                answer = oip.ServerReadyResponse.FromString(ask(b"", timeout=START_S))
            if not answer.ready:
                raise RuntimeError("cutpoint serve printed its address and is not ready")
            yield Server(found[1], process, time.monotonic() - begun, log, found[2])
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            if code:
                raise RuntimeError(f"cutpoint serve exited with {code} after SIGTERM; its log: {log.read_text()[-1000:]}")
        finally:
            _stop(process)


@contextmanager
def peer_serve(command: list[str], port: int, log: Path, answers: Callable[[], object]) -> Iterator[Server]:
    """A peer's process on `port`, ready when `answers` no longer raises.

    Raises:
        RuntimeError: it ended, or did not answer in time; with the end of its log.
    """
    with log.open("w") as errors:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdout=errors, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=log.parent
        )
    try:
        last: Exception | None = None
        while True:
            if process.poll() is not None or time.monotonic() > begun + START_S:
                raise RuntimeError(f"it did not get ready ({last}): {log.read_text()[-1500:]}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                answers()
                break
            except (OSError, grpc.RpcError, http.client.HTTPException) as error:
                last = error
                time.sleep(0.05)
        yield Server(f"127.0.0.1:{port}", process, time.monotonic() - begun, log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask, then insist: its whole session, of which nothing else is a member."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _status(pid: int, name: str) -> int:
    return _kib(Path(f"/proc/{pid}/status"), name)


def _kib(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
