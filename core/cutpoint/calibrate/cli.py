"""`cutpoint calibrate` and `cutpoint histogram`."""

from pathlib import Path
from typing import Annotated

import typer

from ..bundle import MODEL_FILE, Bundle, find_bundle, write_policy, write_whole
from ..calibration import Plan, ScoreHistogram, Scores, merge_histograms
from ..errors import BadConfig, BadData
from ..terminal import console, policy_table
from .files import read_histogram, read_scores
from .ship import make_policy, read_to_calibrate, require_trainer, score_bundle

app = typer.Typer(help="Choose thresholds from labelled scores.", no_args_is_help=True)

_OBJECTIVES = (
    "max_fbeta=B, precision_at_least=P, recall_at_least=R, fpr_at_most=A, alert_rate_at_most=Q, min_cost=C (a miss costs C "
    "false alarms; C@P at prevalence P); over all labels jointly max_micro_fbeta=B, alert_budget=Q. LABEL:NAME=VALUE is for "
    "one label; repeatable."
)


@app.command(epilog="Example: cutpoint calibrate demo-out/models/bearings --run demo-out/run --objective recall_at_least=0.9")
def calibrate(
    objective: Annotated[list[str], typer.Option("--objective", metavar="NAME=VALUE", help=_OBJECTIVES)],
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="[BUNDLE]",
            help="Version folder, or a model's folder for its highest version; gets policy.json, unless --out is given.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Score this with the bundle: an .npz or a folder of .npy.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="The split's rows, and the data unless --data is given.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "valid",
    scores: Annotated[
        list[Path] | None,
        typer.Option("--scores", metavar="FILE", help="Instead: scores and labels in an .npz (logits, y), .csv or .parquet."),
    ] = None,
    histogram: Annotated[
        list[Path] | None,
        typer.Option(
            "--histogram", metavar="FILE", help="Instead: what `cutpoint histogram` wrote; repeatable, they are added."
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option("--delta", help="Guarantee: the bound holds for new data, but with this probability (0.05, say)."),
    ] = None,
    simultaneous: Annotated[bool, typer.Option("--simultaneous", help="The guarantee is for all labels at once.")] = False,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="The guarantee counts groups (of the data, or sequences), not rows.")
    ] = False,
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="auto, none, temperature, platt, beta, isotonic or venn_abers.")
    ] = "auto",
    min_positives: Annotated[
        int, typer.Option("--min-positives", min=0, help="Labels with fewer labelled positives get no threshold of their own.")
    ] = 0,
    shrink: Annotated[
        float, typer.Option("--shrink", min=0, help="Move cuts of few positives towards the pooled one; 4 is a good choice.")
    ] = 0.0,
    fallback: Annotated[
        str, typer.Option("--fallback", help="For labels with too little data: none, pooled or previous (of policy.json).")
    ] = "none",
    allow_undecided: Annotated[
        bool, typer.Option("--allow-undecided", help="Write the policy although some labels get no threshold.")
    ] = False,
    author: Annotated[str, typer.Option("--author", help="Who makes it; kept in the policy.")] = "cutpoint calibrate",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the policy here (.json), not into BUNDLE.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a page to look at (.html): one file, no network.")
    ] = None,
) -> None:
    """Choose a threshold per label, write a policy into the bundle or to --out, and show what to expect of it."""
    plan = Plan.of(
        objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
        min_positives=min_positives, shrink=shrink, fallback=fallback,
    )  # fmt: skip
    _one_source({"--data or --run": data is not None or run is not None, "--scores": scores, "--histogram": histogram})
    if len(scores or []) > 1:
        raise BadConfig.of(
            "--scores", f"given {len(scores or [])} times",
            "one file; to add several, count each with `cutpoint histogram` and give those as --histogram",
        )  # fmt: skip
    files = [*(scores or []), *(histogram or [])]
    if bundle is None and not files:
        raise BadConfig.of("BUNDLE", "missing", "a model's folder, or --scores or --histogram")
    if bundle is None and fallback == "previous":
        raise BadConfig.of("--fallback", "previous without BUNDLE", "a model's folder, whose policy.json is the previous one")
    inputs = [*files, *(path for path in (data, run) if path is not None)]
    _check_outputs({"--out": (out, ".json"), "--report": (report, ".html")}, inputs)
    read = None if bundle is None else read_to_calibrate(find_bundle(bundle))
    if fallback == "previous" and read is not None and read.policy is None:
        raise BadConfig.of("--fallback", f"previous, but {read.path} has no policy.json", "none or pooled")
    source = _source(read, data, run, split, scores[0] if scores else None, histogram or [])
    policy = make_policy(
        source, plan, read, name=files[0].stem if files else "scores", allow_undecided=allow_undecided, author=author
    )
    written = []
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, policy.to_json().encode())
        written.append(out)
    elif read is not None:
        written.append(write_policy(read.path, policy))
    if report is not None:
        from ..report import write_report

        written.append(write_report(report, policy, source, plan))
    terminal = console()
    terminal.print(policy_table(policy))
    for path in written:
        terminal.print(f"{path}", highlight=False, markup=False)


