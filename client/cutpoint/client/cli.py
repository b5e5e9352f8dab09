"""`cutpoint score`, `policy` and `outcomes`: the client on the command line."""

import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cutpoint.bundle import write_whole
from cutpoint.calibration.histogram import ScoreHistogram
from cutpoint.dataset import Dataset, read_dataset, read_row_indices
from cutpoint.errors import BadConfig, BadData
from cutpoint.terminal import console, plain_table, policy_table
from numpy.typing import NDArray

from .client import Client
from .difference import difference
from .follow import followable
from .options import connected
from .outcome_commands import Since, Until, outcomes_app, time_range
from .outcomes import FromOutcomes
from .results import Scores

_OBJECTIVES = (
    "max_fbeta=B, precision_at_least=P, recall_at_least=R, fpr_at_most=A, alert_rate_at_most=Q, min_cost=C (a miss costs C "
    "false alarms; C@P at prevalence P); over all labels jointly max_micro_fbeta=B, alert_budget=Q. One for all labels, and "
    "LABEL:NAME=VALUE for one label."
)

app = typer.Typer()
policy_app = typer.Typer(help="List, show, compare, make and activate a running server's policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy", epilog="Example: cutpoint policy list bearings")
app.add_typer(outcomes_app, name="outcomes", epilog="Example: cutpoint outcomes summary bearings")

ModelVersion = Annotated[str, typer.Option(help="Version of the model (default: the server's).")]
Rows = Annotated[Path | None, typer.Option(help="A .npy of row indices to use (default: all rows).")]


@app.command(epilog="Example: cutpoint score demo-out/data --model bearings --out scores.npz")
@connected
@followable
def score(
    client: Client,
    data: Annotated[Path, typer.Argument(help="An .npz with key x, or a folder with x.npy; with --follow, a signal.")],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    version: ModelVersion = "",
    rows: Rows = None,
    request_id: Annotated[str, typer.Option(help="Under which the server keeps its decisions, to report outcomes of.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write logits, scores, decisions, labels, rows here (.npz).")] = None,
) -> None:
    """Score data against a running server and show the alerts per label."""
    dataset = read_dataset(data)
    chosen = _chosen(dataset, rows)
    x = dataset.x if rows is None else dataset.x[chosen]  # all rows are read from the file as they are sent
    scores = client.score(model, x, version=version, request_id=request_id)
    _print_scores(scores)
    if out is not None:
        _write_scores(out, scores, chosen)
        print(out)


@policy_app.command("list", epilog="Example: cutpoint policy list bearings")
@connected
def list_policies(client: Client, model: str, version: ModelVersion = "") -> None:
    """The policies of a model, newest first."""
    found = client.policies(model, version=version)
    table = plain_table("policy", "active", "objective", "labels", "undecided", "author", "created")
    for line in found:
        mark = "yes" if line.active else ""
        objectives = ", ".join(line.objectives)
        table.add_row(
            str(line.version), mark, objectives, str(line.labels), str(line.undecided_labels), line.author, line.created
        )
    console().print(table)


@policy_app.command("get", epilog="Example: cutpoint policy get bearings 1")
@connected
def get_policy(
    client: Client,
    model: str,
    policy: Annotated[int, typer.Argument(help="Version of the policy; 0 for the active one.", min=0)] = 0,
    version: ModelVersion = "",
) -> None:
    """Print one policy as JSON."""
    print(client.policy(model, policy, version=version).to_json(), end="")


@policy_app.command("activate", epilog="Example: cutpoint policy activate bearings 1 --expected-active 2")
@connected
def activate_policy(
    client: Client,
    model: str,
    policy: int,
    expected_active: Annotated[int | None, typer.Option(help="Refuse unless this policy is the active one now.")] = None,
    version: ModelVersion = "",
) -> None:
    """Make a policy the active one; an older one rolls back."""
    previous = client.activate(model, policy, expected_active=expected_active, version=version)
    print(f"policy {policy} of {model} is active (before: {previous or 'none'})")


@policy_app.command("diff", epilog="Example: cutpoint policy diff bearings 1 2")
@connected
def diff_policies(
    client: Client,
    model: str,
    one: Annotated[int, typer.Argument(metavar="A", help="Version of a policy; 0 for the active one.", min=0)],
    other: Annotated[int, typer.Argument(metavar="B", help="Version of the policy to compare it with, likewise.", min=0)],
    version: ModelVersion = "",
) -> None:
    """Show what differs between two policies, label by label."""
    before, after = (client.policy(model, each, version=version) for each in (one, other))
    table, lines = difference(before, after)
    if table is not None:
        console().print(table)
    for line in lines:
        print(line)


