"""The pieces of examples/mitbih/monitor.py on data made here: whom it streams, what it asks of dashboards, what it draws."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from boards import BY_LABEL, NUMBERS, PROMISED_FPR, Shown, substituted
from cohorts import calibrating, cohorts
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadData, CutpointError
from findings import Finding
from grafana import VALUES, metrics
from picture import Run, draw
from rehearsal import shortened
from rich.console import Console
from ward import Truth, Ward


@pytest.mark.parametrize("shown", [*BY_LABEL.values(), *NUMBERS.values()], ids=lambda shown: f"{shown.panel}: {shown.legend}")
def test_every_number_is_one_that_a_dashboard_shows(shown: Shown) -> None:
    expression = shortened(substituted(shown.expression, VALUES | {"__rate_interval": "10m"}), 240)
    assert "$" not in expression
    assert metrics(expression) and "[10m" not in expression


def test_what_no_dashboard_shows_is_named() -> None:
    with pytest.raises(KeyError, match="no 'p50' in a panel 'p99 by stage'"):
        _ = Shown("cutpoint-serving", "p99 by stage", "p50").expression


def test_rates_over_an_interval_are_shortened_too() -> None:
    asked = shortened(substituted("rate(a[$__rate_interval]) + increase(b[1h])", {"__rate_interval": "10m"}), 240)
    assert asked == "rate(a[2500ms]) + increase(b[15000ms])"


def data(folder: Path, events: list[tuple[int, int]], patients: list[str], windows: int = 40) -> Dataset:
    """Sequences of which each has so many windows with events of S and V."""
    y = np.zeros((len(events), windows, 2), np.uint8)
    for row, counts in enumerate(events):
        for label, count in enumerate(counts):
            y[row, :count, label] = 1
    folder.mkdir()
    arrays = {"x": np.zeros((len(events), windows, 3), np.float32), "y": y, "group": np.array(patients)}
    for name, array in (arrays | {"label_names": np.array(["S", "V"])}).items():
        np.save(folder / f"{name}.npy", array)
    return read_dataset(folder)


# Validation: a calm patient and a busy one. Held out: two calm ones, and d, who is busy in all sequences but one.
EVENTS = [(2, 4), (2, 4), (0, 30), (0, 36), (0, 0), (4, 8), (2, 2), (2, 6), (1, 2), (0, 30), (0, 32)]
PATIENTS = [*"aabbcceeddd"]
VALID, TEST = np.arange(4), np.arange(4, 11)


def test_calm_sequences_have_the_shares_of_the_calibration_and_busy_patients_are_the_surge(tmp_path: Path) -> None:
    found = data(tmp_path / "data", EVENTS, PATIENTS)
    calibration = calibrating(found, VALID)
    assert calibration.tolist() == [0, 1]
    chosen = cohorts(found, calibration, TEST, calm=4)
    assert chosen.calm.tolist() == [4, 5, 6, 7]  # 8 of S and 16 of V, as four times (2, 4)
    assert chosen.surge.tolist() == [8, 9, 10]
    assert chosen.label == 1


def test_with_alerts_it_is_the_rate_of_decisions_that_is_matched(tmp_path: Path) -> None:
    found = data(tmp_path / "data", [*EVENTS, (0, 0)], [*PATIENTS, "e"])
    test = np.arange(4, 12)
    alerts = np.array([[0, 30], [4, 8], [2, 2], [2, 6], [1, 2], [0, 30], [0, 32], [0, 0]])  # row 4 looks busy
    promised = np.array([2, 4]) / 40
    chosen = cohorts(found, np.arange(2), test, calm=4, alerts=alerts, promised=promised)
    assert chosen.calm.tolist() == [5, 6, 7, 11]


@pytest.mark.parametrize(
    ("events", "valid", "calm", "text"),
    [
        (EVENTS, np.array([2, 3]), 4, "none of a calm patient"),
        (EVENTS, VALID, 6, "5 calm held-out sequences"),
        ([(2, 4)] * 11, VALID, 4, "none left of a busy patient"),
    ],
)
def test_data_that_cannot_show_it_are_refused(
    tmp_path: Path, events: list[tuple[int, int]], valid: np.ndarray, calm: int, text: str
) -> None:
    found = data(tmp_path / "data", events, PATIENTS)
    with pytest.raises(BadData, match=text):
        cohorts(found, calibrating(found, valid), TEST, calm)


@dataclass
class FakeClient:
    """Decides that the first two windows have V; takes outcomes of requests that it has seen, or of none."""

    takes: bool = True
    told: list[tuple[str, int]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def score(self, model: str, x: np.ndarray, request_id: str) -> SimpleNamespace:
        self.seen.append(request_id)
        decisions = np.zeros((1, x.shape[1], 2), bool)
        decisions[0, :2, 1] = True
        return SimpleNamespace(model=model, decisions=decisions)

    def report_outcomes(self, model: str, targets: np.ndarray, request_id: str, sampling: str) -> SimpleNamespace:
        assert (model, sampling) == ("ecg", "all") and request_id in self.seen
        self.told.append((request_id, int(targets.sum())))
        return SimpleNamespace(unmatched_reasons={} if self.takes else {"unknown_request": 1})


def ward(folder: Path, client: FakeClient) -> Ward:
    return Ward(client, "ecg", data(folder, EVENTS, PATIENTS), sequence_s=1, speed=1e9, beds=1)  # type: ignore[arg-type]


def test_outcomes_follow_later_and_the_truth_is_what_was_sent(tmp_path: Path) -> None:
    client = FakeClient()
    streaming = ward(tmp_path / "data", client)
    for row in (*range(4, 11), 4, 5, 6):
        streaming.stream(row)
    assert client.seen == [f"sequence-{i}" for i in range(10)]
    assert client.told == [("sequence-0", 0), ("sequence-1", 12)]
    assert streaming.reported().windows == 80
    label = streaming.reported().of(1)
    assert label == {"rate": 4 / 80, "prevalence": 8 / 80, "precision": 2 / 4, "recall": 2 / 8, "false positive rate": 2 / 72}
    assert streaming.truth().windows == 400
    (last_s, last) = streaming.sent[-1]
    assert streaming.truth(since_s=last_s).windows == last.windows == 40
    assert streaming.truth(until_s=0).of(0) == dict.fromkeys(label)


def test_an_outcome_that_fits_nothing_stops_the_show(tmp_path: Path) -> None:
    streaming = ward(tmp_path / "data", FakeClient(takes=False))
    with pytest.raises(CutpointError, match=r"sequence-0 fit no decision: \{'unknown_request': 1\}"):
        for _ in range(9):
            streaming.stream(5)


def test_a_finding_has_two_columns_a_label_and_dashes_where_nothing_is_shown() -> None:
    truth = Truth(100, np.array([5]), np.array([10]), np.array([4])).of(0)
    shown: dict[str, dict[str, float]] = {name: {} for name in (*BY_LABEL, PROMISED_FPR)} | {"live rate": {"V": 0.1}}
    made = Finding(
        "calm", 3, 1.5, shown, {"median of decode": 0.0004, "Errors": None},
        {span: {"V": truth} for span in ("hour", "policy", "reported")}, {"CutpointServerDown": {"": "firing"}},
    )  # fmt: skip
    console = Console(width=200, force_terminal=False)
    with console.capture() as printed:
        console.print(made.table())
    lines = printed.get().splitlines()
    assert lines[0].rstrip() == "calm: 3 sequences in 1.5 h of the ward"
    rows = {line[:26].strip(): line[26:].split() for line in lines}
    assert rows["CutpointServerDown"] == ["firing"]
    assert rows["live rate"] == ["0.1000", "0.1000"]
    assert rows["precision confirmed"] == ["-", "0.4000"]
    assert rows["median of decode"] == ["0.4", "ms"]
    assert rows["Errors"] == ["-"]


def test_a_run_is_drawn(tmp_path: Path) -> None:
    course = {"V": [[0.0, 0.1], [1.0, 0.3]]}
    names = (
        "lower limit", "upper limit", "expected rate", "live rate", "true prevalence, 1 h", "prevalence from the rate",
        "true prevalence, policy", "prevalence from scores", "prevalence: calibration's",
    )  # fmt: skip
    courses = dict.fromkeys(names, course)
    draw(Run("a run", ("V",), [("calm", 0.0)], courses, {"V": [(0.5, "pending"), (0.6, "firing")]}, 0.1), tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
