"""The server as a whole: loaded, listening, stopped."""

import asyncio
import contextlib
import ctypes
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from cutpoint.errors import BadConfig
from cutpoint.oip import inference_pb2
from cutpoint.v1 import calibration_pb2, calibration_pb2_grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import start_http_server

from .calibration import CalibrationService
from .config import ServerConfig
from .health import Readiness
from .interceptor import Interceptor
from .metrics import Metrics
from .models import Models
from .oip import SERVICE, InferenceService
from .policies import PolicyStore

log = logging.getLogger("cutpoint.server")

_CALIBRATION = calibration_pb2.DESCRIPTOR.services_by_name["CalibrationService"].full_name


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


@asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[Listening]:
    """A server, from loaded and listening to drained and closed.

    On leaving, readiness goes off first, then what was accepted is finished within `config.grace_s`.

    Raises:
        BadConfig: a port is in use, the state folder is not writable, a provider is missing.
        BadBundle: a model cannot be served.
    """
    _keep_large_buffers()
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        store = PolicyStore(config.state_folder)
        stack.callback(store.close)
        models = Models(config, store, metrics)
        stack.callback(models.close)
        models.load_all(time.time())
        readiness = Readiness((SERVICE, _CALIBRATION))
        interceptor = Interceptor(metrics)
        server, port = _grpc_server(config, models, store, metrics, readiness, interceptor)
        metrics_port = _metrics_server(config, metrics, stack)
        await server.start()
        stack.push_async_callback(_stop, server, interceptor, config.grace_s)
        await readiness.set(True)
        stack.push_async_callback(readiness.set, False)
        yield Listening(config.host, port, metrics_port)


async def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the addresses once it is ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    async with running(config) as at:
        print(f"serving grpc={at.grpc_target} metrics={at.metrics_url}", flush=True)
        await stop.wait()
        log.info("stopping: finishing what was accepted, up to %g s", config.grace_s)


async def _stop(server: grpc.aio.Server, interceptor: Interceptor, grace_s: float) -> None:
    """Take no more, finish what was accepted within the grace, and do not wait for watches, which have no end."""
    stopping = asyncio.create_task(server.stop(grace_s))
    await asyncio.wait((stopping, asyncio.create_task(interceptor.drained())), return_when=asyncio.FIRST_COMPLETED)
    await server.stop(0)
    await stopping


def _grpc_server(
    config: ServerConfig,
    models: Models,
    store: PolicyStore,
    metrics: Metrics,
    readiness: Readiness,
    interceptor: Interceptor,
) -> tuple[grpc.aio.Server, int]:
    limit = config.max_message_mib << 20
    server = grpc.aio.server(
        interceptors=(interceptor,),
        options=(
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            # Two servers on one port would share its requests without a word.
            ("grpc.so_reuseport", 0),
        ),
    )
    server.add_generic_rpc_handlers((InferenceService(models, readiness, config.name).handlers(),))
    calibration = CalibrationService(models, store, metrics, config.max_calibration_mib)
    calibration_pb2_grpc.add_CalibrationServiceServicer_to_server(calibration, server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    if config.reflection:
        names = (SERVICE, _CALIBRATION, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, _all_descriptors())
    try:
        port = server.add_insecure_port(f"{_bracketed(config.host)}:{config.port}")
    except RuntimeError as error:
        raise _port_in_use("port", config.host, config.port) from error
    return server, port


def _metrics_server(config: ServerConfig, metrics: Metrics, stack: contextlib.AsyncExitStack) -> int:
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


def _all_descriptors() -> descriptor_pool.DescriptorPool:
    """One pool of everything served, for reflection: the protocol's own messages are in a pool apart."""
    pool = descriptor_pool.DescriptorPool()
    for file in (inference_pb2.DESCRIPTOR, calibration_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        pool.Add(proto)
    return pool


def _keep_large_buffers() -> None:
    """Let glibc keep freed blocks: a 560 KB request otherwise pays page faults at every copy, half the throughput."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            for parameter, value in ((-3, 1 << 28), (-1, 1 << 30), (-2, 1 << 26)):  # M_MMAP_THRESHOLD, M_TRIM_, M_TOP_PAD
                libc.mallopt(parameter, value)
