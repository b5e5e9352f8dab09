"""The calls the clients make, written once: path, messages, whether it may be made twice; and the errors they come to."""

from dataclasses import dataclass
from typing import Any

import grpc
from cutpoint.errors import CutpointError, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.v1 import outcome_pb2
from cutpoint.wire import error_of

_OIP = "inference.GRPCInferenceService"
_V1 = "cutpoint.v1.CalibrationService"


@dataclass(frozen=True)
class Method:
    """One RPC.

    Attributes:
        path: as HTTP/2 sends it.
        request: class of the messages sent; None where they are bytes already.
        response: class of the messages that come back.
        arity: the channel's method that makes it callable.
        repeatable: whether it may be made twice: a second one changes nothing.
        changes: whether it changes the server's state, so that it matters which server it is.
    """

    path: str
    request: Any
    response: Any
    arity: str = "unary_unary"
    repeatable: bool = True
    changes: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[1]

    def on(self, channel: Any) -> Any:
        """The callable for this RPC on a sync or async channel."""
        serializer = None if self.request is None else self.request.SerializeToString
        make = getattr(channel, self.arity)
        return make(self.path, request_serializer=serializer, response_deserializer=self.response.FromString)


SERVER_READY = Method(f"/{_OIP}/ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse)
MODEL_INFER = Method(f"/{_OIP}/ModelInfer", None, oip.ModelInferResponse)
MODEL_STREAM_INFER = Method(f"/{_OIP}/ModelStreamInfer", None, oip.ModelStreamInferResponse, "stream_stream", repeatable=False)
# Of a client's own regions; made as parts of a ModelInfer and of closing.
REGISTER_MEMORY = Method(
    f"/{_OIP}/SystemSharedMemoryRegister",
    oip.SystemSharedMemoryRegisterRequest, oip.SystemSharedMemoryRegisterResponse, repeatable=False, changes=True,
)  # fmt: skip
UNREGISTER_MEMORY = Method(
    f"/{_OIP}/SystemSharedMemoryUnregister",
    oip.SystemSharedMemoryUnregisterRequest, oip.SystemSharedMemoryUnregisterResponse, changes=True,
)  # fmt: skip
LIST_POLICIES = Method(f"/{_V1}/ListPolicies", v1.ListPoliciesRequest, v1.ListPoliciesResponse)
GET_POLICY = Method(f"/{_V1}/GetPolicy", v1.GetPolicyRequest, v1.GetPolicyResponse)
# A lost answer of these is for the caller to look into.
CALIBRATE = Method(
    f"/{_V1}/Calibrate", v1.CalibrateRequest, v1.CalibrateResponse, "stream_unary", repeatable=False, changes=True
)
ACTIVATE_POLICY = Method(
    f"/{_V1}/ActivatePolicy", v1.ActivatePolicyRequest, v1.ActivatePolicyResponse, repeatable=False, changes=True
)
_OUTCOMES = "cutpoint.v1.OutcomeService"
# An outcome is counted once, so that a lost answer is asked for again. Which server it is matters: one of them decided.
REPORT_OUTCOMES = Method(
    f"/{_OUTCOMES}/ReportOutcomes", outcome_pb2.ReportOutcomesRequest, outcome_pb2.ReportOutcomesResponse, changes=True
)
STREAM_OUTCOMES = Method(
    f"/{_OUTCOMES}/StreamOutcomes", outcome_pb2.ReportOutcomesRequest, outcome_pb2.ReportOutcomesResponse, "stream_stream",
    repeatable=False, changes=True,
)  # fmt: skip
GET_OUTCOME_SUMMARY = Method(
    f"/{_OUTCOMES}/GetOutcomeSummary", outcome_pb2.GetOutcomeSummaryRequest, outcome_pb2.GetOutcomeSummaryResponse
)


# What grpc.aio makes of a message that it could not send, in place of the status with which the server ended the stream.
_LOST = "Internal error from Core"


def typed_error(error: BaseException, server: str) -> CutpointError | None:
    """What an error of gRPC stands for: the very class that the server raised, where it says; None where it is not gRPC's."""
    if isinstance(error, CutpointError):
        return None
    if isinstance(error, grpc.RpcError):
        found: CutpointError = error_of(error.code(), error.details(), error.trailing_metadata())
        if error.code() is grpc.StatusCode.INTERNAL and error.details() == _LOST:
            return Unavailable(f"{server} ended the stream while a message was on its way, and gRPC has lost the reason")
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            found = type(found)(f"{server} does not answer: {error.details()}")
        return found
    # grpc has no class of its own for it
    if isinstance(error, ValueError | grpc.aio.UsageError) and "closed" in str(error).lower():
        return Unavailable(f"this client of {server.removeprefix('server ')} is closed")
    return None
