"""`cutpoint calibrate` and `cutpoint histogram`."""

from pathlib import Path
from typing import Annotated

import typer

from ..bundle import Bundle, find_bundle, read_bundle, write_policy, write_whole
from ..calibration import Plan, ScoreHistogram, Scores, group_scores, merge_histograms
from ..errors import BadConfig, BadData
from ..terminal import console, policy_table
from .files import read_histogram, read_scores
from .ship import make_policy, require_trainer, score_bundle

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
            metavar="[BUNDLE]", help="Version folder, or a model's folder for its highest version; gets policy.json."
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
        Path | None,
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
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the policy here too (.json).")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a page to look at (.html): one file, no network.")
    ] = None,
) -> None:
    """Choose a threshold per label, write it into the bundle as policy.json, and show what to expect of it."""
    plan = Plan.of(
        objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
        min_positives=min_positives, shrink=shrink, fallback=fallback,
    )  # fmt: skip
    _one_source({"--data or --run": data is not None or run is not None, "--scores": scores, "--histogram": histogram})
    read = None if bundle is None else read_bundle(find_bundle(bundle), with_policy=fallback == "previous")
    if scores is None and not histogram and read is None:
        raise BadConfig.of("BUNDLE", "missing", "a model's folder, or --scores or --histogram")
    source = _source(read, data, run, split, scores, histogram or [])
    name = (scores or (histogram or [Path("scores")])[0]).stem
    policy = make_policy(source, plan, read, name=name, allow_undecided=allow_undecided, author=author)
    written = [] if read is None else [write_policy(read.path, policy)]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, policy.to_json().encode())
        written.append(out)
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
    by_group: Annotated[bool, typer.Option("--by-group", help="Count groups, for guarantees by group.")] = False,
) -> None:
    """Count scores: what stands for any amount of them when `cutpoint calibrate` runs somewhere else."""
    parts = []
    for path in files:
        if path.suffix.lower() in (".npz", ".csv", ".parquet") or path.is_dir():
            parts.append(_counted(path, read_scores(path), by_group))
        else:
            parts.append(read_histogram(path))
    merged = merge_histograms(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, merged.to_bytes())
    totals = merged.totals.sum(axis=0)
    console().print(
        f"{merged.rows} {merged.unit}s, {len(merged.labels)} labels, {totals[1]:g} positives and {totals[0]:g} "
        f"{'negatives' if merged.labelled else 'of unknown class'} in bins of {merged.step:g}",
        highlight=False,
    )
    console().print(f"{out}", highlight=False, markup=False)


def _counted(path: Path, scores: Scores, by_group: bool) -> ScoreHistogram:
    made = ScoreHistogram(
        scores.labels, weighted=scores.weighted, labelled=scores.labelled, unit="group" if by_group else "row"
    )  # fmt: skip
    if not by_group:
        made.update(scores.logits, scores.targets, scores.weights)
        return made
    if scores.groups is None or scores.targets is None:
        raise BadData.of(f"{path}: keys", "without group or y", "both, with --by-group")
    if scores.weighted:
        raise BadData.of(f"{path}: weight", "given", "none with --by-group: no exact bound is known for weighted groups")
    made.update(*group_scores(scores.logits, scores.targets, scores.groups))
    return made


def _one_source(given: dict[str, object]) -> None:
    found = [name for name, value in given.items() if value]
    if len(found) > 1:
        raise BadConfig.of(" and ".join(found), "given together", "one of them: each says what to calibrate from")


def _source(
    bundle: Bundle | None, data: Path | None, run: Path | None, split: str, scores: Path | None, histograms: list[Path]
) -> Scores | ScoreHistogram:
    labels = bundle.manifest.labels if bundle is not None and bundle.manifest is not None else None
    if scores is not None:
        return read_scores(scores, labels)
    if histograms:
        merged = merge_histograms([read_histogram(path) for path in histograms])
        if labels is not None and merged.labels != labels:
            raise BadData.of(
                f"{histograms[0]}: labels", list(merged.labels[:5]), f"{list(labels[:5])}, the model's, in that order"
            )
        return merged
    assert bundle is not None  # checked before
    require_trainer()
    from cutpoint.trainer import dataset_rows

    return score_bundle(bundle, *dataset_rows(data, run, split))
