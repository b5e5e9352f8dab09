"""What calibrations promise and what then happens, on real data: `make bench-promises DATA=FOLDER`.

Each data set's scores come from a plain scikit-learn model fitted on its train split. Every objective is calibrated on the
validation split, without and with a guarantee, and judged on the test split: the rate achieved beside the interval promised,
and whether the bound is kept. Prints a table in Markdown, which is the one in docs/promises.md.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cutpoint.calibration import LabelPolicy, Plan, Scores, exact_curve, fit_labels
from cutpoint.errors import CutpointError
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DELTA = 0.1
OBJECTIVES = (
    "max_fbeta=1", "recall_at_least=0.8", "precision_at_least=0.7", "fpr_at_most=0.02", "alert_rate_at_most=0.05",
    "min_cost=20", "max_micro_fbeta=1", "alert_budget={positives:.2g}",
)  # fmt: skip
BOUNDS = {
    "recall_at_least": "recall",
    "precision_at_least": "precision",
    "fpr_at_most": "fpr",
    "alert_rate_at_most": "alert_rate",
}
RATES = ("precision", "recall", "alert_rate")


@dataclass(frozen=True)
class Split:
    """Logits and targets [row, label] of the validation and the test split; groups [row] where rows are not independent."""

    name: str
    labels: tuple[str, ...]
    valid: tuple[NDArray[Any], NDArray[Any]]
    test: tuple[NDArray[Any], NDArray[Any]]
    groups: NDArray[Any] | None = None


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        sys.exit("usage: make bench-promises DATA=FOLDER, the folder that holds annthyroid, htru2, cover, arxiv and mitbih")
    folder = Path(sys.argv[1])
    print("| data | objective | guarantee | labels with a cut | precision | recall | alert rate | within | bound kept |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for read in (annthyroid, htru2, cover, arxiv, mitbih):
        split = read(folder)
        for objective in OBJECTIVES:
            # As many alerts as there are positives: the budget has to fit the data.
            filled = objective.format(positives=np.mean(np.sum(split.valid[1] == 1, axis=1)))
            for delta in (None, DELTA) if filled.partition("=")[0] in BOUNDS else (None,):
                print(row(split, filled, delta), flush=True)


def row(split: Split, objective: str, delta: float | None) -> str:
    """One line: of one label the rates promised and achieved; of several, how many are within what was promised."""
    by_group = split.groups is not None
    sure = "" if delta is None else f"{1 - delta:.0%}" + (" by record" if by_group else "")
    start = f"| {split.name} | `{objective}` | {sure} |"
    plan = Plan.of(objective, delta=delta, by_group=by_group and delta is not None)
    try:
        fitted = fit_labels(Scores(*split.valid, split.labels, groups=split.groups), plan)
    except CutpointError as error:
        return f"{start} 0 of {len(split.labels)} ({shortened(str(error))}) | | | | | |"
    judged = [judge(label, *(part[:, i] for part in split.test)) for i, label in enumerate(fitted)]
    cuts = [(label, found) for label, found in zip(fitted, judged, strict=True) if found is not None]
    shown = [cell([(label, found[rate], getattr(label.expected, rate)) for label, found in cuts], rate) for rate in RATES]
    within = [inside for rate in RATES for inside in insides(cuts, rate)]
    kept = [holds(objective, found) for _, found in cuts if holds(objective, found) is not None]
    tail = f"{sum(within)} of {len(within)}", f"{sum(kept)} of {len(kept)}" if kept else ""
    return f"{start} {len(cuts)} of {len(fitted)} | {' | '.join((*shown, *tail))} |"


def judge(label: LabelPolicy, logits: NDArray[Any], targets: NDArray[Any]) -> dict[str, float] | None:
    """The rates on unseen rows at the label's cut; None without one. NaN where nothing is divided."""
    if label.threshold is None:
        return None
    curve = exact_curve(logits, targets)
    tp, fp = curve.counts_at(curve.index_at(label.threshold))

    def share(a: float, b: float) -> float:
        return a / b if b else float("nan")

    return {
        "precision": share(tp, tp + fp), "recall": share(tp, curve.positives),
        "fpr": share(fp, curve.negatives), "alert_rate": share(tp + fp, curve.rows),
    }  # fmt: skip


def insides(cuts: list[tuple[LabelPolicy, dict[str, float]]], rate: str) -> Iterator[bool]:
    """Of each label with this rate, whether the achieved one is within the interval promised."""
    for label, found in cuts:
        promised = getattr(label.expected, rate)
        if promised is not None and not np.isnan(found[rate]):
            yield bool(promised.low <= found[rate] <= promised.high)


