"""The server as a whole: loaded, listening, stopped."""

import contextlib
import ctypes
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from cutpoint.errors import BadConfig
from prometheus_client import start_http_server

from . import calibration, health, inference
from .admission import Admission
from .calibration import CalibrationService
from .config import ServerConfig
from .health import Readiness
from .inference import Inference
from .metrics import Metrics
from .models import Models
from .oip import InferenceService
from .policies import PolicyStore
from .reflection import reflection_rpc
from .rpc import Rpc, handlers
from .transport import Transport

log = logging.getLogger("cutpoint.server")

# Calls that may wait for a disk or for the next message of a stream, each in a thread of its own.
_POOL_THREADS = 64


@dataclass(frozen=True)
class Listening:
    """Where a running server listens; the ports are the real ones when 0 was asked for."""

    host: str
    port: int
    metrics_port: int

    @property
    def grpc_target(self) -> str:
        """What a client connects to."""
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """What Prometheus scrapes."""
        return f"http://{_bracketed(self.host)}:{self.metrics_port}/metrics"


@contextmanager
def running(config: ServerConfig) -> Iterator[Listening]:
    """A server, from loaded and listening to drained and closed.

    On leaving, readiness goes off first, then what was accepted is finished within `config.grace_s`.

    Raises:
        BadConfig: a port is in use, the state folder is not writable, a provider is missing.
        BadBundle: a model cannot be served.
    """
    _keep_large_buffers()
    metrics = Metrics()
    with contextlib.ExitStack() as stack:
        store = PolicyStore(config.state_folder)
        stack.callback(store.close)
        models = Models(config, store, metrics)
        stack.callback(models.close)
        models.load_all(time.time())
        pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="call")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        services = (inference.SERVICE, calibration.SERVICE)
        readiness = Readiness(services)
        rpcs = _rpcs(config, models, store, metrics, readiness, pool)
        transport = Transport(handlers(rpcs, metrics, lambda call: None), _options(config))
        port = transport.listen(f"{_bracketed(config.host)}:{config.port}")
        if not port:
            raise _port_in_use("port", config.host, config.port)
        metrics_port = _metrics_server(config, metrics, stack)
        transport.start()
        stack.callback(transport.stop, config.grace_s)
        readiness.set(True)
        stack.callback(readiness.set, False)
        yield Listening(config.host, port, metrics_port)


def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the addresses once it is ready."""
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    with running(config) as at:
        print(f"serving grpc={at.grpc_target} metrics={at.metrics_url}", flush=True)
        stop.wait()
        log.info("stopping: finishing what was accepted, up to %g s", config.grace_s)


def _rpcs(
    config: ServerConfig,
    models: Models,
    store: PolicyStore,
    metrics: Metrics,
    readiness: Readiness,
    pool: ThreadPoolExecutor,
) -> dict[str, Rpc]:
    """All that is served, by method."""
    largest = config.max_message_mib << 20
    admission = Admission(config.max_requests, config.max_inflight_mib << 20, largest)
    found = [
        *readiness.rpcs(),
        *InferenceService(models, readiness, config.name).rpcs(),
        *Inference(models, admission).rpcs(),
        *CalibrationService(models, store, metrics, config.max_calibration_mib).rpcs(pool),
    ]
    if config.reflection:
        found.append(reflection_rpc((inference.SERVICE, calibration.SERVICE, health.SERVICE)))
    return {rpc.method: rpc for rpc in found}


def _options(config: ServerConfig) -> tuple[tuple[str, object], ...]:
    limit = config.max_message_mib << 20
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        # Two servers on one port would share its requests without a word.
        ("grpc.so_reuseport", 0),
    )


def _metrics_server(config: ServerConfig, metrics: Metrics, stack: contextlib.ExitStack) -> int:
    try:
        http, thread = start_http_server(config.metrics_port, config.host, metrics.registry)
    except OSError as error:
        raise _port_in_use("metrics_port", config.host, config.metrics_port) from error
    stack.callback(thread.join)
    stack.callback(http.server_close)
    stack.callback(http.shutdown)
    return int(http.server_port)


def _bracketed(host: str) -> str:
    """An IPv6 address as it is written before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _port_in_use(name: str, host: str, port: int) -> BadConfig:
    return BadConfig.of(name, f"{host}:{port}, which cannot be bound (in use?)", "a free port, or 0 to take any")


def _keep_large_buffers() -> None:
    """Let glibc keep freed blocks: a 560 KB request otherwise pays page faults at every copy, half the throughput."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            for parameter, value in ((-3, 1 << 28), (-1, 1 << 30), (-2, 1 << 26)):  # M_MMAP_THRESHOLD, M_TRIM_, M_TOP_PAD
                libc.mallopt(parameter, value)
