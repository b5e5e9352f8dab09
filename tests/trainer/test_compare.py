"""A comparison from end to end, its figures against scikit-learn and counting, and its intervals against simulation."""

import io
import json
from typing import Any

import numpy as np
import pytest
import yaml
from browser import browse
from cutpoint.calibration import exact_curve, log_loss_skill
from cutpoint.dataset import read_dataset
from cutpoint.errors import BadConfig, BadData
from cutpoint.trainer import read_run
from cutpoint.trainer.checkpoint import write_checkpoint
from cutpoint.trainer.cli import app
from cutpoint.trainer.compare import (
    comparison_html,
    comparison_table,
    labels_table,
    read_plan,
    train_and_compare,
    write_comparison,
)
from cutpoint.trainer.compare.judge import _difference, _estimate, _Seeds, price_of
from cutpoint.trainer.compare.measure import pooled_skill
from cutpoint.trainer.report.logits import run_logits
from cutpoint.trainer.run import CHECKPOINT_FILE, begin_run, unfinished
from matplotlib.image import imread
from rich.console import Console
from scipy.stats import t
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

FIT = {"epochs": 2, "batch_size": 128, "learning_rate": 0.02}
RUNS: dict[str, Any] = {"bce": {"loss": {"name": "weighted_bce", "pos_weight": 1}}, "focal": {"loss": {"name": "focal"}}}


@pytest.fixture
def plan_of(configure, tmp_path):
    def read(document: Any, kind: str = "rows", **changes: Any):
        path = tmp_path / "losses.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return read_plan(path, configure(kind, **({"fit": FIT} | changes)))

    return read


def told(table: Any) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(table)
    return text.getvalue()


def test_from_end_to_end(plan_of, tmp_path) -> None:
    plan = plan_of({"seeds": [0, 1], "runs": RUNS})
    comparison = train_and_compare(plan, recall=0.8, quiet=True, draws=200)
    dataset = read_dataset(plan.configs["bce", 0].data.path)
    assert dataset.y is not None
    splits = set()
    for outcome in comparison.runs:
        aps, tp, fp, positives, negatives = [], 0, 0, 0, 0
        for seed in (0, 1):
            run = read_run(plan.out / f"{outcome.name}-{seed}")
            valid, test = run.rows("valid"), run.rows("test")
            splits.add((valid.tobytes(), test.tobytes()))
            y_valid, y = dataset.y[valid, 0], dataset.y[test, 0]
            z_valid, z = (run_logits(run, dataset, rows)[1][:, 0] for rows in (valid, test))
            aps.append(average_precision_score(y[y < 2], z[y < 2]))
            hits = np.sort(z_valid[y_valid == 1])[::-1]
            cut = hits[int(np.ceil(0.8 * len(hits))) - 1]  # the highest that finds 8 of 10
            lower = z_valid[(z_valid < cut) & (y_valid < 2)].max()
            alerts = z >= np.float32((cut + lower) / 2)
            tp, fp = tp + int((alerts & (y == 1)).sum()), fp + int((alerts & (y == 0)).sum())
            positives, negatives = positives + int((y == 1).sum()), negatives + int((y == 0).sum())
        assert [each.average_precision for each in outcome.seeds] == pytest.approx(aps)
        assert outcome.average_precision.value == pytest.approx(np.mean(aps))
        price = outcome.price
        assert (price.precision, price.recall, price.fpr) == pytest.approx((tp / (tp + fp), tp / positives, fp / negatives))
        assert price.alerts_per_hit == pytest.approx((tp + fp) / tp)
    assert len(splits) == 1  # whatever the seed
    bce, focal = comparison.runs
    assert bce.difference is None and focal.difference is not None
    assert focal.difference.value == pytest.approx(focal.average_precision.value - bce.average_precision.value)
    assert bce.skill_before == bce.skill_after  # nothing to undo
    assert focal.skill_before is not None and focal.skill_after is not None
    assert focal.skill_after.value > focal.skill_before.value
    (conclusion,) = comparison.conclusions
    assert conclusion.startswith("focal: AP ") and " against bce: " in conclusion
    record, page, picture = write_comparison(tmp_path / "out", comparison)
    assert json.loads(record.read_text())["baseline"] == "bce" and imread(picture).shape[1] > 1000
    script = """
result.rows = document.querySelectorAll("#runs tbody tr").length; result.notes = text("#notes");
result.dots = document.querySelectorAll("svg.forest .dot").length; result.chooser = document.getElementById("chooser").hidden;
"""
    found = browse(page.read_text("utf-8"), script, tmp_path)
    assert found == {"rows": 2, "notes": conclusion, "dots": 7, "chooser": True, "dom": found["dom"]}
    assert "focal" in told(comparison_table(comparison))


