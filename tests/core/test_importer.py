"""Graphs as converters and torch write them, brought in: the same probabilities, or a refusal that says why."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from cutpoint.bundle import read_bundle
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadBundle, BadConfig, BadData
from cutpoint.importer import import_model, read_source
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 + RANDOM.normal(size=300) > 1.5).astype(np.int64)


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None] = ("n", 4),
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    element: int = FLOAT,
    opset: int = 18,
    ir: int = 8,
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """A graph from `in` to `out`."""
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("in", element, shape)],
        list(outputs or [helper.make_tensor_value_info("out", FLOAT, None)]),
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=ir).SerializeToString())
    return path


def converted(model: Any, path: Path, dtype: Any = np.float32, zipmap: bool = False) -> Path:
    """What skl2onnx makes of a model, which under protobuf 6 is not without warnings of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(to_onnx(model, X[:1].astype(dtype), options={"zipmap": zipmap}), path)
    return path


def linear(path: Path, operator: str = "", columns: int = 1, **settings: Any) -> Path:
    """`operator(x @ w)`, w being rows of 0, 1, ... / 10."""
    weights = {"w": (np.arange(4 * columns).reshape(4, columns) / 10).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["in", "w"], ["z"]), helper.make_node(operator or "Identity", ["z"], ["out"])]
    return saved(path, nodes, weights=weights, **settings)


def bring(path: Path, models: Path, labels: Sequence[str] = ("fraud",), **settings: Any) -> Path:
    given = {"name": "m", "task": "binary" if len(labels) == 1 else "multilabel", **settings}
    return import_model(read_source(path), models, labels=labels, **given)


def logits_of(bundle: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [("x", "tensor(float)")]
    assert [(o.name, o.type) for o in session.get_outputs()] == [("logits", "tensor(float)")]
    return np.asarray(session.run(None, {"x": x})[0])


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z.astype(np.float64)))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    np.savez(tmp_path / "data.npz", x=X, y=Y, label_names=["fraud"])
    return read_dataset(tmp_path / "data.npz")


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        LogisticRegression,
        lambda: RandomForestClassifier(10, random_state=0),
        lambda: HistGradientBoostingClassifier(max_iter=10),
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    ],
)
def test_scikit_learn_keeps_its_probabilities(make: Callable[[], Any], zipmap: bool, tmp_path: Path, data: Dataset) -> None:
    model = make().fit(X, Y)
    bundle = bring(converted(model, tmp_path / "m.onnx", zipmap=zipmap), tmp_path / "models", dataset=data)
    logits = logits_of(bundle, X)
    assert logits.shape == (300, 1) and np.isfinite(logits).all()
    np.testing.assert_allclose(sigmoid(logits), model.predict_proba(X)[:, 1:], atol=1e-6)
    manifest = read_bundle(bundle).manifest
    assert manifest is not None and manifest.origin == "imported" and manifest.loss is None and manifest.priors == ()
    assert manifest.input.shape == (-1, 4) and manifest.labels == ("fraud",) and manifest.precision == "fp32"
    assert manifest.parity.max_abs_difference <= manifest.parity.tolerance and manifest.parity.batch_sizes[:3] == (1, 2, 5)
    assert manifest.provenance.seed is None and manifest.provenance.data_digest is None
    assert "skl2onnx" in manifest.provenance.versions


