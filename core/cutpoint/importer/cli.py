"""`cutpoint import`."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bundle import read_bundle
from ..dataset import read_dataset
from ..errors import BadConfig
from ..terminal import console
from .bring import import_model
from .source import Source, read_source

app = typer.Typer(help="Bring in ONNX models from elsewhere.", no_args_is_help=True)

Ask = Callable[[str, str | None], str]  # (question, answer taken for an empty line) to the answer


@app.command(
    "import",
    epilog="Example: cutpoint import demo-out/models/bearings/1/model.onnx --models imported --name mine "
    "--task windows --labels fault --data demo-out/data",
)
def import_(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="The graph: one input of floats, logits or probabilities.")
    ],
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="Model repository to write into.")],
    name: Annotated[str | None, typer.Option("--name", help="Of the model.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="binary, multilabel or windows.")] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="A,B", help="In the order of the scores' columns; for binary the positive class."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="That holds the scores, where there are several.")] = None,
    scores: Annotated[
        str | None, typer.Option("--scores", help="logits or probabilities, where the graph does not say what it gives.")
    ] = None,
    rate_hz: Annotated[float | None, typer.Option("--rate-hz", help="Samples per second, of windows; kept on record.")] = None,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Version number; default the next free one.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Check it on these rows, not on random ones: .npz or folder.")
    ] = None,
) -> None:
    """Make a bundle of an ONNX model from elsewhere: logits instead of probabilities, checked against the original.

    What is missing is asked for, on a terminal.
    """
    source = read_source(model)
    given = {"name": name, "task": task, "labels": labels, "output": output, "scores": scores}
    answers: dict[str, Any] = complete(source, given, _prompt if sys.stdin.isatty() and sys.stdout.isatty() else None)
    answers["labels"] = tuple(label.strip() for label in answers["labels"].split(","))
    dataset = None if data is None else read_dataset(data)
    path = import_model(source, models, **answers, rate_hz=rate_hz, version=version, dataset=dataset)
    manifest = read_bundle(path).manifest
    assert manifest is not None  # it has just been written
    parity, rows = manifest.parity, "rows of the data" if data else "random rows (--data checks on real ones)"
    sizes = ", ".join(map(str, parity.batch_sizes))
    terminal = console()
    terminal.print(f"{answers['scores']} of '{answers['output']}' as logits", markup=False)
    terminal.print(
        f"apart from the original by {parity.max_abs_difference:.2g} at most, {parity.rows} {rows} in batches of {sizes}",
        markup=False,
    )
    terminal.print(f"{path}", markup=False)


def complete(source: Source, given: dict[str, str | None], ask: Ask | None) -> dict[str, str]:
    """What a manifest needs: as given, as the graph says for certain, or as answered.

    Args:
        source: the graph.
        given: name, task, labels, output and scores; None for what was not.
        ask: None where nobody can be asked.

    Raises:
        BadConfig: something is missing and nobody can be asked; the message names all flags that are.
    """
    outputs = {output.name: output for output in source.outputs}
    found = {key: value for key, value in given.items() if value is not None}
    if len(outputs) == 1:
        found.setdefault("output", next(iter(outputs)))
    held = outputs[found["output"]].scores if found.get("output") in outputs else None
    if held is not None:
        found.setdefault("scores", held)
    missing = [key for key in given if key not in found]
    if missing and ask is None:
        if "output" in missing and "scores" in missing:
            missing.remove("scores")  # the output chosen may say
        raise BadConfig.of("flags", f"without {', '.join(f'--{key}' for key in missing)}", _expected(missing, list(outputs)))
    for key in missing:
        assert ask is not None
        if key == "scores" and (known := source.choose(found["output"]).scores) is not None:
            found[key] = known
        else:
            found[key] = ask(*_question(key, source, found))
    return found


def _expected(missing: list[str], outputs: list[str]) -> str:
    parts = ["them, as this is no terminal to ask on"]
    if "output" in missing:
        parts.append(f"the outputs that may be scores are {outputs}")
    if "scores" in missing:
        parts.append("--scores is logits or probabilities")
    return "; ".join(parts)


def _question(key: str, source: Source, found: dict[str, str]) -> tuple[str, str | None]:
    names = [output.name for output in source.outputs]
    windows = len(source.shape) == 3
    if key == "name":
        return "name of the model", re.sub(r"[^A-Za-z0-9_.-]+", "-", source.path.stem).strip("-_.") or None
    if key == "task":
        return "task (binary, multilabel or windows)", "windows" if windows else "binary"
    if key == "labels" and found["task"] == "binary":
        return "label (the positive class)", source.classes[1] if len(source.classes) == 2 else found["name"]
    if key == "labels":
        return "labels, in the order of the scores' columns (a,b,...)", ",".join(source.classes) or None
    if key == "output":
        return f"output that holds the scores ({', '.join(names)})", names[0]
    return f"what '{found['output']}' holds (logits or probabilities)", None


def _prompt(question: str, default: str | None) -> str:
    return str(typer.prompt(question, default=default))
