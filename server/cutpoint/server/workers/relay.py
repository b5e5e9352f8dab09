"""What concerns every worker, whichever of them was called: done by all, or asked of all and added up."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import grpc
from cutpoint.oip import inference_pb2 as oip

from ..port.rpc import Rpc, read, safely
from ..port.transport import Call
from ..protocol.inference import SERVICE
from .place import Place

_TIMEOUT_S = 600.0


def _first(answers: Sequence[bytes]) -> bytes:
    return answers[0]


def _added_statistics(answers: Sequence[bytes]) -> bytes:
    """The statistics of all workers as those of one server."""
    models: dict[tuple[str, str], Any] = {}
    for answer in answers:
        for found in oip.ModelStatisticsResponse.FromString(answer).model_stats:
            total = models.setdefault((found.name, found.version), oip.ModelStatistics(name=found.name, version=found.version))
            _add(total, found)
    return oip.ModelStatisticsResponse(model_stats=models.values()).SerializeToString()


def _add(total: Any, found: Any) -> None:
    total.last_inference = max(total.last_inference, found.last_inference)
    total.inference_count += found.inference_count
    total.execution_count += found.execution_count
    _add_durations(total.inference_stats, found.inference_stats)
    batches = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in found.batch_stats:
        into = batches.get(batch.batch_size)
        if into is None:
            into = total.batch_stats.add(batch_size=batch.batch_size)
        _add_durations(into, batch)
    for name, response in found.response_stats.items():
        _add_durations(total.response_stats[name], response)


def _add_durations(total: Any, found: Any) -> None:
    """Add every StatisticDuration that is a field of both."""
    for field, value in found.ListFields():
        if field.message_type is not None and field.message_type.name == "StatisticDuration":
            into = getattr(total, field.name)
            into.count += value.count
            into.ns += value.ns


# What the answers of all workers become: one of them, where all of them did the same, or their sum.
JOINED: Mapping[str, Callable[[Sequence[bytes]], bytes]] = {
    f"/{SERVICE}/RepositoryModelLoad": _first,
    f"/{SERVICE}/RepositoryModelUnload": _first,
    f"/{SERVICE}/SystemSharedMemoryRegister": _first,
    f"/{SERVICE}/SystemSharedMemoryUnregister": _first,
    f"/{SERVICE}/ModelStatistics": _added_statistics,
}


class Relay:
    """Passes calls on to every worker, one after the other."""

    def __init__(self, place: Place) -> None:
        """Nothing is connected before it is needed."""
        self._channels = [grpc.insecure_channel(f"unix:{path}") for path in place.sockets]

    def close(self) -> None:
        """Drop the connections."""
        for channel in self._channels:
            channel.close()

    def rpcs(self, rpcs: Mapping[str, Rpc], pool: Executor) -> dict[str, Rpc]:
        """The same RPCs; those that concern all workers go to all of them when they come from outside."""
        return {method: self._joined(rpc, pool) if method in JOINED else rpc for method, rpc in rpcs.items()}

    def _joined(self, rpc: Rpc, pool: Executor) -> Rpc:
        def handle(call: Call) -> None:
            if is_sibling(call):
                rpc.handle(call)
            else:
                read(call, lambda data: pool.submit(safely, call, lambda: self._pass_on(call, data)))

        return Rpc(rpc.method, rpc.kind, handle)

    def _pass_on(self, call: Call, data: bytes) -> None:
        answers: list[bytes] = []
        for channel in self._channels:
            try:
                ask: Any = channel.unary_unary(call.method)
                answers.append(ask(data, timeout=_TIMEOUT_S))
            except grpc.RpcError as found:  # said by one of them, and meant for the caller
                error: Any = found
                trailing = tuple((str(key), str(value)) for key, value in error.trailing_metadata() or ())
                call.finish(code=error.code(), details=error.details() or "", trailing=trailing)
                return
        call.finish(JOINED[call.method](answers))


def is_sibling(call: Call) -> bool:
    """Whether a call came by the Unix socket, which only the workers and whoever runs them can reach."""
    return call.peer.startswith("unix:")