@policy_app.command(
    "calibrate", epilog="Example: cutpoint policy calibrate bearings recall_at_least=0.8 --data demo-out/data --author ann"
)
@connected
def calibrate_policy(
    client: Client,
    model: str,
    objective: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help=_OBJECTIVES)],
    data: Annotated[Path | None, typer.Option(help="Labelled data with keys x and y.")] = None,
    rows: Rows = None,
    histogram: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Instead: what `cutpoint histogram` wrote; repeatable, they are added."),
    ] = None,
    from_outcomes: Annotated[
        bool, typer.Option("--from-outcomes", help="Instead: the outcomes that the server keeps, see `cutpoint outcomes`.")
    ] = False,
    since: Since = "",
    until: Until = "",
    any_sampling: Annotated[
        bool, typer.Option("--any-sampling", help="With --from-outcomes: also those that do not say how they were chosen.")
    ] = False,
    delta: Annotated[
        float | None, typer.Option(help="Guarantee: the bound holds for new data, but with this probability (0.05, say).")
    ] = None,
    simultaneous: Annotated[bool, typer.Option("--simultaneous", help="The guarantee is for all labels at once.")] = False,
    by_group: Annotated[
        bool, typer.Option("--by-group", help="The guarantee counts groups (of the data, or sequences), not rows.")
    ] = False,
    calibrator: Annotated[str, typer.Option(help="auto, none, temperature, platt, beta, isotonic or venn_abers.")] = "auto",
    min_positives: Annotated[int, typer.Option(help="Labels with fewer labelled positives get no threshold of their own.")] = 0,
    shrink: Annotated[float, typer.Option(help="Move cuts of few positives towards the pooled one; 4 is a good choice.")] = 0.0,
    fallback: Annotated[
        str, typer.Option(help="For labels with too little data: none, pooled or previous (of the active policy).")
    ] = "none",
    author: Annotated[str, typer.Option(help="Who asks, for the record.")] = "",
    activate: Annotated[bool, typer.Option(help="Decide by it from now on.")] = True,
    allow_undecided: Annotated[bool, typer.Option(help="Activate although some labels have no threshold.")] = False,
    version: ModelVersion = "",
) -> None:
    """Choose new thresholds on the server from labelled data. Exit code 1 where it was asked to activate and did not."""
    kept = FromOutcomes(*time_range(since, until), any_sampling)
    if not from_outcomes and kept != FromOutcomes():
        raise BadConfig.of("--since, --until and --any-sampling", "given", "--from-outcomes with them")
    if not from_outcomes:
        sources = _labelled(data, rows, histogram or [], by_group)
    elif data is not None or rows is not None or histogram:
        raise BadConfig.of("--from-outcomes", "given beside data", "one of --data, --histogram and --from-outcomes")
    else:
        sources = {"from_outcomes": kept}
    done = client.calibrate(
        model, objective, **sources, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
        min_positives=min_positives, shrink=shrink, fallback=fallback, version=version, author=author, activate=activate,
        allow_undecided=allow_undecided,
    )  # fmt: skip
    console().print(policy_table(done.policy))
    print(f"policy {done.policy.version} of {model} is {'active' if done.activated else 'stored, not active'}")
    if activate and not done.activated:
        print(f"{len(done.policy.undecided)} labels have no threshold; --allow-undecided activates it all the same")
        raise typer.Exit(1)


def _labelled(data: Path | None, rows: Path | None, histograms: list[Path], by_group: bool) -> dict[str, Any]:
    """What to calibrate from, as `Client.calibrate` takes it."""
    if (data is None) == (not histograms):
        found = "both given" if data else "not given"
        raise BadConfig.of("--data and --histogram", found, "one of them, or --from-outcomes")
    if data is None:
        if rows is not None:
            raise BadConfig.of("--rows", "given", "--data with it: a histogram has no rows to choose from")
        return {"histograms": [_histogram(path) for path in histograms]}
    dataset = read_dataset(data)
    if dataset.y is None:
        raise BadData.of(f"{data}: keys", "no y", "labels, to calibrate by")
    chosen = _chosen(dataset, rows)
    # As `cutpoint calibrate` takes them: the data's groups, or the sequences that windows are of.
    groups = dataset.group[chosen] if dataset.group is not None else chosen if dataset.y.ndim > 2 else None
    if by_group and groups is None:
        raise BadData.of(f"{data}: keys", "no group", "group, or sequences of windows, with --by-group")
    x = dataset.x if rows is None else dataset.x[chosen]  # all rows are read from the file as they are sent
    return {"inputs": x, "targets": dataset.y[chosen], "groups": groups}


def _histogram(path: Path) -> bytes:
    """The bytes of a histogram's file; BadData naming the file where it holds none: the server does not know its name."""
    if not path.is_file():
        raise BadData.of("histogram", f"{path} (no such file)", "a file that `cutpoint histogram` wrote")
    data = path.read_bytes()
    try:
        ScoreHistogram.from_bytes(data)
    except BadData as error:
        raise BadData(f"{path}: {error}") from None
    return data


def _chosen(dataset: Dataset, rows: Path | None) -> NDArray[np.int64]:
    if rows is None:
        return np.arange(len(dataset))
    return read_row_indices(rows, len(dataset))


def _write_scores(out: Path, scores: Scores, rows: NDArray[np.int64]) -> None:
    arrays = {"logits": scores.logits, "scores": scores.scores, "label_names": np.array(scores.labels), "rows": rows}
    if scores.decisions is not None:
        arrays |= {"decisions": scores.decisions, "policy_version": np.array(scores.policy_version)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, buffer.getvalue())


def _print_scores(scores: Scores, most: int = 20) -> None:
    flat = scores.scores.reshape(-1, len(scores.labels))
    decided = None if scores.decisions is None else scores.decisions.reshape(-1, len(scores.labels))
    by = "no policy" if scores.policy_version is None else f"policy {scores.policy_version}"
    table = plain_table(
        "label", "scored", "alerts", "alert rate", "mean score", title=f"{scores.model}/{scores.model_version}, {by}"
    )
    order = (
        np.argsort(-flat.mean(axis=0), kind="stable") if decided is None else np.argsort(-decided.sum(axis=0), kind="stable")
    )
    for i in order[:most]:
        alerts = "-" if decided is None else str(int(decided[:, i].sum()))
        rate = "-" if decided is None else f"{decided[:, i].mean():.4g}"
        table.add_row(scores.labels[i], str(len(flat)), alerts, rate, f"{flat[:, i].mean():.4g}")
    console().print(table)
    if len(scores.labels) > most:
        print(f"and {len(scores.labels) - most} more labels")
