"""`cutpoint calibrate` and `cutpoint histogram` on scores from files; no model runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint.bundle import read_bundle
from cutpoint.calibrate.cli import app
from cutpoint.calibrate.files import read_histogram, read_scores
from cutpoint.calibration import Plan, Policy, ScoreHistogram, Scores, fit_labels
from cutpoint.errors import BadConfig, BadData, BadInput, CutpointError, Uncalibratable
from typer.testing import CliRunner, Result

ROWS = 600


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def works(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def error(*arguments: object) -> CutpointError:
    """What is raised, for `cutpoint.cli` to print in one line."""
    done = run(*arguments)
    assert isinstance(done.exception, CutpointError), (done.output, done.exception)
    return done.exception


def simulated(seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((rows, 2)) < 0.15).astype(np.uint8)
    return (rng.normal(size=(rows, 2)) + 2.5 * y - 2).astype(np.float32), y


def npz(path: Path, seed: int = 0, **changes: Any) -> Path:
    logits, y = simulated(seed)
    arrays = {"logits": logits, "y": y, "label_names": ["a", "b"], "group": np.arange(ROWS) // 2, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def tables(folder: Path) -> list[Path]:
    """The simulated scores as .npz, .csv and .parquet."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    logits, y = simulated()
    columns = {"logit:a": logits[:, 0], "y:a": y[:, 0], "logit:b": logits[:, 1], "y:b": y[:, 1], "group": np.arange(ROWS) // 2}
    made = pa.table(columns)
    csv.write_csv(made, folder / "s.csv")
    parquet.write_table(made, folder / "s.parquet")
    return [npz(folder / "s.npz"), folder / "s.csv", folder / "s.parquet"]


def labels_of(path: Path) -> Any:
    return Policy.from_json(path.read_text()).labels


def test_scores_in_every_form_give_the_policy_that_the_library_gives(tmp_path: Path) -> None:
    wanted = ["recall_at_least=0.8", "--objective", "b:fpr_at_most=0.05", "--delta", 0.1, "--by-group"]
    plan = Plan.of(["recall_at_least=0.8", "b:fpr_at_most=0.05"], delta=0.1, by_group=True)
    policies = []
    for path in tables(tmp_path):
        out = tmp_path / "made" / f"{path.suffix[1:]}.json"
        shown = works("calibrate", "--scores", path, "--objective", *wanted, "--out", out, "--author", "me")
        assert "policy 1 of s/1 for fpr_at_most=0.05, recall_at_least=0.8, guaranteed" in shown
        assert str(out) in shown and "300 groups" in " ".join(shown.split())
        policies.append(Policy.from_json(out.read_text()))
    logits, y = simulated()
    expected = fit_labels(Scores(logits, y, ("a", "b"), groups=np.arange(ROWS) // 2), plan)
    for policy in policies:
        assert policy.labels == expected
        assert (policy.model, policy.model_version, policy.model_digest, policy.author) == ("s", 1, "", "me")
        assert policy.data is not None and (policy.data.source, policy.data.rows, policy.data.groups) == ("scores", ROWS, 300)
        assert policy.guarantee == plan.guarantee
    assert len({policy.data_digest for policy in policies}) == 1


def test_histograms_of_several_machines_are_added(tmp_path: Path) -> None:
    shards = [npz(tmp_path / f"{i}.npz", seed=i) for i in range(3)]
    for i, path in enumerate(shards):
        shown = works("histogram", path, "--out", tmp_path / "h" / f"{i}.hist")
        assert f"{ROWS} rows, 2 labels" in shown and "in bins of 0.00390625" in shown
    histograms = [tmp_path / "h" / f"{i}.hist" for i in range(3)]
    separately, merged, at_once = (tmp_path / name for name in ("separately.json", "merged.json", "at_once.json"))
    options = [part for path in histograms for part in ("--histogram", path)]
    works("calibrate", *options, "--objective", "max_fbeta=1", "--out", separately)
    works("histogram", *reversed(histograms), "--out", tmp_path / "merged.hist")
    works("calibrate", "--histogram", tmp_path / "merged.hist", "--objective", "max_fbeta=1", "--out", merged)
    works("histogram", shards[0], histograms[1], shards[2], "--out", tmp_path / "mixed.hist")
    works("calibrate", "--histogram", tmp_path / "mixed.hist", "--objective", "max_fbeta=1", "--out", at_once)
    assert labels_of(separately) == labels_of(merged) == labels_of(at_once)
    logits, y = (np.concatenate(parts) for parts in zip(*[simulated(i) for i in range(3)], strict=True))
    whole = ScoreHistogram(("a", "b"))
    whole.update(logits, y)
    assert read_histogram(tmp_path / "merged.hist") == read_histogram(tmp_path / "mixed.hist") == whole
    assert labels_of(merged) == fit_labels(whole, Plan.of("max_fbeta=1"))
    policy = Policy.from_json(merged.read_text())
    assert policy.data is not None and (policy.data.source, policy.data.rows, policy.data.step) == (
        "histogram",
        3 * ROWS,
        2**-8,
    )
    assert policy.data_digest == whole.digest()


def test_a_histogram_by_group_serves_a_guarantee_by_group(tmp_path: Path) -> None:
    path, out = npz(tmp_path / "s.npz"), tmp_path / "p.json"
    shown = works("histogram", path, "--out", tmp_path / "g.hist", "--by-group")
    assert f"{ROWS} rows in groups, 2 labels" in shown
    given = ("--histogram", tmp_path / "g.hist", "--objective", "recall_at_least=0.8", "--delta", 0.1)
    works("calibrate", *given, "--by-group", "--calibrator", "none", "--out", out)
    exact = fit_labels(read_scores(path), Plan.of("recall_at_least=0.8", delta=0.1, by_group=True, calibrator="none"))
    for a, b in zip(labels_of(out), exact, strict=True):
        assert a.guarantee == b.guarantee and abs(a.threshold - b.threshold) < 0.05
    assert "others need the scores" in str(
        error("calibrate", *given[:2], "--objective", "alert_rate_at_most=0.1", "--delta", 0.1, "--by-group")
    )
    works("histogram", path, "--out", tmp_path / "r.hist")
    assert "groups is not given" in str(error("calibrate", "--histogram", tmp_path / "r.hist", *given[2:], "--by-group"))
    mixed = error("histogram", tmp_path / "r.hist", tmp_path / "g.hist", "--out", tmp_path / "x")
    assert "has_groups" in str(mixed) and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"group": None}, "without group or y; expected both, with --by-group"), ({"y": None}, "without group or y"),
     ({"weight": np.ones(ROWS)}, "weight is given; expected none with --by-group")],
)  # fmt: skip
def test_groups_need_groups_classes_and_no_weights(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = npz(tmp_path / "s.npz", **changes)
    assert message in str(error("histogram", path, "--out", tmp_path / "g", "--by-group"))
    assert not (tmp_path / "g").exists()


def test_unlabelled_and_weighted_histograms(tmp_path: Path) -> None:
    unlabelled = npz(tmp_path / "u.npz", y=None)
    assert "0 positives and 1200 of unknown class" in works("histogram", unlabelled, "--out", tmp_path / "u")
    shown = works(
        "calibrate", "--histogram", tmp_path / "u", "--objective", "alert_rate_at_most=0.1", "--out", tmp_path / "u.json"
    )
    assert all(
        label.counts.unlabelled_alerts <= 60 and label.counts.unlabelled == ROWS for label in labels_of(tmp_path / "u.json")
    )
    assert " - " in shown  # no precision, no recall
    weighted = npz(tmp_path / "w.npz", weight=np.full(ROWS, 0.5))
    works("histogram", weighted, "--out", tmp_path / "w")
    works("calibrate", "--histogram", tmp_path / "w", "--objective", "max_fbeta=1", "--out", tmp_path / "w.json")
    plain = npz(tmp_path / "p.npz")
    works("histogram", plain, "--out", tmp_path / "p")
    works("calibrate", "--histogram", tmp_path / "p", "--objective", "max_fbeta=1", "--out", tmp_path / "p.json")
    assert [x.threshold for x in labels_of(tmp_path / "w.json")] == [x.threshold for x in labels_of(tmp_path / "p.json")]
    for other in ("u", "w"):
        assert isinstance(error("histogram", tmp_path / other, tmp_path / "p", "--out", tmp_path / "x"), BadData)
    assert isinstance(
        error("calibrate", "--histogram", tmp_path / "w", "--objective", "fpr_at_most=0.1", "--delta", 0.1), BadInput
    )


def test_a_bundle_gets_the_policy_and_its_labels_are_checked(models: Path, tmp_path: Path) -> None:
    bundle, scores = linear_bundle(models), npz(tmp_path / "s.npz")
    shown = works("calibrate", bundle, "--scores", scores, "--objective", "max_fbeta=1", "--report", bundle / "report.html")
    assert str(bundle / "policy.json") in shown and str(bundle / "report.html") in shown
    read = read_bundle(bundle)
    assert read.policy is not None
    assert (read.policy.model, read.policy.model_version, read.policy.model_digest) == ("linear", 1, read.digest)
    works("histogram", scores, "--out", tmp_path / "h")
    works("calibrate", models / "linear", "--histogram", tmp_path / "h", "--objective", "recall_at_least=0.9")
    again = read_bundle(bundle).policy
    assert again is not None and again.labels[0].objective == "recall_at_least=0.9"
    # Of a label with too few positives the shipped cut is kept.
    logits, y = simulated(5)
    y[:, 1] = 0
    few = npz(tmp_path / "few.npz", logits=logits, y=y)
    works("calibrate", bundle, "--scores", few, "--objective", "recall_at_least=0.9", "--fallback", "previous")
    kept = read_bundle(bundle).policy
    assert kept is not None and (kept.labels[1].status, kept.labels[1].threshold) == ("FALLBACK", again.labels[1].threshold)
    before = (bundle / "policy.json").read_bytes()
    other = npz(tmp_path / "other.npz", label_names=["b", "a"])
    assert "expected ['a', 'b'], 2 in all, the model's" in str(
        error("calibrate", bundle, "--scores", other, "--objective", "max_fbeta=1")
    )
    works("histogram", other, "--out", tmp_path / "o")
    assert "labels is ['b', 'a']" in str(
        error("calibrate", bundle, "--histogram", tmp_path / "o", "--objective", "max_fbeta=1")
    )
    assert (bundle / "policy.json").read_bytes() == before


def test_with_out_the_bundle_stays_as_it_is(models: Path, tmp_path: Path) -> None:
    bundle, out = linear_bundle(models), tmp_path / "new" / "p.json"
    given = ("calibrate", bundle, "--scores", npz(tmp_path / "s.npz"), "--out", out)
    works(*given, "--objective", "max_fbeta=1")
    assert not (bundle / "policy.json").exists()
    policy, read = Policy.from_json(out.read_text()), read_bundle(bundle)
    assert (policy.model, policy.model_version, policy.model_digest) == ("linear", 1, read.digest)
    works(*given[:-2], "--objective", "max_fbeta=1")
    before = (bundle / "policy.json").read_bytes()
    works(*given, "--objective", "recall_at_least=0.9")
    assert (bundle / "policy.json").read_bytes() == before and labels_of(out)[0].objective == "recall_at_least=0.9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "p.txt"], "--out is p.txt; expected a file that ends in .json"),
        (["--out", "s.npz"], "--out is s.npz; expected a file that ends in .json"),
        (["--report", "r.json"], "--report is r.json; expected a file that ends in .html"),
        (["--out", "folder.json"], "--out is folder.json (a folder); expected a file to write"),
        (["--report", "folder.json"], "--report is folder.json (a folder)"),
        (["--out", "same.json"], "--out is same.json, also read (x/../same.json); expected a file of its own"),
        (["--out", "models/linear/1/p.json"], "p.json, inside a model's version folder; expected a file elsewhere: what lies"),
        (["--out", "models/linear/1/policy.json"], "policy.json, inside a model's version folder"),
        (["--out", "models/linear/1/deep/p.json"], "p.json, inside a model's version folder"),
        (["--out", "models/linear/1/../1/p.json"], "p.json, inside a model's version folder"),
        (["--out", "models/linked/2/p.json"], "p.json, inside a model's version folder"),
        (["--report", "models/linear/1/r.html"], "r.html, inside a model's version folder; expected a file elsewhere, or "),
    ],
)
def test_a_place_to_write_that_would_spoil_something_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = linear_bundle(tmp_path / "models")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    (tmp_path / "models" / "linked").mkdir()
    (tmp_path / "models" / "linked" / "2").symlink_to(elsewhere)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "x").mkdir()
    npz(tmp_path / "s.npz")
    works("histogram", "s.npz", "--out", "same.json")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    source = "--histogram ./x/../same.json" if "same.json" in options else "--scores s.npz"
    raised = error("calibrate", "models/linear", *source.split(), "--objective", "max_fbeta=1", *options)
    assert isinstance(raised, BadConfig) and message in str(raised)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_histogram_is_not_written_over_what_it_counts(tmp_path: Path) -> None:
    path = npz(tmp_path / "s.npz")
    before = path.read_bytes()
    assert "also read" in str(error("histogram", path, "--out", path)) and path.read_bytes() == before
    assert "(a folder)" in str(error("histogram", path, "--out", tmp_path))


