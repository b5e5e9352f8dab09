"""`cutpoint score` and `cutpoint policy` against a running server."""

import json
from pathlib import Path

import numpy as np
import pytest
from cutpoint.client import Client
from processes import ServerProcess, cutpoint

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, :2] > 0.5).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


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


def test_errors_are_one_line(client_server: ServerProcess, fresh: str, data: Path, tmp_path: Path) -> None:
    at = ("--server", client_server.target)
    np.savez(tmp_path / "unlabelled.npz", x=X)
    (tmp_path / "rows.npy").write_bytes(b"nothing")
    for arguments, text in (
        (("score", data, "--model", "none"), "Request for unknown model: 'none' is not found"),
        (("score", data, "--model", fresh, "--rows", tmp_path / "rows.npy"), "rows.npy is a pickled object array"),
        (("policy", "calibrate", fresh, "max_fbeta=1", "--data", tmp_path / "unlabelled.npz"), "keys is no y; expected labels"),
        (("policy", "calibrate", fresh, "best=1", "--data", data), "objective is 'best=1'"),
    ):
        done = cutpoint(*arguments, *at)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ") and text in done.stderr
