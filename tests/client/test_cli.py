"""`cutpoint score` and `cutpoint policy` against a running server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint.calibration import (
    Calibrator,
    Counts,
    Guaranteed,
    LabelPolicy,
    Plan,
    Policy,
    ScoreHistogram,
    Scores,
    expected_at,
    fit_labels,
)
from cutpoint.client import Client
from cutpoint.client.cli import app, policy_app
from cutpoint.client.difference import difference
from cutpoint.terminal import console
from processes import ServerProcess, cutpoint, serving

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, :2] > 0.5).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


def test_sparse_data_are_scored_as_dense_ones_are(client_server: ServerProcess, data: Path, tmp_path: Path) -> None:
    at = ("--server", client_server.target, "--model", "many")
    flat = X.size
    keys = {"x_data": X.ravel(), "x_indices": np.arange(flat) % 4, "x_indptr": np.arange(0, flat + 1, 4), "x_shape": X.shape}
    np.savez(tmp_path / "sparse.npz", **keys)
    np.save(tmp_path / "rows.npy", np.arange(10, 40))
    for name in ("data", "sparse"):
        done = cutpoint(
            "score", tmp_path / f"{name}.npz", "--rows", tmp_path / "rows.npy", "--out", tmp_path / f"{name}-s.npz", *at
        )
        assert done.returncode == 0, done.stderr
    dense, sparse = (np.load(tmp_path / f"{name}-s.npz")["logits"] for name in ("data", "sparse"))
    assert len(sparse) == 30
    np.testing.assert_array_equal(sparse, dense)


def test_the_whole_round(client: Client, client_server: ServerProcess, fresh: str, data: Path, tmp_path: Path) -> None:
    at = ("--server", client_server.target)
    done = cutpoint("policy", "calibrate", fresh, "max_fbeta=1", "--data", data, "--author", "ann", *at)
    assert done.returncode == 0, done.stderr
    assert f"policy 1 of {fresh} is active" in done.stdout
    np.save(tmp_path / "rows.npy", np.arange(10, 40))
    stored = cutpoint(
        "policy",
        "calibrate",
        fresh,
        "recall_at_least=0.9",
        "--data",
        data,
        "--rows",
        tmp_path / "rows.npy",
        "--no-activate",
        *at,
    )
    assert (stored.returncode, f"policy 2 of {fresh} is stored, not active" in stored.stdout) == (0, True)
    assert client.policy(fresh, 2).labels[0].counts.rows == 30
    listed = cutpoint("policy", "list", fresh, *at).stdout
    assert all(text in listed for text in ("max_fbeta=1", "recall", "ann"))
    got = cutpoint("policy", "get", fresh, *at)
    assert json.loads(got.stdout)["version"] == 1
    assert got.stdout == client.policy(fresh).to_json()
    activated = cutpoint("policy", "activate", fresh, "2", "--expected-active", "1", *at)
    assert activated.stdout == f"policy 2 of {fresh} is active (before: 1)\n"
    conflict = cutpoint("policy", "activate", fresh, "1", "--expected-active", "1", *at)
    assert conflict.returncode == 2
    assert conflict.stderr.startswith(f"error: policy 2 of {fresh}/1 is active, not 1")

    out = tmp_path / "deep" / "scores.npz"
    done = cutpoint("score", data, "--model", fresh, "--rows", tmp_path / "rows.npy", "--out", out, *at)
    assert done.returncode == 0, done.stderr
    assert f"{fresh}/1, policy 2" in done.stdout
    wanted = client.score(fresh, X[10:40])
    with np.load(out) as found:
        assert sorted(found.files) == ["decisions", "label_names", "logits", "policy_version", "rows", "scores"]
        np.testing.assert_array_equal(found["logits"], wanted.logits)
        np.testing.assert_array_equal(found["decisions"], wanted.decisions)
        np.testing.assert_array_equal(found["rows"], np.arange(10, 40))
        assert found["policy_version"] == 2
        assert found["label_names"].tolist() == ["a", "b"]


def test_a_policy_that_was_asked_to_be_active_and_is_not_is_exit_code_1(
    client_server: ServerProcess, fresh: str, tmp_path: Path
) -> None:
    y = Y.copy()
    y[:, 1] = 0
    np.savez(tmp_path / "data.npz", x=X, y=y)
    arguments = ("policy", "calibrate", fresh, "max_fbeta=1", "--data", tmp_path / "data.npz", "--server", client_server.target)
    done = cutpoint(*arguments)
    assert done.returncode == 1, done.stderr
    assert "1 labels have no threshold; --allow-undecided activates it all the same" in done.stdout
    assert cutpoint(*arguments, "--allow-undecided").returncode == 0


def test_every_option_of_a_calibration_reaches_the_server(
    client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path
) -> None:
    at = ("--server", client_server.target)
    groups = np.array([f"machine {i // 2}" for i in range(len(X))])
    np.savez(tmp_path / "data.npz", x=X, y=Y, group=groups)
    options: tuple[object, ...] = (
        "recall_at_least=0.5", "b:fpr_at_most=0.2", "--delta", 0.2, "--simultaneous", "--by-group", "--calibrator", "platt",
        "--min-positives", 3, "--fallback", "previous", "--author", "ann",
    )  # fmt: skip
    done = cutpoint("policy", "calibrate", fresh, *options, "--data", tmp_path / "data.npz", *at)
    assert done.returncode == 0, done.stderr
    assert "guaranteed" in done.stdout
    found = client.policy(fresh)
    plan = Plan.of(
        ["recall_at_least=0.5", "b:fpr_at_most=0.2"], delta=0.2, simultaneous=True, by_group=True, calibrator="platt",
        min_positives=3, fallback="previous",
    )  # fmt: skip
    assert (found.guarantee, found.labels) == (plan.guarantee, fit_labels(Scores(X[:, :2], Y, ("a", "b"), groups=groups), plan))

    shards = []
    for i, part in enumerate((slice(0, 25), slice(25, 60))):
        histogram = ScoreHistogram(("a", "b"))
        histogram.update(X[part, :2], Y[part])
        shards.append(tmp_path / f"{i}.hist")
        shards[-1].write_bytes(histogram.to_bytes())
    given = [argument for path in shards for argument in ("--histogram", path)]
    done = cutpoint("policy", "calibrate", fresh, "max_fbeta=1", "--shrink", 4, *given, *at)
    assert done.returncode == 0, done.stderr
    whole = ScoreHistogram(("a", "b"))
    whole.update(X[:, :2], Y)
    assert client.policy(fresh).labels == fit_labels(whole, Plan.of("max_fbeta=1", shrink=4))


def test_the_sequences_of_windows_are_groups(client: Client, client_server: ServerProcess, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 5, 1000)).astype(np.float32)
    y = (x[..., :3] > 0.5).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y, label_names=["a", "b", "c"])
    np.save(tmp_path / "rows.npy", np.arange(3, 38))
    arguments = ("windows", "recall_at_least=0.5", "--delta", 0.2, "--by-group", "--rows", tmp_path / "rows.npy")
    done = cutpoint("policy", "calibrate", *arguments, "--data", tmp_path / "data.npz", "--server", client_server.target)
    assert done.returncode == 0, done.stderr
    data = Scores(x[3:38, :, :3], y[3:38], ("a", "b", "c"), groups=np.arange(35))
    assert client.policy("windows").labels == fit_labels(data, Plan.of("recall_at_least=0.5", delta=0.2, by_group=True))


def test_two_policies_are_compared(client: Client, client_server: ServerProcess, fresh: str) -> None:
    at = ("--server", client_server.target)
    one = client.calibrate(fresh, "max_fbeta=1", targets=Y, logits=X[:, :2], activate=False).policy
    two = client.calibrate(fresh, ["max_fbeta=1", "b:recall_at_least=0.5"], targets=Y, logits=X[:, :2]).policy
    done = cutpoint("policy", "diff", fresh, 1, 0, *at)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"policy 1 -> policy 2 of {fresh}/1\n")
    (line,) = [line for line in done.stdout.splitlines() if line.strip().startswith("b ")]
    a, b = one.labels[1], two.labels[1]
    assert a.expected and b.expected and a.expected.recall and b.expected.recall
    cells = re.split(r"\s{2,}", line.strip())
    assert cells[:4] == [
        "b", "max_fbeta=1 -> recall_at_least=0.5", "OK", f"{a.threshold:.6g} -> {b.threshold:.6g}",
    ]  # fmt: skip
    assert f"{a.expected.recall.value:.6g} -> {b.expected.recall.value:.6g}" in cells
    assert done.stdout.endswith("\n1 label is the same\n")
    assert cutpoint("policy", "diff", fresh, 2, 2, *at).stdout == "2 labels are the same\n"
    missing = cutpoint("policy", "diff", fresh, 1, 9, *at)
    assert (missing.returncode, missing.stderr) == (
        2,
        f"error: model {fresh}/1 has no policy 9: it has [1, 2]; numbers run over all versions of a model\n",
    )


def test_the_differences_of_policies_with_other_labels() -> None:
    def made(version: int, cuts: dict[str, float | None]) -> Policy:
        counts = Counts(positives=10, negatives=90, tp=5, fp=5)
        labels = [
            LabelPolicy(
                label=name, objective="max_fbeta=1", status="INSUFFICIENT" if cut is None else "OK", threshold=cut,
                counts=counts, expected=None if cut is None else expected_at(counts),
            )
            for name, cut in cuts.items()
        ]  # fmt: skip
        return Policy(
            model="m", model_version=1, model_digest="0", version=version, created="", author="", data_digest="", labels=labels
        )

    table, lines = difference(made(1, {"[a]": 0.5, "b": 1.0, "c": None}), made(2, {"[a]": None, "c": None, "d": 2.0}))
    assert table is not None
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(table)
    rows = [re.split(r"\s{2,}", line.strip()) for line in captured.get().splitlines()[4:]]
    assert rows[0][:4] == ["[a]", "max_fbeta=1", "OK -> INSUFFICIENT", "0.5 -> none"]
    assert rows[1][:4] == ["b", "max_fbeta=1 -> no such label", "OK -> -", "1 -> -"]
    assert rows[2][:4] == ["d", "no such label -> max_fbeta=1", "- -> OK", "- -> 2"]
    assert lines == ["1 label is the same"]
    many = {f"l{i}": 0.5 for i in range(30)}
    table, lines = difference(made(1, many), made(2, dict.fromkeys(many, 0.25) | {"same": 1.0}))
    assert table is not None and table.row_count == 20
    assert lines == ["and 11 more labels that differ", "0 labels are the same"]
    foreign = made(2, {"a": 0.5}).model_copy(update={"model_digest": "1"})
    table, lines = difference(made(1, {"a": 0.5}), foreign)
    assert table is None
    assert lines[0] == "the policies are of different graphs: their thresholds cannot be compared"


def test_the_difference_of_calibrators_and_guarantees() -> None:
    counts = Counts(positives=10, negatives=90, tp=5, fp=5)

    def made(version: int, **labels: dict[str, Any]) -> Policy:
        each = [
            LabelPolicy(
                label=name, objective="recall_at_least=0.3", status="OK", threshold=0.5, counts=counts,
                expected=expected_at(counts), **more,
            )
            for name, more in labels.items()
        ]  # fmt: skip
        return Policy(
            model="m", model_version=1, model_digest="0", version=version, created="", author="", data_digest="", labels=each
        )

    def shown(before: Policy, after: Policy) -> tuple[list[str], list[list[str]]]:
        table, lines = difference(before, after)
        assert table is not None and lines[-1].endswith("the same")
        columns = [[str(cell) for cell in column.cells] for column in table.columns]
        return [str(column.header) for column in table.columns], [list(row) for row in zip(*columns, strict=True)]

    recall = Guaranteed(rate="recall", bound=0.3, delta=0.1, unit="row", counted=10)
    groups = Guaranteed(rate="fpr", bound=0.3, delta=0.05, unit="group", counted=10)
    platt, other = Calibrator(kind="platt", coefficients=(2.0, 0.5)), Calibrator(kind="platt", coefficients=(3.0, 0.5))
    header, rows = shown(
        made(1, a={}, b={"calibrator": platt}, c={"calibrator": platt}),
        made(2, a={"calibrator": platt}, b={"calibrator": other}, c={"calibrator": platt}),
    )
    assert header[-2:] == ["alert rate", "calibrator"]
    assert [(row[0], row[-1]) for row in rows] == [("a", "none -> platt"), ("b", "platt -> another")]
    header, rows = shown(made(1, a={}, b={"guarantee": recall}), made(2, a={"guarantee": recall}, b={"guarantee": groups}))
    assert header[-2:] == ["alert rate", "guarantee"]
    assert rows[0][-1] == "none -> recall >= 0.3 by row, delta 0.1"
    assert rows[1][-1] == "recall >= 0.3 by row, delta 0.1 -> fpr <= 0.3 by group, delta 0.05"
    header, _ = shown(made(1, a={"guarantee": recall}), made(2, b={"calibrator": platt}))
    assert header[-1] == "alert rate"  # there is nothing to compare them with


def examples() -> list[tuple[str, str]]:
    """Each command's name, and the example in its epilog."""
    found = [(f"policy {command.name}", command.epilog) for command in policy_app.registered_commands]
    return [*found, *((command.name or "score", command.epilog) for command in app.registered_commands)]


