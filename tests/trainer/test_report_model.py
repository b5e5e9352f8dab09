"""The page of a model: its numbers against scikit-learn and counting, its text, and the page in a browser."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browse
from cutpoint.bundle import (
    Bundle,
    Input,
    LabelCost,
    Loss,
    Manifest,
    Parity,
    PrecisionCost,
    Provenance,
    read_bundle,
    write_bundle,
)
from cutpoint.calibration import Plan, Policy, Scores, fit_policy
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadConfig
from cutpoint.trainer import Run, score_rows, train
from cutpoint.trainer.cli import app
from cutpoint.trainer.report import model_html, write_model_report
from cutpoint.trainer.report.logits import run_logits
from cutpoint.trainer.report.mistakes import MOST_SEQUENCES, RowMistakes, SequenceMistakes, worst
from cutpoint.trainer.report.payload import model_data
from onnx import TensorProto, helper, numpy_helper, save
from sklearn.metrics import average_precision_score, d2_log_loss_score, precision_recall_curve
from typer.testing import CliRunner

EVIL = "</script><img src=x onerror=alert(1)>"


def graph_of(task: str, x: np.ndarray, labels: int, file: Path) -> None:
    """A graph whose logits follow x: a matrix product for rows, the window's largest sample for windows."""
    rng = np.random.default_rng(4)
    shape: list[Any] = ["n", *x.shape[1:]]
    if task == "windows":
        nodes = [
            helper.make_node("ReduceMax", ["x", "axis"], ["highest"], keepdims=1),
            helper.make_node("Sub", ["highest", "six"], ["logits"]),
        ]
        held = {"axis": np.array([2]), "six": np.float32(6)}
        out: list[Any] = ["n", x.shape[1], labels]
    else:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["logits"])]
        held = {"w": rng.normal(size=(x.shape[1], labels)).astype(np.float32), "b": np.full(labels, -3, np.float32)}
        out = ["n", labels]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)


def bundle_of(dataset: Dataset, task: Any, folder: Path, run: Run | None = None, **more: Any) -> Bundle:
    file = folder / "model.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    graph_of(task, dataset.x, len(dataset.label_names), file)
    manifest = Manifest(
        name="m", version=1, task=task, labels=dataset.label_names, input=Input(shape=(-1, *dataset.x.shape[1:])),
        loss=Loss(name="weighted_bce"), parity=Parity(max_abs_difference=1e-6, tolerance=1e-4, batch_sizes=(1, 2), rows=3),
        provenance=Provenance(
            created="2026-01-02T03:04:05+00:00", versions={}, opset=18, ir_version=10,
            data_digest=run.record.data_digest if run else None, config_digest=run.record.config_digest if run else None,
        ),
        digests={}, **more,
    )  # fmt: skip
    return read_bundle(write_bundle(folder / "models", manifest, file))


def policy_of(bundle: Bundle, dataset: Dataset, rows: np.ndarray, plan: Plan) -> Policy:
    assert dataset.y is not None
    scores = Scores(score_rows(bundle, dataset, rows), dataset.y[rows], dataset.label_names)
    return fit_policy(
        scores, plan, model=bundle.name, model_version=1, model_digest=bundle.digest, created="2026-01-02T03:04:05+00:00",
        author="me",
    )  # fmt: skip


def decided(bundle: Bundle, policy: Policy) -> Bundle:
    return Bundle(bundle.path, bundle.name, bundle.version, bundle.digest, bundle.manifest, policy)


