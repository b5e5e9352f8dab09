"""The server as a whole: loaded, listening, stopped."""

import contextlib
import ctypes
import importlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from cutpoint.errors import BadConfig, CutpointError, MissingPart

from .config import ServerConfig
from .monitoring.crossing import EVERY_S, Crossings, counted
from .monitoring.metrics import Metrics
from .monitoring.page import Page, PageServer
from .outcomes import service as outcomes
from .outcomes.keeping import Keeping, keeping
from .outcomes.service import OutcomeService
from .policy import calibration
from .policy.calibration import CalibrationService
from .policy.policies import PolicyStore
from .port import health
from .port.admission import Admission
from .port.health import Readiness
from .port.idle import Idle
from .port.limits import channel_options
from .port.reflection import reflection_rpc
from .port.rpc import Rpc, fail, handlers
from .port.transport import Call, Transport
from .protocol import inference, repository
from .protocol.inference import Inference
from .protocol.oip import InferenceService
from .protocol.repository import RepositoryService
from .protocol.shared_memory import SharedMemory
from .runs.lanes import Lanes
from .security.certificates import Certificates
from .security.guard import Guard, warn_of_open_doors
from .serving.catalogue import Catalogue, require_models
from .serving.models import Models
from .serving.polling import Polling
from .signals import service as signals
from .signals.service import SignalService
from .workers.place import Place
from .workers.relay import Relay, is_sibling

if TYPE_CHECKING:
    from .tracing.tracing import Tracing

log = logging.getLogger("cutpoint.server")

# Calls that may wait for a disk or for the next message of a stream, each in a thread of its own.
_POOL_THREADS = 64
# How long what still runs after the grace may take: a process that ends while a thread is in onnxruntime may be aborted.
_LAST_RUNS_S = 5.0
# How long a thread that computes in Python keeps the others waiting, in seconds: by default ten times as long, and the serving
# thread is one of them.
_SWITCH_S = 0.0005
# From ready on: whoever waited for it asks at once.
_SETTLED_S = 1.0


@dataclass(frozen=True)
class Listening:
    """Where a running server listens; the ports are the real ones when 0 was asked for."""

    host: str
    port: int
    metrics_host: str
    metrics_port: int

    @property
    def grpc_target(self) -> str:
        """What a client connects to."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """What Prometheus scrapes."""
        return f"http://{bracketed(self.metrics_host)}:{self.metrics_port}/metrics"


@contextmanager
def running(config: ServerConfig, place: Place | None = None, tracing: "Tracing | None" = None) -> Iterator[Listening]:
    """A server, from loaded and listening to drained and closed; one of several workers, where it has a `place` among them.

    Spans go to `tracing`, where that is given, else where `config` says.

    On leaving, readiness goes off first, then what was accepted is finished within `config.grace_s`.

    Raises:
        BadConfig: a port is in use, the state folder is not writable, a provider is missing.
        BadBundle: a model cannot be served.
    """
    _keep_large_buffers()
    guard = Guard(config.tokens, client_ca=config.tls_client_ca is not None)
    credentials = _credentials(config)
    metrics = Metrics(most_labels=config.max_metric_labels, accounts=config.accounting)
    if not config.accounting:
        log.warning("decisions are not counted and stages not timed: --no-accounting")
    with contextlib.ExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH_S)
        require_models(config)
        store = PolicyStore(config.state_folder, shared=place is not None)
        stack.callback(store.close)
        lanes = Lanes(config.lane_count, time.perf_counter)
        stack.callback(lanes.close, _LAST_RUNS_S)
        models = Models(metrics, lanes.count)
        if store.generation is not None:
            models.watch(store, store.generation)
        catalogue = Catalogue(config, store, metrics, models, lanes)
        catalogue.start()
        if config.model_control == "poll":
            # A process that ends while a thread is in onnxruntime is aborted.
            stack.callback(Polling(catalogue.look, config.poll_s).close, config.grace_s)
        stack.callback(catalogue.close)
        pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="call")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        if place is None:  # of several workers the supervisor looks at the sum
            crossings = Crossings(lambda: counted(model.counters for model in models.all()), time.monotonic)
            stack.callback(Polling(crossings.look, EVERY_S, "the counters").close, config.grace_s)
        services = (inference.SERVICE, calibration.SERVICE, signals.SERVICE, outcomes.SERVICE)
        readiness = Readiness(services)
        idle = Idle()
        kept = stack.enter_context(keeping(config, models, store, metrics.outcomes, several=place is not None))
        tracing = tracing or _tracing(config)
        rpcs = _rpcs(config, models, catalogue, store, metrics, readiness, pool, idle, kept, tracing)
        if tracing is not None:
            stack.callback(tracing.close)
            rpcs = tracing.rpcs(rpcs)
        check = _check(guard, trusted=place is not None)
        if place is not None:
            relay = Relay(place)
            stack.callback(relay.close)
            rpcs = relay.rpcs(rpcs, pool)
        options = channel_options(config.max_message_mib, reuse_port=place is not None)
        transport = Transport(handlers(rpcs, metrics, check if guard.checks else None), options, idle)
        guard.changed = lambda: _end_calls(transport, check)
        warn_of_open_doors(
            config.host,
            tokens=config.tokens is not None,
            tls=config.tls_cert is not None,
            client_ca=config.tls_client_ca is not None,
        )
        port = transport.listen(f"{bracketed(config.host)}:{config.port}", credentials)
        if not port:
            raise port_in_use("port", config.host, config.port)
        if place is not None and not transport.listen(place.address):
            raise BadConfig.of("workers' socket", place.address, "a path that can be bound")
        metrics_host = config.metrics_host or config.host
        metrics_port = metrics_server(metrics_host, config.metrics_port, metrics.page, stack)
        transport.start()
        stack.callback(transport.stop, config.grace_s)
        readiness.set(True)
        stack.callback(readiness.set, False)
        yield Listening(config.host, port, metrics_host, metrics_port)


def serve(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT; prints one line with the addresses once it is ready."""
    if config.workers > 1:
        from .workers.supervisor import serve_by_workers

        serve_by_workers(config)
        return
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    with running(config) as at:
        print(f"serving grpc={at.grpc_target} metrics={at.metrics_url}", flush=True)
        wait_for(stop)
        log.info("stopping: finishing what was accepted, up to %g s", config.grace_s)