@pytest.fixture(scope="module")
def bearings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, ServerProcess]]:
    """A folder with demo-out/data, and a server with a model named bearings that has two policies."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "demo-out" / "data").mkdir(parents=True)
    np.save(folder / "demo-out" / "data" / "x.npy", X)
    np.save(folder / "demo-out" / "data" / "y.npy", Y)
    (folder / "models").mkdir()
    linear_bundle(folder / "models", name="bearings")
    with serving(folder / "models") as process, Client(process.target) as connected:
        for objective in ("max_fbeta=1", "recall_at_least=0.9"):
            connected.calibrate("bearings", objective, targets=Y, inputs=X)
        yield folder, process


@pytest.mark.parametrize(("command", "epilog"), sorted(examples()))
def test_the_example_of_every_command_runs(bearings: tuple[Path, ServerProcess], command: str, epilog: str) -> None:
    folder, process = bearings
    assert epilog.startswith(f"Example: cutpoint {command} ")
    if command == "policy activate":  # whatever the others did, as the example expects it
        with Client(process.target) as connected:
            connected.activate("bearings", 2)
    arguments = epilog.removeprefix("Example: cutpoint ").split()
    done = cutpoint(*arguments, "--server", process.target, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_errors_are_one_line(client_server: ServerProcess, fresh: str, data: Path, tmp_path: Path) -> None:
    at = ("--server", client_server.target)
    np.savez(tmp_path / "unlabelled.npz", x=X)
    (tmp_path / "rows.npy").write_bytes(b"nothing")
    for arguments, text in (
        (("score", data, "--model", "none"), "Request for unknown model: 'none' is not found"),
        (("score", data, "--model", fresh, "--rows", tmp_path / "rows.npy"), "rows.npy is a pickled object array"),
        (("policy", "calibrate", fresh, "max_fbeta=1", "--data", tmp_path / "unlabelled.npz"), "keys is no y; expected labels"),
        (("policy", "calibrate", fresh, "best=1", "--data", data), "objective is 'best=1'"),
        (
            ("policy", "calibrate", fresh, "max_fbeta=1"),
            "--data and --histogram is not given; expected one of them, or --from-outcomes",
        ),
        (("policy", "calibrate", fresh, "max_fbeta=1", "--data", data, "--histogram", data), "is both given; expected one of"),
        (("policy", "calibrate", fresh, "max_fbeta=1", "--histogram", data), "data.npz: histogram is"),
        (("policy", "calibrate", fresh, "max_fbeta=1", "--histogram", tmp_path / "no"), "no (no such file); expected a file"),
        (
            ("policy", "calibrate", fresh, "recall_at_least=0.5", "--delta", "0.1", "--by-group", "--data", data),
            "keys is no group; expected group, or sequences of windows, with --by-group",
        ),
    ):
        done = cutpoint(*arguments, *at)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ") and text in done.stderr
