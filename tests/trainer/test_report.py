import io

import numpy as np
import pytest
from cutpoint.bundle import Bundle
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle, BadData, BadScores
from cutpoint.trainer import choose_rows, evaluate_bundle, evaluation_table, plot_sequence, score_rows
from matplotlib.image import imread
from onnx import TensorProto, helper, save
from rich.console import Console


@pytest.fixture
def anybodys(tmp_path) -> Bundle:
    """Anybody's ONNX, without manifest: y = log(x), so that negative input gives NaN."""
    axes = ["n", 2]
    graph = helper.make_graph(
        [helper.make_node("Log", ["in"], ["out"])],
        "g",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, axes)],
    )
    folder = tmp_path / "any" / "1"
    folder.mkdir(parents=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx")
    return Bundle(folder, "any", 1, "0" * 64, None, None)


def test_anybodys_graph_is_scored_and_judged_without_cuts(anybodys, tmp_path):
    x = np.random.default_rng(0).random((50, 2)).astype(np.float32) + 0.01
    y = (x > 0.8).astype(np.uint8)
    dataset = Dataset(tmp_path / "d.npz", x, y, ("a", "b"), splits={"test": np.arange(40, 50)})
    rows = np.array([3, 1, 49])
    assert score_rows(anybodys, dataset, rows, batch_size=2) == pytest.approx(np.log(x[rows]), abs=1e-6)
    evaluation = evaluate_bundle(anybodys, dataset, choose_rows(dataset, "all"), "all")
    assert [label.average_precision for label in evaluation.labels] == pytest.approx([1, 1])
    assert evaluation.labels[0].prevalence == y[:, 0].mean()
    assert evaluation.labels[0].observed is None
    text = io.StringIO()
    Console(file=text, width=80).print(evaluation_table(evaluation))
    assert "no cut" in text.getvalue()
    assert choose_rows(dataset, "test").tolist() == list(range(40, 50))
    with pytest.raises(BadData, match="split is valid"):
        choose_rows(dataset, "valid")


def test_what_the_graph_does_not_take(anybodys, tmp_path):
    y = np.zeros((4, 2), np.uint8)
    with pytest.raises(BadData, match=r"x is of shape \[4, 3\]; expected \[-1, 2\]"):
        score_rows(anybodys, Dataset(tmp_path, np.ones((4, 3), np.float32), y))
    bad = np.ones((4, 2), np.float32)
    bad[2, 1] = -1
    with pytest.raises(BadScores, match="answers NaN for row 2"):
        score_rows(anybodys, Dataset(tmp_path, bad, y))
    bad[2, 1] = np.inf
    with pytest.raises(BadData, match=r"x\[2\]"):
        score_rows(anybodys, Dataset(tmp_path, bad, y))
    anybodys.model_path.write_bytes(anybodys.model_path.read_bytes()[:40])
    with pytest.raises(BadBundle, match="cannot be loaded"):
        score_rows(anybodys, Dataset(tmp_path, bad, y))


@pytest.mark.parametrize("threshold", [None, -1.0, 1e30])
def test_a_picture_of_one_sequence(tmp_path, threshold):
    rng = np.random.default_rng(0)
    truth = np.zeros(140, np.uint8)
    truth[[30, 31, 90]] = 1
    truth[100:103] = 255
    scores = (rng.normal(size=140) * 1.5 - 5 + 6 * (truth == 1)).astype(np.float32)
    scores[3] = 300  # a saturated probability
    signal = rng.random((140, 50)).astype(np.float32)
    path = plot_sequence(tmp_path / "deep" / "s.png", scores, truth, threshold, signal, title="sequence 3")
    assert imread(path).shape[1] > 1000
    assert plot_sequence(tmp_path / "t.png", scores, truth, threshold).exists()
