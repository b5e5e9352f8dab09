"""`cutpoint demo`."""

from pathlib import Path
from typing import Annotated

import typer

from .run import run

app = typer.Typer()


@app.command(epilog="Example: cutpoint demo --out demo-out")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes; an earlier demo's is replaced.")] = Path(
        "demo-out"
    ),
    sequences: Annotated[int, typer.Option(min=40, help="Records of the simulated fleet.")] = 320,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation and the training.")] = 0,
) -> None:
    """Simulate bearings; train, export, calibrate, serve, score, recalibrate and watch, with the real commands."""
    run(out, sequences, epochs, seed)
