"""What a precision costs, against scikit-learn on the same logits."""

import numpy as np
import pytest
from cutpoint.bundle import PrecisionCost
from cutpoint.dataset import UNLABELLED, Dataset
from cutpoint.errors import BadData
from cutpoint.terminal import console
from cutpoint.trainer.export.cost import cost_table, measure_cost
from sklearn.metrics import average_precision_score

from .graphs import node, run_onnx, save_graph

LABELS = ("a", "b", "c")


def linear(path, weights) -> object:
    w = np.asarray(weights, np.float32)
    return save_graph(
        path, [node("MatMul", "x w", "logits")], {"w": w}, ["batch", "window", 4], ["batch", "window", w.shape[1]]
    )


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    """60 sequences of 20 windows in 15 groups: label a depends on x, b hardly, c has no positive; some are not labelled."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 20, 4)).astype(np.float32)
    y = (rng.random((60, 20, 3)) < 1 / (1 + np.exp(3 - 2 * x[..., :1] * [1, 0.1, 0]))).astype(np.uint8)
    y[..., 2] = 0
    y[::7, 3] = UNLABELLED
    return Dataset(tmp_path, x, y, LABELS, group=np.arange(60) // 4)


def test_cost_against_scikit_learn(dataset, tmp_path):
    good, bad = np.zeros((4, 3)), np.zeros((4, 3))
    good[0], bad[0], bad[1] = 1, 1, 0.8
    files = [linear(tmp_path / "good.onnx", good), linear(tmp_path / "bad.onnx", bad)]
    rows = np.arange(5, 60)
    cost = measure_cost(files[1], files[0], dataset, rows, LABELS)
    logits = [run_onnx(file, dataset.x[rows]) for file in files]
    assert [label.label for label in cost.labels] == ["a", "b"]  # c has no positive
    for i, label in enumerate(cost.labels):
        known = dataset.y[rows][..., i] != UNLABELLED
        found = [average_precision_score(dataset.y[rows][..., i][known], each[..., i][known]) for each in logits]
        assert [label.reference, label.average_precision] == pytest.approx(found, abs=1e-9)
        assert label.low < label.reference - label.average_precision < label.high
    assert cost.labels[0].low > 0  # of 15 groups each, the loss is beyond chance
    assert cost.loss == pytest.approx(np.mean([label.reference - label.average_precision for label in cost.labels]))
    assert cost.low < cost.loss < cost.high
    assert cost.max_abs_difference == pytest.approx(np.abs(logits[0] - logits[1]).max(), rel=1e-6)
    assert cost.rows == 55
    assert PrecisionCost.model_validate_json(cost.model_dump_json()) == cost
    # The other way round it is a gain, on the same draws.
    gain = measure_cost(files[0], files[1], dataset, rows, LABELS)
    assert (gain.loss, gain.low, gain.high) == pytest.approx((-cost.loss, -cost.high, -cost.low), abs=2e-3)


def test_the_same_graph_costs_nothing(dataset, tmp_path):
    file = linear(tmp_path / "m.onnx", np.eye(4, 3))
    cost = measure_cost(file, file, dataset, np.arange(60), LABELS)
    assert (cost.loss, cost.low, cost.high, cost.max_abs_difference) == (0, 0, 0, 0)


def test_hardly_a_positive_has_no_interval_and_none_no_cost(dataset, tmp_path):
    file = linear(tmp_path / "m.onnx", np.eye(4, 3))
    y = np.zeros_like(dataset.y)
    y[4, 4, 1] = 1
    cost = measure_cost(file, file, Dataset(dataset.path, dataset.x, y, LABELS), np.arange(60), LABELS)
    assert [(label.label, label.low) for label in cost.labels] == [("b", None)]
    assert cost.low is None
    with pytest.raises(BadData, match="no positive of any label"):
        measure_cost(file, file, Dataset(dataset.path, dataset.x, 0 * y, LABELS), np.arange(60), LABELS)


def test_table(dataset, tmp_path, capsys):
    from bundles import manifest

    files = [linear(tmp_path / "good.onnx", np.eye(4, 3)), linear(tmp_path / "bad.onnx", np.eye(4, 3, 1))]
    cost = measure_cost(files[1], files[0], dataset, np.arange(60), LABELS)
    plain = manifest("m", LABELS, (-1, -1, 4))
    console().print(cost_table([plain, plain.model_copy(update={"precision": "int8", "cost": cost})]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][3:]
    assert [line[0] for line in lines] == ["int8", "a", "b"]
    assert lines[0][1:5] == [
        "mean",
        *(f"{v:.4f}" for v in (_mean(cost, "reference"), _mean(cost, "average_precision"), cost.loss)),
    ]


def _mean(cost: PrecisionCost, field: str) -> float:
    return float(np.mean([getattr(label, field) for label in cost.labels]))