def in_page(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_figures_of_rows(configure, tmp_path) -> None:
    run = train(configure("rows", fit={"epochs": 2, "batch_size": 128, "learning_rate": 0.02}), quiet=True)
    dataset = read_dataset(run.config.data.path)
    bundle = bundle_of(dataset, "binary", tmp_path / "b", run)
    policy = policy_of(bundle, dataset, run.rows("valid"), Plan.of("max_fbeta=1", calibrator="platt"))
    test, y = run.rows("test"), dataset.y
    assert y is not None
    page = model_data(decided(bundle, policy), dataset, test, "test", run)
    (label,) = page["labels"]
    logits, targets = score_rows(bundle, dataset, test)[:, 0], y[test][:, 0]
    on = targets != 255
    assert label["ap"][0] == pytest.approx(average_precision_score(targets[on], logits[on]), rel=1e-5)
    assert label["ap"][1] < label["ap"][0] < label["ap"][2]
    for name, rows, positives, negatives, unknown in label["splits"]:
        assert rows == len(run.rows(name))
        assert [positives, negatives, unknown] == [int((y[run.rows(name)] == value).sum()) for value in (1, 0, 255)]
    precision, recall, _ = precision_recall_curve(targets[on], logits[on])
    known = {(round(float(r), 4), round(float(p), 4)) for r, p in zip(recall, precision, strict=True)}
    assert {(round(r, 4), round(p, 4)) for r, p in label["curve"]} <= known
    raw, honest = run_logits(run, dataset, test)
    sigmoids = {"training logits": raw[:, 0], "exported": logits, "calibrated": policy.labels[0].calibrator.log_odds(logits)}
    for found in label["reliability"]:
        p = 1 / (1 + np.exp(-np.float64(sigmoids[found["name"]][on])))
        assert found["skill"] == pytest.approx(d2_log_loss_score(targets[on], p), abs=1e-4)
        assert sum(bin_[4] for bin_ in found["bins"]) == on.sum()
    assert [found["name"] for found in label["reliability"]] == list(sigmoids)
    np.testing.assert_allclose(raw - honest, run.record.priors[0].shift, rtol=1e-4)
    assert label["prior"]["shift"] == pytest.approx(run.record.priors[0].shift, rel=1e-5)
    alerts = logits[on] >= np.float32(policy.labels[0].threshold or 0)
    assert label["observed"]["recall"][0] == pytest.approx(
        (alerts & (targets[on] == 1)).sum() / (targets[on] == 1).sum(), rel=1e-5
    )
    assert [row[0] for row in page["training"]["history"]] == [1, 2] and page["training"]["kept"] == run.record.best_epoch
    highest = np.flatnonzero(targets == 0)[np.argsort(-logits[targets == 0])[:4]]
    assert [each["row"] for each in label["mistakes"]["false"]] == test[highest].tolist()


def test_a_bundle_of_another_run_is_refused(configure, tmp_path) -> None:
    run = train(configure("rows", fit={"epochs": 1, "batch_size": 500}), quiet=True)
    dataset = read_dataset(run.config.data.path)
    bundle = bundle_of(dataset, "binary", tmp_path / "b")
    with pytest.raises(BadConfig, match="expected the run that m/1 was exported from"):
        model_data(bundle, dataset, run.rows("test"), "test", run)
    page = model_data(bundle, dataset, run.rows("test"), "test", None)
    assert page["training"] is None and page["labels"][0]["prior"] is None
    assert [found["name"] for found in page["labels"][0]["reliability"]] == ["exported"]


def test_the_worst_are_the_lowest_positives_and_the_highest_negatives() -> None:
    logits = np.array([3, 1, 2, -1, 5, 9], np.float32)
    assert worst(logits, np.array([0, 1, 1, 0, 0, 255], np.uint8), 2) == ([1, 2], [4, 0])


def test_what_is_unusual_in_a_row(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(9000, 5)) * [1, 2, 0, 1, 1] + [0, 1e4, 7, 0, 0]).astype(np.float32)
    x[8999] = [9, 1e4, 7, -4, 0]
    mistakes = RowMistakes(Dataset(tmp_path, x, group=np.arange(9000) // 3), np.array([8999]), np.arange(8999))
    (row,) = mistakes.of_label(0, np.array([2], np.float32), np.array([0], np.uint8))["false"]
    assert (row["row"], row["group"], row["score"]) == (8999, "2999", 2)
    deviations = (np.float64(x[8999]) - x[:8999].mean(axis=0, dtype=float)) / x[:8999].std(axis=0, dtype=float).clip(1e-9)
    assert [i for i, _, _ in row["features"]] == [0, 3, 1] or [i for i, _, _ in row["features"]][:2] == [0, 3]
    for i, value, far in row["features"]:
        assert value == pytest.approx(x[8999, i], rel=1e-3) and far == pytest.approx(deviations[i], abs=0.06)


def test_a_sequence_is_drawn_with_its_envelope_and_its_windows(tmp_path) -> None:
    import base64

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 10, 2, 300)).astype(np.float32)
    y = np.zeros((5, 10), np.uint8)
    y[1, 3:5], y[1, 9], y[4, 0] = 1, 255, 1
    logits = rng.normal(size=(5, 10)).astype(np.float32) - 4
    logits[1, 3], logits[2, 7], logits[1, 9], logits[4, 0] = -9, 6, 99, 3
    mistakes = SequenceMistakes(Dataset(tmp_path, x), np.arange(5), None, 1)
    found = mistakes.of_label(0, logits, y)
    assert [(each["row"], each["window"]) for each in found["missed"]] == [(1, 3), (4, 0)]
    assert (found["false"][0]["row"], found["false"][0]["window"]) == (2, 7)
    assert (found["missed"][0]["true"], found["missed"][0]["unknown"]) == ([3, 4], [9])
    drawn = mistakes.drawn[1]
    low, high = np.frombuffer(base64.b64decode(drawn["columns"]), np.uint8).reshape(2, -1)
    points = x[1, :, 0].ravel()
    assert (drawn["bottom"], drawn["top"]) == pytest.approx((points.min(), points.max()), rel=1e-3)
    assert (low.min(), high.max(), drawn["channels"]) == (0, 255, 2) and (low <= high).all() and len(low) == 700