def test_a_model_of_float64_and_of_several_labels(tmp_path: Path) -> None:
    several = np.stack([Y, X[:, 2] > 1], axis=1).astype(int)
    model = OneVsRestClassifier(LogisticRegression()).fit(X, several)
    path = converted(model, tmp_path / "m.onnx", np.float64)
    logits = logits_of(bring(path, tmp_path / "models", ("a", "b")), X)
    np.testing.assert_allclose(sigmoid(logits), model.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize(("positive", "column"), [("fraud", 0), ("legit", 1)])
@pytest.mark.parametrize("settings", [(np.float32, True), (np.float32, False), (np.float64, False)])
def test_the_positive_class_is_found_by_its_name(
    positive: str, column: int, settings: tuple[Any, bool], tmp_path: Path
) -> None:
    model = LogisticRegression().fit(X, np.where(Y, "fraud", "legit"))
    path = converted(model, tmp_path / "m.onnx", *settings)
    logits = logits_of(bring(path, tmp_path / "models", (positive,)), X)
    np.testing.assert_allclose(sigmoid(logits[:, 0]), model.predict_proba(X)[:, column], atol=1e-6)
    with pytest.raises(BadConfig, match=r"labels is \['theft'\]; expected one of \['fraud', 'legit'\]"):
        bring(path, tmp_path / "models", ("theft",))


def test_old_opsets_as_boosting_converters_write_them(tmp_path: Path) -> None:
    # onnxmltools: opset 9, IR 4, ZipMap behind an Identity.
    nodes = [
        helper.make_node("MatMul", ["in", "w"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
        helper.make_node("Identity", ["p"], ["q"]),
        helper.make_node("ZipMap", ["q"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    output = helper.make_value_info("probabilities", helper.make_sequence_type_proto(maps))
    weights = {"w": RANDOM.normal(size=(4, 2)).astype(np.float32)}
    path = saved(tmp_path / "m.onnx", nodes, outputs=[output], opset=9, ir=4, weights=weights)
    found = logits_of(bring(path, tmp_path / "models"), X)
    np.testing.assert_allclose(found[:, 0], X @ (weights["w"][:, 1] - weights["w"][:, 0]), rtol=1e-4, atol=1e-5)


def test_a_graph_without_the_default_domain(tmp_path: Path) -> None:
    # XGBoost's: one TreeEnsembleClassifier, here a LinearClassifier.
    node = helper.make_node(
        "LinearClassifier", ["in"], ["label", "out"], domain="ai.onnx.ml", coefficients=[-1.0, 0, 0, 0, 1.0, 0, 0, 0],
        intercepts=[0.0, 0.0], classlabels_ints=[0, 1], post_transform="SOFTMAX",
    )  # fmt: skip
    path = saved(tmp_path / "m.onnx", [node])
    model = onnx.load(path)
    del model.opset_import[0]
    onnx.save(model, path)
    with pytest.raises(BadConfig, match="scores is missing; expected logits or probabilities"):
        bring(path, tmp_path / "models")
    found = logits_of(bring(path, tmp_path / "models", scores="probabilities"), X)
    np.testing.assert_allclose(found[:, 0], 2 * X[:, 0], rtol=1e-5, atol=1e-5)


W = (np.arange(8).reshape(4, 2) / 10).astype(np.float32)
ONE = (X @ (np.arange(4) / 10)).astype(np.float64)[:, None]


@pytest.mark.parametrize(
    ("operator", "columns", "labels", "wanted"),
    [
        ("", 1, ("a",), ONE),
        ("Sigmoid", 1, ("a",), ONE),
        ("", 2, ("a",), X @ W[:, 1:] - X @ W[:, :1]),
        ("Softmax", 2, ("a",), X @ W[:, 1:] - X @ W[:, :1]),
        ("LogSoftmax", 2, ("a",), X @ W[:, 1:] - X @ W[:, :1]),
        ("", 2, ("a", "b"), X @ W),
        ("Sigmoid", 2, ("a", "b"), X @ W),
    ],
)
def test_logits_and_probabilities_of_torch(
    operator: str, columns: int, labels: tuple[str, ...], wanted: np.ndarray, tmp_path: Path
) -> None:
    found = logits_of(bring(linear(tmp_path / "m.onnx", operator, columns), tmp_path / "models", labels), X)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_one_score_a_row_without_an_axis_for_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["in", "i"], ["out"], axis=1)]
    path = saved(tmp_path / "m.onnx", nodes, weights={"i": np.array(2)})
    np.testing.assert_array_equal(logits_of(bring(path, tmp_path / "models", scores="logits"), X), X[:, 2:3])


def test_certain_probabilities_are_finite_logits(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [helper.make_node("Clip", ["in", "low", "high"], ["prob"])], shape=("n", 1),
        outputs=[helper.make_tensor_value_info("prob", FLOAT, None)],
        weights={"low": np.array(0, np.float32), "high": np.array(1, np.float32)})  # fmt: skip
    bundle = bring(path, tmp_path / "models")
    edge = np.log(np.finfo(np.float32).tiny)
    found = logits_of(bundle, np.float32([[0], [0.25], [1 - 2**-24], [1]]))
    np.testing.assert_allclose(found[:, 0], [edge, np.log(1 / 3), 24 * np.log(2), -edge], rtol=1e-5)


def test_windows_of_any_number_and_names_that_are_taken(tmp_path: Path) -> None:
    # An If whose branches use outer tensors called as ours are: all of them get another name.
    branch = [
        helper.make_graph([helper.make_node(op, ["logits"], [out])], op, [], [helper.make_tensor_value_info(out, FLOAT, None)])
        for op, out in (("Identity", "x"), ("Neg", "tiny"))
    ]
    nodes = [
        helper.make_node("ReduceMax", ["in", "last"], ["logits"], keepdims=0),
        helper.make_node("If", ["yes"], ["out"], then_branch=branch[0], else_branch=branch[1]),
    ]
    weights = {"last": np.array([2]), "yes": np.array(True)}
    path = saved(tmp_path / "m.onnx", nodes, shape=("n", "w", 5), weights=weights)
    bundle = bring(path, tmp_path / "models", task="windows", scores="logits", rate_hz=50.0)
    x = RANDOM.normal(size=(2, 7, 5)).astype(np.float32)
    np.testing.assert_array_equal(logits_of(bundle, x), x.max(axis=2, keepdims=True))
    manifest = read_bundle(bundle).manifest
    assert manifest is not None and manifest.windows is not None
    assert (manifest.windows.count, manifest.windows.samples, manifest.windows.rate_hz) == (None, 5, 50.0)
    assert manifest.parity.window_counts == (1, 3)


def test_half_precision_and_weights_beside_the_file(tmp_path: Path) -> None:
    weights = np.float16([[1], [2], [0], [0]])
    path = saved(tmp_path / "m.onnx", [helper.make_node("MatMul", ["in", "w"], ["logit"])], element=HALF,
        outputs=[helper.make_tensor_value_info("logit", HALF, None)], weights={"w": weights})  # fmt: skip
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").exists()
    bundle = bring(path, tmp_path / "models")
    assert sorted(f.name for f in bundle.iterdir()) == ["examples.npz", "manifest.json", "model.onnx"]
    x = np.float32([[1, 2, 3, 4]])
    assert logits_of(bundle, x).tolist() == [[5]]
    assert json.loads((bundle / "manifest.json").read_text())["precision"] == "fp16"
    (tmp_path / "m.data").unlink()
    with pytest.raises(BadBundle, match=r"m\.onnx cannot be read as ONNX: .*m\.data"):
        read_source(path)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    path = linear(tmp_path / "in" / "m.onnx")
    model = onnx.load(path)
    (tmp_path / "outside.data").write_bytes(model.graph.initializer[0].raw_data)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadBundle, match="cannot be read as ONNX"):
        read_source(path)


def test_what_the_graph_leaves_open_comes_from_the_data(tmp_path: Path, data: Dataset) -> None:
    path = linear(tmp_path / "m.onnx", "Sigmoid", shape=("n", "features"))
    with pytest.raises(BadConfig, match=r"data is missing; .* axes \[1\]"):
        bring(path, tmp_path / "models")
    manifest = read_bundle(bring(path, tmp_path / "models", dataset=data)).manifest
    assert manifest is not None and manifest.input.shape == (-1, 4)


def node(operator: str, *names: str, to: str = "logit", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(names), [to], **attributes)


def column(path: Path, *nodes: onnx.NodeProto, output: str = "logit", **weights: np.ndarray) -> Path:
    """A graph from `in` [n, 1] to one output."""
    outputs = [helper.make_tensor_value_info(output, FLOAT, None)]
    return saved(path, nodes, ("n", 1), outputs, weights=weights)


INTEGERS = [helper.make_tensor_value_info("out", TensorProto.INT64, None)]
ROWS = np.array([0])
REFUSED: dict[str, Callable[[Path], object]] = {
    "cannot be read as ONNX": lambda p: p.write_bytes(b"no graph"),
    "without nodes or outputs": lambda p: p.write_bytes(b""),
    "opset is 7; expected 8 or newer": lambda p: linear(p, opset=7),
    "is string; expected float32": lambda p: saved(p, [node("Identity", "in", to="out")], element=TensorProto.STRING),
    "cannot be loaded by onnxruntime": lambda p: column(p, node("NoSuchOperator", "in")),
    "batch of input 'in' is 1; expected any size": lambda p: linear(p, shape=(1, 4)),
    r"is \[-1\]; expected \[batch, ...\]": lambda p: linear(p, shape=("n",)),
    r"is \['out \(int64\)'\]; expected one of floats": lambda p: saved(p, [node("Shape", "in", to="out")], outputs=INTEGERS),
    r"labels is \['fraud'\]; expected 3, one per column": lambda p: linear(p, columns=3),
    r"shape of output 'logit' is \[1, 1\]": lambda p: column(p, node("ReduceMean", "in", "i"), i=ROWS),
    "output 'logit' is NaN or infinite": lambda p: column(p, node("Log", "in")),
    "expected probabilities, 0 to 1": lambda p: column(p, node("Identity", "in", to="prob"), output="prob"),
    "two columns that do not sum to 1": lambda p: linear(p, "Sigmoid", columns=2),
    "one decision function with both signs": lambda p: column(p, node("Neg", "in", to="m"), node("Concat", "m", "in", axis=1)),
    "alone and in a batch": lambda p: column(p, node("ReduceMean", "in", "i", to="m"), node("Sub", "in", "m"), i=ROWS),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_served_is_refused(message: str, tmp_path: Path) -> None:
    REFUSED[message](tmp_path / "m.onnx")
    with pytest.raises((BadBundle, BadConfig), match=message):
        bring(tmp_path / "m.onnx", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_several_inputs_are_refused_and_several_outputs_chosen_from(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx", "Sigmoid")
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("z", FLOAT, None))
    onnx.save(model, path)
    with pytest.raises(BadConfig, match=r"--output is missing; expected one of \['out', 'z'\]"):
        bring(path, tmp_path / "models")
    ours = [logits_of(bring(path, tmp_path / "models", output=output), X) for output in ("out", "z")]
    np.testing.assert_allclose(*ours, rtol=1e-5, atol=1e-6)
    model.graph.input.append(helper.make_tensor_value_info("age", FLOAT, ["n", 1]))
    onnx.save(model, path)
    with pytest.raises(BadBundle, match=r"inputs is \['in', 'age'\]; expected one tensor"):
        read_source(path)


def test_settings_and_data_that_do_not_fit(tmp_path: Path, data: Dataset) -> None:
    path = linear(tmp_path / "m.onnx", "Sigmoid")
    for settings, message in [
        ({"labels": ("a", "b"), "task": "binary"}, "expected one name for task binary"),
        ({"labels": ("a", "a")}, "expected different names"),
        ({"task": "ranking"}, "expected binary, multilabel or windows"),
        ({"task": "windows"}, r"windows, for an input \[-1, 4\]"),
        ({"rate_hz": 50.0}, "expected none, but for task windows"),
        ({"name": "no spaces"}, "name is 'no spaces'"),
    ]:
        with pytest.raises(BadConfig, match=message):
            bring(path, tmp_path / "models", **settings)  # type: ignore[arg-type]
    with pytest.raises(BadData, match=r"label_names is \['fraud'\]; expected \['theft'\]"):
        bring(path, tmp_path / "models", ("theft",), dataset=data)
    np.savez(tmp_path / "wide.npz", x=np.zeros((3, 5)))
    with pytest.raises(BadData, match=r"of shape \[3, 5\]; expected \[-1, 4\]"):
        bring(path, tmp_path / "models", dataset=read_dataset(tmp_path / "wide.npz"))
    assert not (tmp_path / "models").exists()


def test_versions_are_never_overwritten(tmp_path: Path) -> None:
    path = linear(tmp_path / "m.onnx")
    assert [bring(path, tmp_path / "models").name for _ in range(2)] == ["1", "2"]
    with pytest.raises(BadBundle, match="never overwritten"):
        bring(path, tmp_path / "models", version=2)
