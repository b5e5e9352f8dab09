"""The one table between Cutpoint's errors and gRPC status codes; the server reads it one way, the client the other.

The code tells a client that knows nothing of Cutpoint what to do. UNAVAILABLE is for what a retry mends, and nothing else:
clients retry it on their own, so answering overload with it would multiply the load. The reason, sent as trailing metadata,
lets our own client raise the very class that the server raised.
"""

from collections.abc import Iterable
from typing import Any

import grpc
from cutpoint import errors

REASON_KEY = "cutpoint-reason"
# In a ModelStreamInfer, whose errors are messages, it is a parameter of the response.
REASON_PARAMETER = "cutpoint_reason"

STATUS: dict[type[errors.CutpointError], grpc.StatusCode] = {
    errors.BadInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadConfig: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadData: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BadBundle: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Uncalibratable: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.PolicyNotFound: grpc.StatusCode.NOT_FOUND,
    errors.NotCalibrated: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.BadScores: grpc.StatusCode.INTERNAL,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Aborted: grpc.StatusCode.CANCELLED,
    errors.MissingPart: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}

_BY_REASON = {kind.reason: kind for kind in STATUS}
# For answers without a reason: gRPC's own refusals, proxies, other servers.
_BY_CODE: dict[grpc.StatusCode, type[errors.CutpointError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadInput,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: errors.MissingPart,
    grpc.StatusCode.INTERNAL: errors.InternalError,
}


def status_of(error: BaseException) -> grpc.StatusCode:
    """The status code of an error: its class's row in the table, or the nearest parent's; INTERNAL for anything else."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), grpc.StatusCode.INTERNAL)


def error_of(code: grpc.StatusCode, details: str | None, metadata: Iterable[Any] | None) -> errors.CutpointError:
    """The error that a failed call stands for: by the reason in its trailing metadata, else by its code."""
    reason = next((value for key, value in metadata or () if key == REASON_KEY), None)
    kind = _BY_REASON.get(reason if isinstance(reason, str) else "")
    if kind is not None:
        return kind(details or kind.reason)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (details or ""):
        return errors.BadRequest(f"{details}; send fewer rows at a time, or raise the server's --max-message-mib")
    return _BY_CODE.get(code, errors.CutpointError)(f"{code.name}: {details or 'no details'}")
