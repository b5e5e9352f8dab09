"""`cutpoint outcomes`: what became of decisions, reported from files, and what is known of it."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cutpoint.calibration.policy import Rate
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.terminal import SHOWN_LABELS, console, plain_table
from rich.markup import escape

from .client import Client
from .options import connected
from .outcome_files import read_outcomes
from .outcomes import LabelOutcomes, OutcomeSummary, Sampling

outcomes_app = typer.Typer(help="Report what became of decisions, and show what it says.", no_args_is_help=True)

_SHOWN = 10
_PLACE = re.compile(r"^outcomes\[(\d+)\](?:\.requested\.|\.scored\.|\.|: | )?")  # how an error names an outcome
Since = Annotated[
    str, typer.Option(metavar="TIME", help="Decisions from this time on, as 2026-01-31 or 2026-01-31T12:00 (UTC).")
]
Until = Annotated[str, typer.Option(metavar="TIME", help="And before this one.")]


@outcomes_app.command(epilog="Example: cutpoint outcomes report labels.csv --model bearings --sampling alerted")
@connected
def report(
    client: Client,
    file: Annotated[
        Path,
        typer.Argument(help="A .csv or .jsonl with request_id, row, outcome, ... or key, logit, outcome; or an .npz with y."),
    ],
    model: Annotated[str, typer.Option(help="Name of the model.")],
    sampling: Annotated[
        Sampling,
        typer.Option(help="How the decisions came to be looked at; recall and thresholds come from those that see misses."),
    ],
    probability: Annotated[
        float | None, typer.Option(help="With which each was drawn; for random, and for what is random beside alerts.")
    ] = None,
    request_id: Annotated[str, typer.Option(help="That all of them were scored with, where the file has none.")] = "",
    version: Annotated[str, typer.Option(help="Version of the model (default: whichever decided).")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Correct outcomes that are known otherwise.")] = False,
) -> None:
    """Report outcomes from a file; once each, however often it is run. Exit code 1 where some fit no decision."""
    taken = repeated = corrected = 0
    reasons, shown = Counter[str](), list[str]()
    for each in read_outcomes(file, request_id):
        given = each.outcomes
        with _placed(each.places, taken + repeated + corrected):
            found = client.report_outcomes(
                model, given.targets, sampling=sampling, probability=probability, request_id=given.request_id, rows=given.rows,
                windows=given.windows, keys=given.keys, logits=given.logits, labels=given.labels,
                policy_version=given.policy_version, times_s=given.times_s, version=version, replace=replace,
            )  # fmt: skip
        taken, repeated, corrected = taken + found.taken, repeated + found.repeated, corrected + found.corrected
        reasons.update(found.unmatched_reasons)
        shown += [f"{each.places[miss.row]}: {miss.text.partition(': ')[2]}" for miss in found.unmatched[: _SHOWN - len(shown)]]
    print(f"{taken} outcomes taken, {repeated} known before, {corrected} corrected, {sum(reasons.values())} fit no decision")
    for reason, count in sorted(reasons.items()):
        print(f"  {reason}: {count}")
    for line in shown:
        print(line)
    if reasons:
        raise typer.Exit(1)


@outcomes_app.command(epilog="Example: cutpoint outcomes summary bearings")
@connected
def summary(
    client: Client,
    model: str,
    since: Since = "",
    until: Until = "",
    version: Annotated[str, typer.Option(help="Version of the model (default: the server's).")] = "",
) -> None:
    """Confirmed precision and recall of each label, with their intervals at 95 %."""
    since_s, until_s = time_range(since, until)
    _print(client.outcome_summary(model, version=version, since_s=since_s, until_s=until_s))


@contextmanager
def _placed(places: list[str], before: int) -> Iterator[None]:
    """Have an error about an outcome name its place in the file, and say that `before` of the file's others were taken."""
    try:
        yield
    except CutpointError as error:
        text = _PLACE.sub(lambda found: f"{places[int(found[1])]}: ", str(error), count=1)
        if before:
            text += f"; {before} others of the file are kept, and may be reported again"
        raise type(error)(text) from error


def time_range(since: str, until: str) -> tuple[float | None, float | None]:
    """Both in seconds since 1970, None where not given; BadConfig where no time is between them."""
    since_s, until_s = seconds("since", since), seconds("until", until)
    if since_s is not None and until_s is not None and until_s <= since_s:
        raise BadConfig.of("--until", until, f"a time after --since, {since}")
    return since_s, until_s


def seconds(name: str, text: str) -> float | None:
    """Seconds since 1970 of a time as a person writes it, in UTC unless it says otherwise; None of an empty text."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadConfig.of(f"--{name}", text, "a time, as 2026-01-31 or 2026-01-31T12:00") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _print(found: OutcomeSummary) -> None:
    title = f"{found.model}/{found.model_version}: outcomes of {found.rows} rows"
    columns = ("right alerts", "false alarms", "missed", "rightly quiet", "precision", "recall")
    table = plain_table("label", *columns, title=title)
    labels = sorted(found.labels, key=lambda label: -_known(label))  # most outcomes first
    for label in labels[:SHOWN_LABELS]:
        counts = (label.true_positives, label.false_positives, label.false_negatives, label.true_negatives)
        table.add_row(escape(label.label), *map(str, counts), _shown(label.precision), _shown(label.recall))
    lines = [f"{label.label}: no recall: {label.recall_reason}" for label in labels[:SHOWN_LABELS] if label.recall is None]
    if len(labels) > SHOWN_LABELS:
        lines.append(f"and {len(labels) - SHOWN_LABELS} more labels")
    undecided = sum(label.undecided_positives + label.undecided_negatives for label in labels)
    if undecided:
        lines.append(f"{undecided} outcomes of labels on which nothing was decided are not in the table")
    table.caption = "\n".join(escape(line) for line in lines)
    console().print(table)


def _known(label: LabelOutcomes) -> int:
    return label.true_positives + label.false_positives + label.false_negatives + label.true_negatives


def _shown(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})"