def test_the_previous_policy_needs_a_bundle_that_has_one(models: Path, tmp_path: Path) -> None:
    given = ("--scores", npz(tmp_path / "s.npz"), "--objective", "max_fbeta=1", "--fallback", "previous")
    alone = error("calibrate", *given, "--out", tmp_path / "p.json")
    assert isinstance(alone, BadConfig) and "--fallback is previous without BUNDLE; expected a model's folder" in str(alone)
    bundle = linear_bundle(models)
    without = error("calibrate", bundle, *given)
    assert isinstance(without, BadConfig)
    assert f"--fallback is previous, but {bundle} has no policy.json; expected none or pooled" in str(without)
    assert not (bundle / "policy.json").exists() and not (tmp_path / "p.json").exists()


def test_the_same_counts_given_twice_are_refused(tmp_path: Path) -> None:
    scores, hist, out = npz(tmp_path / "s.npz"), tmp_path / "s.hist", tmp_path / "out.json"
    works("histogram", scores, "--out", hist)
    (tmp_path / "copy.hist").write_bytes(hist.read_bytes())
    for other in (hist, tmp_path / "copy.hist"):
        raised = error("calibrate", "--histogram", hist, "--histogram", other, "--objective", "max_fbeta=1", "--out", out)
        assert isinstance(raised, BadData)
        assert str(raised) == f"{other} holds the same counts as {hist}; expected each once: their rows would count twice"
    for first, second in ((hist, hist), (scores, scores), (scores, hist)):
        assert f"{second} holds the same counts as {first}" in str(error("histogram", first, second, "--out", out))
    assert not out.exists()
    nothing = npz(tmp_path / "nothing.npz", logits=np.zeros((0, 2)), y=np.zeros((0, 2)), group=None)
    works("histogram", nothing, nothing, scores, "--out", tmp_path / "all.hist")
    assert read_histogram(tmp_path / "all.hist") == read_histogram(hist)


