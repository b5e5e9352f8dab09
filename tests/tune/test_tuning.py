"""The whole job on a small model, in real processes and short rounds: what is written is served, and decides by its policy."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from bundles import linear_bundle, linear_onnx, manifest
from cutpoint.bundle import Bundle, Computation, Profile, read_bundle, read_examples, read_profile, write_bundle
from cutpoint.calibration import Plan
from cutpoint.client import Client
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle, BadConfig, CutpointError
from cutpoint.server.config import server_config
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.serving.loading import Loading
from cutpoint.tune import tuning
from cutpoint.tune.choice import Choice
from cutpoint.tune.cli import app
from cutpoint.tune.costly import costly_layers
from cutpoint.tune.tuning import Asked, Tuned, tune_model
from onnx import TensorProto, helper, numpy_helper
from processes import ENVIRONMENT, cutpoint, serving
from typer.testing import CliRunner

PLAN = Plan.of("recall_at_least=0.8")
QUICK = Asked(plan=PLAN, minutes=0, callers=4, max_ap_loss=0.01, slots_s=(0.01, 0.02, 0.02))
SIZES = (8, 48, 64, 48, 1)
RNG = np.random.default_rng(8)
X = RNG.normal(size=(1200, SIZES[0])).astype(np.float32)


def network(path: Path) -> Path:
    """Linear layers with ReLU, random ones, [batch, 8] to [batch, 1]."""
    rng = np.random.default_rng(3)
    nodes, weights, name = [], [], "x"
    for i in range(len(SIZES) - 1):
        values = (rng.normal(size=SIZES[i : i + 2]) * (2 / SIZES[i]) ** 0.5).astype(np.float32)
        weights += [numpy_helper.from_array(values, f"w{i}")]
        weights += [numpy_helper.from_array(rng.normal(size=SIZES[i + 1]).astype(np.float32), f"b{i}")]
        last = i == len(SIZES) - 2
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], ["logits" if last else f"z{i}"], f"layer{i}"))
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{i}"], [f"h{i}"], f"relu{i}"))
        name = f"h{i}"
    x, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", SIZES[0]), ("logits", 1))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "network", [x], [logits], weights), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, path)
    return path


def logits_of(path: Path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"]).run(["logits"], {"x": x})[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tune")
    return read_bundle(write_bundle(folder / "models", manifest("net", ("event",), (-1, SIZES[0])), network(folder / "m.onnx")))


@pytest.fixture(scope="module")
def data(model: Bundle) -> Dataset:
    logits = logits_of(model.path, X)
    noisy = logits + RNG.normal(scale=0.5 * logits.std(), size=logits.shape)
    return Dataset(Path("data"), X, (noisy > np.quantile(noisy, 0.9)).astype(np.uint8), ("event",))


def tuned(model: Bundle, data: Dataset, models: Path, asked: Asked = QUICK, write: bool = True) -> Tuned:
    rows = np.arange(len(X))
    return tune_model(model, models, data, rows[:800], rows[800:], asked, write=write)


@pytest.fixture
def prefers(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, object]:
    """Has the choice fall on int8, whatever the speed: that is what the tests of the choice are for."""

    def choose(measured: object, load: str) -> Choice:
        chosen = real(measured, load)
        wanted = next(each.computation for each in measured.detection if each.computation.graph == "int8")
        return replace(chosen, computation=wanted)

    real = tuning.choose
    monkeypatch.setattr(tuning, "choose", choose)
    return {}


def test_the_written_version_is_served_and_decides_by_the_policy_of_its_own_logits(
    model: Bundle, data: Dataset, tmp_path: Path, prefers: object
) -> None:
    made = tuned(model, data, tmp_path / "models")
    assert made.path is not None
    bundle = read_bundle(made.path)
    assert bundle.manifest is not None and bundle.policy is not None
    assert (bundle.version, bundle.manifest.precision) == (1, "int8")
    assert bundle.manifest.cost is not None and bundle.manifest.cost.rows == 800
    assert read_profile(bundle.path, bundle.digest) == made.profile
    logits = logits_of(bundle.path, X[:200])
    plain = logits_of(model.path, X[:200])
    assert 0 < np.abs(logits - plain).max() <= 2 * bundle.manifest.cost.max_abs_difference
    recall = np.mean(logits_of(bundle.path, X[:800])[data.y[:800] == 1] >= bundle.policy.labels[0].threshold)
    assert recall >= 0.8
    with serving(tmp_path / "models") as server, Client(server.target) as client:
        found = client.score("net", X[:200])
        np.testing.assert_allclose(found.logits, logits, atol=bundle.manifest.cost.max_abs_difference)
        np.testing.assert_array_equal(found.decisions, found.logits >= bundle.policy.thresholds())
        alone = np.concatenate([client.score("net", X[i : i + 1]).logits for i in range(20)])
        np.testing.assert_allclose(alone, logits[:20], atol=bundle.manifest.cost.max_abs_difference)


def test_everything_is_measured_and_nothing_is_written_when_dry(model: Bundle, data: Dataset, tmp_path: Path) -> None:
    made = tuned(model, data, tmp_path / "models", write=False)
    assert made.path is None and not (tmp_path / "models").exists()
    measured = made.profile.measured
    assert measured.detection[0].computation == Computation() and measured.detection[0].loss == 0
    assert {str(each.computation) for each in measured.detection} >= {"fp32, cpu", "int8 (8-bit weights), cpu"}
    kept = [each for each in measured.busy if each.computation == Computation() and len(each.rows_per_s) > 1]
    assert 1 <= len(kept) <= 3 and all(len(each.rows_per_s) >= 5 for each in kept)
    assert Profile.model_validate_json(made.profile.to_json()) == made.profile


def test_what_loses_too_much_is_measured_and_not_written(model: Bundle, data: Dataset, tmp_path: Path) -> None:
    made = tuned(model, data, tmp_path / "models", replace(QUICK, max_ap_loss=0.0))
    for each in made.profile.measured.detection:
        assert bool(each.refused) == (each.loss > 0)
    assert made.path is not None
    assert all(not each.refused for each in made.profile.measured.detection if each.computation == made.profile.computation)


def test_a_version_is_never_overwritten(model: Bundle, data: Dataset, tmp_path: Path) -> None:
    models = tmp_path / "models"
    paths = [tuned(model, data, models, replace(QUICK, precisions=("fp32",))).path for _ in range(2)]
    assert paths == [models / "net" / "1", models / "net" / "2"]


def test_recorded_examples_are_of_the_computation_that_is_served(
    model: Bundle, data: Dataset, tmp_path: Path, prefers: object
) -> None:
    made = tuned(model, data, tmp_path / "models")
    assert made.path is not None
    examples = read_examples(made.path)
    assert examples is not None
    np.testing.assert_allclose(examples.logits, logits_of(made.path, examples.x), atol=1e-5)
    lanes = Lanes(2, time.perf_counter)
    try:  # which checks them
        Loading(server_config(models=tmp_path / "models"), Metrics(), lanes).load(made.path)
    finally:
        lanes.close(10)


def test_a_bundle_without_a_manifest_or_an_objective_is_refused(data: Dataset, tmp_path: Path) -> None:
    foreign = linear_onnx(tmp_path / "models" / "foreign" / "1" / "model.onnx", np.eye(8, 1), ["n", 8]).parent
    with pytest.raises(BadBundle, match="cutpoint import"):
        tuned(read_bundle(foreign), data, tmp_path / "models")
    bundle = read_bundle(linear_bundle(tmp_path / "models", labels=("event",), features=8))
    with pytest.raises(BadConfig, match="--objective"):
        tuned(bundle, data, tmp_path / "models", replace(QUICK, plan=None))


def test_a_provider_that_nobody_has_is_named(model: Bundle, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"--provider is tensorrt.*--python"):
        tuned(model, data, tmp_path / "models", replace(QUICK, providers=("tensorrt",)))


def test_a_model_that_cannot_be_lowered_is_tuned_all_the_same(data: Dataset, tmp_path: Path) -> None:
    bundle = read_bundle(linear_bundle(tmp_path / "models", labels=("event",), features=8))
    made = tuned(bundle, data, tmp_path / "models", write=False)
    assert made.profile.computation == Computation()
    assert any("no layer with weights but the last" in each.why for each in made.profile.measured.absent)


def saved(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], x: tuple[int, ...]) -> Path:
    """A graph from x [n, *x] to logits, with random weights of these shapes."""
    rng = np.random.default_rng(0)
    tensors = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in weights.items()]
    ends = (
        (helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x]),),
        (helper.make_tensor_value_info("logits", TensorProto.FLOAT, None),),
    )
    graph = helper.make_graph(nodes, "g", *ends, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_layers_that_do_next_to_nothing_are_not_worth_rounding(tmp_path: Path) -> None:
    # Multiplications a row: 4 * 4, 4 * 90 (transposed), 90 * 90, 90 * 4.
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("Gemm", ["a", "w1"], ["b"], "second", transB=1),
        helper.make_node("MatMul", ["b", "w2"], ["c"], "third"),
        helper.make_node("MatMul", ["c", "w3"], ["logits"], "last"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w0": (4, 4), "w1": (90, 4), "w2": (90, 90), "w3": (90, 4)}, (4,))
    total = 16 + 360 + 8100 + 360
    x = np.ones((3, 4), np.float32)
    assert costly_layers(model, x, 359 / total) == ["second", "third", "last"]
    assert costly_layers(model, x, 361 / total) == ["third"]


def test_multiplications_of_convolutions_are_those_of_their_outputs(tmp_path: Path) -> None:
    # 20 samples: 10 outputs of 8 filters by 1 x 3, 10 outputs of 2 filters by 4 channels (in 2 groups) x 5.
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "strided", strides=[2], pads=[1, 1]),
        helper.make_node("Conv", ["a", "w1"], ["logits"], "grouped", group=2, pads=[2, 2]),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w0": (8, 1, 3), "w1": (2, 4, 5)}, (1, 20))
    counts = np.array([10 * 8 * 3, 10 * 2 * 4 * 5])
    share = counts.min() / counts.sum()
    x = np.ones((1, 1, 20), np.float32)
    assert costly_layers(model, x, share - 1e-6) == ["strided", "grouped"]
    assert costly_layers(model, x, share + 1e-6) == ["grouped"]


def test_the_command_says_what_it_found(model: Bundle, data: Dataset, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=data.x, y=data.y, label_names=np.array(["event"]))
    np.save(tmp_path / "valid.npy", np.arange(800))
    done = cutpoint(
        "tune", model.path, "--data", tmp_path / "data.npz", "--rows", tmp_path / "valid.npy", "--models", tmp_path / "models",
        "--objective", "recall_at_least=0.8", "--minutes", 0, "--callers", 4, "--precision", "fp32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fp32, cpu" in done.stdout and "chosen" in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "models" / "net" / "1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--python", "/nowhere/python"], "--python is /nowhere/python"),
        (["--precision", "int4"], "--precision is int4"),
        (["--objective", "accuracy=1"], "accuracy"),
        (["--rows", "valid.npy", "--run", "run"], "--rows is valid.npy beside --run"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(
    model: Bundle, data: Dataset, tmp_path: Path, options: list[str], said: str
) -> None:
    np.savez(tmp_path / "data.npz", x=data.x, y=data.y, label_names=np.array(["event"]))
    objective = [] if "--objective" in options else ["--objective", "recall_at_least=0.8"]
    arguments = [str(model.path), "--data", str(tmp_path / "data.npz"), "--models", str(tmp_path / "m"), *objective, *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, CutpointError) and said in str(done.exception)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("missing", ["torch", "prometheus_client"])
def test_a_missing_part_names_the_extras(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from cutpoint.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "tune", "models/m"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: cutpoint tune needs the package {missing}: pip install 'cutpoint[server,trainer]'\n"