def cell(rates: list[tuple[LabelPolicy, float, Any]], rate: str) -> str:
    """Achieved (promised low-high) of few labels; of many the mean of each."""
    digits = 4 if rate == "alert_rate" else 2
    known = [(found, promised) for _, found, promised in rates if promised is not None and not np.isnan(found)]
    if not known:
        return ""
    if len(rates) > 3:
        achieved, promised = np.mean([a for a, _ in known]), np.mean([p.value for _, p in known])
        return f"mean {achieved:.{digits}f} (of {promised:.{digits}f})"
    return "; ".join(f"{a:.{digits}f} ({p.low:.{digits}f}-{p.high:.{digits}f})" for a, p in known)


def holds(objective: str, found: dict[str, float]) -> bool | None:
    """Whether the objective's bound is kept on the test split; None where it has none or nothing can be said."""
    name, _, value = objective.partition("=")
    rate = BOUNDS.get(name)
    if rate is None or np.isnan(found[rate]):
        return None
    return found[rate] >= float(value) if name.endswith("least") else found[rate] <= float(value)


def shortened(text: str) -> str:
    """The labels' reasons, as short as a table takes."""
    return text.partition("label: ")[2].replace("|", "/")[:160]


def tabular(folder: Path, name: str, model: Callable[[], Any]) -> Split:
    """A binary data set with rows in `X`, by a model with `predict_proba`."""
    data = np.load(folder / name / f"{name}.npz", allow_pickle=False)
    x, y = data["X"], data["y"]
    fitted = model().fit(x[data["train_idx"]], y[data["train_idx"]])
    parts = [(log_odds(fitted.predict_proba(x[at])[:, 1:]), y[at][:, None]) for at in (data["valid_idx"], data["test_idx"])]
    return Split(name, ("positive",), parts[0], parts[1])


def annthyroid(folder: Path) -> Split:
    """Gradient boosting on six measurements."""
    return tabular(folder, "annthyroid", lambda: HistGradientBoostingClassifier(max_iter=150, random_state=0))


def htru2(folder: Path) -> Split:
    """Logistic regression on eight moments."""
    return tabular(folder, "htru2", lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))


def cover(folder: Path) -> Split:
    """Logistic regression on ten columns."""
    return tabular(folder, "cover", lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))


def arxiv(folder: Path) -> Split:
    """One logistic regression for each of 87 categories; splits by time."""
    from scipy.sparse import csr_matrix

    data = np.load(folder / "arxiv" / "arxiv.npz", allow_pickle=False)
    x = csr_matrix((data["X_data"], data["X_indices"], data["X_indptr"]), shape=tuple(data["X_shape"]))
    y = data["Y"]
    fitted = OneVsRestClassifier(LogisticRegression(C=3, max_iter=200, solver="liblinear")).fit(
        x[data["train_idx"]], y[data["train_idx"]]
    )
    parts = [(log_odds(fitted.predict_proba(x[at])), y[at]) for at in (data["valid_idx"], data["test_idx"])]
    return Split("arxiv", tuple(str(name) for name in data["label_names"]), parts[0], parts[1])


def mitbih(folder: Path) -> Split:
    """Gradient boosting on simple features of ECG windows; by record, 12 train, 5 calibrate, 5 judge; groups are records."""
    data = np.load(folder / "mitbih" / "mitbih_ds1_train.npz", allow_pickle=False)
    x, y = window_features(data["X"]), data["Y"][:, :2]
    record = np.array([str(name).rpartition("_")[0] for name in data["seq_names"]])[data["seq_id"]]
    names = np.random.default_rng(0).permutation(np.unique(record))
    train, valid, test = (np.isin(record, part) for part in (names[:12], names[12:17], names[17:]))
    logits = np.stack(
        [
            HistGradientBoostingClassifier(max_iter=150, random_state=0).fit(x[train], y[train, i]).decision_function(x)
            for i in range(y.shape[1])
        ],
        axis=1,
    )
    return Split("mitbih", ("S", "V"), (logits[valid], y[valid]), (logits[test], y[test]), record[valid])


def window_features(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Amplitude, slope and spectrum of windows [window, sample] at 360 Hz."""
    x = x - np.median(x, axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(x * np.hanning(x.shape[1]))) ** 2
    bands = np.stack([spectrum[:, a:b].sum(axis=1) for a, b in ((1, 8), (8, 20), (20, 40), (40, 80), (80, 160))], axis=1)
    quantiles = np.quantile(x, (0, 0.01, 0.05, 0.25, 0.75, 0.95, 0.99, 1), axis=1).T
    slopes = np.quantile(np.abs(np.diff(x, axis=1)), (0.5, 0.9, 0.99, 1), axis=1).T
    return np.hstack([quantiles, slopes, x.std(axis=1, keepdims=True), np.log(bands + 1e-9)])


def log_odds(p: NDArray[Any]) -> NDArray[np.float64]:
    """Logits of probabilities [row, label]."""
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(p.astype(np.float64)) - np.log1p(-p.astype(np.float64))
    return odds


if __name__ == "__main__":
    main()
