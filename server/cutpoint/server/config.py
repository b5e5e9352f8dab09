"""The server's settings, built once at the edge and passed down."""

import os
from pathlib import Path
from typing import Any, Literal

from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, ValidationError


class ServerConfig(Record):
    """Settings of one server process.

    Attributes:
        models: the model repository.
        state: folder of the policy store; None for `state` beside the model repository.
        host: address to bind, of both ports.
        port: gRPC port; 0 takes a free one.
        metrics_port: HTTP port of /metrics; 0 takes a free one.
        name: what ServerMetadata answers; some examples of Triton's want "triton".
        provider: onnxruntime's execution provider. Asked for and unavailable is an error, never a fall back.
        lanes: model runs at a time, on one thread each; 0 for one per core.
        max_batch_rows: rows of different callers that share a run. A request with more runs alone.
        max_waiting_rows: rows that may wait for a run; beyond it requests are refused as overloaded.
        max_requests: inference requests that are held at a time, waiting ones too; more are refused as overloaded.
        max_inflight_mib: bytes of requests that are held at a time, in MiB; what is beyond them is not read yet.
        max_message_mib: largest message, each way, in MiB.
        max_calibration_mib: memory that one Calibrate call may take for labelled scores, in MiB; beyond it they are counted in
            a histogram of small bins.
        grace_s: at shutdown, how long accepted requests may take to finish, in seconds.
        reflection: whether grpcurl and the like may list the services.
    """

    models: Path
    state: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    name: str = "cutpoint"
    provider: Literal["cpu", "cuda"] = "cpu"
    lanes: int = Field(default=0, ge=0, le=1024)
    max_batch_rows: int = Field(default=8, ge=1)
    max_waiting_rows: int = Field(default=4096, ge=1)
    max_requests: int = Field(default=4096, ge=1)
    max_inflight_mib: int = Field(default=256, ge=1)
    max_message_mib: int = Field(default=64, ge=1, le=2047)
    max_calibration_mib: int = Field(default=1024, ge=1)
    grace_s: float = Field(default=10.0, ge=0)
    reflection: bool = True

    @property
    def state_folder(self) -> Path:
        """Where the policy store is."""
        return self.state if self.state is not None else self.models.resolve().parent / "state"

    @property
    def lane_count(self) -> int:
        """Model runs at a time."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.lanes or cores or 1


def server_config(**settings: Any) -> ServerConfig:
    """A ServerConfig from settings of which None means "not given"; BadConfig naming the first that is wrong."""
    try:
        return ServerConfig.model_validate({name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        raise BadConfig(f"serve: {first_problem(error)}") from None
