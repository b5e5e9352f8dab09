"""The policy store on disk, and which policy a model starts with."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, policy
from cutpoint.bundle import read_bundle, write_policy
from cutpoint.errors import BadConfig, Conflict, PolicyNotFound
from cutpoint.server.policy.policies import PolicyStore
from cutpoint.server.serving.starting import starting_policy


def test_versions_count_per_model_and_everything_is_kept(models: Path, tmp_path: Path) -> None:
    one, other = linear_bundle(models), linear_bundle(models, name="other")
    made = policy(one, {"a": 0.5, "b": None})
    store = PolicyStore(tmp_path / "deep" / "state")
    assert [store.add(made).version for _ in range(3)] == [1, 2, 3]
    assert store.add(policy(other, {"a": 0, "b": 0})).version == 1
    store.activate("linear", 1, 2, now_s=7.0, expected=0)
    store.close()
    store = PolicyStore(tmp_path / "deep" / "state")
    assert [found.version for found in store.list("linear", 1)] == [3, 2, 1]
    assert store.get("linear", 1, 3) == made.model_copy(update={"version": 3})
    active = store.active("linear", 1)
    assert active is not None
    assert (active.policy.version, active.generation, active.activated_s) == (2, 1, 7.0)
    np.testing.assert_array_equal(active.thresholds, np.array([0.5, np.nan], np.float32))
    assert active.decides.tolist() == [True, False]
    assert active.rates.tolist() == [0.1, 0.0]
    assert store.active("other", 1) is None
    for wrong in (("linear", 2, 1), ("linear", 1, 4), ("none", 1, 1)):
        with pytest.raises(PolicyNotFound):
            store.get(*wrong)
    store.close()


def test_a_document_of_an_older_format_is_given_in_the_present_one_and_few_policies_are_kept_at_hand(
    models: Path, tmp_path: Path
) -> None:
    made = policy(linear_bundle(models), {"a": 0.5, "b": 0.5})
    store = PolicyStore(tmp_path / "state")
    stored = [store.add(made) for _ in range(80)]
    assert store.document(stored[0]) == stored[0].to_json()
    older = stored[0].to_json().replace('"format": 2', '"format": 1')
    store._db.execute("UPDATE policy SET document=? WHERE version=1", (older,))
    assert store.document(stored[0]) == stored[0].to_json()
    for each in stored:
        assert store.get("linear", 1, each.version) == each
    assert len(store._known) <= 32
    store.close()


def test_a_lost_compare_and_set_stores_nothing(models: Path, tmp_path: Path) -> None:
    made = policy(linear_bundle(models), {"a": 0.5, "b": 0.5})
    store = PolicyStore(tmp_path)
    assert store.add_and_activate(made, 1.0).generation == 1
    with pytest.raises(Conflict, match="policy 1 of linear/1 is active, not 0"):
        store.add_and_activate(made, 2.0)
    assert len(store.list("linear", 1)) == 1
    assert store.add_and_activate(made.model_copy(update={"parent": 1}), 3.0).generation == 2
    with pytest.raises(Conflict):
        store.activate("linear", 1, 1, 4.0, expected=1)
    assert store.activate("linear", 1, 1, 5.0).generation == 3
    active = store.active("linear", 1)
    assert active is not None and (active.policy.version, active.generation) == (1, 3)
    store.close()


def test_a_folder_belongs_to_one_store_at_a_time(models: Path, tmp_path: Path) -> None:
    made = policy(linear_bundle(models), {"a": 0.5, "b": 0.5})
    one = PolicyStore(tmp_path)
    with pytest.raises(BadConfig, match=r"state folder is .* \(in use by another server\)"):
        PolicyStore(tmp_path)  # it would not see what the first one activates
    assert one.add(made).version == 1
    one.close()
    two = PolicyStore(tmp_path)
    assert two.add(made).version == 2
    two.activate("linear", 1, 2, 1.0, expected=0)
    with pytest.raises(Conflict):
        two.activate("linear", 1, 1, 1.0, expected=0)
    two.close()


def test_a_failed_commit_leaves_the_store_usable(models: Path, tmp_path: Path) -> None:
    made = policy(linear_bundle(models), {"a": 0.5, "b": 0.5})
    store = PolicyStore(tmp_path)
    real = store._db

    class Failing:
        in_transaction = True

        def execute(self, text: str, *rest: object) -> object:
            if text == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return real.execute(text, *rest)

    store._db = Failing()  # type: ignore[assignment]
    with pytest.raises(sqlite3.OperationalError, match="disk I/O"):
        store.add(made)
    store._db = real
    assert store.add(made).version == 1  # nothing was kept of the first
    store.close()


def test_a_folder_that_cannot_be_used_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadConfig, match=r"state folder .*file cannot be used"):
        PolicyStore(tmp_path / "file")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "policies.sqlite3").write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(BadConfig, match=r"state folder .*damaged cannot be used .*not a database"):
        PolicyStore(tmp_path / "damaged")


def test_commits_are_synced(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    store.close()
    with pytest.raises(sqlite3.ProgrammingError):
        store.active("linear", 1)


class Repository:
    """A bundle whose shipped policy is replaced, and a server's store that starts again and again."""

    def __init__(self, models: Path, state: Path) -> None:
        self.path, self.state = linear_bundle(models), state

    def ship(self, threshold: float) -> None:
        write_policy(self.path, policy(self.path, {"a": threshold, "b": threshold}))

    def start(self, then: str = "") -> tuple[int, float] | None:
        """Start; then perhaps calibrate, or activate a version. The active version and threshold that it started with."""
        store = PolicyStore(self.state)
        try:
            active = starting_policy(store, read_bundle(self.path), 0.0)
            if then == "calibrate":
                made = policy(self.path, {"a": 9.0, "b": 9.0}, parent=active.policy.version if active else None)
                store.add_and_activate(made, 0.0)
            elif then:
                store.activate("linear", 1, int(then), 0.0)
            return None if active is None else (active.policy.version, float(active.thresholds[0]))
        finally:
            store.close()

    def stored(self) -> int:
        store = PolicyStore(self.state)
        try:
            return len(store.list("linear", 1))
        finally:
            store.close()


