"""A policy as a table: what stands in it, in which order, and what the title and the caption say of a guarantee."""

import re
from typing import Any

import pytest
from cutpoint.calibration import Guarantee, Guaranteed, LabelPolicy, Policy
from cutpoint.calibration.expected import expected_at
from cutpoint.calibration.policy import Counts, DataSummary, Status
from cutpoint.terminal import console, plain_table, policy_table

RARE = Counts(positives=20, negatives=99980, tp=2, fp=31)
SURE = Guaranteed(rate="recall", bound=0.9, delta=0.05, unit="row", counted=20)
GROUPED = DataSummary(source="scores", rows=100000, groups=250)


def label(name: str, status: Status = "OK", *, sure: bool = False, counts: Counts = RARE, reason: str = "") -> LabelPolicy:
    decided = status in ("OK", "FALLBACK")
    return LabelPolicy(
        label=name, objective="recall_at_least=0.9", status=status, threshold=-1.5 if decided else None, counts=counts,
        expected=expected_at(counts) if decided else None, guarantee=SURE if sure else None, reason=reason,
    )  # fmt: skip


def printed(*labels: LabelPolicy, **more: Any) -> list[str]:
    policy = Policy(model="m", model_version=1, model_digest="", created="", author="", data_digest="", labels=labels, **more)
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(policy_table(policy))
    return [line.strip() for line in captured.get().splitlines()]


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line)


def test_a_rare_label_has_digits_that_say_something() -> None:
    lines = printed(label("r"), label("all", counts=Counts(positives=5, negatives=5, tp=5, fp=0)))
    assert cells(lines[2]) == ["label", "status", "positives", "logit cut", "precision", "recall", "fpr", "alert rate"]
    assert cells(lines[4])[:5] == ["r", "OK", "20", "-1.500", "0.0606 0.0074-0.20"]
    assert cells(lines[4])[5:] == ["0.100 0.012-0.32", "0.000310 0.00021-0.00044", "0.000330 0.00023-0.00046"]
    assert cells(lines[5])[4:] == ["1 0.48-1", "1 0.48-1", "0 0-0.52", "0.500 0.19-0.81"]


def test_labels_that_need_looking_at_come_first_and_more_are_counted_by_status() -> None:
    kinds: list[Status] = ["OK", "FALLBACK", "INFEASIBLE", "OK", "INSUFFICIENT"]
    lines = printed(*(label(f"l{i}", kinds[i % 5], reason=f"reason {i}") for i in range(25)))
    shown = [cells(line)[1] for line in lines if re.match(r"l\d+ ", line)]
    assert shown == ["INSUFFICIENT"] * 5 + ["INFEASIBLE"] * 5 + ["FALLBACK"] * 5 + ["OK"] * 5
    whole = " ".join(lines)
    assert "and 5 more labels; of all 25: 5 INSUFFICIENT, 5 INFEASIBLE, 5 FALLBACK, 10 OK" in whole
    assert whole.index("l4: reason 4") < whole.index("l2: reason 2") < whole.index("l1: reason 1")
    assert "more labels" not in " ".join(printed(label("a")))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([label("a", sure=True), label("b", sure=True)], ", guaranteed with 0.95 confidence"),
        ([label("a", sure=True), label("b", "INSUFFICIENT")], ", guaranteed with 0.95 confidence"),
        ([label("a", sure=True), label("b", "FALLBACK")], ", guaranteed for 1 of 2 labels with 0.95 confidence"),
        ([label("a", "INSUFFICIENT")], ", guaranteed for 0 of 1 labels with 0.95 confidence"),
    ],
)
def test_the_title_does_not_claim_a_guarantee_of_labels_without_one(labels: list[LabelPolicy], said: str) -> None:
    title = "policy 1 of m/1 for recall_at_least=0.9"
    assert printed(*labels, guarantee=Guarantee(delta=0.05))[0] == title + said
    assert printed(*labels)[0] == title


def test_a_guarantee_of_rows_that_are_in_groups_is_pointed_out() -> None:
    warning = "the guarantee takes rows as independent, although they are in 250 groups: see --by-group"
    by_row, by_group = Guarantee(delta=0.05), Guarantee(delta=0.05, unit="group")
    assert warning in " ".join(printed(label("a", sure=True), guarantee=by_row, data=GROUPED))
    for more in ({"guarantee": by_group, "data": GROUPED}, {"data": GROUPED}, {"guarantee": by_row}):
        assert "takes rows as independent" not in " ".join(printed(label("a", sure=True), **more))


def test_labels_whose_doubled_rate_raises_no_alert_are_named_and_those_beyond_three_counted() -> None:
    few = label("few", counts=Counts(positives=4, negatives=96, tp=2, fp=2))
    often = label("often", counts=Counts(positives=4, negatives=6, tp=4, fp=0))  # four times that is more than all
    none = label("none", counts=Counts(positives=1, negatives=99, tp=0, fp=0))
    known = label("known", counts=Counts(positives=900, negatives=99100, tp=800, fp=800))
    said = "so few rows that a doubled alert rate raises no alert; CutpointPositiveRateHigh fires for"
    lines = printed(known, few, often, label("undecided", "INSUFFICIENT"))
    assert lines[lines.index(said) + 1] == "often never, few only beyond 4.2 times"
    lines = printed(known, few, none, few, few, few, data=GROUPED)
    at = lines.index(said.replace("rows", "groups"))
    assert lines[at + 1] == "none never, few only beyond 4.2 times, few only beyond 4.2 times and 2 more labels"
    assert "so few" not in " ".join(printed(known, label("undecided", "INSUFFICIENT")))


def test_no_line_of_the_table_is_wider_than_a_wide_window() -> None:
    lines = printed(*(label(f"a label {i}", "INFEASIBLE" if i % 2 else "OK", sure=True) for i in range(30)), data=GROUPED)
    assert max(len(line) for line in lines) <= 144


def test_a_label_is_printed_as_it_is() -> None:
    assert any(line.startswith("a:b: ") for line in printed(label("a:b:")))
    assert any(line.startswith(":warning: [red]x ") for line in printed(label(":warning: [red]x", reason=":fire: [b]")))
    terminal = console()
    with terminal.capture() as captured:
        terminal.print("a:b:", plain_table(":a:", title=":b:"), markup=False)
    assert all(text in captured.get() for text in ("a:b:", ":a:", ":b:"))
