"""Every error that Cutpoint raises on purpose.

Where each one breaks the flow:

    config ----> data ----> fit ----> export ----> bundle ----> session ----> scores ----> decisions
      |           |                                  |             |            |             |
    BadConfig   BadData                          BadBundle    BadRequest    BadScores    NotCalibrated

    labelled scores ----> curve ----> objective ----> policy ----> store ----> active policy
          |                              |                           |             |
        BadData             Uncalibratable                    PolicyNotFound    Conflict

    CutpointError
    |-- BadInput               what was given is wrong, whatever the state of the system
    |   |-- BadConfig          a setting: unknown key, wrong type, out of range
    |   |-- BadData            a data file or labelled data: keys, shapes, NaN, pickles, one class only
    |   |-- BadBundle          a model folder: missing, truncated or altered files
    |   |-- BadRequest         a request's tensors: name, shape, datatype, byte count, NaN
    |   `-- Uncalibratable     labelled data from which no wanted threshold follows
    |-- NotFound
    |   |-- ModelNotFound      no such model, or no such version
    |   `-- PolicyNotFound     no such policy version of that model
    |-- NotCalibrated          decisions were asked of a model that has no active policy
    |-- Conflict               compare-and-set lost: somebody else changed it first
    |-- Unauthenticated        no token, or one that this server does not know
    |-- PermissionDenied       the caller is known, and its roles do not allow this
    |-- BadScores              the model answered NaN
    |-- Overloaded             refused before any work; retry later, somewhere else
    |-- Unavailable            not serving: starting, stopping, or unreachable
    |-- DeadlineExceeded       the caller's time ran out
    |-- Aborted                the run was stopped, since nobody waited for it any more
    |-- MissingPart            an optional part (trainer, server) is not installed
    `-- InternalError          nobody foresaw it; details are in the log

`reason` is a stable word for programs; the message is for people. Nothing here knows gRPC: `cutpoint.wire.status` holds the
one table between these classes and status codes, read by the server one way and by the client the other.
"""

from typing import Self


class CutpointError(Exception):
    """Root of the tree; catch it to catch all of ours."""

    reason = "error"


class BadInput(CutpointError, ValueError):
    """What was given is wrong, whatever the state of the system; the same call fails again."""

    reason = "bad_input"

    @classmethod
    def of(cls, name: str, value: object, expected: str) -> Self:
        """Build the message from the offending `name`, its `value` and what was `expected`."""
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > 200:
            shown = shown[:200] + "..."
        return cls(f"{name} is {shown}; expected {expected}")


class BadConfig(BadInput):
    """A setting is unknown, of the wrong type or out of range."""

    reason = "bad_config"


class BadData(BadInput):
    """A data file or labelled data cannot be used: keys, shapes, NaN, pickles, mismatched lengths."""

    reason = "bad_data"


class BadBundle(BadInput):
    """A model folder is missing, truncated, altered or of an unknown format."""

    reason = "bad_bundle"


class BadRequest(BadInput):
    """A request's tensors do not fit the model: name, shape, datatype, byte count, NaN."""

    reason = "bad_request"


class Uncalibratable(BadInput):
    """No threshold that meets the objective follows from these labelled data; the message says why, per label."""

    reason = "uncalibratable"


class NotFound(CutpointError):
    """What was asked for by name does not exist."""

    reason = "not_found"


class ModelNotFound(NotFound):
    """No such model, or no such version of it."""

    reason = "model_not_found"


class PolicyNotFound(NotFound):
    """No such policy version of that model."""

    reason = "policy_not_found"


class NotCalibrated(CutpointError):
    """Decisions were asked of a model that has no active policy; calibrate it first."""

    reason = "not_calibrated"


class Conflict(CutpointError):
    """A compare-and-set lost: the active policy was not the one expected. Read again, decide again."""

    reason = "conflict"


class Unauthenticated(CutpointError):
    """The server wants to know who calls, and no token came, or none that it knows."""

    reason = "unauthenticated"


class PermissionDenied(CutpointError):
    """The caller is known, and its roles do not allow this."""

    reason = "permission_denied"


class BadScores(CutpointError):
    """The model answered NaN, so there is nothing to decide on."""

    reason = "bad_scores"


class Overloaded(CutpointError):
    """Refused before any work because too much is waiting; safe to retry later."""

    reason = "overloaded"


class Unavailable(CutpointError):
    """Not serving: starting, stopping, or unreachable. A retry may help."""

    reason = "unavailable"


class DeadlineExceeded(CutpointError):
    """The caller's time ran out before the answer was ready."""

    reason = "deadline_exceeded"


class Aborted(CutpointError):
    """A model's run was stopped before its end, since nobody waited for it any more."""

    reason = "aborted"


class MissingPart(CutpointError):
    """An optional part of the package is not installed; the message names the extra to install."""

    reason = "missing_part"


class InternalError(CutpointError):
    """Nobody foresaw it; the server's log has the traceback."""

    reason = "internal"
