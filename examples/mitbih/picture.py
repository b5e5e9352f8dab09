"""The whole run as a picture: live rate in its control band with the alert's states, and prevalence, true and estimated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Course = Sequence[Sequence[float]]
_BLUE, _ORANGE, _GREEN, _BLACK, _GREY = "#0072B2", "#E69F00", "#009E73", "#000000", "#888888"
_PENDING, _FIRING = "#FFF0B8", "#FBD9CB"


@dataclass(frozen=True)
class Run:
    """What is drawn; times are hours of the ward since the start.

    Attributes:
        title: one line.
        labels: one column each, in this order.
        phases: name and begin of each.
        courses: by name of the board and label: [[hour, value], ...]; "true prevalence, 1 h" and "true prevalence, policy" too.
        states: by label: (hour, "pending" or "firing") of each moment at which CutpointPositiveRateHigh was one of these.
        step_h: hours between two moments.
    """

    title: str
    labels: tuple[str, ...]
    phases: Sequence[tuple[str, float]]
    courses: Mapping[str, Mapping[str, Course]]
    states: Mapping[str, Sequence[tuple[float, str]]]
    step_h: float


def draw(run: Run, path: Path) -> None:
    """Write a PNG."""
    from matplotlib.figure import Figure  # no pyplot: it keeps figures in global state and looks for a display

    figure = Figure(figsize=(7 * len(run.labels), 8), layout="constrained")
    axes = figure.subplots(2, len(run.labels), sharex=True, squeeze=False)
    for column, label in enumerate(run.labels):
        rate, prevalence = axes[0][column], axes[1][column]

        def line(axis: object, name: str, text: str, label: str = label, **style: object) -> None:
            points = run.courses[name].get(label, ())
            axis.plot([at for at, _ in points], [value for _, value in points], label=text, **style)  # type: ignore[attr-defined]

        lower, upper = (_by_hour(run.courses[f"{end} limit"].get(label, ())) for end in ("lower", "upper"))
        hours = sorted(set(lower) & set(upper))
        rate.fill_between(
            hours, [lower[at] for at in hours], [upper[at] for at in hours], color=_BLUE, alpha=0.15, lw=0, label="control band"
        )
        line(rate, "expected rate", "expected", color=_BLUE, ls="--", lw=1)
        line(rate, "live rate", "live, 1 h", color=_ORANGE, lw=2)
        line(prevalence, "true prevalence, 1 h", "true, 1 h", color=_BLACK, lw=2)
        line(prevalence, "prevalence from the rate", "from the rate, 1 h", color=_ORANGE, lw=1.5)
        line(prevalence, "true prevalence, policy", "true, since the policy", color=_BLACK, lw=1.5, ls=":")
        line(prevalence, "prevalence from scores", "from scores, since the policy", color=_GREEN, lw=1.5)
        line(prevalence, "prevalence: calibration's", "the calibration's", color=_BLUE, ls="--", lw=1)
        for state, colour in (("pending", _PENDING), ("firing", _FIRING)):
            begins = [at for at, seen in run.states.get(label, ()) if seen == state]
            for i, at in enumerate(begins):
                for axis in (rate, prevalence):
                    said = state if axis is rate and not i else None
                    axis.axvspan(at, at + run.step_h, color=colour, lw=0, zorder=0, label=said)
        for axis in (rate, prevalence):
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
            for name, begin in run.phases:
                axis.axvline(begin, color=_GREY, lw=1)
                axis.text(begin, 1.01, name, transform=axis.get_xaxis_transform(), va="bottom", color=_GREY, fontsize=9)
        rate.set_title(f"{label}: share of windows that are positive by decision", pad=18)
        prevalence.set_title(f"{label}: share of windows that hold an event", pad=18)
        prevalence.set_xlabel("hours of the ward")
        rate.legend(loc="upper left", fontsize=8)
        prevalence.legend(loc="upper left", fontsize=8)
    figure.suptitle(run.title)
    figure.savefig(path, dpi=110)


def _by_hour(course: Course) -> dict[float, float]:
    return {at: value for at, value in course}  # noqa: C416 - its pairs are lists