def test_what_is_finished_is_not_trained_again_and_other_settings_are_refused(plan_of, monkeypatch) -> None:
    one = plan_of({"seeds": [0], "runs": {"bce": RUNS["bce"]}})
    train_and_compare(one, quiet=True, draws=20)
    trained: list[str] = []
    from cutpoint.trainer.compare import train as module

    plain = module.train
    monkeypatch.setattr(module, "train", lambda config, **more: trained.append(config.run_path.name) or plain(config, **more))
    comparison = train_and_compare(plan_of({"seeds": [0], "runs": RUNS}), quiet=True, draws=20)
    assert trained == ["focal-0"]
    assert "for one seed only" in comparison.method[0]
    other = plan_of({"seeds": [0], "runs": {"new": {}, "bce": {"loss": {"name": "weighted_bce", "pos_weight": 3}}}})
    with pytest.raises(BadConfig, match=r"bce-0, of other settings; expected these settings; remove it"):
        train_and_compare(other, quiet=True)
    (one.out / "new-0").mkdir()
    with pytest.raises(BadConfig, match=r"new-0 \(exists\); expected a new folder or a finished run"):
        train_and_compare(other, quiet=True)
    assert trained == ["focal-0"]  # nothing was trained before it was said


def test_what_does_not_fit_the_data_is_said_before_anything_trains(plan_of, monkeypatch) -> None:
    from cutpoint.trainer.compare import train as module

    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it trained"))
    wrong = {"a": {}, "b": {"loss": {"name": "weighted_bce", "pos_weight": [1, 2]}}}
    with pytest.raises(BadConfig, match="pos_weight"):
        train_and_compare(plan_of({"runs": wrong}), quiet=True)
    with pytest.raises(BadData, match="positives in split test is 0"):
        train_and_compare(plan_of({"runs": RUNS}, split={"by": "random", "train": 0.7, "valid": 0.3, "test": 0}), quiet=True)
    with pytest.raises(BadConfig, match=r"--recall is 1\.5"):
        train_and_compare(plan_of({"runs": RUNS}), recall=1.5, quiet=True)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"model": {"kind": "import", "path": "nope:Nope"}}, "model.path is nope:Nope; expected an importable class"),
    ({"fit": {"precision": "16-mixed"}}, "fit.precision is 16-mixed; expected 32 or bf16-mixed"),
])  # fmt: skip
def test_a_run_that_cannot_begin_is_refused_before_the_first_trains(plan_of, monkeypatch, wrong, message) -> None:
    from cutpoint.trainer.compare import train as module

    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it trained"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadConfig, match=message):
        train_and_compare(plan_of({"seeds": [0], "runs": {"fine": {}, "wrong": wrong}}), quiet=True)


def test_nan_is_refused_before_anything_trains(plan_of, tmp_path, data, monkeypatch) -> None:
    from cutpoint.trainer.compare import train as module

    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it trained"))
    with np.load(data / "rows.npz") as arrays:
        changed = dict(arrays)
    changed["x"][7, 2] = np.nan
    np.savez(tmp_path / "nan.npz", **changed)
    with pytest.raises(BadData, match=r"x\[7"):
        train_and_compare(plan_of({"seeds": [0], "runs": RUNS}, data={"path": str(tmp_path / "nan.npz")}), quiet=True)


def test_an_unfinished_run_of_other_settings_is_to_be_removed(plan_of, monkeypatch) -> None:
    from cutpoint.trainer.compare import train as module

    plan = plan_of({"seeds": [0], "runs": RUNS})
    config = plan.configs["focal", 0]
    digest = read_dataset(config.data.path).digest()
    begun = unfinished(config.run_path)
    begin_run(config.run_path, config, resume=False)
    write_checkpoint(begun / CHECKPOINT_FILE, {"epoch": 1}, {"configuration": config.digest(), "data": digest})
    trained: list[str] = []
    monkeypatch.setattr(module, "train", lambda config, **_: trained.append(config.run_path.name) or stop())

    def stop() -> None:
        raise RuntimeError("far enough")

    with pytest.raises(RuntimeError, match="far enough"):
        train_and_compare(plan, quiet=True)  # the same settings: it would go on
    assert trained == ["bce-0"]
    other = RUNS | {"focal": {"loss": {"name": "focal", "gamma": 3}}}
    with pytest.raises(BadConfig, match=rf"focal-0\.unfinished, .*of other settings or data; .*remove {begun}, or") as refused:
        train_and_compare(plan_of({"seeds": [0], "runs": other}), quiet=True)
    assert "--force" not in str(refused.value)
    write_checkpoint(begun / CHECKPOINT_FILE, {"epoch": 1}, {"configuration": config.digest(), "data": "of other data"})
    with pytest.raises(BadConfig, match=f"remove {begun}"):
        train_and_compare(plan, quiet=True)
    assert trained == ["bce-0"]


