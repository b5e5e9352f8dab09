"""Outcomes on disk: each label of a decision once, whatever comes again, in whatever order."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutpoint.server.outcomes.database import Graph
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
    for weight in (0.0, 2.0):
        assert not store.add([entry("one", (1, 255), weight=weight)]).counted[GRAPH].recallable.any()
    assert kept(store)["weight"].tolist() == [[10, 0]]


def test_what_was_decided_stays_as_it_was_first_said(store: OutcomeStore) -> None:
    store.add([entry("one", (1, 255), kind=SCORED, logits=(1.0, np.nan), decided=(1, 255))])
    store.add([entry("one", (255, 0), kind=SCORED, logits=(1.0, 2.0), decided=(0, 1))])
    (row,) = kept(store)
    assert row["decided"].tolist() == [1, 1]
    assert row["logit"].tolist() == [1, 2]


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
