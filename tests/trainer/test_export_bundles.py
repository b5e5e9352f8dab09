"""Bundles of every precision, as a user makes them: a run of windows, and one of image clips by a module of the user's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cutpoint.bundle import Manifest, read_bundle, read_examples
from cutpoint.calibrate import calibrate_bundle
from cutpoint.calibration import Plan
from cutpoint.client import Client
from cutpoint.dataset import read_dataset
from cutpoint.errors import BadBundle, BadConfig, BadData
from cutpoint.trainer import Run, parse_config, score_rows, train
from cutpoint.trainer.cli import app
from cutpoint.trainer.config import WeightedSampler
from cutpoint.trainer.export import bundles, export_precisions, load_served
from cutpoint.trainer.export.quantize import calibration_batches
from processes import serving
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from .conftest import settings_of

CLIP_NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_a, self.norm_b = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm_b(self.b(torch.relu(self.norm_a(self.a(x))))))

class ClipNet(nn.Module):
    def __init__(self, width, blocks=1):
        super().__init__()
        stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        return self.head(nn.functional.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))
"""


class Exported(NamedTuple):
    run: Run
    models: Path
    printed: str


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """A windows run, exported by the command in all precisions, fp32 asked for last."""
    folder = tmp_path_factory.mktemp("exported")
    torch.set_num_threads(1)
    run = train(parse_config(settings_of(data, "windows", folder / "run")), quiet=True)
    precisions = [part for precision in ("int8", "bf16", "fp16", "fp32") for part in ("--precision", precision)]
    done = CliRunner().invoke(app, ["export", str(run.path), "--models", str(folder / "models"), *precisions])
    assert done.exception is None, done.exception
    return Exported(run, folder / "models", done.stdout)


@pytest.fixture
def copied(exported, monkeypatch):
    """Let exports copy the fp32 graph that is there, in place of what torch takes seconds for."""
    source = exported.models / "windows" / "1" / "model.onnx"
    monkeypatch.setattr(bundles, "export_graph", lambda *given: shutil.copyfile(source, given[-1]))


def test_a_version_each_with_its_own_manifest(exported):
    read = [read_bundle(exported.models / "windows" / str(version)) for version in (1, 2, 3, 4)]
    manifests = [bundle.manifest for bundle in read]
    assert [manifest.precision for manifest in manifests] == ["fp32", "int8", "bf16", "fp16"]
    dataset, rows = read_dataset(exported.run.config.data.path), exported.run.rows("valid")
    logits = [score_rows(bundle, dataset, rows) for bundle in read]
    with torch.no_grad():
        wanted = load_served(exported.run)(torch.from_numpy(dataset.x[rows])).numpy()
    np.testing.assert_allclose(logits[0], wanted, atol=manifests[0].parity.tolerance)
    y = dataset.y[rows]
    for manifest, bundle, found in zip(manifests, read, logits, strict=True):
        assert found.dtype == np.float32
        parity, cost = manifest.parity, manifest.cost
        assert parity.max_abs_difference <= parity.tolerance
        assert parity.batch_sizes == (1, 2, 5, 8, 256)
        assert parity.window_counts == (1, 6, 12, 24)
        assert (manifest.provenance.opset, manifest.provenance.ir_version) == (18, 10)
        assert (manifest.input.shape, manifest.windows.count) == ((-1, -1, 64), None)
        said = onnx.load(bundle.model_path).metadata_props
        assert {entry.key: entry.value for entry in said} == {
            "cutpoint.name": "windows", "cutpoint.version": str(manifest.version), "cutpoint.task": "windows",
            "cutpoint.labels": '["tone"]', "cutpoint.precision": manifest.precision,
        }  # fmt: skip
        if manifest.precision == "fp32":
            assert cost is None
            assert parity.batch_difference <= parity.tolerance
            continue
        assert cost.rows == len(rows)
        assert cost.max_abs_difference == pytest.approx(np.abs(found - logits[0]).max(), abs=1e-5)
        assert parity.batch_difference <= max(parity.tolerance, cost.max_abs_difference)
        (label,) = cost.labels
        assert label.reference == pytest.approx(average_precision_score(y.ravel(), logits[0].ravel()), abs=1e-9)
        assert label.average_precision == pytest.approx(average_precision_score(y.ravel(), found.ravel()), abs=1e-9)
        assert cost.loss <= 0.01
    assert str(exported.run.path) not in (read[0].model_path.read_bytes() + read[1].model_path.read_bytes()).decode("latin-1")


