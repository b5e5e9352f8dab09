import numpy as np
import pytest
import torch
from cutpoint.errors import BadBundle, BadConfig, BadData
from cutpoint.trainer import parse_config
from cutpoint.trainer.export import export_graph, measure_parity
from cutpoint.trainer.models import build_network
from cutpoint.trainer.preprocess import Preprocess, blank_preprocess


class Scale(torch.nn.Module):
    """Somebody's own model."""

    def __init__(self, outputs: int = 1, bad: bool = False) -> None:
        super().__init__()
        self.linear, self.bad = torch.nn.Linear(4, outputs), bad

    def forward(self, x):
        if self.bad and x.sum() > 0:  # a branch on data cannot be exported
            return self.linear(x) + 1
        return self.linear(x)


def own(tmp_path, monkeypatch, text: str, **arguments: object):
    (tmp_path / "own_model.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_model", raising=False)
    return parse_config(
        {
            "name": "own",
            "task": "binary",
            "data": {"path": "d"},
            "split": {"by": "random"},
            "model": {"kind": "import", "path": "own_model:Own", "arguments": arguments},
            "loss": {"name": "focal"},
        }
    )


OWN = "import torch\nclass Own(torch.nn.Linear):\n    def __init__(self, width, out=1): super().__init__(width, out)\n"


def test_an_imported_model(tmp_path, monkeypatch):
    config = own(tmp_path, monkeypatch, OWN, width=4)
    blank = blank_preprocess(config.model, (4,), False)
    network = build_network(config, (4,), 1, blank)
    assert network(torch.zeros(3, 4)).shape == (3, 1)
    assert network.training


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "model.path is own_model:Own; expected an importable class .*AttributeError"),
        ("import nowhere_to_be_found", {}, "ModuleNotFoundError"),
        (OWN, {}, "TypeError.*width"),
        ("class Own: pass", {}, "a torch.nn.Module; it makes a Own"),
        (OWN, {"width": 4, "out": 2}, r"output of import model is \(2, 2\); expected logits of shape \[2, 1\]"),
        (OWN, {"width": 5}, "output of import model is RuntimeError"),
    ],
)
def test_an_imported_model_that_does_not_fit(tmp_path, monkeypatch, text, arguments, message):
    config = own(tmp_path, monkeypatch, text, **arguments)
    with pytest.raises(BadConfig, match=message):
        build_network(config, (4,), 1, blank_preprocess(config.model, (4,), False))


def test_data_with_the_wrong_axes():
    config = parse_config(
        {
            "name": "m",
            "task": "binary",
            "data": {"path": "d"},
            "split": {"by": "random"},
            "model": {"kind": "mlp"},
            "loss": {"name": "focal"},
        }
    )
    with pytest.raises(BadData, match=r"x is of shape \[row, 3, 4\]; expected \[row, feature\]"):
        build_network(config, (3, 4), 1, Preprocess(False, torch.zeros(()), torch.zeros(()), torch.ones(())))


def test_what_cannot_be_exported_or_differs_is_refused(tmp_path):
    with pytest.raises(BadBundle, match="cannot be exported to ONNX"):
        export_graph(Scale(bad=True).eval(), (4,), False, tmp_path / "a.onnx")
    model = Scale().eval()
    export_graph(model, (4,), False, tmp_path / "b.onnx")
    x = np.ones((5, 4), np.float32)
    assert measure_parity(model, tmp_path / "b.onnx", [x]).max_abs_difference < 1e-6
    with torch.no_grad():
        model.linear.bias += 0.01
    with pytest.raises(BadBundle, match=r"parity of torch and onnxruntime is 0\.01 apart"):
        measure_parity(model, tmp_path / "b.onnx", [x])
    (tmp_path / "b.onnx").write_bytes(b"not a graph")
    with pytest.raises(BadBundle, match="cannot be loaded"):
        measure_parity(model, tmp_path / "b.onnx", [x])
