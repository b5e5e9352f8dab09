"""The decisions that are kept by request id: found again, bounded, and never mistaken for another's."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cutpoint.errors import BadConfig
from cutpoint.server.outcomes.database import Graph
from cutpoint.server.outcomes.decisions import DecisionLog

GRAPH = Graph("linear", 1, "0" * 64, ("a", "b"))
OTHER = Graph("linear", 2, "1" * 64, ("a", "b", "c"))
MIB = 1 << 20
NEVER_S = 1e6  # nothing is written before a flush


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    made = DecisionLog(tmp_path, MIB, now_s=lambda: 7.0, gather_s=NEVER_S)
    yield made
    made.close()


def logits(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_decision_is_found_by_its_request(log: DecisionLog) -> None:
    first, second = logits(0, 3, 2), logits(1, 2, 5, 3)
    log.keep(GRAPH, "one", 0, first, 4)
    log.keep(OTHER, "zwei/\0ü", 0, second, 0)
    assert log.find("linear", "one") == []  # not yet
    log.flush()
    (found,) = log.find("linear", "one")
    assert (found.graph, found.first_row, found.windows, found.policy, found.decided_s, found.ambiguous) == (
        GRAPH, 0, 0, 4, 7.0, False,
    )  # fmt: skip
    np.testing.assert_array_equal(found.logits, first)
    (windows,) = log.find("linear", "zwei/\0ü")
    assert (windows.graph, windows.windows, windows.policy) == (OTHER, 5, 0)
    np.testing.assert_array_equal(windows.logits, second)
    assert log.find("linear", "on") == log.find("linear", "") == log.find("other", "one") == []


def test_what_gathers_is_written_by_itself(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, MIB, gather_s=0.0)
    log.keep(GRAPH, "one", 0, logits(0, 1, 2), 1)
    for _ in range(10_000):
        if log.find("linear", "one"):
            break
        threading.Event().wait(0.001)
    assert log.find("linear", "one")
    log.keep(GRAPH, "two", 0, logits(0, 1, 2), 1)
    log.close()
    again = DecisionLog(tmp_path, MIB)
    assert again.find("linear", "two") and again.find("linear", "one")
    again.close()


def test_parts_of_one_array_are_one_request(log: DecisionLog) -> None:
    log.keep(GRAPH, "large", 3, logits(1, 2, 2), 1)
    log.keep(GRAPH, "large", 0, logits(0, 3, 2), 1)
    log.flush()
    assert [(each.first_row, len(each.logits), each.ambiguous) for each in log.find("linear", "large")] == [
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
    found = {name: log.find("linear", name) for name in ("same", "nearly", "other", "longer", "turned")}
    assert {name: [each.ambiguous for each in some] for name, some in found.items()} == {
        "same": [False], "nearly": [False], "other": [True], "longer": [True], "turned": [True],
    }  # fmt: skip
    log.keep(GRAPH, "other", 0, answer, 1)  # it stays so
    log.flush()
    assert log.find("linear", "other")[0].ambiguous


def test_versions_are_told_apart(log: DecisionLog) -> None:
    log.keep(GRAPH, "one", 0, logits(0, 1, 2), 1)
    log.keep(OTHER, "one", 0, logits(0, 1, 3), 1)
    log.keep(Graph("another", 1, "0" * 64, ("x",)), "one", 0, logits(0, 1, 1), 1)
    log.flush()
    assert [each.graph for each in log.find("linear", "one")] == [GRAPH, OTHER]
    assert len(log.find("another", "one")) == 1


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 2)])
def test_what_cannot_be_named_later_is_not_kept(log: DecisionLog, shape: tuple[int, ...]) -> None:
    log.keep(GRAPH, "one", 0, logits(0, *shape), 1)
    log.keep(GRAPH, "x" * 1001, 0, logits(0, 1, 2), 1)
    log.flush()
    assert log.find("linear", "one") == log.find("linear", "x" * 1001) == []
    assert log.dropped == 0


def test_the_oldest_are_dropped_first(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path, MIB, gather_s=NEVER_S)
    for i in range(3000):
        log.keep(GRAPH, f"request {i}", 0, logits(i, 100, 2), 1)
        if i % 100 == 99:
            log.flush()
    log.flush()
    kept = [i for i in range(3000) if log.find("linear", f"request {i}")]
    assert kept == list(range(kept[0], 3000))
    assert MIB / 2 < len(kept) * 800 < MIB
    log.close()
    assert (tmp_path / "decisions.sqlite3").stat().st_size < 3 * MIB


def test_what_cannot_be_written_in_time_is_counted(log: DecisionLog) -> None:
    large = np.zeros((1 << 20, 2), np.float32)  # 8 MiB
    for i in range(6):
        log.keep(GRAPH, f"{i}", 0, large, 1)
    assert log.dropped == 3
    log.flush()
    log.keep(GRAPH, "after", 0, logits(0, 1, 2), 1)
    log.flush()
    assert log.find("linear", "after")


def test_a_batch_that_fails_is_counted_and_the_next_one_written(log: DecisionLog, tmp_path: Path) -> None:
    log.keep(GRAPH, "lost", 0, logits(0, 1, 2), 1)
    log._writing_db.execute("ALTER TABLE decision RENAME TO away")
    log.flush()
    assert log.dropped == 1
    log._writing_db.execute("ALTER TABLE away RENAME TO decision")
    log.keep(GRAPH, "kept", 0, logits(0, 1, 2), 1)
    log.flush()
    assert log.find("linear", "kept") and not log.find("linear", "lost")


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
    assert all(log.find("linear", f"{name}{i}") for log in (one, other) for name in ("one", "other") for i in range(200))
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
