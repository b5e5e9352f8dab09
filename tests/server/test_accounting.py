"""What is counted of decisions, against sums made one by one in float64."""

import itertools
import threading

import numpy as np
import pytest
from calibrated import KINDS, Clock, policy_of
from cutpoint.calibration import Calibrator, Policy
from cutpoint.errors import BadScores
from cutpoint.server.monitoring.accounting import ModelCounters
from cutpoint.server.monitoring.decided import MANY
from cutpoint.server.monitoring.picker import Picker
from cutpoint.server.monitoring.sums import COUNTERS
from cutpoint.server.policy.policies import Active
from scipy.special import expit


def counters_of(policy: Policy, clock: Clock | None = None, seed: int = 0) -> tuple[ModelCounters, Active]:
    counters = ModelCounters("m", 1, tuple(label.label for label in policy.labels), clock=clock or Clock(), seed=seed)
    active = Active(policy, policy.version, 0.0).prepared()
    counters.apply(active)
    return counters, active


def add(counters: ModelCounters, logits: np.ndarray, active: Active) -> None:
    counters.add(logits, logits >= active.thresholds, active)


def look_at(counters: ModelCounters, picker: Picker) -> None:
    """Have this one say which rows are looked at."""
    counters._sums._picker = picker
    counters._sums.add = counters._sums._adder()
    counters._adopt(counters._sums)


def sums_of(logits: np.ndarray, policy: Policy) -> np.ndarray:
    """[counter, label], one label and one row after the other."""
    flat = logits.reshape(-1, len(policy.labels)).astype(np.float64)
    found = np.zeros((len(COUNTERS), len(policy.labels)))
    for i, label in enumerate(policy.labels):
        if label.threshold is None or label.expected is None:
            continue
        expected, alerts = label.expected, flat[:, i] >= label.threshold
        assert expected.recall is not None and expected.fpr is not None
        rate, error = expected.alert_rate.value, (expected.alert_rate.high - expected.alert_rate.low) / (2 * 1.959964)
        p = expit(label.calibrator.log_odds(flat[:, i]))
        n = len(flat)
        promised = (rate, rate * (1 - rate), error, expected.recall.value, expected.fpr.value, 1)
        found[:, i] = (n, alerts.sum(), *(n * each for each in promised), p.sum(), p[alerts].sum())
    return found


