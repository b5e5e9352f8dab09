"""A picture of one sequence: the probability of every window, the cut, what was found and what was missed."""

from pathlib import Path

import numpy as np
from cutpoint.calibration import probabilities
from cutpoint.dataset import UNLABELLED
from numpy.typing import NDArray


def plot_sequence(
    path: Path,
    scores: NDArray[np.float32],
    truth: NDArray[np.uint8],
    threshold: float | None,
    signal: NDArray[np.float32] | None = None,
    title: str = "",
    window_label: str = "window",
) -> Path:
    """Draw one sequence: the probability of every window, the cut, the true windows and the found ones. Writes a PNG.

    Args:
        path: of the PNG.
        scores: [window], logits.
        truth: [window], 0, 1 or `UNLABELLED`.
        threshold: logit; None draws no cut.
        signal: [window, sample] or [window, channel, sample], drawn above (its first channel); None for no signal.
        title: of the picture.
        window_label: of the horizontal axis.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps figures in global state and looks for a display

    windows = np.arange(len(scores))
    figure = Figure(figsize=(11, 5 if signal is not None else 3.2), layout="constrained")
    panels = figure.subplots(2 if signal is not None else 1, 1, sharex=True, squeeze=False)[:, 0]
    axes = panels[-1]
    true, found = truth == 1, np.zeros(len(scores), bool) if threshold is None else scores >= np.float32(threshold)
    for panel in panels:
        for i, window in enumerate(windows[true]):
            panel.axvspan(window - 0.5, window + 0.5, color="#f2b134", alpha=0.45, lw=0, label="true" if i == 0 else None)
        for i, window in enumerate(windows[truth == UNLABELLED]):
            panel.axvspan(
                window - 0.5, window + 0.5, color="#999999", alpha=0.2, lw=0, label="not labelled" if i == 0 else None
            )
    if signal is not None:
        points = (signal[:, 0] if signal.ndim == 3 else signal).astype(np.float64)
        at = (np.arange(points.size) + 0.5) / points.shape[1] - 0.5
        panels[0].plot(at, points.ravel(), color="#33475b", lw=0.4, rasterized=True)
        panels[0].set_ylabel("signal")
    p = np.clip(probabilities(scores), 1e-6, 1 - 1e-6)
    axes.step(windows, p, where="mid", color="#1f6f8b", lw=1.4, label="probability")
    for name, chosen, style in (
        ("found", found & true, {"color": "#2a9d4a", "s": 36}),
        ("false alarm", found & (truth == 0), {"color": "#c0392b", "marker": "X", "s": 42}),
        ("alert, not labelled", found & (truth == UNLABELLED), {"color": "#777777", "s": 36}),
        ("missed", ~found & true, {"facecolors": "none", "edgecolors": "#c0392b", "s": 42}),
    ):
        if chosen.any() and threshold is not None:
            axes.scatter(windows[chosen], p[chosen], zorder=3, label=name, **style)
    if threshold is not None:
        cut = float(probabilities(np.array(threshold)))
        axes.axhline(min(max(cut, 1e-6), 1 - 1e-6), color="#555555", lw=1, ls="--", label=f"cut at p = {cut:.3g}")
    axes.set(yscale="logit", xlabel=window_label, ylabel="probability", xlim=(-0.5, len(scores) - 0.5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    axes.yaxis.set_minor_formatter("")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=len(names), frameon=False)
    panels[0].set_title(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    return path
