"""The server's settings, built once at the edge and passed down."""

import os
from pathlib import Path
from typing import Any, Literal, Self

from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, ValidationError, model_validator


class ServerConfig(Record):
    """Settings of one server process.

    Attributes:
        models: the model repository.
        state: folder of the policy store; None for `state` beside the model repository.
        host: address to bind.
        port: gRPC port; 0 takes a free one.
        metrics_port: HTTP port of /metrics; 0 takes a free one.
        metrics_host: address of /metrics; None for `host`. It has no tokens and no TLS.
        name: what ServerMetadata answers; some examples of Triton's want "triton".
        model_control: what is served of the repository: "none": what is there at the start; "poll": what is there at each
            look; "explicit": what is asked for, by `load` and by RepositoryModelLoad and Unload.
        poll_s: how often the repository is looked at, in seconds.
        load: names of models to load at the start; for explicit control.
        pin: NAME=VERSION: which version answers requests that name none; it goes before the model's serving.json.
        shadow: NAME=VERSION or NAME=policy:N, and @SHARE behind it: what is scored beside the default version, and counted but
            not answered; it goes before serving.json.
        exit_on_error: whether a version that cannot be served stops the start; polling never does.
        provider: onnxruntime's execution provider. Asked for and unavailable is an error, never a fall back.
        provider_option: settings of the provider, "name=value" each: those of `ProviderSettings` but provider, lanes and
            wide_threads; lists are separated by commas.
        workers: processes that share the port; more than one for models so quick that Python is what takes the time.
        lanes: model runs at a time, on one thread each; 0 for one per core.
        max_batch_rows: rows of different callers that share a run. A request with more runs alone.
        queue_delay_ms: how long a request may wait for others to share its run while a lane is free, in ms.
        max_waiting_rows: rows that may wait for a run; beyond it requests are refused as overloaded.
        max_requests: inference requests that are held at a time, waiting ones too; more are refused as overloaded.
        max_inflight_mib: bytes of requests that are held at a time, in MiB; what is beyond them is not read yet.
        max_message_mib: largest message, each way, in MiB.
        max_calibration_mib: memory that one Calibrate call may take for labelled scores, in MiB; beyond it they are counted in
            a histogram of small bins.
        decisions_mib: decisions on requests with an id that are kept, for outcomes that name a request, in MiB; 0 for none. The
            oldest are dropped first.
        outcomes_mib: outcomes that are kept with their scores, in MiB; the oldest are dropped first.
        shared_memory: whether clients may name regions of POSIX shared memory that hold their tensors; None for yes where
            `host` is a loopback address. Who may register one reads and writes what other processes here share.
        tls_cert: PEM of the certificate; with `tls_key`, the gRPC port speaks TLS only.
        tls_key: PEM of its key.
        tls_client_ca: PEM of the roots of clients' certificates; with it a client without one is refused.
        tokens: file of callers, their tokens and roles, see `cutpoint.server.security`; None for no checks.
        accounting: whether decisions are counted and stages timed; without it /metrics says nothing of live rates.
        max_metric_labels: labels of a model that have series of their own in /metrics; of a model with more, its first ones in
            its own order, the last place being that of all others together, "__other__".
        grace_s: at shutdown, how long accepted requests may take to finish, in seconds.
        reflection: whether grpcurl and the like may list the services; None for yes unless `tokens` are asked for.
        trace_endpoint: HOST:PORT of a collector that takes spans by OTLP over gRPC, https://HOST:PORT for TLS; None for no
            spans.
        trace_ratio: share of requests without a traceparent that are traced, with `trace_endpoint`; None for 0.01. With a
            traceparent, its caller has decided.
        log_format: how lines of the log are written: text, or a JSON object each.
    """

    models: Path
    state: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535)
    metrics_port: int = Field(default=8002, ge=0, le=65535)
    metrics_host: str | None = None
    name: str = "cutpoint"
    model_control: Literal["none", "poll", "explicit"] = "none"
    poll_s: float = Field(default=2.0, gt=0, le=86_400)
    load: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    exit_on_error: bool = True
    provider: Literal["cpu", "cuda", "tensorrt", "openvino"] = "cpu"
    provider_option: tuple[str, ...] = ()
    workers: int = Field(default=1, ge=1, le=256)
    lanes: int = Field(default=0, ge=0, le=1024)
    max_batch_rows: int = Field(default=8, ge=1)
    queue_delay_ms: float = Field(default=0.0, ge=0, le=10_000)
    max_waiting_rows: int = Field(default=4096, ge=1)
    max_requests: int = Field(default=4096, ge=1)
    max_inflight_mib: int = Field(default=256, ge=1)
    max_message_mib: int = Field(default=64, ge=1, le=2047)
    max_calibration_mib: int = Field(default=1024, ge=1)
    decisions_mib: int = Field(default=256, ge=0, le=1 << 20)
    outcomes_mib: int = Field(default=256, ge=1, le=1 << 20)
    shared_memory: bool | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    accounting: bool = True
    max_metric_labels: int = Field(default=512, ge=1, le=100_000)
    grace_s: float = Field(default=10.0, ge=0)
    reflection: bool | None = None
    trace_endpoint: str | None = None
    trace_ratio: float | None = Field(default=None, ge=0, le=1)
    log_format: Literal["text", "json"] = "text"

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if self.load and self.model_control != "explicit":
            raise ValueError("load is for model_control explicit")
        if self.trace_ratio is not None and self.trace_endpoint is None:
            raise ValueError("trace_ratio needs trace_endpoint: without it nothing is traced")
        return self

    @property
    def shares_memory(self) -> bool:
        """Whether tensors may be in shared memory."""
        return self.host in ("127.0.0.1", "::1", "localhost") if self.shared_memory is None else self.shared_memory

    @property
    def reflects(self) -> bool:
        """Whether the services can be listed."""
        return self.tokens is None if self.reflection is None else self.reflection

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
