"""Outcomes on disk: each label of a decision once, whatever comes again, in whatever order."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from cutpoint.errors import BadRequest, Overloaded, Unavailable
from cutpoint.server.outcomes.confirmed import Confirmed
from cutpoint.server.outcomes.database import Graph, _write_ahead, said, used_bytes
from cutpoint.server.outcomes.store import LABEL, REQUESTED, SCORED, Entry, Kept, OutcomeStore

GRAPH = Graph("linear", 1, "0" * 64, ("a", "b"))
OTHER = Graph("linear", 2, "1" * 64, ("a", "b"))
MIB = 1 << 20


def entry(key: str, targets: Any, *, graph: Graph = GRAPH, kind: int = REQUESTED, **given: Any) -> Entry:
    labels = np.zeros(len(graph.labels), LABEL)
    labels["target"] = targets
    labels["logit"] = given.pop("logits", (1.0, -1.0))
    labels["decided"] = given.pop("decided", (1, 0))
    labels["weight"] = np.where(labels["target"] == 255, 0, given.pop("weight", 1.0))
    row, window, decided_s = (given.pop(name, default) for name, default in (("row", 0), ("window", -1), ("decided_s", 5.0)))
    assert not given
    return Entry(graph, kind, key.encode(), row, window, decided_s, labels)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OutcomeStore]:
    made = OutcomeStore(tmp_path, 8 * MIB)
    yield made
    made.close()


def fates(store: OutcomeStore, *entries: Entry, replace: bool = False) -> list[str]:
    return [fate for fate, _ in store.add(entries, replace=replace).fates]


def chunks_of(store: OutcomeStore, graph: Graph = GRAPH, since_s: float = 0.0, until_s: float = float("inf")) -> list[Kept]:
    with store.snapshot() as snapshot:
        return list(snapshot.kept(graph, since_s, until_s))


def kept(store: OutcomeStore, graph: Graph = GRAPH) -> np.ndarray:
    chunks = [chunk.labels for chunk in chunks_of(store, graph)]
    return np.concatenate(chunks) if chunks else np.zeros((0, len(graph.labels)), LABEL)


def test_each_label_is_counted_once(store: OutcomeStore) -> None:
    added = store.add([entry("one", (1, 255)), entry("one", (1, 255)), entry("two", (0, 1))])
    assert [fate for fate, _ in added.fates] == ["taken", "repeated", "taken"]
    counted = added.counted[GRAPH]
    # [label, decided, actual]: label a was decided, b was not.
    assert counted.outcomes.tolist() == [[[0, 0], [1, 1]], [[0, 1], [0, 0]]]
    assert counted.recallable.tolist() == [[0, 1], [1, 0]]
    more = store.add([entry("one", (1, 0))])  # the other label of the same decision, later
    assert more.fates == [("taken", ())]
    assert more.counted[GRAPH].outcomes.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0, 0]]]
    assert fates(store, entry("one", (255, 0)), entry("two", (0, 1))) == ["repeated", "repeated"]
    assert store.rows() == {("linear", 1, "0" * 64): 2}
    assert kept(store)["target"].tolist() == [[1, 0], [0, 1]]


def test_keys_rows_windows_kinds_and_graphs_are_told_apart(store: OutcomeStore) -> None:
    entries = [
        entry("one", (1, 1)), entry("one", (0, 0), row=1), entry("one", (0, 1), window=0), entry("one", (0, 1), window=1),
        entry("one", (1, 0), kind=SCORED), entry("one", (1, 0), graph=OTHER),
    ]  # fmt: skip
    assert fates(store, *entries) == ["taken"] * 6
    assert fates(store, *reversed(entries)) == ["repeated"] * 6
    assert store.rows() == {("linear", 1, "0" * 64): 5, ("linear", 2, "1" * 64): 1}


def test_another_outcome_is_a_conflict_unless_it_replaces(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 255))])
    refused = store.add([entry("one", (0, 1))])
    assert refused.fates == [("conflict", (0,))]
    assert not refused.counted[GRAPH].outcomes.any()
    assert kept(store)["target"].tolist() == [[1, 255]]  # nothing of it was taken
    replaced = store.add([entry("one", (0, 1))], replace=True)
    assert replaced.fates == [("corrected", ())]
    assert replaced.counted[GRAPH].outcomes.tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 0]]]
    assert kept(store)["target"].tolist() == [[0, 1]]
    assert fates(store, entry("one", (0, 1)), replace=True) == ["repeated"]


def test_a_sampling_that_says_more_is_taken_up_later_and_none_is_taken_away(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 255), weight=0.0)])
    added = store.add([entry("one", (1, 255), weight=10.0)])
    assert added.fates == [("repeated", ())]
    assert not added.counted[GRAPH].outcomes.any()
    assert added.counted[GRAPH].recallable.tolist() == [[0, 10], [0, 0]]
    for weight, after in ((0.0, 10.0), (20.0, 10.0), (2.0, 2.0), (0.0, 2.0)):
        assert not store.add([entry("one", (1, 255), weight=weight)]).counted[GRAPH].recallable.any()
        assert kept(store)["weight"].tolist() == [[after, 0]]


SAMPLINGS = ("unknown", "alerted", "all", "random", "alerted_and_random")


def weights_of(sampling: str, alerted: np.ndarray) -> np.ndarray:
    """What each decision stands for, with a probability of 0.1."""
    one = {"unknown": 0.0, "alerted": 0.0, "all": 1.0, "random": 10.0, "alerted_and_random": 10.0}[sampling]
    return np.where(alerted, 1.0, one) if sampling == "alerted_and_random" else np.full(len(alerted), one)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("first", SAMPLINGS)
@pytest.mark.parametrize("second", SAMPLINGS)
def test_of_two_samplings_the_one_that_sees_more_holds_in_any_order(
    store: OutcomeStore, first: str, second: str, replace: bool
) -> None:
    alerted = np.array([True, False])
    for turn, sampling in enumerate((first, second)):
        weights = weights_of(sampling, alerted)
        # A correction changes what one of them turned out to be, and not how it came to be looked at.
        targets = (0 if replace and turn == 0 else 1, 1)
        some = [entry(f"{i}", (targets[i], 255), weight=weights[i], decided=(int(alerted[i]), 0)) for i in range(2)]
        store.add(some, replace=replace)
    found = kept(store)["weight"][:, 0].tolist()
    both = [[weights_of(sampling, alerted)[i] for sampling in (first, second)] for i in range(2)]
    assert found == [min((weight for weight in each if weight > 0), default=0.0) for each in both]
    assert kept(store)["target"][:, 0].tolist() == [1, 1]


def test_recall_is_the_same_however_its_outcomes_came(tmp_path: Path) -> None:
    """A tenth of what did not alert was looked at, then all of it; and all of it, then alerts alone once more."""
    rng = np.random.default_rng(0)
    there = rng.random(4000) < 0.1
    alerted = rng.random(4000) < np.where(there, 0.6, 0.02)
    sampled = alerted | (rng.random(4000) < 0.1)

    def reported(sampling: str, which: np.ndarray, said: np.ndarray) -> list[Entry]:
        weights = weights_of(sampling, alerted)
        return [
            entry(f"{i}", (int(said[i]), 255), weight=weights[i], decided=(int(alerted[i]), 0)) for i in np.flatnonzero(which)
        ]

    wrong = alerted & there & (rng.random(4000) < 0.5)
    turns = {
        "more later": [("alerted_and_random", sampled, there), ("all", np.full(4000, True), there)],
        "corrected": [("all", np.full(4000, True), there & ~wrong), ("alerted", wrong, there)],
    }
    for name, reports in turns.items():
        store = OutcomeStore(tmp_path / name, 64 * MIB)
        for report in reports:
            store.add(reported(*report), replace=True)
        recall = Confirmed(2).add_all(chunk.labels for chunk in chunks_of(store)).recall(0)
        assert recall is not None and recall.value == pytest.approx((alerted & there).sum() / there.sum())
        store.close()


def test_what_was_decided_stays_as_it_was_first_said(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 255), kind=SCORED, logits=(1.0, np.nan), decided=(1, 255))])
    store.add([entry("one", (255, 0), kind=SCORED, logits=(1.0, 2.0), decided=(0, 1))])
    (row,) = kept(store)
    assert row["decided"].tolist() == [1, 1]
    assert row["logit"].tolist() == [1, 2]


@pytest.mark.parametrize("kind", [REQUESTED, SCORED])
def test_a_correction_under_another_policy_is_of_what_was_decided(store: OutcomeStore, kind: int) -> None:
    store.add([entry("one", (1, 255), kind=kind, decided=(1, 0))])
    added = store.add([entry("one", (0, 1), kind=kind, decided=(0, 1))], replace=True)
    assert added.fates == [("corrected", ())]
    assert kept(store)["decided"].tolist() == [[1, 0]]
    # [label, decided, actual]: what was told to the counters is the same.
    assert added.counted[GRAPH].outcomes.tolist() == [[[0, 0], [1, 0]], [[0, 1], [0, 0]]]


@pytest.mark.parametrize("replace", [False, True])
def test_a_requests_answer_is_known_again_but_for_its_last_digits(store: OutcomeStore, replace: bool) -> None:
    store.add([entry("one", (1, 255), logits=(2.0, np.nan))])
    assert fates(store, entry("one", (1, 255), logits=(2.0001, 5.0)), replace=replace) == ["repeated"]
    # The id was used again when its first decision was kept no more.
    assert fates(store, entry("one", (1, 255), logits=(-2.0, 5.0)), replace=replace) == ["other_logits"]
    assert fates(store, entry("one", (0, 1), logits=(2.1, 5.0)), replace=replace) == ["other_logits"]
    assert kept(store)["target"].tolist() == [[1, 255]]


def test_a_key_is_of_one_decision(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 255), kind=SCORED)])
    assert fates(store, entry("one", (1, 1), kind=SCORED, logits=(1.5, -1.0))) == ["other_logits"]
    assert fates(store, entry("one", (1, 1), kind=SCORED, logits=(1.5, -1.0)), replace=True) == ["other_logits"]
    assert fates(store, entry("one", (1, 1), logits=(1.5, -1.0))) == ["taken"]  # another kind of key


def test_any_order_comes_to_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = []
    truth = {f"{i}": rng.integers(0, 2, 2) for i in range(50)}
    for key, targets in truth.items():
        for _ in range(4):
            known = rng.random(2) < 0.5
            if known.any():
                entries.append(entry(key, np.where(known, targets, 255)))
    found = []
    for turn in range(3):
        store = OutcomeStore(tmp_path / str(turn), 8 * MIB)
        total = np.zeros((2, 2, 2), np.int64)
        for start in range(0, len(entries), 7):
            total += store.add(entries[start : start + 7]).counted[GRAPH].outcomes
        rows = sorted(
            zip([key for chunk in chunks_of(store) for _, key, _ in chunk.groups], kept(store)["target"].tolist(), strict=True)
        )  # by key
        found.append((rows, total.tolist()))
        store.close()
        rng.shuffle(entries)  # type: ignore[arg-type]
    assert found[0] == found[1] == found[2]
    rows, counted = found[0]
    assert int(np.sum(counted)) == sum(target != 255 for _, targets in rows for target in targets)


def test_what_was_taken_is_there_after_the_file_is_opened_again(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, 8 * MIB)
    store.add([entry("one", (1, 255)), entry("two", (0, 0), graph=OTHER)])
    store.close()
    again = OutcomeStore(tmp_path, 8 * MIB)
    assert fates(again, entry("one", (1, 255))) == ["repeated"]
    assert again.graphs("linear", 2) == [OTHER]
    assert again.find("linear", b"two", 0, -1)[0].graph == OTHER
    assert again.find("linear", b"two", 0, 0) == again.find("linear", b"two", 1, -1) == again.find("x", b"two", 0, -1) == []
    again.close()


def test_only_the_time_asked_for_is_read(store: OutcomeStore) -> None:
    store.add([entry(f"{i}", (1, 0), decided_s=float(i)) for i in range(10)])
    rows = [key for chunk in chunks_of(store, GRAPH, 3.0, 6.0) for _, key, _ in chunk.groups]
    assert rows == [b"3", b"4", b"5"]
    assert chunks_of(store, GRAPH, 100.0) == chunks_of(store, OTHER) == []


def test_the_oldest_are_dropped_first_and_not_counted_any_more(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, MIB)
    for start in range(0, 20_000, 500):
        graph = GRAPH if start < 10_000 else OTHER
        store.add([entry(f"{i}", (1, 0), graph=graph) for i in range(start, start + 500)])
    rows = store.rows()
    assert rows == {("linear", 1, "0" * 64): len(kept(store)), ("linear", 2, "1" * 64): len(kept(store, OTHER))}
    newest = [int(key) for chunk in chunks_of(store, OTHER) for _, key, _ in chunk.groups]
    assert sorted(newest) == list(range(20_000 - len(newest), 20_000))
    assert 1000 < sum(rows.values()) < 20_000
    store.close()
    assert (tmp_path / "outcomes.sqlite3").stat().st_size < 2 * MIB


WIDE = Graph("wide", 1, "2" * 64, tuple(f"{i}" for i in range(4000)))


def wide(key: str) -> Entry:
    """An entry of 40 KB."""
    labels = np.zeros(4000, LABEL)
    labels["weight"] = 1
    return Entry(WIDE, REQUESTED, key.encode(), 0, -1, 5.0, labels)


def test_what_a_call_adds_is_not_what_it_drops(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, 8 * MIB)
    rows = []
    for turn in range(5):  # 5 MiB each
        keys = [f"{turn}-{i}" for i in range(130)]
        assert fates(store, *map(wide, keys)) == ["taken"] * 130
        rows.append(store.rows()["wide", 1, "2" * 64])
        assert all(store.find("wide", key.encode(), 0, -1) for key in keys)
    assert rows[0] == 130 and min(rows[1:]) > 190  # of the 209 that fit
    # One that is told again is spared, though it is the oldest.
    (oldest, *_), *_ = (chunk.groups for chunk in chunks_of(store, WIDE))
    assert fates(store, wide(oldest[1].decode()), *(wide(f"more {i}") for i in range(130)))[0] == "repeated"
    assert store.find("wide", oldest[1], 0, -1)
    store.close()


def test_rows_of_any_size_stay_within_the_bound(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, 2 * MIB)
    for turn in range(3):
        store.add([entry(f"{turn}-{i}", (1, 0)) for i in range(6000)])
    for turn in range(40):
        store.add([wide(f"{turn}")])
        assert used_bytes(store._db) <= 2 * MIB
    for turn in range(6):
        store.add([entry(f"again {turn}-{i}", (1, 0)) for i in range(3000)])
        assert used_bytes(store._db) <= 2 * MIB
    assert store.rows() == {(graph.model, 1, graph.digest): len(kept(store, graph)) for graph in (GRAPH, WIDE)}
    store.close()


def test_more_than_the_store_may_hold_is_refused_and_nothing_of_it_taken(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, MIB)
    store.add([entry("before", (1, 0))])
    with pytest.raises(BadRequest, match=r"outcomes is 40 of them, 1600000 bytes and their keys; expected less than .* 1 MiB"):
        store.add([wide(f"{i}") for i in range(40)])
    assert store.rows() == {("linear", 1, "0" * 64): 1}
    assert fates(store, entry("before", (1, 0)), wide("one")) == ["repeated", "taken"]
    store.close()


def test_some_rows_are_read_at_a_time_fewer_where_they_are_wide(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, 64 * MIB)
    store.add([wide(f"{i}") for i in range(250)])
    store.add([entry(f"{i}", (1, 0)) for i in range(5000)])
    assert [len(chunk.labels) for chunk in chunks_of(store, WIDE)] == [104, 104, 42]  # of 4 MiB at most
    assert [len(chunk.labels) for chunk in chunks_of(store)] == [4096, 904]
    store.close()


def test_what_is_acknowledged_is_synced_to_the_disk(store: OutcomeStore) -> None:
    for db in (store._db, store._reading_db):
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_full_disk_and_a_locked_file_are_said_and_nothing_is_half_done(tmp_path: Path) -> None:
    store = OutcomeStore(tmp_path, 64 * MIB)
    store.add([entry("before", (1, 0))])
    store._db.execute("PRAGMA max_page_count=20")
    with pytest.raises(Overloaded, match=r"disk is full .* safe to repeat"), said():
        store.add([entry(f"{i}", (1, 0)) for i in range(5000)])
    assert len(kept(store)) == 1
    store._db.execute("PRAGMA max_page_count=100000")
    store._db.execute("PRAGMA busy_timeout=0")
    other = sqlite3.connect(tmp_path / "outcomes.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match=r"in use .* safe to repeat"), said():
        store.add([entry("one", (1, 0))])
    other.execute("ROLLBACK")
    other.close()
    assert fates(store, entry("one", (1, 0)), *(entry(f"{i}", (1, 0)) for i in range(5000))) == ["taken"] * 5001
    with pytest.raises(sqlite3.OperationalError, match="no such table"), said():  # nobody's disk is to blame
        store._db.execute("SELECT * FROM missing")
    store.close()


def test_a_file_that_another_process_opens_at_the_same_moment_is_waited_for() -> None:
    class Locked:
        """Says at first that it is locked, as SQLite does at once where two connections wait for each other."""

        def __init__(self, times: int, code: int = sqlite3.SQLITE_BUSY) -> None:
            self.left, self.code = times, code

        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode=WAL"
            self.left -= 1
            if self.left >= 0:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = self.code
                raise error

    db = Locked(2)
    _write_ahead(cast(sqlite3.Connection, db), pause_s=0.0)
    assert db.left == -1
    for wrong in (Locked(1_000_000), Locked(1, sqlite3.SQLITE_READONLY)):
        with pytest.raises(sqlite3.OperationalError):
            _write_ahead(cast(sqlite3.Connection, wrong), pause_s=0.0)


def test_many_at_a_time_count_each_once(tmp_path: Path) -> None:
    """Two stores on one file are two workers; all report the same."""
    stores = [OutcomeStore(tmp_path, 8 * MIB) for _ in range(2)]
    taken: list[int] = []

    def report(store: OutcomeStore) -> None:
        for start in range(0, 200, 20):
            added = store.add([entry(f"{i}", (1, 0)) for i in range(start, start + 20)])
            taken.append(int(added.counted[GRAPH].outcomes.sum()))

    threads = [threading.Thread(target=report, args=(store,)) for store in stores for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 400
    assert stores[0].rows() == stores[1].rows() == {("linear", 1, "0" * 64): 200}
    for store in stores:
        store.close()


def test_a_snapshot_stays_as_it_is(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 0))])
    with store.snapshot() as snapshot:
        assert sum(len(chunk.labels) for chunk in snapshot.kept(GRAPH)) == 1
        store.add([entry("two", (1, 0), weight=9.0)])
        assert sum(len(chunk.labels) for chunk in snapshot.kept(GRAPH)) == 1
    assert len(kept(store)) == 2
