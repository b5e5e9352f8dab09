"""int8 graphs, against onnx's reference evaluator and the definition of quantisation."""

import logging
import warnings

import numpy as np
import onnx
import pytest
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle
from cutpoint.trainer.export.precision import lower_precision
from cutpoint.trainer.export.quantize import calibration_batches
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from .graphs import node, rows_graph, run_onnx, save_graph, windows_graph

RNG = np.random.default_rng(2)
ROWS = RNG.lognormal(sigma=2, size=(400, 4)).astype(np.float32)
WINDOWS = RNG.normal(size=(60, 1, 50)).astype(np.float32)


def quantised_layers(path) -> list[str]:
    """Names of the layers whose weights are stored as integers."""
    graph = onnx.load(path).graph
    restored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in graph.node if node.op_type in ("Gemm", "MatMul", "Conv") and node.input[1] in restored]


def reference_logits(path, x: np.ndarray) -> np.ndarray:
    """The logits by onnx's own evaluator, which has quantisation from opset 19 on; nothing here changed between the two."""
    model = onnx.load(path)
    model.opset_import[0].version = 19
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@pytest.mark.parametrize(("build", "x", "quantised"), [
    (rows_graph, ROWS, ["layer1"]),  # not the first, nor the last
    (windows_graph, WINDOWS, ["layer1", "layer2"]),
])  # fmt: skip
def test_middle_layers_are_quantised(tmp_path, build, x, quantised):
    source, target = build(tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    handlers, off = logging.getLogger().handlers[:], logging.root.manager.disable
    lower_precision(source, target, "int8", [x[:30], x[30:]])
    assert (logging.getLogger().handlers, logging.root.manager.disable) == (handlers, off)
    assert quantised_layers(target) == quantised
    wanted, found = run_onnx(source, x), run_onnx(target, x)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    reference = reference_logits(target, x)
    # One rounding may fall the other way where two implementations differ in the last bit.
    assert np.quantile(np.abs(found - reference), 0.98) < 1e-4
    assert np.abs(found - reference).max() < 0.02 * np.abs(wanted).max()
    assert len(np.unique(found[:, 0])) > 0.9 * len(np.unique(wanted[:, 0]))  # the logits are not on a grid
    for size in (1, 7):  # the batch axis stays free
        np.testing.assert_allclose(run_onnx(target, x[:size]), found[:size], atol=0.02 * np.abs(wanted).max())
    model = onnx.load(target)
    assert not model.metadata_props
    assert {entry.domain for entry in model.opset_import} == {""}


def test_weights_are_seven_bits_a_channel_and_ranges_hold_the_extremes(tmp_path):
    source, target = rows_graph(tmp_path / "m.onnx"), tmp_path / "int8.onnx"
    lower_precision(source, target, "int8", [ROWS[:200], ROWS[200:]])
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(target).graph.initializer}
    kernel = values["w1_quantized"]
    original = numpy_helper.to_array(next(t for t in onnx.load(source).graph.initializer if t.name == "w1"))
    assert kernel.dtype == np.int8
    assert np.abs(kernel.astype(int)).max() <= 64
    np.testing.assert_allclose(values["w1_scale"], np.abs(original).max(axis=0) / 64, rtol=0.02)
    np.testing.assert_allclose(kernel * values["w1_scale"], original, atol=values["w1_scale"].max() * 0.51)
    hidden = hidden_of(source, "z1")
    top = values["z1_scale"] * (255 - float(values["z1_zero_point"]))
    assert top == pytest.approx(hidden.max(), rel=1e-3)  # the largest value is not clipped


def hidden_of(path, name: str) -> np.ndarray:
    """What a tensor inside a graph is for ROWS."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return ReferenceEvaluator(model).run(None, {"x": ROWS})[0]


def test_a_first_layer_with_most_of_the_weights_is_quantised_too(tmp_path):
    x = RNG.normal(size=(200, 300)).astype(np.float32)
    source = rows_graph(tmp_path / "m.onnx", features=300, hidden=(8,))
    lower_precision(source, tmp_path / "int8.onnx", "int8", [x])
    assert quantised_layers(tmp_path / "int8.onnx") == ["layer0"]


def test_a_layer_without_integer_kernels_is_nothing_to_quantise(tmp_path):
    nodes = [node("ConvTranspose", "x w0", "h"), node("MatMul", "h w1", "logits")]
    weights = {"w0": np.ones((2, 2, 1), np.float32), "w1": np.ones((3, 1), np.float32)}
    source = save_graph(tmp_path / "m.onnx", nodes, weights, ["batch", 2, 3], ["batch", 2, 1])
    with pytest.raises(BadBundle, match=r"precision int8.*no layer"):
        lower_precision(source, tmp_path / "t.onnx", "int8", [np.ones((1, 2, 3), np.float32)])


def test_calibration_rows_are_training_rows_half_of_them_positive(tmp_path):
    x = np.arange(5000, dtype=np.float32)[:, None]
    y = np.zeros((5000, 1), np.uint8)
    y[::10] = 1
    rows = np.arange(1000, 5000)
    chosen = np.concatenate(list(calibration_batches(Dataset(tmp_path, x, y), rows))).ravel().astype(int)
    assert len(chosen) == len(set(chosen)) == 512
    assert set(chosen) <= set(rows)
    assert y[chosen].sum() == 256
    y[:] = 0
    y[[1234, 77]] = 1
    few = np.concatenate(list(calibration_batches(Dataset(tmp_path, x, y), rows))).ravel().astype(int)
    assert 1234 in few
    assert 77 not in few
    assert len(few) == 512


def test_nothing_is_printed(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower_precision(rows_graph(tmp_path / "m.onnx"), tmp_path / "t.onnx", "int8", [ROWS])
    assert capfd.readouterr() == ("", "")
