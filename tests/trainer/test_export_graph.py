"""What the exported file holds, and what is refused; a hand-written exporter is in torch's place, which takes seconds."""

import onnx
import pytest
import torch
from cutpoint.errors import BadBundle
from cutpoint.trainer.export import export_graph
from torch import nn

from .graphs import node, save_graph


@pytest.fixture
def exporting(monkeypatch):
    """exporting(shape): from now on torch exports `logits = -x` for x of this shape, and notes the source of every node."""

    def replace(shape: list) -> None:
        def export(model, arguments, file, **settings):
            negative = node("Neg", "x", "logits")
            negative.doc_string = "/home/me/model.py"
            entry = negative.metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.stack_trace", "/home/me/model.py"
            save_graph(file, [negative], {}, shape, shape)

        monkeypatch.setattr(torch.onnx, "export", export)

    return replace


def test_the_source_is_forgotten(exporting, tmp_path):
    exporting(["batch", "window", 2])
    export_graph(nn.Identity(), (5, 2), True, tmp_path / "m.onnx")
    assert b"/home/me" not in (tmp_path / "m.onnx").read_bytes()
    onnx.checker.check_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("shape", "any_windows", "message"),
    [
        ([3, 5, 2], False, "batch axis of the exported graph is fixed to 3"),
        (["batch", 7, 2], True, "window axis of the exported graph is fixed to 7"),
        (["batch", 5, 2], False, None),
    ],
)
def test_an_axis_that_is_to_be_free(exporting, tmp_path, shape, any_windows, message):
    exporting(shape)
    if message is None:
        export_graph(nn.Identity(), (5, 2), any_windows, tmp_path / "m.onnx")
        return
    with pytest.raises(BadBundle, match=message):
        export_graph(nn.Identity(), (5, 2), any_windows, tmp_path / "m.onnx")
