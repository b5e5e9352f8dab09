"""The commands train, export and evaluate."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cutpoint.bundle import find_bundle, read_bundle
from cutpoint.errors import BadConfig
from cutpoint.terminal import console

if TYPE_CHECKING:
    from .config import Config

app = typer.Typer(help="Train, export and evaluate models of rare events.", no_args_is_help=True)

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Version folder, or a model's folder for its highest version.")
]
SplitOption = Annotated[str, typer.Option("--split", help="train, valid, test or all.")]
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
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing run folder, or start an unfinished run again.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was killed or stopped, where there is one.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="FILE", help="YAML file of runs and seeds: train all, compare on the test rows."),
    ] = None,
    recall: Annotated[float, typer.Option("--recall", help="With --compare: the recall whose price is told.")] = 0.9,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
) -> None:
    """Train a model and write a run folder: weights, configuration, splits, history.

    Several processes: torchrun --nproc-per-node 2 -m cutpoint.cli train CONFIG

    With --compare the run folders lie in the one given, and beside them compare.html, compare.png and compare.json. The same
    command again goes on where it was stopped.
    """
    from .config import read_config
    from .fit import train as fit
    from .interruption import Interrupted
    from .processes import processes_of

    processes = processes_of(os.environ)
    try:
        if compare is not None:
            if force or processes.world > 1:
                given = "--force" if force else "several processes"
                raise BadConfig.of("--compare", f"given with {given}", "one process, which trains again what is not there")
            return _compare(read_config(config, overrides or (), out), compare, recall, quiet)
        run = fit(read_config(config, overrides or (), out), force, quiet, None, resume, processes)
    except Interrupted as stop:
        if processes.first:
            print(stop, file=sys.stderr)
        raise typer.Exit(128 + stop.signal) from stop
    if not processes.first:
        return
    terminal = console()
    for note in run.record.notes if quiet else ():  # else they were said at the start
        terminal.print(f"note: {note}", highlight=False, markup=False)
    best, record = run.record.best_epoch, run.record
    terminal.print(
        f"valid AP {record.valid_ap:.4f} at epoch {best} of {len(record.history)}, {record.seconds:.1f} s", highlight=False
    )
    terminal.print(f"{run.path}", highlight=False, markup=False)


def _compare(config: "Config", file: Path, recall: float, quiet: bool) -> None:
    from .compare import comparison_table, labels_table, read_plan, train_and_compare, write_comparison

    plan = read_plan(file, config)
    comparison = train_and_compare(plan, recall, quiet)
    terminal = console()
    terminal.print(comparison_table(comparison))
    if len(comparison.labels) > 1:
        terminal.print(labels_table(comparison))
    for conclusion in comparison.conclusions:
        terminal.print(conclusion, highlight=False, markup=False)
    for path in write_comparison(plan.out, comparison):
        terminal.print(f"{path}", highlight=False, markup=False)


@app.command(epilog="Example: cutpoint export demo-out/run --models models")
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that `cutpoint train` wrote.")],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model repository to write into.")],
    precisions: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32, fp16, bf16 or int8; repeatable, a version each. Default fp32."),
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Version number of the first; default the next free one.")
    ] = None,
    max_ap_loss: Annotated[
        float, typer.Option("--max-ap-loss", min=0, max=1, help="Average precision that a lower precision may lose.")
    ] = 0.01,
) -> None:
    """Export a run to ONNX, measure it against torch and lower precisions against fp32, and write bundles."""
    from .export import cost_table, export_precisions

    paths = export_precisions(run, models, precisions or ["fp32"], version, max_ap_loss=max_ap_loss)
    manifests = [manifest for path in paths if (manifest := read_bundle(path).manifest) is not None]
    parity, made = manifests[0].parity, manifests[0].provenance
    sizes = ", ".join(map(str, parity.batch_sizes))
    windows = f" and of {', '.join(map(str, parity.window_counts))} windows" if parity.window_counts else ""
    terminal = console()
    terminal.print(
        f"torch and onnxruntime differ by at most {parity.max_abs_difference:.2g}, allowed {parity.tolerance:.2g} "
        f"({parity.rows} rows in batches of {sizes}{windows}); a row alone and in a batch by {parity.batch_difference:.2g}\n"
        f"ONNX opset {made.opset}, IR version {made.ir_version}"
    )
    if any(manifest.cost for manifest in manifests):
        terminal.print(cost_table(manifests))
    for path, manifest in zip(paths, manifests, strict=True):
        size = (path / "model.onnx").stat().st_size
        terminal.print(f"{path}" if len(paths) == 1 else f"{path}  {manifest.precision}, {size / 1024:.0f} KiB", markup=False)
    if int(paths[-1].name) > 1:
        terminal.print(
            "The highest version is served unless a client names another: calibrate it first, a policy is bound to its graph.",
            highlight=False,
        )


@app.command(epilog="Example: cutpoint evaluate demo-out/models/bearings --run demo-out/run --json evaluate.json")
def evaluate(
    bundle: BundleArgument,
    data: DataOption = None,
    run: RunOption = None,
    split: SplitOption = "test",
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


@app.command(epilog="Example: cutpoint report demo-out/models/bearings --run demo-out/run")
def report(
    bundle: BundleArgument,
    run: RunOption = None,
    data: DataOption = None,
    split: SplitOption = "test",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page; default report.html in the version folder.")
    ] = None,
) -> None:
    """Write the page of a model: data, training, AP, reliability, worst mistakes, policy, export; one HTML file."""
    from .report import REPORT_FILE, write_model_report
    from .run import read_run
    from .score import dataset_rows

    read = read_bundle(find_bundle(bundle))
    dataset, rows = dataset_rows(data, run, split)
    trained = None if run is None else read_run(run)
    path = write_model_report(out or read.path / REPORT_FILE, read, dataset, rows, split, trained)
    console().print(f"{path}", highlight=False, markup=False)