def test_what_the_command_prints(exported):
    assert "batches of 1, 2, 5, 8, 256 and of 1, 6, 12, 24 windows); a row alone and in a batch by" in exported.printed
    assert "ONNX opset 18, IR version 10" in exported.printed
    lines = [line.split() for line in exported.printed.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["int8"], ["bf16"], ["fp16"])] == [
        ["int8", "tone"], ["bf16", "tone"], ["fp16", "tone"],
    ]  # fmt: skip
    assert exported.printed.count("KiB") == 4


PLAIN = """
import sys, json, numpy, onnxruntime
x = numpy.load(sys.argv[1])
found = []
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for windows in (1, 12, 30):
        (logits,) = session.run(["logits"], {"x": numpy.resize(x, (3, windows, 64)).astype(numpy.float32)})
        assert logits.shape == (3, windows, 1) and logits.dtype == numpy.float32 and numpy.isfinite(logits).all()
    found.append(session.run(None, {"x": x})[0].ravel().tolist())
assert not {"torch", "onnx", "cutpoint"} & set(sys.modules)
print(json.dumps(found))
"""


def test_plain_onnxruntime_runs_them(exported, tmp_path):
    dataset, rows = read_dataset(exported.run.config.data.path), exported.run.rows("test")[:6]
    np.save(tmp_path / "x.npy", np.ascontiguousarray(dataset.x[rows], np.float32))
    paths = [exported.models / "windows" / str(version) for version in (1, 2, 3, 4)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, tmp_path / "x.npy", *(path / "model.onnx" for path in paths)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path, found in zip(paths, json.loads(done.stdout), strict=True):
        ours = score_rows(read_bundle(path), dataset, rows).ravel()
        np.testing.assert_allclose(found, ours, atol=1e-4 if path.name == "1" else 0.05)


def test_the_layout_is_triton_s(exported):
    """What its model repository and the auto-completion of its onnxruntime backend ask for."""
    assert [path.name for path in exported.models.iterdir()] == ["windows"]
    for version in (exported.models / "windows").iterdir():
        assert version.name.isdecimal()
        assert version.name[0] != "0"  # such folders are ignored
        assert version.stat().st_mode & 0o555 == 0o555
        # The default name, one file of a graph.
        assert {file.name for file in version.iterdir()} == {"model.onnx", "manifest.json", "examples.npz"}
        model = onnx.load(version / "model.onnx", load_external_data=False)
        assert not [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}  # no library of custom operators
        session = onnxruntime.InferenceSession(version / "model.onnx")
        # A first axis of any size in and out: max_batch_size 4 and dynamic batching are derived, the other axes are dims.
        assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [("x", "tensor(float)", ["batch", "window", 64])]
        assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
            ("logits", "tensor(float)", ["batch", "window", 1])
        ]