def assert_counted(counters: ModelCounters, wanted: np.ndarray) -> None:
    found = counters.snapshot().sums
    np.testing.assert_allclose(found[:-2], wanted[:-2], rtol=1e-12)
    np.testing.assert_allclose(found[-2:], wanted[-2:], rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize(
    "kinds", [*((kind,) for kind in KINDS), KINDS, KINDS[:3]], ids=lambda kinds: "+".join(k.kind for k in kinds)
)
def test_sums_are_those_of_every_row(kinds: tuple[Calibrator, ...]) -> None:
    policy = policy_of((*kinds, Calibrator()), (*(0.5,) * len(kinds), None))
    counters, active = counters_of(policy)
    look_at(counters, Picker(1.0, 1e12))
    rng = np.random.default_rng(0)
    wanted = np.zeros((len(COUNTERS), len(policy.labels)))
    # Rows one by one, windows, what is held for long, and what is summed at once.
    for shape in ((1,), (7,), (2, 5), (1, 1), (1,), (300,), (1, 6_000), (5_000,)):
        for _ in range(70 if shape == (1,) else 2):
            logits = rng.normal(scale=3, size=(*shape, len(policy.labels))).astype(np.float32)
            add(counters, logits, active)
            wanted += sums_of(logits, policy)
        assert_counted(counters, wanted)
    assert (counters.snapshot().sums[:, -1] == 0).all(), "a label without a threshold decides nothing"


@pytest.mark.parametrize("rows", [255, 256, 257, 511, 512, 1024])
def test_many_rows_of_many_labels_that_all_alert(rows: int) -> None:
    """Sums of wide rows are made in bytes, which hold 255."""
    labels = 80
    counters, active = counters_of(policy_of(KINDS[:1] * labels, (-1.0,) * labels))
    add(counters, np.ones((rows, labels), np.float32), active)
    for _ in range(rows):
        add(counters, np.ones((1, labels), np.float32), active)
    assert counters.snapshot().sums[1].tolist() == [2 * rows] * labels


@pytest.mark.parametrize("labels", [1, 3, 8, 81, 512])
def test_positives_are_exact_however_many_come_at_once(labels: int) -> None:
    """A few rows are held, many are summed in bytes or in words of them; both by 8 and by 255 rows at a time."""
    counters, active = counters_of(policy_of(KINDS[:1] * labels, (0.0,) * labels))
    rng = np.random.default_rng(labels)
    wanted, rows = np.zeros(labels, int), 0
    many = MANY // labels
    shapes = [(1,), (7,), (8,), (9,), (300,), (many - 1,), (many + 1,), (many + 255,), (3, many // 2), (2, 2, many), (0,)]
    for shape in (shapes[i] for i in rng.permutation(4 * len(shapes)) % len(shapes)):
        logits = rng.normal(size=(*shape, labels)).astype(np.float32)
        add(counters, logits, active)
        wanted += (logits >= 0).reshape(-1, labels).sum(axis=0)
        rows += logits.size // labels
        if rng.random() < 0.2:
            assert counters.snapshot().sums[1].tolist() == wanted.tolist()
    sums = counters.snapshot().sums
    assert (sums[0] == rows).all()
    assert sums[1].tolist() == wanted.tolist()


def test_a_few_rows_in_another_order_of_memory_are_the_same_rows() -> None:
    counters, active = counters_of(policy_of(KINDS[:1] * 3, (0.0,) * 3))
    logits = np.asfortranarray(np.array([[1, -1, 1], [1, -1, -1]], np.float32))
    add(counters, logits, active)
    assert counters.snapshot().sums[1].tolist() == [2, 0, 1]


class Busy:
    """A lock that somebody else has; keeps whether those who asked would have waited."""

    def __init__(self) -> None:
        self.waits: list[bool] = []

    def acquire(self, blocking: bool) -> bool:
        self.waits.append(blocking)
        return False


def test_who_scrapes_keeps_nobody_waiting_until_far_too_much_has_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(KINDS[:1] * 80, (0.0,) * 80)
    counters, active = counters_of(policy)
    look_at(counters, Picker(1.0, 1.0))  # next to none
    logits, busy, added = np.ones((200, 80), np.float32), Busy(), 0
    with monkeypatch.context() as patch:
        patch.setattr(counters._sums, "lock", busy)
        while True not in busy.waits:
            add(counters, logits, active)
            added += 1
    assert len(counters._sums._held) == added < 400
    assert busy.waits == [False] * 8 + [True]
    assert counters.snapshot().sums[1].tolist() == [added * 200] * 80
    with monkeypatch.context() as patch:
        patch.setattr(counters._sums, "lock", again := Busy())
        while not again.waits:
            add(counters, logits, active)
    assert again.waits == [False], "nothing has gathered since"


def test_every_row_is_counted_by_the_policy_that_decided_it() -> None:
    policies = [policy_of(KINDS[:2], (0.5, -1.0)), policy_of(KINDS[2:4], (2.0, None), version=2)]
    counters, first = counters_of(policies[0])
    second = Active(policies[1], 2, 0.0).prepared()
    rng = np.random.default_rng(0)
    wanted = np.zeros((len(COUNTERS), 2))
    for turn in range(300):
        if turn == 100:
            counters.apply(second)
        active, policy = ((first, policies[0]), (second, policies[1]))[rng.integers(2)]
        logits = rng.normal(size=(rng.integers(1, 4), 2)).astype(np.float32)
        add(counters, logits, active)
        wanted += sums_of(logits, policy)
        if turn % 50 == 0:
            assert_counted(counters, wanted)
    assert_counted(counters, wanted)


def test_logits_may_be_written_to_once_they_were_added() -> None:
    policy = policy_of(KINDS[:1], (0.0,))
    counters, active = counters_of(policy)
    rows = 6
    for count in (3, 20_000):  # small and large ones
        for logits in (np.full((count, 1), 2.0, np.float32), np.full((3 * count, 1), 2.0, np.float32)[::3]):
            decisions = logits >= active.thresholds
            counters.add(logits, decisions, active)
            logits[:] = -9.0
        assert_counted(counters, sums_of(np.full((rows, 1), 2.0, np.float32), policy))
        rows += 40_000


def test_infinite_logits_do_not_spoil_the_sums() -> None:
    flat = Calibrator(kind="temperature", coefficients=(0.0,))
    policy = policy_of((*KINDS, flat), (0.0,) * (len(KINDS) + 1))
    counters, active = counters_of(policy)
    logits = np.zeros((4, len(policy.labels)), np.float32)
    logits[1], logits[2] = np.inf, -np.inf
    add(counters, logits, active)
    with np.errstate(all="ignore"):
        wanted = sums_of(np.nan_to_num(logits, posinf=1e6, neginf=-1e6), policy)
    wanted[-2:, -1] = 4 * 0.5, 3 * 0.5
    assert_counted(counters, wanted)


def test_beyond_what_may_be_looked_at_counts_stay_exact_and_probabilities_right_on_average() -> None:
    policy = policy_of(KINDS[:3], (1.0, 0.0, 2.0))
    rng = np.random.default_rng(0)
    # Rows that repeat every 64 of them, as those of a caller with 64 sensors do: every k-th from the same start would be wrong.
    logits = np.tile(rng.normal(scale=2, size=(64, 3)), (400, 1)).astype(np.float32)
    wanted = sums_of(np.concatenate([logits] * 3), policy)
    found = []
    for seed in range(30):
        clock = Clock()
        counters, active = counters_of(policy, clock, seed)
        look_at(counters, Picker(50_000, 20_000, clock, seed))
        for at in range(0, len(logits), 64):  # held, then every k-th
            clock.now_s += 1e-3
            add(counters, logits[at : at + 64], active)
        for _ in range(2):  # at once, every k-th
            clock.now_s += 0.4
            add(counters, logits, active)
        found.append(counters.snapshot().sums)
    every = np.array(found)
    assert (every[:, :-2] == every[0, :-2]).all()
    np.testing.assert_allclose(every[0, :-2], wanted[:-2], rtol=1e-12)
    mean, error = every[:, -2:].mean(axis=0), every[:, -2:].std(axis=0, ddof=1) / np.sqrt(len(every))
    assert (error > 0).all() and (error < 0.02 * wanted[-2:]).all()
    assert (np.abs(mean - wanted[-2:]) < 4 * error).all()


@pytest.mark.parametrize("rows", [1, 5, 8, 9, 20, 300])
def test_every_row_of_a_request_stands_for_others_as_often(rows: int) -> None:
    clock, turns = Clock(), 4000 if rows < 100 else 1000
    policy = policy_of(KINDS[:1] * rows, (30.0,) * rows)
    counters, active = counters_of(policy, clock)
    look_at(counters, Picker(100.0 * rows * rows, 50.0 * rows * rows, clock, seed=1))
    logits = np.where(np.eye(rows, dtype=bool), 20.0, -20.0).astype(np.float32)  # row i is label i's
    for _ in range(turns):
        clock.now_s += 0.0025  # a quarter
        add(counters, logits, active)
    found = counters.snapshot().sums[list(COUNTERS).index("cutpoint_probability")] / turns
    assert found.mean() == pytest.approx(1, abs=0.1)
    assert np.abs(found - 1).max() < 6 * np.sqrt(30 / turns)


def test_no_decision_is_lost_or_counted_twice_between_threads() -> None:
    policy = policy_of(KINDS[:2], (0.0, 0.0))
    counters, active = counters_of(policy)
    other = Active(policy_of(KINDS[:2], (0.0, 0.0), version=2), 2, 0.0).prepared()
    logits = np.array([[1.0, -1.0]], np.float32)
    large = np.ones((9000, 2), np.float32)
    done = threading.Event()

    def count(turns: int) -> None:
        for i in range(turns):
            add(counters, logits, active)
            if i % 500 == 0:
                add(counters, large, other)

    def look() -> None:
        before = np.zeros(2)
        while not done.is_set():
            now = counters.snapshot().sums[0]
            assert (now >= before).all()
            before = now

    threads = [threading.Thread(target=count, args=(5000,)) for _ in range(4)]
    looking = threading.Thread(target=look)
    for thread in (looking, *threads):
        thread.start()
    for thread in threads:
        thread.join(120)
    done.set()
    looking.join(60)
    sums = counters.snapshot().sums
    assert sums[0].tolist() == [4 * 5000 + 4 * 10 * 9000] * 2
    assert sums[1].tolist() == [4 * 5000 + 4 * 10 * 9000, 4 * 10 * 9000]


def test_a_reload_counts_on_and_other_labels_start_anew() -> None:
    policy = policy_of(KINDS[:2], (0.0, 0.0))
    before, active = counters_of(policy)
    logits = np.ones((3, 2), np.float32)
    add(before, logits, active)
    before.outcome(1, True, False, 2)
    after = ModelCounters("m", 1, before.labels, clock=Clock())
    again = Active(policy, 1, 0.0).prepared()
    after.apply(again)
    after.go_on_from(before)
    add(before, logits, active)  # a request that the one before had accepted
    add(after, logits, again)
    assert_counted(after, sums_of(np.ones((9, 2), np.float32), policy))
    assert after.snapshot().outcomes[1, 0].tolist() == [0, 2]
    assert after.snapshot().window_rows == 6, "the window goes on where the policy is the same; late rows are not in it"
    other = ModelCounters("m", 1, ("only",), clock=Clock())
    other.go_on_from(before)
    assert (other.snapshot().sums == 0).all()


def test_an_older_policy_that_a_replaced_object_is_told_late_does_not_take_the_window() -> None:
    before, _ = counters_of(policy_of(KINDS[:2], (0.0, 0.0)))
    after = ModelCounters("m", 1, before.labels, clock=Clock())
    now = Active(policy_of(KINDS[:2], (0.0, 0.0), version=3), 3, 0.0).prepared()
    after.go_on_from(before)
    after.apply(now)
    before.apply(Active(policy_of(KINDS[:2], (0.0, 0.0), version=2), 2, 0.0).prepared())
    add(after, np.ones((5, 2), np.float32), now)
    assert after.snapshot().window_rows == 5


def test_without_accounting_nothing_is_counted() -> None:
    counters = ModelCounters("m", 1, ("label 0",), counts=False)
    active = Active(policy_of(KINDS[:1], (0.0,)), 1, 0.0)
    counters.apply(active)
    add(counters, np.ones((3, 1), np.float32), active)
    assert (counters.snapshot().sums == 0).all()
    assert counters.snapshot().promises[0].tolist() == [0.0]


def test_logits_of_other_labels_are_refused_and_spoil_nothing() -> None:
    policy = policy_of(KINDS[:2], (0.0, 0.0))
    counters, active = counters_of(policy)
    add(counters, np.ones((3, 2), np.float32), active)
    with pytest.raises(BadScores, match="answered 1 logits for its 2 labels"):
        add(counters, np.ones((3, 1), np.float32), active)
    assert_counted(counters, sums_of(np.ones((3, 2), np.float32), policy))


def test_what_is_picked_settles_at_what_comes_in() -> None:
    clock = Clock()
    picker = Picker(100.0, 1000.0, clock, seed=0)
    for rows in (300, 150):
        assert picker.pick(rows, 1.0) == (slice(None), 1), "all, while half is there"
    looked, stood = 0, 0
    for turn in range(40_000):
        clock.now_s += 0.01  # a number comes, ten are there
        found = picker.pick(10, 1.0)
        if found is not None and turn >= 20_000:
            count = len(np.arange(10)[found[0]])
            looked += count
            stood += count * found[1]
    assert looked == pytest.approx(20_000, rel=0.05)
    assert stood == pytest.approx(200_000, rel=0.05)
    clock.now_s += 1e9
    picker.pick(1, 1.0)
    found = picker.pick(10_000_000, 1.0)
    assert found is not None and not isinstance(found[0], slice), "of very many, some"
    assert len(found[0]) == pytest.approx(500, rel=0.3) and found[1] == pytest.approx(20_000, rel=0.1)


@pytest.mark.parametrize("rows", [1, 7, 64, 5000])
def test_every_row_is_picked_with_the_same_chance(rows: int) -> None:
    clock = Clock()
    picker = Picker(100.0 * rows, 50.0 * rows, clock, seed=1)
    chance = np.zeros(rows)
    turns = 20_000 if rows < 1000 else 400
    for _ in range(turns):
        clock.now_s += 0.002  # a fifth
        found = picker.pick(rows, 1.0)
        if found is not None:
            chance[found[0]] += found[1]
    chance /= turns
    assert chance.mean() == pytest.approx(1, abs=0.03)
    assert np.abs(chance - 1).max() < 6 * np.sqrt(30 / turns), "each stands for others as often as for itself"


def test_held_bytes_are_bounded() -> None:
    policy = policy_of(KINDS[:1], (0.0,))
    counters, active = counters_of(policy)
    for size in itertools.islice(itertools.cycle((1, 1, 1, 16_000)), 2000):
        add(counters, np.zeros((size, 1), np.float32), active)
        sums = counters._sums
        held = [sums_or_all.nbytes for _, _, sums_or_all in sums._held]
        assert sum(held) + sum(len(picked) for _, _, picked in sums._picked) < 3 << 20
        assert len(held) <= 1024
