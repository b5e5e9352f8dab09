"""What tracing costs: `make bench-tracing`.

`cutpoint serve` on mlp512, requests of one row: without tracing, with one request in a hundred traced, and with all of them
traced. The same load on each in turns, beside a collector that takes the spans. What is compared is the processor time that a
server's threads take for a request, sending spans included, which others on the machine disturb less than they do a rate.
"""

import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from claims import Claim, report
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from serving_load import INFER, Caller, grpc_request, infer_message, load
from serving_models import mlp512, rows
from serving_process import Server, cutpoint_serve

CALLERS, ROUNDS, REQUESTS = 8, 9, 12_000
RATIOS = {"0": 1.05, "0.01": 1.05, "1": 4.0}  # and what is claimed of each


class Collector(grpc.GenericRpcHandler):
    """Counts the requests among the spans that it is sent."""

    def __init__(self) -> None:
        """Listen on a free port."""
        self.requests = 0
        self._lock = threading.Lock()
        self.server = grpc.server(ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details: Any) -> Any:
        """The one RPC that there is."""
        return grpc.unary_unary_rpc_method_handler(self._export, collector.ExportTraceServiceRequest.FromString)

    def _export(self, message: Any, context: Any) -> bytes:
        spans = (span for each in message.resource_spans for scope in each.scope_spans for span in scope.spans)
        with self._lock:
            self.requests += sum(span.name.endswith("/ModelInfer") for span in spans)
        return collector.ExportTraceServiceResponse().SerializeToString()


def _used_s(server: Server) -> float:
    """Processor time of a server so far, in seconds, to the hundredth."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the claims."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = Path(folder) / "models"
        models.mkdir()
        mlp512(models)
        collectors = {ratio: Collector() for ratio in RATIOS}
        options = {"off": ()} | {
            ratio: ("--trace-endpoint", f"127.0.0.1:{each.port}", "--trace-ratio", ratio) for ratio, each in collectors.items()
        }
        message = infer_message("mlp512", rows("mlp512", 1), ("decisions",))
        sides = {}
        with ExitStack() as servers:
            for name, given in options.items():
                server = servers.enter_context(cutpoint_serve(models, *given))
                caller = Caller(server.target)
                sides[name] = (server, grpc_request(INFER, message, answer_bytes=len(caller.infer(message)) + 5))
                caller.close()
            took_us: dict[str, list[float]] = {name: [] for name in sides}
            for turn in range(ROUNDS + 1):
                for name in sides if turn % 2 else reversed(sides):
                    server, request = sides[name]
                    before_s = _used_s(server)
                    load(server.target, request, CALLERS, REQUESTS)
                    if turn:  # the first one does not count
                        took_us[name].append(1e6 * (_used_s(server) - before_s) / REQUESTS)
        sent = (ROUNDS + 1) * REQUESTS
        for each in collectors.values():
            stack.callback(each.server.stop, 0)
        claims = []
        for ratio, target in RATIOS.items():
            found = median(a / b for a, b in zip(took_us[ratio], took_us["off"], strict=True))
            base = median(took_us["off"])
            name = f"a request with a share of {ratio} traced, beside without tracing (median of {ROUNDS} pairs)"
            claims.append(Claim(name, found * base, base, target, "us", least=False))
        few = collectors["0.01"].requests
        claims.append(Claim("traced requests that came to the collector, of a hundredth", few, sent / 100, 0.85, ""))
    report(claims)


if __name__ == "__main__":
    main()
