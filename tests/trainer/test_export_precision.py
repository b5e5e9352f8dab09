"""Lower precisions of hand-built graphs, against onnx's reference evaluator, which computes in the types that are written."""

import numpy as np
import onnx
import pytest
from cutpoint.errors import BadBundle
from cutpoint.trainer.export.precision import inner_nodes, lower_precision
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from .graphs import node, rows_graph, run_onnx, save_graph, windows_graph

RNG = np.random.default_rng(1)
ROWS = RNG.lognormal(sigma=3, size=(64, 4)).astype(np.float32)
WINDOWS = RNG.normal(size=(16, 1, 50)).astype(np.float32)


def types_of(path) -> dict[str, int]:
    """Element type of every tensor, by name; raises where a graph's types do not fit together."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }


def test_what_lies_between_the_first_and_the_last_layer(tmp_path):
    names = [node.name for node in inner_nodes(onnx.load(rows_graph(tmp_path / "m.onnx")).graph)]
    assert names == ["layer0", "z1", "layer1", "z2"]
    names = [node.name for node in inner_nodes(onnx.load(windows_graph(tmp_path / "m.onnx")).graph)]
    assert names == ["layer0", "z1", "layer1", "z2", "layer2", "z3", "mean", "max", "features"]


def test_a_spectrum_is_no_layer(tmp_path):
    """A filter bank by convolution, its logarithm, then layers; a logarithm after the last layer changes nothing."""
    nodes = [
        node("Conv", "x bank", "filtered"), node("Mul", "filtered filtered", "power"), node("Log", "power", "log"),
        node("MatMul", "log w", "h"), node("Relu", "h", "r"), node("MatMul", "r w", "o"), node("Log", "o", "logits"),
    ]  # fmt: skip
    weights = {"bank": np.ones((2, 1, 3), np.float32), "w": np.ones((6, 6), np.float32)}
    source = save_graph(tmp_path / "m.onnx", nodes, weights, ["batch", 1, 8], ["batch", 2, 6])
    assert [node.name for node in inner_nodes(onnx.load(source).graph)] == ["h", "r"]


@pytest.mark.parametrize(("build", "x"), [(rows_graph, ROWS), (windows_graph, WINDOWS)])
def test_float16(tmp_path, build, x):
    source, target = build(tmp_path / "m.onnx"), tmp_path / "fp16.onnx"
    lower_precision(source, target, "fp16")
    found = types_of(target)
    assert (found["x"], found["logits"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    halves = {name for name, kind in found.items() if kind == TensorProto.FLOAT16}
    if build is rows_graph:
        # Normalisation, the last layer and the shift are float32; inside, everything is float16, cast twice in all.
        assert halves == {f"{n}_fp16" for n in ("z0", "w0", "b0", "layer0", "z1", "w1", "b1", "layer1", "z2")}
        assert all(found[name] == TensorProto.FLOAT for name in ("positive", "log", "std", "w2", "raw", "shift"))
        assert np.isfinite(run_onnx(target, 1e30 * x)).all()  # float16 ends at 65504, but the logarithm comes first
    assert sum(node.op_type == "Cast" for node in onnx.load(target).graph.node) == 2
    wanted = run_onnx(source, x)
    (true,) = ReferenceEvaluator(onnx.load(target)).run(None, {"x": x})
    for logits in (true, run_onnx(target, x)):
        assert logits.dtype == np.float32
        assert 0 < np.abs(logits - wanted).max() < 8 * 2**-11 * np.abs(wanted).max()  # a few roundings to 11 bits


def test_a_weight_that_float16_cannot_hold(tmp_path):
    nodes = [node("MatMul", "x w0", "h"), node("MatMul", "h w1", "logits")]
    weights = {"w0": np.full((2, 2), 7e4, np.float32), "w1": np.ones((2, 1), np.float32)}
    source = save_graph(tmp_path / "m.onnx", nodes, weights, ["batch", 2], ["batch", 1])
    with pytest.raises(BadBundle, match=r"w0.* 7e\+04.*65504"):
        lower_precision(source, tmp_path / "fp16.onnx", "fp16")
    assert not (tmp_path / "fp16.onnx").exists()


def test_what_is_delicate_stays_float32_and_a_shared_weight_is_in_both_types(tmp_path):
    """exp between two layers, and one matrix used by an inner and by the last layer."""
    nodes = [
        node("MatMul", "x w", "h"), node("Exp", "h", "e"), node("Add", "e h", "s"), node("MatMul", "s w", "t"),
        node("Relu", "t", "r"), node("MatMul", "r w", "logits"),
    ]  # fmt: skip
    w = (RNG.normal(size=(3, 3)) / 3).astype(np.float32)
    source = save_graph(tmp_path / "m.onnx", nodes, {"w": w}, ["batch", 3], ["batch", 3])
    lower_precision(source, tmp_path / "fp16.onnx", "fp16")
    found = types_of(tmp_path / "fp16.onnx")
    assert (found["e"], found["s_fp16"], found["h_fp16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT16)
    assert (found["w"], found["w_fp16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
    x = RNG.normal(size=(8, 3)).astype(np.float32)
    wanted = run_onnx(source, x)
    np.testing.assert_allclose(run_onnx(tmp_path / "fp16.onnx", x), wanted, atol=4e-3 * np.abs(wanted).max())


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """To the nearest of 8 significant bits, ties to even, on the bits of float32."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize(("build", "x", "last"), [(rows_graph, ROWS, "w2"), (windows_graph, WINDOWS, "w3")])
def test_bfloat16_weights_in_float32_arithmetic(tmp_path, build, x, last):
    source, target = build(tmp_path / "m.onnx"), tmp_path / "bf16.onnx"
    lower_precision(source, target, "bf16")
    rounded = onnx.load(source)
    for tensor in rounded.graph.initializer:
        if tensor.name.startswith("w") and tensor.name != last:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(rounded_to_bfloat16(values), tensor.name))
    onnx.save(rounded, tmp_path / "rounded.onnx")
    np.testing.assert_allclose(run_onnx(target, x), run_onnx(tmp_path / "rounded.onnx", x), rtol=1e-5, atol=1e-5)
    assert np.abs(run_onnx(target, x) - run_onnx(source, x)).max() > 0
    kinds = types_of(target)
    assert {name for name, kind in kinds.items() if kind == TensorProto.BFLOAT16} == {
        f"w{i}_bf16" for i in range(4) if f"w{i}" in kinds or f"w{i}_bf16" in kinds if f"w{i}" != last
    }
    assert "w0" not in kinds  # stored once


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_one_layer_has_nothing_to_lower(tmp_path, precision):
    source = rows_graph(tmp_path / "m.onnx", hidden=())
    with pytest.raises(BadBundle, match=f"precision {precision}.*no layer with weights but the last"):
        lower_precision(source, tmp_path / "t.onnx", precision, [ROWS])
