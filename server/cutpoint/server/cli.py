"""`cutpoint serve`."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import serve as serve_forever
from .config import server_config

app = typer.Typer()


@app.command(epilog="Example: cutpoint serve --models demo-out/models")
def serve(
    models: Annotated[Path, typer.Option(help="Model repository: <name>/<version>/model.onnx.")],
    state: Annotated[Path | None, typer.Option(help="Folder of the policy store (default: state, beside the models).")] = None,
    host: Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0 for any free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="HTTP port of /metrics; 0 for any free one.")] = 8002,
    provider: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models run.")] = "cpu",
    lanes: Annotated[int, typer.Option(help="Model runs at a time; 0 for one per core.")] = 0,
    max_batch_rows: Annotated[int, typer.Option(help="Rows of different callers in one run.")] = 8,
    max_waiting_rows: Annotated[int, typer.Option(help="Rows that may wait before requests are refused.")] = 4096,
    max_message_mib: Annotated[int, typer.Option(help="Largest message, in MiB.")] = 64,
    max_calibration_mib: Annotated[int, typer.Option(help="Labelled scores one calibration may hold, in MiB.")] = 1024,
    grace_s: Annotated[float, typer.Option(help="Seconds to finish accepted requests at shutdown.")] = 10.0,
    name: Annotated[str, typer.Option(help="Server name in ServerMetadata.")] = "cutpoint",
    reflection: Annotated[bool, typer.Option(help="Answer gRPC reflection.")] = True,
) -> None:
    """Serve a model repository over gRPC (Open Inference Protocol v2), with decisions, calibration and /metrics."""
    config = server_config(
        models=models, state=state, host=host, port=port, metrics_port=metrics_port, provider=provider, lanes=lanes,
        max_batch_rows=max_batch_rows, max_waiting_rows=max_waiting_rows, max_message_mib=max_message_mib,
        max_calibration_mib=max_calibration_mib, grace_s=grace_s, name=name, reflection=reflection,
    )  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve_forever(config)