@app.command(epilog="Example: cutpoint histogram demo-out/scores.npz --out demo-out/scores.hist")
def histogram(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Scores and labels (.npz, .csv, .parquet), or histograms; all are added."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Write the histogram here.")],
    by_group: Annotated[bool, typer.Option("--by-group", help="Count groups too, for guarantees by group.")] = False,
) -> None:
    """Count scores: what stands for any amount of them when `cutpoint calibrate` runs somewhere else."""
    _check_outputs({"--out": (out, None)}, files)
    parts = []
    for path in files:
        if path.suffix.lower() in (".npz", ".csv", ".parquet") or path.is_dir():
            parts.append(_counted(path, read_scores(path), by_group))
        else:
            parts.append(read_histogram(path))
    _refuse_twice(files, parts)
    merged = merge_histograms(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, merged.to_bytes())
    totals = merged.totals.sum(axis=0)
    counted = f"{merged.rows} rows{' in groups' if merged.has_groups else ''}, {len(merged.labels)} labels"
    classes = f"{totals[1]:g} positives and {totals[0]:g} {'negatives' if merged.labelled else 'of unknown class'}"
    console().print(f"{counted}, {classes} in bins of {merged.step:g}", highlight=False)
    console().print(f"{out}", highlight=False, markup=False)


def _counted(path: Path, scores: Scores, by_group: bool) -> ScoreHistogram:
    if by_group and (scores.groups is None or scores.targets is None):
        raise BadData.of(f"{path}: keys", "without group or y", "both, with --by-group")
    if by_group and scores.weighted:
        raise BadData.of(f"{path}: weight", "given", "none with --by-group: no exact bound is known for weighted groups")
    made = ScoreHistogram(scores.labels, weighted=scores.weighted, labelled=scores.labelled, grouped=by_group)
    made.update(scores.logits, scores.targets, scores.weights, scores.groups if by_group else None)
    return made


def _one_source(given: dict[str, object]) -> None:
    found = [name for name, value in given.items() if value]
    if len(found) > 1:
        raise BadConfig.of(" and ".join(found), "given together", "one of them: each says what to calibrate from")


def _check_outputs(outputs: dict[str, tuple[Path | None, str | None]], inputs: list[Path]) -> None:
    """Refuse files to write, by option and with their suffix, that would spoil something."""
    taken = {path.resolve(): f"also read ({path})" for path in inputs}
    for name, (path, suffix) in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise BadConfig.of(name, f"{path} (a folder)", "a file to write")
        if suffix is not None and path.suffix.lower() != suffix:
            raise BadConfig.of(name, str(path), f"a file that ends in {suffix}")
        whole = path.resolve()
        if whole in taken:
            raise BadConfig.of(name, f"{path}, {taken[whole]}", "a file of its own")
        taken[whole] = f"also {name}"
        folders = [*whole.parents, *path.absolute().parents]  # both: a version folder may be a link, or be reached by one
        bundle = next((f for f in folders if f.name.isdecimal() and (f / MODEL_FILE).is_file()), None)
        if bundle is not None and not (name == "--report" and bundle / "report.html" in (whole, path.absolute())):
            allowed = f", or {bundle / 'report.html'}" if name == "--report" else ""
            raise BadConfig.of(
                name, f"{path}, inside a model's version folder",
                f"a file elsewhere{allowed}: what lies beside {MODEL_FILE} counts as part of the graph",
            )  # fmt: skip


def _refuse_twice(files: list[Path], parts: list[ScoreHistogram]) -> None:
    """BadData where two histograms are the same, and not empty: merged, they would count their rows twice."""
    seen: dict[str, Path] = {}
    for path, part in zip(files, parts, strict=True):
        digest = part.digest()
        if digest in seen and part.rows:
            raise BadData(f"{path} holds the same counts as {seen[digest]}; expected each once: their rows would count twice")
        seen[digest] = path


def _source(
    bundle: Bundle | None, data: Path | None, run: Path | None, split: str, scores: Path | None, histograms: list[Path]
) -> Scores | ScoreHistogram:
    labels = bundle.manifest.labels if bundle is not None and bundle.manifest is not None else None
    if scores is not None:
        return read_scores(scores, labels)
    if histograms:
        parts = [read_histogram(path) for path in histograms]
        _refuse_twice(histograms, parts)
        merged = merge_histograms(parts)
        if labels is not None and merged.labels != labels:
            raise BadData.of(
                f"{histograms[0]}: labels", list(merged.labels[:5]), f"{list(labels[:5])}, the model's, in that order"
            )
        return merged
    assert bundle is not None  # checked before
    require_trainer()
    from cutpoint.trainer import dataset_rows

    return score_bundle(bundle, *dataset_rows(data, run, split))