def test_refusals_write_nothing(exported, tmp_path, copied, monkeypatch):
    models = tmp_path / "models"
    with pytest.raises(BadBundle, match=r"precision int8: average precision lost.*'tone'.*--max-ap-loss; nothing was written"):
        export_precisions(exported.run, models, ("fp32", "int8"), max_ap_loss=-1)
    with pytest.raises(BadConfig, match="precision is int4; expected one or several of fp32, fp16, bf16, int8"):
        export_precisions(exported.run, models, ("fp32", "int4"))
    with pytest.raises(BadConfig, match="precision is none"):
        export_precisions(exported.run, models, ())
    assert not models.exists()
    (models / "windows" / "4").mkdir(parents=True)
    with pytest.raises(BadBundle, match=r"version is 4.*never overwritten"):  # before any work
        export_precisions(exported.run, models, ("fp16", "bf16"), version=3)
    assert [path.name for path in (models / "windows").iterdir()] == ["4"]
    assert [path.name for path in export_precisions(exported.run, models, ("bf16", "bf16"))] == ["5"]
    monkeypatch.setattr(bundles, "lower_precision", lambda source, target, *_: target.write_bytes(broken(source)))
    with pytest.raises(BadBundle, match="logits of precision fp16 is not finite"):
        export_precisions(exported.run, models, ("fp32", "fp16"))
    assert len(list((models / "windows").iterdir())) == 2


def test_a_full_disk_at_the_second_version_leaves_none(exported, tmp_path, copied, monkeypatch):
    plain = bundles.write_bundle

    def full(models, manifest, model, examples):
        if manifest.precision == "bf16":
            raise OSError(28, "No space left on device")
        return plain(models, manifest, model, examples)

    monkeypatch.setattr(bundles, "write_bundle", full)
    with pytest.raises(OSError, match="No space left"):
        export_precisions(exported.run, tmp_path, ("fp32", "bf16"))
    assert list((tmp_path / "windows").iterdir()) == []
    assert [path.name for path in export_precisions(exported.run, tmp_path, ("fp32",))] == ["1"]


