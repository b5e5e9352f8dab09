"""The calls the clients make, written once: path, messages, and how a channel to them is set up."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from cutpoint.errors import CutpointError, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import error_of

_OIP = "inference.GRPCInferenceService"
_V1 = "cutpoint.v1.CalibrationService"

# gRPC's own retries, for calls that may be made twice and codes that a retry mends. Calibrate and ActivatePolicy change
# state, so a lost answer is for the caller to look into.
_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": _OIP}, {"service": _V1, "method": "ListPolicies"}, {"service": _V1, "method": "GetPolicy"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(_RETRIES)),
)


@dataclass(frozen=True)
class Method:
    """One RPC: `arity` is the channel's method that makes it callable."""

    path: str
    request: Any
    response: Any
    arity: str = "unary_unary"

    def on(self, channel: Any) -> Any:
        """The callable for this RPC on a sync or async channel."""
        make = getattr(channel, self.arity)
        return make(
            self.path, request_serializer=self.request.SerializeToString, response_deserializer=self.response.FromString
        )


SERVER_READY = Method(f"/{_OIP}/ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse)
MODEL_METADATA = Method(f"/{_OIP}/ModelMetadata", oip.ModelMetadataRequest, oip.ModelMetadataResponse)
MODEL_INFER = Method(f"/{_OIP}/ModelInfer", oip.ModelInferRequest, oip.ModelInferResponse)
CALIBRATE = Method(f"/{_V1}/Calibrate", v1.CalibrateRequest, v1.CalibrateResponse, "stream_unary")
LIST_POLICIES = Method(f"/{_V1}/ListPolicies", v1.ListPoliciesRequest, v1.ListPoliciesResponse)
GET_POLICY = Method(f"/{_V1}/GetPolicy", v1.GetPolicyRequest, v1.GetPolicyResponse)
ACTIVATE_POLICY = Method(f"/{_V1}/ActivatePolicy", v1.ActivatePolicyRequest, v1.ActivatePolicyResponse)


@contextmanager
def typed_errors(target: str) -> Iterator[None]:
    """Turn gRPC's errors into the tree of `cutpoint.errors`: the very class that the server raised, where it says."""
    try:
        yield
    except grpc.RpcError as error:
        found: CutpointError = error_of(error.code(), error.details(), error.trailing_metadata())
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            found = type(found)(f"server {target} does not answer: {error.details()}")
        raise found from error
    except (ValueError, grpc.aio.UsageError) as error:  # grpc has no class of its own for it
        if "closed" not in str(error).lower():
            raise
        raise Unavailable(f"this client of {target} is closed") from error