def wait_for(stop: threading.Event) -> None:
    """Wait until `stop` is set, and import meanwhile what the first calibration, or summary of outcomes, would wait for.

    Nothing of it is needed to be ready, and it takes a tenth of a second and more.
    """
    if not stop.wait(_SETTLED_S):
        with contextlib.suppress(ImportError):  # whoever needs it is told
            importlib.import_module("scipy.special")
        stop.wait()


def _rpcs(
    config: ServerConfig,
    models: Models,
    catalogue: Catalogue,
    store: PolicyStore,
    metrics: Metrics,
    readiness: Readiness,
    pool: ThreadPoolExecutor,
    idle: Idle,
    kept: Keeping,
    tracing: "Tracing | None",
) -> dict[str, Rpc]:
    """All that is served, by method."""
    largest = config.max_message_mib << 20
    admission = Admission(config.max_requests, config.max_inflight_mib << 20, largest)
    memory = SharedMemory(max_read_bytes=largest) if config.shares_memory else None
    found = [
        *readiness.rpcs(),
        *InferenceService(models, readiness, config.name, memory, repository.EXTENSIONS).rpcs(),
        *Inference(models, admission, memory, idle, kept.keep, tracing).rpcs(),
        *RepositoryService(catalogue, config.model_control).rpcs(pool),
        *CalibrationService(models, store, metrics, config.max_calibration_mib, kept.store).rpcs(pool),
        *OutcomeService(models, kept.store, kept.reports, metrics.outcomes).rpcs(pool, admission),
        *SignalService(models, admission, pool, largest).rpcs(),
    ]
    if config.reflects:
        listed = (inference.SERVICE, calibration.SERVICE, signals.SERVICE, outcomes.SERVICE, health.SERVICE)
        found.append(reflection_rpc(listed))
    return {rpc.method: rpc for rpc in found}


def _tracing(config: ServerConfig) -> "Tracing | None":
    """What makes spans; None where nobody wants any, and then nothing of it is imported."""
    if config.trace_endpoint is None:
        return None
    try:
        from .tracing.tracing import tracing_to
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise MissingPart(f"--trace-endpoint needs the package {error.name}: pip install 'cutpoint[tracing]'") from error
    return tracing_to(config.trace_endpoint, 0.01 if config.trace_ratio is None else config.trace_ratio, config.name)


def _check(guard: Guard, trusted: bool) -> Callable[[Call], None]:
    """What refuses a call that its caller may not make, and says who calls; `trusted`: other workers may make any."""

    def check(call: Call) -> None:
        if trusted and is_sibling(call):
            return
        call.caller = guard.authorize(call.method, call.metadata, call.identities).name

    return check


def _end_calls(transport: Transport, check: Callable[[Call], None]) -> None:
    """End the calls whose callers may no longer make them: streams can last for days."""
    for call in transport.calls():
        try:
            check(call)
        except CutpointError as error:
            fail(call, error)


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca).credentials()


def metrics_server(host: str, port: int, page: Page, stack: contextlib.ExitStack) -> int:
    """Answer /metrics until `stack` is left; the port, the real one where 0 was asked for. BadConfig where it is in use."""
    try:
        server = PageServer(page, host, port)
    except OSError as error:
        raise port_in_use("metrics_port", host, port) from error
    stack.callback(server.close)
    return server.port


def bracketed(host: str) -> str:
    """An IPv6 address as it is written before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def port_in_use(name: str, host: str, port: int) -> BadConfig:
    """What to say of an address that cannot be bound."""
    return BadConfig.of(name, f"{host}:{port}, which cannot be bound (in use?)", "a free port, or 0 to take any")


def _keep_large_buffers() -> None:
    """Let glibc keep freed blocks: a 560 KB request otherwise pays page faults at every copy, half the throughput."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD; M_ARENA_MAX, since each arena keeps what it once had.
            for parameter, value in ((-3, 1 << 28), (-1, 1 << 30), (-2, 1 << 26), (-8, 2)):
                libc.mallopt(parameter, value)