def test_many_labels(plan_of, tmp_path) -> None:
    plan = plan_of({"seeds": [0], "runs": {"plain": {}, "deeper": {"model": {"hidden": [4]}}}}, "labels")
    comparison = train_and_compare(plan, quiet=True, draws=30)
    plain, deeper = comparison.runs
    precisions = [label.average_precision.value for label in plain.labels if label.average_precision]
    assert len(plain.labels) == 512 and plain.average_precision.value == pytest.approx(np.mean(precisions))
    assert deeper.labels[3].difference is not None
    assert "512 labels with the fewest positives" in " ".join(told(labels_table(comparison)).split())
    page = comparison_html(comparison)
    assert len(page) < 4e6
    script = """
result.all = text("#of"); result.options = document.querySelectorAll("#label option").length;
input("#label", "7"); result.one = text("#of"); result.ap = text("#runs tbody td");
"""
    script = script.replace('input("#label", "7");', 'document.getElementById("label").value = "7"; show();')
    found = browse(page, script, tmp_path)
    assert (found["all"], found["options"], found["one"]) == ("Mean of 512 labels", 513, "7")
    assert found["ap"].startswith(f"{plain.labels[7].average_precision.value:.3f}")


def test_intervals_hold_for_rows_and_seeds_together() -> None:
    """Two runs alike: seeds of deviation 0.02, rows that move each run by 0.05 and both together by 0.2."""
    rng = np.random.default_rng(0)
    held = alone = 0
    for _ in range(300):
        shared = rng.normal()
        draws = rng.normal(size=400)
        runs = {}
        for name in ("a", "b"):
            noise = 0.05 * rng.normal()
            values = 0.6 + 0.2 * shared + noise + 0.02 * rng.normal(size=3)
            runs[name] = _Seeds(values, values.mean() + 0.2 * draws + 0.05 * rng.normal(size=400))
        found = _difference(runs, "b", "a")
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
        own = _estimate(runs, "a")
        assert own is not None and own.low is not None and own.high is not None
        alone += own.low <= 0.6 <= own.high
    assert 0.92 <= held / 300 <= 0.995 and alone / 300 >= 0.88  # the latter is cut at 0 and 1


def test_the_width_of_seeds_is_students_t() -> None:
    runs = {"a": _Seeds(np.array([0.5, 0.52]), np.full(50, 0.51)), "b": _Seeds(np.array([0.6, 0.66]), np.full(50, 0.63))}
    found = _difference(runs, "b", "a")
    deviation = np.sqrt((0.01**2 * 2 + 0.03**2 * 2) / 2)
    assert found is not None and found.low == pytest.approx(0.12 - t.ppf(0.975, 2) * deviation, abs=1e-9)
    runs["c"] = _Seeds(np.array([0.5, 0.5]), np.full(50, 0.5))
    found = _difference(runs, "b", "a")  # of three runs, two differences: each at 97.5 %
    deviation = np.sqrt((0.01**2 * 2 + 0.03**2 * 2) / 3)
    assert found is not None and found.low == pytest.approx(0.12 - t.ppf(0.9875, 3) * deviation, abs=1e-9)
    assert _difference(runs, "a", "a") is None


def test_skill_of_one_label_is_that_of_calibration() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((500, 1)) < 0.1).astype(np.uint8)
    y[:20] = 255
    logits = (rng.normal(size=(500, 1)) + 2 * (y == 1) - 2).astype(np.float32)
    assert pooled_skill(logits, y) == pytest.approx(log_loss_skill(exact_curve(logits[:, 0], y[:, 0])))
    both = np.hstack([y, np.zeros_like(y)])  # a label of one class says nothing
    assert pooled_skill(np.hstack([logits, logits]), both) == pytest.approx(pooled_skill(logits, y))
    assert np.isnan(pooled_skill(logits, np.zeros_like(y)))


def test_a_price_of_nothing() -> None:
    price = price_of(np.array([[-1, -1, -1, -1]]))
    assert (price.recall, price.alerts_per_hit, price.missing) == (None, None, 1)
    price = price_of(np.array([[2, 6, 4, 100], [-1, -1, -1, -1], [1, 1, 1, 20]]))
    assert (price.recall, price.precision, price.fpr, price.alerts_per_hit) == (0.6, 0.3, pytest.approx(7 / 120), 10 / 3)


def test_the_command(configure, tmp_path) -> None:
    config = configure("rows", fit=FIT | {"epochs": 1})
    (tmp_path / "train.yaml").write_text(config.to_yaml())
    (tmp_path / "losses.yaml").write_text(yaml.safe_dump({"seeds": [0], "runs": RUNS}))
    words = ["train", str(tmp_path / "train.yaml"), "--compare", str(tmp_path / "losses.yaml"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--recall", "0.5", "--quiet"])
    assert done.exit_code == 0, done.output
    assert "focal: AP " in done.output and "recall 0.5 on the validation rows" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "bce-0", "focal-0", "compare.json", "compare.html", "compare.png",
    }  # fmt: skip
    refused = CliRunner().invoke(app, [*words, "--force"])
    assert isinstance(refused.exception, BadConfig) and "--compare is given with --force" in str(refused.exception)
