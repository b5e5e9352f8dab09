"""All three tasks through the commands: train, export, calibrate, evaluate."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from cutpoint.bundle import read_bundle
from cutpoint.calibrate import calibrate_bundle
from cutpoint.calibrate.cli import app as calibrate_app
from cutpoint.calibration import Plan
from cutpoint.dataset import read_dataset
from cutpoint.errors import BadBundle, BadConfig, BadData, CutpointError, Uncalibratable
from cutpoint.trainer import export_run, read_run, score_rows, train
from cutpoint.trainer.cli import app
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from .conftest import settings_of


def cutpoint(*arguments: object) -> str:
    result = CliRunner().invoke(
        calibrate_app if arguments[0] == "calibrate" else app, [str(argument) for argument in arguments]
    )
    if result.exception is not None:
        raise result.exception
    return result.stdout


def run_all(folder: Path, tmp_path: Path, kind: str, objective: str, **changes: object) -> dict:
    settings = {**settings_of(folder, kind, tmp_path / "run"), **changes}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    cutpoint("train", tmp_path / "config.yaml", "--quiet")
    cutpoint("export", tmp_path / "run", "--models", tmp_path / "models")
    model = tmp_path / "models" / kind
    cutpoint("calibrate", model, "--run", tmp_path / "run", "--objective", objective)
    cutpoint("evaluate", model, "--run", tmp_path / "run", "--json", tmp_path / "evaluate.json")
    return json.loads((tmp_path / "evaluate.json").read_text())


def check_against_sklearn(tmp_path: Path, kind: str, evaluation: dict) -> None:
    """AP and rates of evaluate.json, recomputed from onnxruntime's output by scikit-learn and by counting."""
    bundle = read_bundle(tmp_path / "models" / kind / "1")
    run = read_run(tmp_path / "run")
    dataset = read_dataset(run.config.data.path)
    rows = run.rows("test")
    session = onnxruntime.InferenceSession(bundle.model_path)
    logits = session.run(["logits"], {"x": dataset.x[rows].astype(np.float32)})[0].reshape(-1, len(bundle.manifest.labels))
    y = dataset.y[rows].reshape(logits.shape)
    for i, label in enumerate(evaluation["labels"]):
        on = y[:, i] != 255
        assert label["positives"] == (y[on, i] == 1).sum()
        if label["positives"]:
            assert label["average_precision"] == pytest.approx(average_precision_score(y[on, i], logits[on, i]), abs=1e-9)
        if label["threshold"] is not None:
            alerts = logits[on, i] >= label["threshold"]
            assert label["observed"]["alert_rate"]["value"] == pytest.approx(alerts.mean())
            assert label["expected"]["alert_rate"]["low"] <= label["expected"]["alert_rate"]["value"]


def test_binary_rows(data, tmp_path):
    evaluation = run_all(data, tmp_path, "rows", "max_fbeta=1")
    check_against_sklearn(tmp_path, "rows", evaluation)
    (label,) = evaluation["labels"]
    assert label["label"] == "fault"
    assert label["average_precision"] > 3 * label["prevalence"]
    bundle = read_bundle(tmp_path / "models" / "rows" / "1")
    assert bundle.manifest.input.shape == (-1, 4)
    assert bundle.manifest.parity.batch_sizes == (1, 2, 5, 8, 256)
    assert bundle.manifest.parity.max_abs_difference <= bundle.manifest.parity.tolerance
    assert (bundle.manifest.provenance.opset, bundle.manifest.provenance.ir_version) == (18, 10)
    assert [file.name for file in sorted(bundle.path.iterdir())] == [
        "examples.npz",
        "manifest.json",
        "model.onnx",
        "policy.json",
    ]
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "config.yaml", "history.csv", "logs", "rows", "run.json", "weights.safetensors",
    ]  # fmt: skip
    # A second export is version 2; a version that exists is refused.
    assert export_run(tmp_path / "run", tmp_path / "models").name == "2"
    with pytest.raises(BadBundle, match="never overwritten"):
        export_run(tmp_path / "run", tmp_path / "models", version=1)


def test_512_labels(data, tmp_path):
    evaluation = run_all(data, tmp_path, "labels", "recall_at_least=0.8")
    check_against_sklearn(tmp_path, "labels", evaluation)
    assert len(evaluation["labels"]) == 512
    prevalence = np.mean([label["prevalence"] for label in evaluation["labels"]])
    assert 3 < 512 * prevalence < 8
    assert evaluation["mean_average_precision"] > 2 * prevalence
    assert read_bundle(tmp_path / "models" / "labels" / "1").policy.undecided == ()


def test_windows(data, tmp_path):
    evaluation = run_all(
        data, tmp_path, "windows", "recall_at_least=0.9", data={"path": str(data / "windows.npz"), "rate_hz": 64}
    )
    check_against_sklearn(tmp_path, "windows", evaluation)
    assert evaluation["labels"][0]["average_precision"] > 0.9
    bundle = read_bundle(tmp_path / "models" / "windows" / "1")
    assert bundle.manifest.input.shape == (-1, -1, 64)
    found = bundle.manifest.windows
    assert (found.count, found.samples, found.channels, found.rate_hz) == (None, 64, 1, 64)
    assert (found.trained_count, found.context) == (12, None), "it was trained on 12, and looks at events of all of them"
    session = onnxruntime.InferenceSession(bundle.model_path)
    for batch, windows in ((1, 1), (3, 140)):
        x = np.random.default_rng(0).normal(size=(batch, windows, 64)).astype(np.float32)
        assert session.run(["logits"], {"x": x})[0].shape == (batch, windows, 1)