def test_several_files_of_scores_are_refused(tmp_path: Path) -> None:
    paths = [npz(tmp_path / f"{i}.npz", i) for i in range(2)]
    raised = error("calibrate", "--scores", paths[0], "--scores", paths[1], "--objective", "max_fbeta=1")
    assert isinstance(raised, BadConfig)
    assert "--scores is given 2 times; expected one file; to add several, count each with `cutpoint histogram`" in str(raised)
    assert "--histogram" in str(raised)


def test_undecided_labels_are_an_error_unless_allowed(tmp_path: Path) -> None:
    _, y = simulated()
    y[:, 1] = 0
    path, out = npz(tmp_path / "s.npz", y=y), tmp_path / "p.json"
    given = ("calibrate", "--scores", path, "--objective", "max_fbeta=1", "--out", out)
    raised = error(*given)
    assert isinstance(raised, Uncalibratable)
    assert str(raised).startswith("1 of 2 labels get no threshold (b: INSUFFICIENT, 0 labelled positives; needs at least 1)")
    assert not out.exists()
    shown = works(*given, "--allow-undecided")
    assert "INSUFFICIENT" in shown and labels_of(out)[1].threshold is None
    works(*given, "--fallback", "pooled")
    assert labels_of(out)[1].status == "FALLBACK"
    works(*given, "--fallback", "pooled", "--min-positives", 3, "--shrink", 4, "--calibrator", "platt")
    assert labels_of(out)[0].reason.startswith("moved ") and labels_of(out)[0].calibrator.kind == "platt"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["--objective", "foo=1", "--scores", "s.npz"], BadInput, "objective is 'foo=1'; expected one of max_fbeta=VALUE"),
        (
            ["--objective", "zz:max_fbeta=1", "--objective", "max_fbeta=1", "--scores", "s.npz"],
            BadInput,
            "objectives for labels is",
        ),
        (["--objective", "max_fbeta=1"], BadConfig, "BUNDLE is missing; expected a model's folder, or --scores or --histogram"),
        (["--objective", "max_fbeta=1", "--data", "d.npz"], BadConfig, "BUNDLE is missing"),
        (
            ["--objective", "max_fbeta=1", "--scores", "s.npz", "--histogram", "h"],
            BadConfig,
            "--scores and --histogram is given tog",
        ),
        (
            ["--objective", "max_fbeta=1", "--scores", "s.npz", "--run", "r"],
            BadConfig,
            "--data or --run and --scores is given tog",
        ),
        (["--objective", "max_fbeta=1", "--scores", "none.npz"], BadData, "none.npz (no such file)"),
        (["--objective", "max_fbeta=1", "--histogram", "s.npz"], BadData, "bytes that begin otherwise"),
        (
            ["--objective", "max_fbeta=1", "--scores", "s.npz", "--delta", "0.1"],
            BadInput,
            "guarantee for objective is max_fbeta=1",
        ),
        (["--objective", "recall_at_least=0.9", "--scores", "s.npz", "--delta", "2"], BadInput, "delta is 2.0"),
        (["--objective", "recall_at_least=0.9", "--scores", "s.npz", "--simultaneous"], BadInput, "delta is not given"),
        (["--objective", "max_fbeta=1", "--scores", "s.npz", "--calibrator", "magic"], BadInput, "calibrator"),
        (["--objective", "max_fbeta=1", "--scores", "s.npz", "--fallback", "x"], BadInput, "fallback is 'x'"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: type[CutpointError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    npz(tmp_path / "s.npz")
    raised = error("calibrate", *arguments)
    assert isinstance(raised, kind) and message in str(raised)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_help_has_an_example_of_each_command() -> None:
    for command in ("calibrate", "histogram"):
        assert f"Example: cutpoint {command}" in " ".join(works(command, "--help").split())
    assert run("calibrate").exit_code == 2  # no objective
    assert run("histogram", "s.npz").exit_code == 2  # no --out
