"""`cutpoint serve`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import serve as serve_forever
from .config import server_config
from .monitoring.log_lines import begin_log

app = typer.Typer()


@app.command(epilog="Example: cutpoint serve --models demo-out/models")
def serve(
    models: Annotated[Path, typer.Option(help="Model repository: <name>/<version>/model.onnx.")],
    state: Annotated[Path | None, typer.Option(help="Folder of the policy store (default: state, beside the models).")] = None,
    host: Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0 for any free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="HTTP port of /metrics; 0 for any free one.")] = 8002,
    metrics_host: Annotated[str | None, typer.Option(help="Address of /metrics (default: that of --host).")] = None,
    model_control: Annotated[
        Literal["none", "poll", "explicit"], typer.Option(help="Serve what is there at the start, at each look, or when asked.")
    ] = "none",
    poll_s: Annotated[float, typer.Option(help="Seconds between looks at the repository.")] = 2.0,
    load: Annotated[list[str] | None, typer.Option(help="Model to load at the start; explicit control; repeatable.")] = None,
    pin: Annotated[
        list[str] | None, typer.Option(help="NAME=VERSION that answers requests without a version; repeatable.")
    ] = None,
    shadow: Annotated[
        list[str] | None, typer.Option(help="NAME=VERSION or NAME=policy:N, @SHARE: scored beside, never answered; repeatable.")
    ] = None,
    exit_on_error: Annotated[
        bool, typer.Option("--exit-on-error/--no-exit-on-error", help="Whether one bad version stops the start.")
    ] = True,
    provider: Annotated[
        Literal["cpu", "cuda", "tensorrt", "openvino"] | None,
        typer.Option(help="Where models run (default: as a model's profile says, or cpu)."),
    ] = None,
    provider_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="devices=0,1, precision=bf16, batch_sizes=1,4, cuda_graphs=true, ...; repeatable."
        ),
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(help="Model runs at a time; 0 for one per core (default: as a model's profile says, or 0).")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that share the port, for models that take microseconds.")] = 1,
    max_batch_rows: Annotated[
        int | None, typer.Option(help="Rows of different callers in one run (default: as a model's profile says, or 8).")
    ] = None,
    queue_delay_ms: Annotated[
        float | None, typer.Option(help="How long a request may wait for others (default: as a model's profile says, or 0).")
    ] = None,
    max_waiting_rows: Annotated[int, typer.Option(help="Rows that may wait before requests are refused.")] = 4096,
    max_requests: Annotated[int, typer.Option(help="Requests held at a time before more are refused.")] = 4096,
    max_inflight_mib: Annotated[int, typer.Option(help="Requests read at a time, in MiB; more wait unread.")] = 256,
    max_message_mib: Annotated[int, typer.Option(help="Largest message, in MiB.")] = 64,
    max_calibration_mib: Annotated[int, typer.Option(help="Labelled scores one calibration may hold, in MiB.")] = 1024,
    decisions_mib: Annotated[
        int, typer.Option(help="Decisions kept for outcomes by request id, in MiB, oldest dropped first; 0 for none.")
    ] = 256,
    outcomes_mib: Annotated[int, typer.Option(help="Outcomes kept with their scores, in MiB, oldest dropped first.")] = 256,
    shared_memory: Annotated[
        bool | None,
        typer.Option(
            "--shared-memory/--no-shared-memory", help="Take tensors from POSIX shared memory (default: on loopback)."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM of the certificate: TLS from then on.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM of its key.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="PEM of the roots of clients' certificates (mutual TLS).")] = None,
    tokens: Annotated[Path | None, typer.Option(help="Who may call what: the file that `cutpoint token` writes.")] = None,
    accounting: Annotated[
        bool, typer.Option("--accounting/--no-accounting", help="Count decisions and time stages; without, no live rates.")
    ] = True,
    max_metric_labels: Annotated[
        int, typer.Option(help='Labels of a model with series of their own: its first; the rest are "__other__".')
    ] = 512,
    grace_s: Annotated[float, typer.Option(help="Seconds to finish accepted requests at shutdown.")] = 10.0,
    name: Annotated[str, typer.Option(help="Server name in ServerMetadata.")] = "cutpoint",
    reflection: Annotated[
        bool | None, typer.Option("--reflection/--no-reflection", help="Answer gRPC reflection (default: unless --tokens).")
    ] = None,
    trace_endpoint: Annotated[
        str | None, typer.Option(help="Send spans of requests to this collector (OTLP over gRPC).", metavar="HOST:PORT")
    ] = None,
    trace_ratio: Annotated[
        float | None,
        typer.Option(help="Share of requests to trace, of those that do not say it themselves (default: 0.01)."),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="Lines of the log: text, or a JSON object each.")
    ] = "text",
) -> None:
    """Serve a model repository over gRPC (Open Inference Protocol v2), with decisions, calibration and /metrics."""
    config = server_config(
        models=models, state=state, host=host, port=port, metrics_port=metrics_port, metrics_host=metrics_host,
        model_control=model_control, poll_s=poll_s, load=load, pin=pin, shadow=shadow, exit_on_error=exit_on_error,
        provider=provider, provider_option=provider_option, lanes=lanes, workers=workers,
        max_batch_rows=max_batch_rows, queue_delay_ms=queue_delay_ms,
        max_waiting_rows=max_waiting_rows, max_requests=max_requests, max_inflight_mib=max_inflight_mib,
        max_message_mib=max_message_mib, max_calibration_mib=max_calibration_mib,
        decisions_mib=decisions_mib, outcomes_mib=outcomes_mib, shared_memory=shared_memory,
        tls_cert=tls_cert, tls_key=tls_key, tls_client_ca=tls_client_ca, tokens=tokens, grace_s=grace_s, name=name,
        accounting=accounting, max_metric_labels=max_metric_labels,
        reflection=reflection, trace_endpoint=trace_endpoint, trace_ratio=trace_ratio, log_format=log_format,
    )  # fmt: skip
    begin_log(config.log_format)
    serve_forever(config)
