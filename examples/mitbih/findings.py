"""What a phase looked like at its end: the dashboards' numbers beside the truth, as a table."""

from dataclasses import asdict, dataclass
from typing import Any

from boards import PROMISED_FPR, Boards
from cutpoint.terminal import plain_table
from rich.table import Table
from ward import Truth

# Name on the board, what is true beside it: of the last hour, of everything streamed, or of what has been reported.
_ROWS = (
    ("live rate", "hour", "rate"),
    ("expected rate", "", ""),
    ("lower limit", "", ""),
    ("upper limit", "", ""),
    ("surprise, 1 h", "", ""),
    ("surprise, 6 h", "", ""),
    ("prevalence from the rate", "hour", "prevalence"),
    ("prevalence from scores", "policy", "prevalence"),
    ("prevalence: calibration's", "", ""),
    ("precision estimated", "hour", "precision"),
    ("precision confirmed", "reported", "precision"),
    ("precision promised", "", ""),
    ("recall estimated", "hour", "recall"),
    ("recall confirmed", "reported", "recall"),
    (PROMISED_FPR, "hour", "false positive rate"),
)
_SECONDS = ("median", "p99")


@dataclass(frozen=True)
class Finding:
    """The end of a phase.

    Attributes:
        phase: its name.
        sequences: how many were streamed in it.
        hours: how long it took in the ward.
        shown: by name of the board and label.
        numbers: of the serving page.
        truth: by "hour" (the last one), "policy" (since the last calibration) and "reported", by label.
        alerts: state by name and label ("" for none) of each alert that is not silent.
    """

    phase: str
    sequences: int
    hours: float
    shown: dict[str, dict[str, float]]
    numbers: dict[str, float | None]
    truth: dict[str, dict[str, dict[str, float | None]]]
    alerts: dict[str, dict[str, str]]

    def json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    def table(self) -> Table:
        """Two columns a label: what the board shows, and what is true."""
        labels = list(self.truth["hour"])
        columns = [column for label in labels for column in (label, "in truth")]
        title = f"{self.phase}: {self.sequences} sequences in {self.hours:.1f} h of the ward"
        table = plain_table("shown by the overview", *columns, title=title)
        for name, span, share in _ROWS:
            cells = []
            for label in labels:
                digits = "{:.1f}" if name.startswith("surprise") else "{:.4f}"
                cells += [_text(self.shown[name].get(label), digits)]
                cells += [_text(self.truth[span][label][share], digits) if span else ""]
            table.add_row(name, *cells)
        for alert, states in self.alerts.items() or {"no alert": {}}.items():
            table.add_row(alert, *(cell for label in labels for cell in (states.get(label, states.get("", "")), "")))
        table.add_section()
        for name, value in self.numbers.items():
            seconds = name.startswith(_SECONDS)
            text = _text(None if value is None else value * 1000 if seconds else value, "{:.1f} ms" if seconds else "{:.3g}")
            table.add_row(name, text)
        return table


def finding(
    phase: str, sequences: int, hours: float, boards: Boards, labels: tuple[str, ...],
    truths: dict[str, Truth], alerts: dict[str, dict[str, str]],
) -> Finding:  # fmt: skip
    """Ask the boards now.

    Args:
        phase: its name.
        sequences: streamed in it.
        hours: of the ward that it took.
        boards: what is asked.
        labels: names, in the model's order.
        truths: as `Finding.truth`, not yet by label.
        alerts: as `Finding.alerts`.
    """
    truth = {span: {label: each.of(i) for i, label in enumerate(labels)} for span, each in truths.items()}
    return Finding(phase, sequences, hours, boards.by_label(), boards.numbers(), truth, alerts)


def _text(value: float | None, digits: str) -> str:
    return "-" if value is None else digits.format(value)