def test_many_labels_draw_few_sequences(tmp_path) -> None:
    dataset = Dataset(tmp_path, np.zeros((400, 4, 8), np.float32))
    mistakes = SequenceMistakes(dataset, np.arange(400), None, 300)
    rng = np.random.default_rng(0)
    for label in range(300):
        mistakes.of_label(label, rng.normal(size=(400, 4)).astype(np.float32), (rng.random((400, 4)) < 0.1).astype(np.uint8))
    assert len(mistakes.drawn) == MOST_SEQUENCES


def test_512_labels_in_a_browser(configure, tmp_path) -> None:
    run = train(configure("labels", fit={"epochs": 1, "batch_size": 250}), quiet=True)
    dataset = read_dataset(run.config.data.path)
    bundle = bundle_of(dataset, "multilabel", tmp_path / "b", run)
    bundle = decided(bundle, policy_of(bundle, dataset, run.rows("valid"), Plan.of("max_fbeta=1", min_positives=3)))
    path = write_model_report(tmp_path / "new" / "report.html", bundle, dataset, run.rows("test"), "test", run)
    text = path.read_text("utf-8")
    assert len(text) < 4e6
    page = in_page(text)
    script = """
result.rows = rows().length;
result.first = text("#name");
input("#search", "17"); result.found = rows();
click(document.querySelector("#labels tbody tr:not([hidden]) td"));
result.name = text("#name"); result.hash = location.hash;
result.mistakes = document.querySelectorAll("#mistakes tbody tr").length;
result.plots = document.querySelectorAll("svg .curve").length; result.training = text("#training-facts");
result.wide = document.documentElement.scrollWidth > innerWidth;
"""
    found = browse(text, script, tmp_path)
    lowest = min((label for label in page["labels"] if label["ap"]), key=lambda label: label["ap"][0])
    assert (found["rows"], found["first"], found["wide"]) == (512, lowest["name"], False)
    assert all("17" in name for name in found["found"])
    assert found["name"] == found["found"][0] and found["hash"] == f"#label={found['name']}"
    assert found["mistakes"] == 8 - max(0, 4 - page["labels"][int(found["name"])]["positives"])
    assert found["plots"] == 4
    assert "weighted_bce: pos_weight sqrt" in found["training"]


def test_windows_without_a_run_in_a_browser(data, tmp_path) -> None:
    dataset = read_dataset(data / "windows.npz")
    dataset = Dataset(dataset.path, dataset.x, dataset.y, (EVIL,), dataset.group)
    labels = (LabelCost(label=EVIL, average_precision=0.8, reference=0.81, low=-0.02, high=0.03),)
    cost = PrecisionCost(loss=0.01, max_abs_difference=0.01, rows=9, labels=labels)
    bundle = bundle_of(dataset, "windows", tmp_path / "b", precision="int8", cost=cost)
    text = model_html(bundle, dataset, np.arange(60, 90), "all")
    script = """
result.name = text("#name"); result.images = document.images.length;
result.wide = document.querySelectorAll("svg.wide .signal").length;
result.hidden = ["training", "at-cut", "prior", "filters"].map((id) => document.getElementById(id).hidden);
result.marked = document.querySelectorAll("svg.wide .mistaken").length; result.cost = text("#cost");
result.head = text("#head");
"""
    found = browse(text, script, tmp_path)
    assert (found["name"], found["images"]) == (EVIL, 0)
    assert (found["wide"], found["marked"], found["hidden"]) == (4, 4, [True, True, True, True])
    assert "int8 costs" in found["cost"] and "0.0100 (−0.0200 to 0.0300)" in found["cost"]
    assert "not calibrated" in found["head"] and "30 sequences of 12 windows in 15 groups" in found["head"]


def test_the_command_writes_the_page_beside_the_model(configure, tmp_path) -> None:
    run = train(configure("rows", fit={"epochs": 1, "batch_size": 500}), quiet=True)
    bundle = bundle_of(read_dataset(run.config.data.path), "binary", tmp_path / "b", run)
    done = CliRunner().invoke(app, ["report", str(bundle.path.parent), "--run", str(run.path)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(bundle.path / "report.html")
    assert in_page((bundle.path / "report.html").read_text("utf-8"))["training"]["kept"] == 1
    assert read_bundle(bundle.path).digest == bundle.digest  # a page beside the graph changes nothing