@pytest.fixture
def bundle(models: Path, tmp_path: Path) -> Repository:
    return Repository(models, tmp_path / "state")


def test_a_shipped_policy_is_imported_once(bundle: Repository) -> None:
    assert bundle.start() is None
    bundle.ship(1.0)
    for _ in range(3):
        assert bundle.start() == (1, 1.0)
    assert bundle.stored() == 1


def test_a_newly_shipped_policy_replaces_a_shipped_one(bundle: Repository) -> None:
    bundle.ship(1.0)
    bundle.start()
    bundle.ship(2.0)
    assert bundle.start() == (2, 2.0)
    assert bundle.start() == (2, 2.0)
    assert bundle.stored() == 2


def test_a_newly_shipped_policy_never_replaces_one_made_while_serving(bundle: Repository) -> None:
    bundle.ship(1.0)
    bundle.start(then="calibrate")
    assert bundle.start() == (2, 9.0)
    bundle.ship(2.0)
    assert bundle.start() == (2, 9.0)
    assert bundle.start() == (2, 9.0)
    assert bundle.stored() == 3, "the new one can be seen and activated"
    assert bundle.start(then="3") == (2, 9.0)
    assert bundle.start() == (3, 2.0)


def test_a_roll_back_to_a_shipped_policy_outlives_a_restart(bundle: Repository) -> None:
    bundle.ship(1.0)
    bundle.start()
    bundle.ship(2.0)
    assert bundle.start(then="1") == (2, 2.0)
    assert bundle.start() == (1, 1.0)
    assert bundle.start(then="calibrate") == (1, 1.0)
    assert bundle.start(then="1") == (3, 9.0)
    assert bundle.start() == (1, 1.0)


def test_a_stored_policy_of_another_graph_is_not_used(models: Path, tmp_path: Path) -> None:
    path = linear_onnx(models / "foreign" / "1" / "model.onnx", np.eye(3, 2), ["n", 3]).parent
    store = PolicyStore(tmp_path / "state")
    store.add_and_activate(policy(path, {"0": 1.0, "1": 1.0}), 0.0)
    assert starting_policy(store, read_bundle(path), 0.0) is not None
    linear_onnx(models / "foreign" / "1" / "model.onnx", 2 * np.eye(3, 2), ["n", 3])
    assert starting_policy(store, read_bundle(path), 0.0) is None
    write_policy(path, policy(path, {"0": 3.0, "1": 3.0}))
    active = starting_policy(store, read_bundle(path), 0.0)
    assert active is not None and (active.policy.version, float(active.thresholds[0])) == (2, 3.0)
    store.close()