def test_windows_with_two_classes(data, tmp_path):
    loss = {"name": "weighted_ce", "class_weight": [1, 5]}
    evaluation = run_all(
        data, tmp_path, "windows", "precision_at_least=0.8", loss=loss, sampler={"kind": "weighted", "share": 0.8}
    )
    check_against_sklearn(tmp_path, "windows", evaluation)
    assert evaluation["labels"][0]["average_precision"] > 0.9
    manifest = read_bundle(tmp_path / "models" / "windows" / "1").manifest
    (prior,) = manifest.priors
    assert prior.pos_weight == 5
    assert prior.sampled_rate > prior.rate
    # Sequences were sampled for the sake of their windows: no closed form, but right on average on the rows that trained.
    bundle, trained = read_bundle(tmp_path / "models" / "windows" / "1"), read_run(tmp_path / "run")
    logits = score_rows(bundle, read_dataset(trained.config.data.path), trained.rows("train"))
    assert (1 / (1 + np.exp(-logits.astype(np.float64)))).mean() == pytest.approx(prior.rate, rel=1e-3)
    rows = np.load(tmp_path / "run" / "rows" / "train.npy")
    np.testing.assert_array_equal(rows, trained.rows("train"))
    assert (manifest.loss.name, manifest.sampler) == ("weighted_ce", "weighted")


def test_calibrate_from_scores_and_refusals(data, tmp_path):
    settings = settings_of(data, "rows", tmp_path / "run", loss={"name": "focal"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    cutpoint("train", tmp_path / "config.yaml", "--quiet", "--set", "fit.epochs=1")
    cutpoint("export", tmp_path / "run", "--models", tmp_path / "models")
    model = tmp_path / "models" / "rows" / "1"
    dataset, run = read_dataset(data / "rows.npz"), read_run(tmp_path / "run")
    valid = run.rows("valid")
    cutpoint("calibrate", model, "--run", tmp_path / "run", "--objective", "recall_at_least=0.9", "--author", "me")
    shipped = read_bundle(model).policy
    assert shipped.author == "me"

    # The same scores from a file give the same cut.
    logits = score_rows(read_bundle(model), dataset, valid)[:, 0]
    np.savez(tmp_path / "scores.npz", logits=logits, y=dataset.y[valid][:, 0], group=dataset.group[valid])
    cutpoint("calibrate", model, "--scores", tmp_path / "scores.npz", "--objective", "recall_at_least=0.9")
    assert read_bundle(model).policy.labels == shipped.labels
    assert read_bundle(model).policy.data_digest == shipped.data_digest
    assert [(p.version, p.parent) for p in (shipped, read_bundle(model).policy)] == [(1, None), (2, 1)]

    before = (model / "policy.json").read_bytes()
    with pytest.raises(Uncalibratable, match=r"fault: INSUFFICIENT.*needs at least 100000"):
        cutpoint(
            "calibrate", model, "--run", tmp_path / "run", "--objective", "recall_at_least=0.9", "--min-positives", "100000"
        )  # fmt: skip
    for arguments, expected, message in (
        (["--objective", "accuracy=1"], CutpointError, "max_fbeta"),
        (["--objective", "max_fbeta=1"], BadConfig, "--data"),
        (["--objective", "max_fbeta=1", "--data", data / "rows.npz"], BadData, "split"),
        (["--objective", "max_fbeta=1", "--data", data / "windows.npz", "--split", "all"], BadData, "label_names"),
        (["--objective", "max_fbeta=1", "--data", data / "labels.npz", "--run", tmp_path / "run"], BadData, "SHA-256"),
        (["--objective", "max_fbeta=1", "--scores", data / "rows.npz"], BadData, "logits and y"),
    ):
        with pytest.raises(expected, match=message):
            cutpoint("calibrate", model, *[str(argument) for argument in arguments])
    assert (model / "policy.json").read_bytes() == before

    # Labels without a cut are refused unless allowed; nothing labelled is refused always.
    np.savez(tmp_path / "none.npz", x=dataset.x, y=np.full(len(dataset), -1), label_names=["fault"])
    with pytest.raises(Uncalibratable, match="no labels"):
        cutpoint("calibrate", model, "--data", tmp_path / "none.npz", "--split", "all", "--objective", "max_fbeta=1")
    np.savez(tmp_path / "x.npz", x=dataset.x)
    with pytest.raises(BadData, match="without 'y'"):
        cutpoint("evaluate", model, "--data", tmp_path / "x.npz", "--split", "all")


def test_undecided_labels_need_leave(data, tmp_path, configure):
    run = train(configure("labels", fit={"epochs": 1, "batch_size": 64}), quiet=True)
    path = export_run(run, tmp_path / "models")
    dataset = read_dataset(data / "labels.npz")
    plan = Plan.of("max_fbeta=1", min_positives=3)
    with pytest.raises(Uncalibratable, match="labels get no threshold"):
        calibrate_bundle(path, dataset, run.rows("valid"), plan)
    policy = calibrate_bundle(path, dataset, run.rows("valid"), plan, allow_undecided=True)
    counts = (dataset.y[run.rows("valid")] == 1).sum(axis=0)
    assert [label.threshold is None for label in policy.labels] == list(counts < 3)


@pytest.mark.parametrize("command", ["train", "export", "calibrate", "evaluate"])
def test_help_has_an_example(command):
    assert f"Example: cutpoint {command} " in cutpoint(command, "--help")
