"""gRPC reflection: grpcurl and the like may list the services and their messages."""

from collections.abc import Sequence

from cutpoint.oip import inference_pb2
from cutpoint.v1 import calibration_pb2, outcome_pb2, signal_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from .rpc import Rpc, parsed, safely
from .transport import Call

SERVICE = reflection.SERVICE_NAME


def reflection_rpc(services: Sequence[str]) -> Rpc:
    """The one RPC of the reflection service, naming `services`."""
    servicer = reflection.ReflectionServicer((*services, SERVICE), _all_descriptors())

    def handle(call: Call) -> None:
        def received(data: bytes | None) -> None:
            if data is None:
                call.finish()
                return
            (answer,) = servicer.ServerReflectionInfo(iter((parsed(reflection_pb2.ServerReflectionRequest, data),)), None)
            call.send(answer.SerializeToString(), lambda ok: call.read(safe) if ok else None)

        def safe(data: bytes | None) -> None:
            safely(call, lambda: received(data))

        call.on_stop = call.finish
        call.read(safe)

    return Rpc(f"/{SERVICE}/ServerReflectionInfo", "bidi_stream", handle)


def _all_descriptors() -> descriptor_pool.DescriptorPool:
    """One pool of everything served: the protocol's own messages are in a pool apart."""
    pool = descriptor_pool.DescriptorPool()
    for file in (inference_pb2, calibration_pb2, outcome_pb2, signal_pb2, health_pb2, reflection_pb2):
        proto = descriptor_pb2.FileDescriptorProto()
        file.DESCRIPTOR.CopyToProto(proto)
        pool.Add(proto)
    return pool
