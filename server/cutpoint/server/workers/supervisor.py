"""The process that starts the workers, serves their metrics as one, and stops them together."""

import json
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cutpoint.errors import BadConfig, CutpointError, Unavailable
from prometheus_client import CollectorRegistry

from ..app import Listening, metrics_server, port_in_use
from ..config import ServerConfig
from ..monitoring.crossing import EVERY_S, Crossings, counted_in
from ..monitoring.page import Page
from ..policy.policies import own_folder
from ..serving.polling import Polling
from .merged import Merged
from .place import Place

log = logging.getLogger("cutpoint.server")


def serve_by_workers(config: ServerConfig) -> None:
    """Serve by `config.workers` processes until SIGTERM or SIGINT.

    A worker that dies takes the others with it: what restarts servers then finds them all as they are at a start, rather than
    one of them without what was loaded into it.

    Raises:
        BadConfig: the port cannot be shared, a setting is wrong.
        Unavailable: a worker has died.
    """
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    with _running(config, stop) as (at, workers):
        print(f"serving grpc={at.grpc_target} metrics={at.metrics_url}", flush=True)
        stop.wait()
        died = [worker for worker in workers if worker.poll() is not None]
        log.info("stopping: finishing what was accepted, up to %g s", config.grace_s)
    if died:
        raise Unavailable(f"a worker has ended with exit code {died[0].returncode}; its log is above")


@contextmanager
def _running(config: ServerConfig, stop: threading.Event) -> Iterator[tuple[Listening, list[subprocess.Popen[str]]]]:
    with ExitStack() as stack:
        stack.enter_context(own_folder(config.state_folder))
        port = stack.enter_context(_held_port(config))
        # Under /tmp, since the path of a Unix socket may have 107 characters at most; nobody else may look into it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutpoint-", dir="/tmp")))
        sockets = tuple(str(folder / f"worker-{i}.sock") for i in range(config.workers))
        each = config.model_copy(
            update={
                "lanes": max(1, config.lane_count // config.workers), "metrics_host": "127.0.0.1", "metrics_port": 0,
                "port": port, "workers": 1, "state": config.state_folder,
            }
        )  # fmt: skip
        workers: list[subprocess.Popen[str]] = []
        stack.callback(_stop, workers, config.grace_s)
        for number in range(config.workers):
            workers.append(_start(each, Place(number=number, port=port, sockets=sockets)))
        urls = [_ready(worker) for worker in workers]
        registry, merged = CollectorRegistry(), Merged(urls)
        registry.register(merged)
        page = Page(registry, CollectorRegistry(), [merged])
        crossings = Crossings(lambda: counted_in(merged.collect()), time.monotonic)
        stack.callback(Polling(crossings.look, EVERY_S, "the workers' counters").close, config.grace_s)
        host = config.metrics_host or config.host
        metrics_port = metrics_server(host, config.metrics_port, page, stack)
        for worker in workers:
            threading.Thread(target=_tell_of_end, args=(worker, stop), daemon=True).start()
        yield Listening(config.host, port, host, metrics_port), workers


@contextmanager
def _held_port(config: ServerConfig) -> Iterator[int]:
    """The port, bound so that a free one stays ours, and not listened on, so that no connection comes here."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    if not hasattr(socket, "SO_REUSEPORT"):
        raise BadConfig.of("workers", config.workers, "1 on this system, which cannot share a port among processes")
    with socket.socket(family, socket.SOCK_STREAM) as alone, socket.socket(family, socket.SOCK_STREAM) as held:
        try:
            if config.port:
                alone.bind((config.host, config.port))  # without sharing: is somebody else there?
            alone.close()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((config.host, config.port))
        except OSError as error:
            raise port_in_use("port", config.host, config.port) from error
        yield int(held.getsockname()[1])


def _start(config: ServerConfig, place: Place) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "cutpoint.server.workers.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"config": config.model_dump(mode="json"), "place": place.model_dump(mode="json")}) + "\n")
    worker.stdin.flush()
    return worker


def _ready(worker: subprocess.Popen[str]) -> str:
    """The URL of a worker's metrics, waited for."""
    assert worker.stdout is not None
    line = worker.stdout.readline().strip()
    if line.startswith("http"):
        return line
    worker.wait()
    raise CutpointError(
        line.removeprefix("error: ") or f"a worker ended with exit code {worker.returncode} before it was ready"
    )


def _tell_of_end(worker: subprocess.Popen[str], stop: threading.Event) -> None:
    worker.wait()
    stop.set()


def _stop(workers: list[subprocess.Popen[str]], grace_s: float) -> None:
    for worker in workers:
        assert worker.stdin is not None
        try:
            worker.stdin.close()
        except OSError:  # it has died
            log.warning("worker %d was gone already", worker.pid)
    for worker in workers:
        try:
            worker.wait(grace_s + 5)
        except subprocess.TimeoutExpired:
            log.error("worker %d did not end within the grace; it is killed", worker.pid)
            worker.kill()
            worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
