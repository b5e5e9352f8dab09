"""A comparison as a picture: AP, skill and price, a line a run."""

import io
from pathlib import Path
from typing import Any

from cutpoint.bundle import write_whole

from .outcome import Comparison, Estimate

_INK, _ACCENT, _BEFORE, _GRID = "#1c2430", "#1d5fa6", "#8899ad", "#dcdfe4"


def plot_comparison(path: Path, comparison: Comparison) -> Path:
    """Write a PNG: for every run AP with its interval and its seeds, the difference to the baseline, skill, alerts per hit."""
    from matplotlib.figure import Figure  # no pyplot: it keeps figures in global state and looks for a display

    runs = comparison.runs
    figure = Figure(figsize=(13.5, 1.3 + 0.44 * len(runs)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    at = list(range(len(runs)))
    for panel in panels:
        panel.set_axisbelow(True)
        panel.grid(axis="x", color=_GRID)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.tick_params(axis="y", length=0)
    ap, against, skill, price = panels
    for y, run in zip(at, runs, strict=True):
        _bar(ap, y, run.average_precision)
        ap.plot([each.average_precision for each in run.seeds], [y - 0.22] * len(run.seeds), ".", color=_BEFORE, ms=5)
        if run.difference is not None:
            _bar(against, y, run.difference)
        for estimate, color, shift in ((run.skill_before, _BEFORE, 0.13), (run.skill_after, _ACCENT, -0.13)):
            if estimate is not None:
                skill.plot([estimate.low, estimate.high], [y + shift] * 2, color=color, lw=1.6)
                skill.plot([estimate.value], [y + shift], "o", color=color, ms=5)
        if run.price.alerts_per_hit is not None:
            price.barh(y, run.price.alerts_per_hit, height=0.5, color=_ACCENT, alpha=0.75)
            got = "" if run.price.recall is None else f" at recall {run.price.recall:.2f}"
            price.annotate(f"{run.price.alerts_per_hit:.2f}{got}", (0, y), (6, 0), textcoords="offset points", va="center",
                           color="white", fontsize=9)  # fmt: skip
    against.axvline(0, color=_INK, lw=1, ls="--")
    skill.axvline(0, color=_INK, lw=1, ls="--")
    ap.set_title("AP" if len(comparison.labels) == 1 else f"mean AP of {len(comparison.labels)} labels", fontsize=10)
    against.set_title(f"AP against {comparison.baseline}", fontsize=10)
    skill.set_title("log loss skill (grey: prior not undone)", fontsize=10)
    price.set_title(f"alerts per hit at recall {comparison.recall:g}", fontsize=10)
    ap.set_yticks(at, [run.name for run in runs])
    ap.set_ylim(len(runs) - 0.5, -0.5)
    figure.suptitle(f"{comparison.model}: {len(comparison.seeds)} seeds, {comparison.rows} test rows", fontsize=11)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, drawn.getvalue())
    return path


def _bar(axes: Any, y: float, estimate: Estimate) -> None:
    if estimate.low is not None:
        axes.plot([estimate.low, estimate.high], [y] * 2, color=_ACCENT, lw=1.8)
    axes.plot([estimate.value], [y], "o", color=_ACCENT, ms=6)
