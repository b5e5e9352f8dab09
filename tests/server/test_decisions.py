"""The decisions that are kept by request id: found again, bounded, and never mistaken for another's."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from cutpoint.errors import BadConfig
from cutpoint.server.outcomes.database import Graph, used_bytes
from cutpoint.server.outcomes.decisions import Decision, DecisionLog

GRAPH = Graph("linear", 1, "0" * 64, ("a", "b"))
OTHER = Graph("linear", 2, "1" * 64, ("a", "b", "c"))
MIB = 1 << 20
NEVER_S = 1e6  # nothing is written before a flush


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    made = DecisionLog(tmp_path, MIB, now_s=lambda: 7.0, gather_s=NEVER_S)
    yield made
    made.close()


EVERY = [(row, window) for row in range(200) for window in range(-1, 6)]


def found_by(log: DecisionLog, request_id: str, model: str = "linear") -> list[Decision]:
    return log.find(model, request_id, EVERY)


def array_in(found: Decision) -> np.ndarray:
    """Logits [row, label] or [row, window, label], of all rows."""
    rows = range(found.first_row, found.first_row + found.rows)
    if not found.windows:
        return np.array([found.logits[row, -1] for row in rows])
    return np.array([[found.logits[row, window] for window in range(found.windows)] for row in rows])


def logits(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_decision_is_found_by_its_request(log: DecisionLog) -> None:
    first, second = logits(0, 3, 2), logits(1, 2, 5, 3)
    log.keep(GRAPH, "one", 0, first, 4)
    log.keep(OTHER, "zwei/\0ü", 0, second, 0)
    assert found_by(log, "one") == []  # not yet
    log.flush()
    (found,) = found_by(log, "one")
    assert (found.graph, found.first_row, found.windows, found.policy, found.decided_s, found.ambiguous) == (
        GRAPH, 0, 0, 4, 7.0, False,
    )  # fmt: skip
    np.testing.assert_array_equal(array_in(found), first)
    (windows,) = found_by(log, "zwei/\0ü")
    assert (windows.graph, windows.windows, windows.policy) == (OTHER, 5, 0)
    np.testing.assert_array_equal(array_in(windows), second)
    assert found_by(log, "on") == found_by(log, "") == found_by(log, "one", "other") == []


def test_what_gathers_is_written_by_itself(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, MIB, gather_s=0.0)
    log.keep(GRAPH, "one", 0, logits(0, 1, 2), 1)
    for _ in range(10_000):
        if found_by(log, "one"):
            break
        threading.Event().wait(0.001)
    assert found_by(log, "one")
    log.keep(GRAPH, "two", 0, logits(0, 1, 2), 1)
    log.close()
    again = DecisionLog(tmp_path, MIB)
    assert found_by(again, "two") and found_by(again, "one")
    again.close()


def test_parts_of_one_array_are_one_request(log: DecisionLog) -> None:
    log.keep(GRAPH, "large", 3, logits(1, 2, 2), 1)
    log.keep(GRAPH, "large", 0, logits(0, 3, 2), 1)
    log.flush()
    assert [(each.first_row, each.rows, each.ambiguous) for each in found_by(log, "large")] == [
        (0, 3, False), (3, 2, False),
    ]  # fmt: skip


@pytest.mark.parametrize("flushed", [True, False])
def test_the_same_answer_twice_is_one_and_another_one_is_nobodys(log: DecisionLog, flushed: bool) -> None:
    answer = logits(0, 3, 2)
    for name, second in (
        ("same", answer), ("nearly", answer + np.float32(1e-5)), ("other", answer + 1), ("longer", logits(0, 4, 2)),
        ("turned", answer.reshape(2, 3)),
    ):  # fmt: skip
        log.keep(GRAPH, name, 0, answer, 1)
        if flushed:
            log.flush()
        log.keep(GRAPH, name, 0, second, 1)
    log.flush()
    found = {name: found_by(log, name) for name in ("same", "nearly", "other", "longer", "turned")}
    assert {name: [each.ambiguous for each in some] for name, some in found.items()} == {
        "same": [False], "nearly": [False], "other": [True], "longer": [True], "turned": [True],
    }  # fmt: skip
    log.keep(GRAPH, "other", 0, answer, 1)  # it stays so
    log.flush()
    assert found_by(log, "other")[0].ambiguous


def test_versions_are_told_apart(log: DecisionLog) -> None:
    log.keep(GRAPH, "one", 0, logits(0, 1, 2), 1)
    log.keep(OTHER, "one", 0, logits(0, 1, 3), 1)
    log.keep(Graph("another", 1, "0" * 64, ("x",)), "one", 0, logits(0, 1, 1), 1)
    log.flush()
    assert [each.graph for each in found_by(log, "one")] == [GRAPH, OTHER]
    assert len(found_by(log, "one", "another")) == 1


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 2)])
def test_what_cannot_be_named_later_is_not_kept(log: DecisionLog, shape: tuple[int, ...]) -> None:
    log.keep(GRAPH, "one", 0, logits(0, *shape), 1)
    log.keep(GRAPH, "x" * 1001, 0, logits(0, 1, 2), 1)
    log.keep(GRAPH, "ü" * 501, 0, logits(0, 1, 2), 1)  # of bytes, as in a report
    log.keep(GRAPH, "ü" * 500, 0, logits(0, 1, 2), 1)
    log.flush()
    assert found_by(log, "one") == found_by(log, "x" * 1001) == found_by(log, "ü" * 501) == []
    assert found_by(log, "ü" * 500)
    assert log.dropped == 0


def test_the_oldest_are_dropped_first(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, MIB, gather_s=NEVER_S)
    for i in range(3000):
        log.keep(GRAPH, f"request {i}", 0, logits(i, 100, 2), 1)
        if i % 100 == 99:
            log.flush()
    log.flush()
    kept = [i for i in range(3000) if found_by(log, f"request {i}")]
    assert kept == list(range(kept[0], 3000))
    assert MIB / 2 < len(kept) * 800 < MIB
    log.close()
    assert (tmp_path / "decisions.sqlite3").stat().st_size < 3 * MIB


def test_a_part_that_comes_does_not_drop_all_before_it(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, 8 * MIB, gather_s=NEVER_S)
    kept = []
    for i in range(40):
        log.keep(OTHER, "array", i * 50_000, np.zeros((50_000, 3), np.float32), 1)  # 0.6 MB
        log.flush()
        kept.append([part.first_row // 50_000 for part in found_by(log, "array")])
    assert kept[-1] == list(range(kept[-1][0], 40))
    assert all(len(each) == i + 1 if i < 12 else 11 < len(each) < 14 for i, each in enumerate(kept)), list(map(len, kept))
    log.close()


def test_answers_of_any_size_stay_within_the_bound(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, 2 * MIB, gather_s=NEVER_S)
    for i in range(10_000):
        log.keep(GRAPH, f"small {i}", 0, logits(0, 1, 2), 1)
    log.flush()
    assert found_by(log, "small 0")
    for i in range(20):
        log.keep(GRAPH, f"large {i}", 0, np.zeros((100_000, 2), np.float32), 1)
        log.flush()
        assert used_bytes(log._writing_db) <= 2 * MIB
        assert found_by(log, f"large {i}")
    assert log.dropped == 0
    log.keep(GRAPH, "larger than all", 0, np.zeros((200_000, 2), np.float32), 1)
    log.flush()
    assert log.dropped == 1 and found_by(log, "large 19")
    log.close()


def test_only_the_parts_that_are_asked_for_are_read(log: DecisionLog) -> None:
    parts = [logits(i, 3, 2) for i in range(4)]
    for i, part in enumerate(parts):
        log.keep(GRAPH, "array", 3 * i, part, 1)
    log.flush()
    read: list[str] = []
    log._reading_db.set_trace_callback(read.append)
    found = log.find("linear", "array", {(4, -1), (8, -1), (6, -1), (4, 0), (99, -1)})
    log._reading_db.set_trace_callback(None)
    assert [(each.first_row, each.rows, sorted(each.logits)) for each in found] == [
        (0, 3, []), (3, 3, [(4, -1)]), (6, 3, [(6, -1), (8, -1)]), (9, 3, []),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[2].logits[8, -1], parts[2][2])
    assert sum(statement.startswith("SELECT logits") for statement in read) == 2


def test_what_cannot_be_written_in_time_is_counted(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, 64 * MIB, gather_s=NEVER_S)
    large = np.zeros((1 << 20, 2), np.float32)  # 8 MiB
    for i in range(6):
        log.keep(GRAPH, f"{i}", 0, large, 1)
    assert log.dropped == 3
    log.flush()
    log.keep(GRAPH, "after", 0, logits(0, 1, 2), 1)
    log.flush()
    assert found_by(log, "after")
    log.close()


def test_a_batch_that_fails_is_counted_and_the_next_one_written(log: DecisionLog, tmp_path: Path) -> None:
    log.keep(GRAPH, "lost", 0, logits(0, 1, 2), 1)
    log._writing_db.execute("ALTER TABLE decision RENAME TO away")
    log.flush()
    assert log.dropped == 1
    log._writing_db.execute("ALTER TABLE away RENAME TO decision")
    log.keep(GRAPH, "kept", 0, logits(0, 1, 2), 1)
    log.flush()
    assert found_by(log, "kept") and not found_by(log, "lost")


def test_what_nobody_foresaw_does_not_end_the_writing(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, MIB, gather_s=0.0)
    log.keep(GRAPH, "lost", 0, logits(0, 1, 2), cast(int, object()))
    log.flush()
    assert log.dropped == 1
    log.keep(GRAPH, "kept", 0, logits(0, 1, 2), 1)
    for _ in range(10_000):
        if found_by(log, "kept"):
            break
        threading.Event().wait(0.001)
    assert found_by(log, "kept") and log._thread.is_alive()
    log.close()


def test_two_processes_may_have_one_log(tmp_path: Path) -> None:
    one, other = (DecisionLog(tmp_path, MIB, gather_s=NEVER_S) for _ in range(2))

    def decide(log: DecisionLog, name: str) -> None:
        for i in range(200):
            log.keep(GRAPH, f"{name}{i}", 0, logits(i, 1, 2), 1)
            log.flush()

    threads = [threading.Thread(target=decide, args=of) for of in ((one, "one"), (other, "other"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found_by(log, f"{name}{i}") for log in (one, other) for name in ("one", "other") for i in range(200))
    assert one.dropped == other.dropped == 0
    one.close()
    other.close()


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(BadConfig, match=r"state folder .* cannot be used"):
        DecisionLog(tmp_path / "state", MIB)
    (tmp_path / "decisions.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(BadConfig, match="not a database"):
        DecisionLog(tmp_path, MIB)
