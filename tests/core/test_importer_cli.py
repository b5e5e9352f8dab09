"""`cutpoint import`: what is asked, what is taken from the graph, what is printed."""

import json
from pathlib import Path

import numpy as np
import pytest
from bundles import linear_onnx
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.importer import read_source
from cutpoint.importer.cli import app, complete
from onnx import TensorProto, helper
from onnx import load as load_onnx
from onnx import save as save_onnx
from typer.testing import CliRunner, Result

NOTHING = dict.fromkeys(("name", "task", "labels", "output", "scores"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def graph(folder: Path, columns: int = 1, output: str = "logits", windows: bool = False) -> Path:
    shape: list[int | str] = ["n", "w", 3] if windows else ["n", 3]
    return linear_onnx(folder / "my model.onnx", np.eye(3, columns, dtype=np.float32), shape, output)


def second_output(path: Path) -> Path:
    model = load_onnx(path)
    model.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["p"]))
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, None))
    save_onnx(model, path)
    return path


def answers(*lines: str) -> tuple[list[tuple[str, str | None]], object]:
    """A list that the questions go to, and who asks them; an empty line takes the default."""
    asked: list[tuple[str, str | None]] = []
    left = list(lines)

    def ask(question: str, default: str | None) -> str:
        asked.append((question, default))
        return left.pop(0) or default or ""

    return asked, ask


def test_flags_say_everything(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((9, 3)), y=np.arange(18).reshape(9, 2) % 2, label_names=["a", "b"])
    done = run(
        graph(tmp_path, 2), "--models", tmp_path / "models", "--name", "fraud", "--task", "multilabel", "--labels", "a, b",
        "--data", tmp_path / "data.npz",
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    bundle = tmp_path / "models" / "fraud" / "1"
    assert done.output.splitlines()[0] == "logits of 'logits' as logits"
    assert "rows of the data in batches of 1, 2, 5" in done.output and str(bundle) in done.output.replace("\n", "")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["origin"], manifest["labels"], manifest["task"]) == ("imported", ["a", "b"], "multilabel")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "flags is without --name, --task, --labels; expected them, as this is no terminal to ask on"),
        (("--name", "m", "--labels", "a"), "without --task;"),
    ],
)
def test_where_nobody_can_be_asked_every_missing_flag_is_named(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(graph(tmp_path), "--models", tmp_path / "models", *flags)
    assert isinstance(done.exception, CutpointError) and message in str(done.exception), done.output
    assert not (tmp_path / "models").exists()


def test_outputs_and_scores_that_the_graph_does_not_tell_are_named(tmp_path: Path) -> None:
    given = {**NOTHING, "name": "m", "task": "binary", "labels": "a"}
    two = read_source(second_output(graph(tmp_path)))
    with pytest.raises(BadConfig, match=r"without --output; .* \['logits', 'p'\]"):
        complete(two, given, None)
    assert complete(two, {**given, "output": "p"}, None)["scores"] == "probabilities"
    unknown = graph(tmp_path, output="score")
    model = load_onnx(unknown)
    model.graph.node[0].op_type = "Max"
    save_onnx(model, unknown)
    with pytest.raises(BadConfig, match=r"without --scores; .* --scores is logits or probabilities"):
        complete(read_source(unknown), given, None)
    asked, ask = answers("probabilities")
    assert complete(read_source(unknown), given, ask)["scores"] == "probabilities"  # type: ignore[arg-type]
    assert asked == [("what 'score' holds (logits or probabilities)", None)]


def test_on_a_terminal_the_graph_suggests_the_answers(tmp_path: Path) -> None:
    asked, ask = answers("", "", "", "p")
    found = complete(read_source(second_output(graph(tmp_path))), dict(NOTHING), ask)  # type: ignore[arg-type]
    assert found == {"name": "my-model", "task": "binary", "labels": "my-model", "output": "p", "scores": "probabilities"}
    assert [default for _, default in asked] == ["my-model", "binary", "my-model", "logits"]


def test_an_input_of_three_axes_suggests_windows(tmp_path: Path) -> None:
    asked, ask = answers("m", "", "a,b")
    found = complete(read_source(graph(tmp_path, 2, windows=True)), dict(NOTHING), ask)  # type: ignore[arg-type]
    assert found == {"name": "m", "task": "windows", "labels": "a,b", "output": "logits", "scores": "logits"}
    assert asked[2] == ("labels, in the order of the scores' columns (a,b,...)", None)
