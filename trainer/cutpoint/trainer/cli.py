"""The commands train, export and evaluate."""

from pathlib import Path
from typing import Annotated

import typer
from cutpoint.bundle import find_bundle, read_bundle
from cutpoint.terminal import console

app = typer.Typer(help="Train, export and evaluate models of rare events.", no_args_is_help=True)

DataOption = Annotated[Path | None, typer.Option("--data", metavar="PATH", help="An .npz file or a folder of .npy files.")]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", help="Take the split's rows, and the data unless --data is given, from this run."),
]


@app.command(epilog="Example: cutpoint train demo-out/train.yaml --out runs/again --set fit.learning_rate=0.002")
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of settings: data, split, model, loss, ...")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in fit.epochs=20; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Run folder to write; default runs/<name>.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing run folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
) -> None:
    """Train a model and write a run folder: weights, configuration, splits, history."""
    from .config import read_config
    from .fit import train as fit

    run = fit(read_config(config, overrides or (), out), force, quiet)
    terminal = console()
    for note in run.record.notes:
        terminal.print(f"note: {note}", highlight=False, markup=False)
    best, record = run.record.best_epoch, run.record
    terminal.print(
        f"valid AP {record.valid_ap:.4f} at epoch {best} of {len(record.history)}, {record.seconds:.1f} s", highlight=False
    )
    terminal.print(f"{run.path}", highlight=False, markup=False)


@app.command(epilog="Example: cutpoint export demo-out/run --models models")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `cutpoint train` wrote.")],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model repository to write into.")],
    version: Annotated[int | None, typer.Option("--version", min=1, help="Version number; default the next free one.")] = None,
) -> None:
    """Export a run to ONNX, measure it against torch, and write a bundle."""
    from .export import export_run

    path = export_run(run, models, version)
    manifest = read_bundle(path).manifest
    assert manifest is not None  # just written
    parity = manifest.parity
    terminal = console()
    sizes = ", ".join(map(str, parity.batch_sizes))
    terminal.print(
        f"torch and onnxruntime differ by at most {parity.max_abs_difference:.2g}, allowed {parity.tolerance:.2g} "
        f"({parity.rows} rows in batches of {sizes})",
        highlight=False,
    )
    terminal.print(f"{path}", highlight=False, markup=False)


@app.command(epilog="Example: cutpoint evaluate demo-out/models/bearings --run demo-out/run --json evaluate.json")
def evaluate(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Version folder, or a model's folder for its highest version.")
    ],
    data: DataOption = None,
    run: RunOption = None,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "test",
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures of all labels here too.")
    ] = None,
) -> None:
    """Score labelled rows and print AP and the rates at the shipped cut beside the expected ones."""
    from cutpoint.bundle import write_whole

    from .report import evaluate_bundle, evaluation_table
    from .score import dataset_rows

    read = read_bundle(find_bundle(bundle))
    dataset, rows = dataset_rows(data, run, split)
    evaluation = evaluate_bundle(read, dataset, rows, split)
    console().print(evaluation_table(evaluation))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(json, evaluation.model_dump_json(indent=1).encode() + b"\n")
