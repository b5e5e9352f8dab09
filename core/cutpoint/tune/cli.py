"""`cutpoint tune`."""

import importlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from ..bundle import find_bundle, read_bundle
from ..calibration import Plan
from ..dataset import Dataset, read_row_indices
from ..errors import BadConfig, MissingPart
from ..terminal import console, policy_table

app = typer.Typer(help="Find the fastest way to run a model here.", no_args_is_help=True)


@app.command(epilog="Example: cutpoint tune demo-out/models/bearings --run demo-out/run --minutes 1")
def tune(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Version folder, or a model's folder for its highest version.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Labelled data: an .npz or a folder of .npy.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="The run's validation rows, and its data unless --data is given."),
    ] = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", metavar="FILE", help="Rows to judge on: a .npy of indices into --data.")
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", metavar="NAME=VALUE", help="What cuts are chosen for (default: as in policy.json)."),
    ] = None,
    max_ap_loss: Annotated[
        float, typer.Option("--max-ap-loss", min=0, help="What average precision may lose, mean over the labels.")
    ] = 0.002,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="fp32, int8, bf16 or fp16; repeatable (default: all but fp16).")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="cpu, openvino, cuda or tensorrt; repeatable (default: all there are)."),
    ] = None,
    python: Annotated[
        list[Path] | None,
        typer.Option(
            "--python", metavar="PATH", help="Try the onnxruntime of this interpreter, which has Cutpoint's server, too."
        ),
    ] = None,
    load: Annotated[
        Literal["busy", "idle"], typer.Option("--load", help="What is to be fast: many callers at once, or one.")
    ] = "busy",
    callers: Annotated[int, typer.Option("--callers", min=1, help="Callers at a time, when busy.")] = 16,
    request_rows: Annotated[int, typer.Option("--request-rows", min=1, help="Rows of a request.")] = 1,
    minutes: Annotated[float, typer.Option("--minutes", min=0, help="About how long to measure.")] = 3.0,
    models: Annotated[
        Path | None, typer.Option("--models", metavar="DIR", help="Write into this repository (default: the bundle's).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print, write nothing.")] = False,
) -> None:
    """Measure providers, precisions and ways to share the cores; write the fastest that detects as well as a new version."""
    _require_parts()
    from .table import choice_table, ways_table
    from .tuning import Asked, tune_model

    found = read_bundle(find_bundle(bundle))
    dataset, valid, others = _rows(data, run, rows)
    asked = Asked(
        precisions=tuple(precision or ("fp32", "int8", "bf16")), providers=tuple(provider or ()), pythons=tuple(python or ()),
        load=load, plan=Plan.of(objective) if objective else None, max_ap_loss=max_ap_loss, minutes=minutes, callers=callers,
        request_rows=request_rows,
    )  # fmt: skip
    terminal = console()
    tuned = tune_model(
        found, models or found.path.parent.parent, dataset, valid, others, asked, write=not dry_run,
        say=lambda text: terminal.print(text, markup=False),
    )  # fmt: skip
    terminal.print(choice_table(tuned.profile))
    terminal.print(ways_table(tuned.profile))
    terminal.print(policy_table(tuned.policy))
    terminal.print(tuned.profile.reason, markup=False)
    if tuned.path is not None:
        terminal.print(f"{tuned.path}", markup=False)


def _require_parts() -> None:
    """MissingPart where the server or the trainer is not installed."""
    try:
        for part in ("cutpoint.server", "cutpoint.trainer"):
            importlib.import_module(part)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cutpoint"):
            raise
        raise MissingPart(
            f"cutpoint tune needs the package {(error.name or '').split('.')[0]}: pip install 'cutpoint[server,trainer]'"
        ) from error


def _rows(data: Path | None, run: Path | None, rows: Path | None) -> tuple[Dataset, NDArray[np.int64], NDArray[np.int64]]:
    """The data, the rows to judge on, and others for the ranges of int8."""
    from cutpoint.trainer import dataset_rows, read_run

    if rows is not None and data is None:
        raise BadConfig.of("--rows", f"{rows} without --data", "both: the rows are indices into the data")
    if rows is not None and run is not None:
        raise BadConfig.of("--rows", f"{rows} beside --run", "one of them: the run has validation rows of its own")
    dataset, valid = dataset_rows(data, run, "valid" if run is not None else "all")
    if rows is not None:
        valid = read_row_indices(rows, len(dataset))
    elif run is None and "valid" in dataset.splits:
        valid = dataset.splits["valid"]
    if run is not None:
        return dataset, valid, read_run(run).rows("train")
    others = dataset.splits.get("train", np.setdiff1d(np.arange(len(dataset), dtype=np.int64), valid))
    others = np.setdiff1d(others, valid)
    if not len(others):  # some must say what values there are
        others = valid[::5]
        valid = np.setdiff1d(valid, others)
    if not len(valid):
        raise BadConfig.of("--rows", f"{len(others)} row(s) in all", "two or more")
    return dataset, valid, others
