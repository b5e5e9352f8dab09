"""`cutpoint score` and `cutpoint policy`: the client on the command line."""

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cutpoint.bundle import write_whole
from cutpoint.dataset import Dataset, read_dataset, read_row_indices
from cutpoint.errors import BadData
from cutpoint.terminal import console, plain_table, policy_table
from numpy.typing import NDArray

from .client import TIMEOUT_S, Client
from .results import Scores

app = typer.Typer()
policy_app = typer.Typer(help="List, show, make and activate a running server's policies.", no_args_is_help=True)
app.add_typer(policy_app, name="policy", epilog="Example: cutpoint policy list bearings")

Server = Annotated[str, typer.Option(help="Where the server listens.", metavar="HOST:PORT")]
Timeout = Annotated[float, typer.Option(help="Deadline of each request, in seconds.")]
ModelVersion = Annotated[str, typer.Option(help="Version of the model (default: the highest).")]
Rows = Annotated[Path | None, typer.Option(help="A .npy of row indices to use (default: all rows).")]


@app.command(epilog="Example: cutpoint score demo-out/data --model bearings --out scores.npz")
def score(
    data: Annotated[Path, typer.Argument(help="An .npz with key x, or a folder with x.npy.")],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    server: Server = "127.0.0.1:8001",
    version: ModelVersion = "",
    rows: Rows = None,
    out: Annotated[Path | None, typer.Option(help="Write logits, scores, decisions, labels, rows here (.npz).")] = None,
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Score data against a running server and show the alerts per label."""
    dataset = read_dataset(data)
    chosen = _chosen(dataset, rows)
    x = dataset.x if rows is None else dataset.x[chosen]  # all rows are read from the file as they are sent
    with Client(server, timeout_s=timeout_s) as client:
        scores = client.score(model, x, version=version)
    _print_scores(scores)
    if out is not None:
        _write_scores(out, scores, chosen)
        print(out)


@policy_app.command("list", epilog="Example: cutpoint policy list bearings")
def list_policies(
    model: str, server: Server = "127.0.0.1:8001", version: ModelVersion = "", timeout_s: Timeout = TIMEOUT_S
) -> None:
    """The policies of a model, newest first."""
    with Client(server, timeout_s=timeout_s) as client:
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
def get_policy(
    model: str,
    policy: Annotated[int, typer.Argument(help="Version of the policy; 0 for the active one.", min=0)] = 0,
    server: Server = "127.0.0.1:8001",
    version: ModelVersion = "",
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Print one policy as JSON."""
    with Client(server, timeout_s=timeout_s) as client:
        print(client.policy(model, policy, version=version).to_json(), end="")


@policy_app.command("activate", epilog="Example: cutpoint policy activate bearings 1 --expected-active 2")
def activate_policy(
    model: str,
    policy: int,
    expected_active: Annotated[int | None, typer.Option(help="Refuse unless this policy is the active one now.")] = None,
    server: Server = "127.0.0.1:8001",
    version: ModelVersion = "",
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Make a policy the active one; an older one rolls back."""
    with Client(server, timeout_s=timeout_s) as client:
        previous = client.activate(model, policy, expected_active=expected_active, version=version)
    print(f"policy {policy} of {model} is active (before: {previous or 'none'})")


@policy_app.command(
    "calibrate", epilog="Example: cutpoint policy calibrate bearings recall_at_least=0.8 --data demo-out/data --author ann"
)
def calibrate_policy(
    model: str,
    objective: str,
    data: Annotated[Path, typer.Option(help="Labelled data with keys x and y.")],
    rows: Rows = None,
    author: Annotated[str, typer.Option(help="Who asks, for the record.")] = "",
    min_positives: Annotated[int, typer.Option(help="Labels with fewer labelled positives get no threshold.")] = 0,
    activate: Annotated[bool, typer.Option(help="Decide by it from now on.")] = True,
    allow_undecided: Annotated[bool, typer.Option(help="Activate although some labels have no threshold.")] = False,
    server: Server = "127.0.0.1:8001",
    version: ModelVersion = "",
    timeout_s: Timeout = TIMEOUT_S,
) -> None:
    """Choose new thresholds on the server from labelled data. Exit code 1 where it was asked to activate and did not."""
    dataset = read_dataset(data)
    if dataset.y is None:
        raise BadData.of(f"{data}: keys", "no y", "labels, to calibrate by")
    chosen = _chosen(dataset, rows)
    with Client(server, timeout_s=timeout_s) as client:
        done = client.calibrate(
            model, objective, targets=dataset.y[chosen], inputs=dataset.x[chosen], version=version, author=author,
            min_positives=min_positives, activate=activate, allow_undecided=allow_undecided,
        )  # fmt: skip
    console().print(policy_table(done.policy))
    print(f"policy {done.policy.version} of {model} is {'active' if done.activated else 'stored, not active'}")
    if activate and not done.activated:
        print(f"{len(done.policy.undecided)} labels have no threshold; --allow-undecided activates it all the same")
        raise typer.Exit(1)


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
