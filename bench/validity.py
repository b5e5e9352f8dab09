"""How often guaranteed bounds break, and what they cost: `make bench-validity`.

Beside the thresholds chosen without a guarantee on the same draws, of scores whose true rates are known (tests/validity.py says
which). 2000 seeded draws of each setting, 1000 of those with 1000 events or 400 in recordings. A guarantee holds where the
share of draws that break its bound is within three standard errors of delta = 0.1.

    unit           row: independent rows. 8 labels: the same, and a draw counts as broken when any of its 8 labels' bounds is.
                   event, r: three windows each, of that correlation; the guarantee counts events.
                   window, r: the same data, and a guarantee that counts their windows as if independent: it need not hold.
                   recording, r: six windows each, of that correlation, of which in half of them three are an event's; the
                   guarantee counts recordings, for recall those with an event. The classes' means are 0.75 apart, so that
                   windows beside an event often alert too.
    scores         tied: rounded down to a grid of 1/4. The bounds 0.896, 0.066, 0.0675 and 0.445 are the worst case of ties: a
                   cell of the grid lies just beyond them. nothing: the scores tell nothing and the prevalence is just below
                   the bound, so that every threshold found is a broken one.
    violation      of all draws; in brackets, where some have no threshold, of those that have one.
    found          share of labels with a threshold.
    price          mean true false-positive rate (of recall) or recall (of the others) of the guaranteed threshold, and of
                   the one without a guarantee.
"""

import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from claims import Claim, report

# In front: this file has the same name.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from validity import DELTA, Outcome, Setting, limit, violations

BOUNDS = ("recall_at_least=0.9", "fpr_at_most=0.05", "alert_rate_at_most=0.05", "precision_at_least=0.5")
# At the next cell of the grid the true rates are 0.8944, 0.0668, 0.0680 and 0.4401.
WORST = ("recall_at_least=0.896", "fpr_at_most=0.066", "alert_rate_at_most=0.0675", "precision_at_least=0.445")
CORRELATIONS = (0.0, 0.5, 0.9)
SEED, PROCESSES = 0, 2
WIDTHS = (25, 9, 22, 16, 16, 14, 11, 6)


def settings() -> list[Setting]:
    """The rows of the table."""
    found = []
    for bound, worst in zip(BOUNDS, WORST, strict=True):
        rows = [
            Setting(bound, positives, tied, histogram)
            for positives in (30, 100, 1000)
            for tied in (False, True)
            for histogram in (False, True)
        ]
        rows += [Setting(worst, positives, True, histogram) for positives in (100, 1000) for histogram in (False, True)]
        families = [Setting(bound, labels=8), Setting(bound, tied=True, histogram=True, labels=8)]
        events = [
            Setting(bound, positives, unit="group", correlation=correlation)
            for positives in (30, 100)
            for correlation in CORRELATIONS
        ]
        events += [
            Setting(bound, 1000, unit="group", correlation=0.5),
            Setting(bound, tied=True, unit="group", correlation=0.5),
        ]
        recording = Setting(bound, 400, unit="group", correlation=0.5, recordings=True, separation=0.75, prevalence=0.5)
        if bound.startswith("precision"):  # more than the share that holds an event
            recording = replace(recording, guarantee="precision_at_least=0.6")
        recordings = [replace(recording, positives=100), recording]
        if bound.startswith(("recall", "fpr")):  # by group a histogram gives no other
            recordings.append(replace(recording, histogram=True))
            events += [Setting(bound, tied=tied, histogram=True, unit="group", correlation=0.5) for tied in (False, True)]
        nothing: list[Setting] = []
        if bound.startswith("precision"):
            lost = Setting(bound, separation=0.0, prevalence=0.4999)
            nothing = [lost, replace(lost, positives=1000), replace(lost, tied=True)]
            nothing.append(replace(lost, unit="group", correlation=0.5))
        windows = [Setting(bound, correlation=correlation) for correlation in CORRELATIONS]
        found += [*rows, *families, *events, *recordings, *nothing, *windows]
    return found


def draws(setting: Setting) -> int:
    """Of a setting; those with 1000 events, or 400 in recordings, are slow."""
    return 1000 if setting.positives * setting.windows > 1000 else 2000


def outcome(setting: Setting) -> Outcome:
    """Of a setting; every one has the same seed, and so the same draws where it differs in what is asked only."""
    return violations(setting, draws(setting), SEED)


def promised(setting: Setting) -> bool:
    """Whether the guarantee is meant to hold: windows of events are not independent rows."""
    return setting.unit == "group" or setting.correlation is None


def row(setting: Setting, found: Outcome) -> tuple[str, ...]:
    """The row of a setting."""
    scores = f"{'tied' if setting.tied else 'continuous'}{', histogram' if setting.histogram else ''}"
    if setting.separation == 0:
        scores += ", nothing"
    unit = "row" if setting.labels == 1 else f"{setting.labels} labels"
    if setting.correlation is not None:
        group = "recording" if setting.recordings else "event"
        unit = f"{group if setting.unit == 'group' else 'window'}, r {setting.correlation:g}"
    of_found = "" if math.isclose(found.broken, found.broken_of_found) else f" ({found.broken_of_found:.3f})"
    most = limit(draws(setting))
    return (
        setting.guarantee,
        str(setting.positives),
        scores,
        unit,
        f"{found.broken:.4f}{of_found}",
        f"{most:.3f} {'yes' if found.broken <= most else 'no' if promised(setting) else 'no (*)'}",
        f"{found.plug_in:.3f}",
        f"{found.found:.3f}",
        f"{'fpr' if setting.guarantee.startswith('recall') else 'recall'} {found.price:.3f} for {found.free:.3f}",
    )


def show(cells: tuple[str, ...]) -> None:
    """Print a row."""
    print(" | ".join(f"{cell:<{width}}" for cell, width in zip(cells, (*WIDTHS, 0), strict=True)), flush=True)


def main() -> None:
    """Print the table, then the claims."""
    asked = settings()
    show(("guarantee", "positives", "scores", "unit", "violation sure", "within", "violation plug-in", "found", "price"))
    found: list[Outcome] = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for setting, each in zip(asked, pool.map(outcome, asked), strict=True):
            show(row(setting, each))
            found.append(each)
    print("(*) windows of events, counted as if independent: no guarantee of ours, and shown to fail\n")

    def largest(name: str, good: bool) -> Claim:
        of = [(s, o) for s, o in zip(asked, found, strict=True) if s.guarantee.startswith(name) and promised(s) == good]
        setting, worst = max(of, key=lambda pair: pair[1].broken / limit(draws(pair[0])))
        what = "" if good else ", counted by window of events"
        claim = f"{name}{what}: largest violation of {len(of)} settings, against delta {DELTA:g} and 3 standard errors"
        return Claim(claim, worst.broken, limit(draws(setting)), 1, "of draws", least=not good)

    names = [bound.partition("=")[0] for bound in BOUNDS]
    report([*(largest(name, True) for name in names), largest("recall_at_least", False)])


if __name__ == "__main__":
    main()
