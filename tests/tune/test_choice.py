"""The choice follows from the table, whatever was measured."""

import math

import numpy as np
import pytest
from cutpoint.bundle import Absent, Busy, Computation, Detection, Idle, Measured, Way
from cutpoint.errors import BadConfig
from cutpoint.tune.choice import Ratio, choose, compare
from scipy import stats

FP32, INT8 = Computation(), Computation(graph="int8")
BF16 = Computation(provider="openvino", hint="bf16")
LANES, BATCHES, WIDE = Way(lanes=2), Way(lanes=2, max_batch_rows=8), Way(wide=True)
NOISE = (1.0, 1.02, 0.98, 1.01, 0.99)
OTHER_NOISE = (0.98, 1.01, 1.0, 1.02, 0.99)


def detection(computation: Computation, ap: float = 0.9, refused: str = "") -> Detection:
    return Detection(
        computation=computation, average_precision=ap, reference=0.9, loss=0.9 - ap, max_abs_difference=0.01,
        batch_difference=0.0, changed=0.0, refused=refused,
    )  # fmt: skip


def busy(computation: Computation, way: Way, rate: float, noise: tuple[float, ...] = NOISE) -> Busy:
    return Busy(computation=computation, way=way, rows_per_s=tuple(rate * each for each in noise))


def idle(computation: Computation, wide: bool, ms: float, noise: tuple[float, ...] = NOISE) -> Idle:
    return Idle(computation=computation, wide=wide, p50_ms=tuple(ms * each for each in noise))


def table(detections: list[Detection], rates: list[Busy], latencies: list[Idle], **fields: object) -> Measured:
    return Measured.model_validate(
        {
            "callers": 16, "request_rows": 1, "valid_rows": 100, "ap_loss_allowed": 0.002, "detection": detections,
            "busy": rates, "idle": latencies, **fields,
        }
    )  # fmt: skip


BOTH = [detection(FP32), detection(INT8, 0.899)]


def test_the_fastest_of_what_detects_well_enough_is_chosen() -> None:
    chosen = choose(table(BOTH, [busy(FP32, LANES, 200), busy(INT8, LANES, 700)], [idle(FP32, False, 7), idle(INT8, False, 2)]))
    assert (chosen.computation, chosen.way, chosen.wide) == (INT8, LANES, False)
    assert "3.5" in chosen.reason and "0.8990 beside 0.9000" in chosen.reason
    assert [each.what for each in chosen.lost] == ["fp32, cpu"] and chosen.lost[0].why.startswith("0.29 times the speed")


def test_what_was_refused_is_not_chosen_however_fast() -> None:
    refused = detection(INT8, 0.8, "loses 0.1000 of average precision, more than 0.002")
    chosen = choose(
        table(
            [detection(FP32), refused], [busy(FP32, LANES, 200), busy(INT8, LANES, 7000)],
            [idle(FP32, False, 7), idle(INT8, False, 2)],
        )
    )  # fmt: skip
    assert chosen.computation == FP32
    assert [(each.what, each.why) for each in chosen.lost] == [("int8, cpu", refused.refused)]


@pytest.mark.parametrize("rate", [204.0, 198.0])
def test_of_two_that_cannot_be_told_apart_the_simpler_is_chosen(rate: float) -> None:
    rates = [busy(INT8, LANES, rate, OTHER_NOISE), busy(FP32, LANES, 200)]
    chosen = choose(table(BOTH, rates, [idle(FP32, False, 7), idle(INT8, False, 7)]))
    assert chosen.computation == FP32
    assert "less simple" in chosen.lost[0].why or "cannot be told apart" in chosen.lost[0].why


def test_a_gain_that_the_rounds_do_not_agree_on_is_none() -> None:
    rates = [busy(FP32, LANES, 200), busy(INT8, LANES, 230, (0.6, 1.4, 1.0, 0.7, 1.5))]
    assert choose(table(BOTH, rates, [idle(FP32, False, 7), idle(INT8, False, 7)])).computation == FP32


def test_the_default_provider_is_simpler_than_another_in_fp32() -> None:
    openvino = Computation(provider="openvino")
    rates = [busy(openvino, LANES, 205), busy(FP32, LANES, 200)]
    chosen = choose(table([detection(openvino), detection(FP32)], rates, [idle(FP32, False, 7), idle(openvino, False, 7)]))
    assert chosen.computation == FP32


def test_each_load_has_its_own_winner() -> None:
    measured = table(
        [detection(FP32), detection(INT8), detection(BF16)],
        [busy(FP32, LANES, 200), busy(INT8, LANES, 800), busy(BF16, LANES, 600)],
        [idle(FP32, False, 7), idle(INT8, False, 3), idle(BF16, True, 1.5)],
    )
    assert choose(measured).computation == INT8
    fastest = choose(measured, "idle")
    assert (fastest.computation, fastest.wide) == (BF16, True)


def test_the_way_is_chosen_by_rows_a_second_and_all_cores_by_the_ms_of_one_caller() -> None:
    rates = [busy(FP32, LANES, 200), busy(FP32, BATCHES, 150), busy(FP32, WIDE, 190)]
    chosen = choose(table([detection(FP32)], rates, [idle(FP32, False, 7), idle(FP32, True, 4.5)]))
    assert (chosen.way, chosen.wide) == (LANES, True)
    rates = [busy(FP32, LANES, 200), busy(FP32, BATCHES, 900), busy(FP32, WIDE, 190)]
    chosen = choose(table([detection(FP32)], rates, [idle(FP32, False, 7), idle(FP32, True, 6.9)]))
    assert (chosen.way, chosen.wide) == (BATCHES, False)
    assert [each.what for each in chosen.lost] == [str(LANES), str(WIDE)]


def test_what_was_given_up_after_a_first_look_is_not_chosen() -> None:
    rates = [busy(FP32, LANES, 200), Busy(computation=FP32, way=WIDE, rows_per_s=(300,))]
    chosen = choose(table([detection(FP32)], rates, [idle(FP32, False, 7)]))
    assert chosen.way == LANES
    assert chosen.lost[0].why == "given up after a first look"
    rates = [Busy(computation=FP32, way=LANES, rows_per_s=(20,)), busy(FP32, WIDE, 300)]  # the simplest one, at that
    assert choose(table([detection(FP32)], rates, [idle(FP32, False, 7)])).way == WIDE


def test_what_could_not_be_had_is_said() -> None:
    absent = Absent(computation=BF16, why="no such provider")
    chosen = choose(table([detection(FP32)], [busy(FP32, LANES, 200)], [idle(FP32, False, 7)], absent=[absent]))
    assert [(each.what, each.why) for each in chosen.lost] == [("fp32, openvino in bf16", "no such provider")]


def test_a_table_of_nothing_that_may_be_served_has_no_choice() -> None:
    measured = table([detection(FP32, refused="bad")], [busy(FP32, LANES, 200)], [idle(FP32, False, 7)])
    with pytest.raises(BadConfig, match="bad"):
        choose(measured)


def test_rounds_are_compared_in_pairs_by_students_interval() -> None:
    theirs = np.array([100.0, 50, 200, 80, 120])
    ours = theirs * np.array([1.5, 1.6, 1.4, 1.55, 1.45])
    logs = np.log(ours / theirs)
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    found = compare(ours.tolist(), theirs.tolist())
    np.testing.assert_allclose([found.median, found.low, found.high], [1.5, math.exp(low), math.exp(high)])
    assert found.clear
    assert compare([2.0], [1.0]) == Ratio(2.0, 0.0, math.inf) and not compare([2.0], [1.0]).clear