def test_data_that_are_no_longer_the_run_s_are_refused(exported, tmp_path, copied):
    run = exported.run
    with np.load(run.config.data.path) as arrays:
        changed = dict(arrays)
    changed["x"][0, 0, 0] += 1
    np.savez(tmp_path / "other.npz", **changed)
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"path": tmp_path / "other.npz"})})
    moved = Run(run.path, config, run.record)
    found = read_dataset(tmp_path / "other.npz").digest()[:12]
    with pytest.raises(BadData, match=rf"other\.npz: SHA-256 of x and y is {found}.*expected {run.record.data_digest[:12]}"):
        export_precisions(moved, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    given = read_dataset(tmp_path / "other.npz")  # asked for, so measured on
    assert [path.name for path in export_precisions(moved, tmp_path / "models", dataset=given)] == ["1"]


def test_int8_is_calibrated_on_training_rows(exported, tmp_path, copied, monkeypatch):
    plain, asked, seen = bundles.lower_precision, [], []

    def calibrate(dataset, rows):
        asked.append(rows)
        return calibration_batches(dataset, rows)

    def lower(source, target, precision, batches):
        seen.extend(batches)
        plain(source, target, precision, seen)

    monkeypatch.setattr(bundles, "calibration_batches", calibrate)
    monkeypatch.setattr(bundles, "lower_precision", lower)
    export_precisions(exported.run, tmp_path, ("int8",), max_ap_loss=1)
    train, x = exported.run.rows("train"), read_dataset(exported.run.config.data.path).x
    (rows,) = asked
    np.testing.assert_array_equal(rows, train)
    training = {np.asarray(x[row], np.float32).tobytes() for row in train}
    assert seen and {row.tobytes() for batch in seen for row in batch} <= training


def test_the_manifest_keeps_the_sampler_s_settings(exported, tmp_path, copied):
    assert read_bundle(exported.models / "windows" / "1").manifest.sampler_parameters == {}
    run = exported.run
    sampled = run.config.model_copy(update={"sampler": WeightedSampler(share=0.3)})
    manifest = read_bundle(*export_precisions(Run(run.path, sampled, run.record), tmp_path)).manifest
    assert (manifest.sampler, manifest.sampler_parameters) == ("weighted", {"share": 0.3})
    before = manifest.model_dump(exclude={"sampler_parameters"})
    assert Manifest.model_validate(before).sampler_parameters == {}  # as written before they were kept


def broken(path: Path) -> bytes:
    """The graph with a weight that overflows."""
    model = onnx.load(path)
    kernel = next(tensor for tensor in model.graph.initializer if len(tensor.dims) > 1)
    values = np.full(tuple(kernel.dims), np.inf, np.float32)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    return model.SerializeToString()


def test_an_int8_bundle_is_calibrated_and_served_as_any_other(exported, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(exported.models / "windows" / "2", models / "windows" / "2")
    dataset, run = read_dataset(exported.run.config.data.path), exported.run
    policy = calibrate_bundle(models / "windows" / "2", dataset, run.rows("valid"), Plan.of("max_fbeta=1", min_positives=3))
    rows = run.rows("test")
    logits = score_rows(read_bundle(models / "windows" / "2"), dataset, rows)
    with serving(models) as server, Client(server.target) as client:
        answer = client.score("windows", dataset.x[rows])
    assert (answer.model_version, answer.labels) == (2, ("tone",))
    # One rounding of an activation may fall otherwise in another batch; no more than that.
    near = read_bundle(models / "windows" / "2").manifest.parity.batch_difference + 1e-3
    np.testing.assert_allclose(answer.logits, logits, atol=near)
    clear = np.abs(logits - policy.labels[0].threshold) > near
    np.testing.assert_array_equal(answer.decisions[clear], (logits >= policy.labels[0].threshold)[clear])
    assert answer.decisions.any()


def test_image_clips_by_a_module_of_the_user_s_own(tmp_path, monkeypatch):
    (tmp_path / "clips_of_mine.py").write_text(CLIP_NET)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(100, 30, size=(300, 3, 16, 24)).astype(np.float32)  # raw pixels: normalisation is in the graph
    hit = rng.random(300) < 0.15
    x[hit, 0, 4:10, 4:10] += 60
    np.savez(tmp_path / "clips.npz", x=x, y=hit.astype(np.uint8), label_names=["defect"])
    config = parse_config(
        {
            "name": "clips",
            "task": "binary",
            "data": {"path": str(tmp_path / "clips.npz")},
            "split": {"by": "random"},
            "model": {"kind": "import", "path": "clips_of_mine:ClipNet", "arguments": {"width": 8, "blocks": 1}},
            "loss": {"name": "weighted_bce"},
            "fit": {"epochs": 6, "batch_size": 32, "learning_rate": 0.01},
            "out": str(tmp_path / "run"),
        }
    )
    run = train(config, quiet=True)
    paths = export_precisions(run, tmp_path / "models", ("fp32", "int8"), max_ap_loss=0.1)
    dataset, rows = read_dataset(tmp_path / "clips.npz"), run.rows("test")
    with torch.no_grad():
        wanted = load_served(run)(torch.from_numpy(x[rows])).numpy()
    for path in paths:
        bundle = read_bundle(path)
        assert bundle.manifest.input.shape == (-1, 3, 16, 24)
        assert bundle.manifest.windows is None
        logits = score_rows(bundle, dataset, rows)
        np.testing.assert_allclose(logits, wanted, atol=1e-3 if path.name == "1" else 0.5)
        assert average_precision_score(hit[rows], logits[:, 0]) > 0.5
    ops = [node.op_type for node in onnx.load(paths[1] / "model.onnx").graph.node]
    assert ops.count("DequantizeLinear") > 4


def test_examples_are_recorded_of_each_precision_and_are_no_row_of_the_data(exported):
    dataset = read_dataset(exported.run.config.data.path)
    for version in (exported.models / "windows").iterdir():
        examples = read_examples(version)
        session = onnxruntime.InferenceSession(version / "model.onnx")
        found = session.run(None, {"x": examples.x})[0]
        np.testing.assert_allclose(found, examples.logits, atol=1e-5)
        assert examples.x.shape[1:] == dataset.x.shape[1:]
        assert not any((np.asarray(dataset.x) == row).reshape(len(dataset), -1).all(axis=1).any() for row in examples.x)
