"""How well the shipped defaults rank rare events, on real data: `make bench-detection DATA=FOLDER`.

Each data set is trained by `cutpoint.trainer.train` on its own train split, stopped by its valid split, exported, and its test
split scored with onnxruntime, for 3 seeds; beside it, in the same run, what scikit-learn reaches. mitbih has no split: its
records are dealt into 5 folds, each is scored by a model that saw none of its records, and the folds are ranked together.
Prints a table in Markdown, then the claims. `DATA="FOLDER --only annthyroid htru2"` measures some of them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, report
from cutpoint.bundle import read_bundle
from cutpoint.dataset import read_dataset
from cutpoint.trainer import export_run, parse_config, score_rows, train
from ecg_features import boosted_scores, features, read_mitbih, record_folds, without_shapes
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Arrays = dict[str, NDArray[Any]]
Rates = dict[str, float]  # average precision by measure

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Case:
    """One data set.

    Attributes:
        read: the folder to the arrays of a dataset.
        baselines: by name, arrays to AP by measure.
        targets: by measure, an AP or the name of a baseline, and what share of it ours has to reach.
        settings: sections of the configuration beyond task, data and split.
    """

    task: str
    read: Callable[[Path], Arrays]
    baselines: dict[str, Callable[[Arrays], Rates]]
    targets: dict[str, tuple[str | float, float]]
    settings: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Print the table and the claims."""
    parser = argparse.ArgumentParser(prog="make bench-detection", usage='make bench-detection DATA="FOLDER [--only NAME ...]"')
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    asked = parser.parse_args()
    claims = []
    print("| data | measure | ours: mean (range) of the seeds | in the same run | s a run |\n| --- | --- | --- | --- | --- |")
    for name in asked.only:
        case = CASES[name]
        arrays = case.read(asked.folder)
        began_s = time.monotonic()
        ours = [ours_on(name, case, arrays, seed) for seed in asked.seeds]
        run_s = (time.monotonic() - began_s) / len(ours)
        theirs = {baseline: fit(arrays) for baseline, fit in case.baselines.items()}
        for measure in ours[0]:
            found = [rates[measure] for rates in ours]
            spread = f"{np.mean(found):.4f} ({min(found):.4f} to {max(found):.4f})"
            beside = ", ".join(f"{baseline} {rates[measure]:.4f}" for baseline, rates in theirs.items())
            print(f"| {name} | {measure} | {spread} | {beside} | {run_s:.0f} |", flush=True)
            if measure in case.targets:
                against, ratio = case.targets[measure]
                limit = theirs[against][measure] if isinstance(against, str) else against
                claims.append(Claim(f"{name}, {measure} AP, over {against}", float(np.mean(found)), limit, ratio, "AP"))
    report(claims)


def ours_on(name: str, case: Case, arrays: Arrays, seed: int) -> Rates:
    """Train, export and score; the rates on what no training saw."""
    if "fold" not in arrays:
        test = arrays["test"]
        return rates_of(logits_on(name, case, arrays, seed)[test], arrays["y"][test], arrays.get("label_names"))
    fold, logits = arrays["fold"], np.zeros(arrays["y"].shape, np.float32)
    for k in range(fold.max() + 1):
        # Two records of another fold, to report by: with the defaults for windows no epoch is chosen by them.
        held = np.isin(arrays["group"], np.unique(arrays["group"][fold == (k + 1) % (fold.max() + 1)])[:2])
        rows = {"test": fold == k, "valid": held, "train": (fold != k) & ~held}
        split = {part: np.flatnonzero(inside) for part, inside in rows.items()}
        logits[split["test"]] = logits_on(name, case, arrays | split, seed)[split["test"]]
    return rates_of(logits, arrays["y"], arrays["label_names"])


def logits_on(name: str, case: Case, arrays: Arrays, seed: int) -> NDArray[np.float32]:
    """Logits of every row, by the bundle of a model trained on `train` and stopped by `valid`."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, allow_pickle=False, **{key: array for key, array in arrays.items() if key != "fold"})
        settings = {"name": name, "task": case.task, "data": {"path": str(data)}, "split": {"by": "given"}}
        config = parse_config({**settings, "seed": seed, "out": f"{folder}/run", **case.settings})
        bundle = read_bundle(export_run(train(config, quiet=True), Path(folder) / "models"))
        return score_rows(bundle, read_dataset(data))


def rates_of(scores: NDArray[Any], y: NDArray[Any], names: NDArray[Any] | None) -> Rates:
    """AP of one label; of few each; of many over all entries (micro) and the mean over labels with a positive (macro)."""
    scores, y = scores.reshape(-1, scores.shape[-1]), y.reshape(-1, scores.shape[-1])
    each = {i: float(average_precision_score(y[:, i], scores[:, i])) for i in range(y.shape[1]) if y[:, i].any()}
    if y.shape[1] == 1:
        return {"test": each[0]}
    if y.shape[1] <= 4 and names is not None:
        return {str(names[i]): rate for i, rate in each.items()}
    return {"micro": float(average_precision_score(y.ravel(), scores.ravel())), "macro": float(np.mean(list(each.values())))}


def rows_of(name: str) -> Callable[[Path], Arrays]:
    """How to read a binary data set with rows in `X`."""

    def read(folder: Path) -> Arrays:
        data = np.load(folder / name / f"{name}.npz", allow_pickle=False)
        return {"x": data["X"], "y": data["y"], **given(data)}

    return read


def arxiv(folder: Path) -> Arrays:
    """Sparse rows, as they are."""
    data = np.load(folder / "arxiv" / "arxiv.npz", allow_pickle=False)
    x = {f"x_{part}": data[f"X_{part}"] for part in ("data", "indices", "indptr", "shape")}
    return {**x, "y": data["Y"], "label_names": data["label_names"], **given(data)}


def given(data: Any) -> Arrays:
    """The split that comes with the data."""
    return {part: data[f"{part}_idx"] for part in ("train", "valid", "test")}


def mitbih(folder: Path) -> Arrays:
    """Sequences of ECG windows of labels S and V; the fold of each by its record."""
    x, y, record, _ = read_mitbih(folder)
    fold = np.zeros(len(x), np.int64)
    for k, rows in enumerate(record_folds(record, y)):
        fold[rows] = k
    return {"x": x, "y": y, "group": record, "label_names": np.array(["S", "V"]), "fold": fold}


def scikit_learn(model: Callable[[], Any]) -> Callable[[Arrays], Rates]:
    """A classifier with `predict_proba`, fitted on the train split."""

    def fit(arrays: Arrays) -> Rates:
        x, y = arrays.get("x"), arrays["y"]
        if x is None:
            x = csr_matrix((arrays["x_data"], arrays["x_indices"], arrays["x_indptr"]), shape=tuple(arrays["x_shape"]))
        p = model().fit(x[arrays["train"]], y[arrays["train"]]).predict_proba(x[arrays["test"]])
        if y.ndim == 1:
            y, p = y[:, None], p[:, 1:]
        with np.errstate(divide="ignore"):
            return rates_of(np.clip(np.log(p) - np.log1p(-p), -1e9, 1e9), y[arrays["test"]], arrays.get("label_names"))

    return fit


def boosted(columns: NDArray[np.intp] | slice) -> Callable[[Arrays], Rates]:
    """Gradient boosting on hand-made features of windows, by fold."""

    def fit(arrays: Arrays) -> Rates:
        fold = arrays["fold"]
        folds = [np.flatnonzero(fold == k) for k in range(fold.max() + 1)]
        scores = boosted_scores(features(arrays["x"], RATE_HZ)[..., columns], arrays["y"], folds, 0)
        return rates_of(scores, arrays["y"], arrays["label_names"])

    return fit


RATE_HZ = 360
BOOSTING = {"gradient boosting": scikit_learn(lambda: HistGradientBoostingClassifier(max_iter=150, random_state=0))}
ROWS = {
    "logistic regression": scikit_learn(lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
    **BOOSTING,
}
LINEAR = {"one-vs-rest": scikit_learn(lambda: OneVsRestClassifier(LogisticRegression(C=3, max_iter=200, solver="liblinear")))}
CASES = {
    "annthyroid": Case("binary", rows_of("annthyroid"), ROWS, {"test": ("gradient boosting", 1.0)}, {"model": {"kind": "mlp"}}),
    # Without bins: better by validation AP, too.
    "htru2": Case("binary", rows_of("htru2"), ROWS, {"test": (0.925, 1.0)}, {"model": {"kind": "mlp", "bins": 0}}),
    "cover": Case(
        "binary", rows_of("cover"), ROWS, {"test": (0.99, 1.0)},
        {"model": {"kind": "mlp"}, "fit": {"epochs": 10, "batch_size": 512}},
    ),
    # Many terms, many labels: wide, with much left out, and few epochs.
    "arxiv": Case(
        "multilabel", arxiv, LINEAR, {"micro": (0.74, 1.0), "macro": (0.20, 1.0)},
        {
            "model": {"kind": "mlp", "hidden": [512], "dropout": 0.5, "input_dropout": 0.2},
            "loss": {"name": "weighted_bce", "pos_weight": 1},
            "fit": {"epochs": 6, "batch_size": 256},
        },
    ),
    "mitbih": Case(
        "windows", mitbih,
        {"amplitude, spectrum, beat timing": boosted(without_shapes()), "and beat shapes": boosted(slice(None))},
        {"S": ("amplitude, spectrum, beat timing", 1.1), "V": ("amplitude, spectrum, beat timing", 1.05)},
        {"model": {"kind": "window_encoder"}},
    ),
}  # fmt: skip

if __name__ == "__main__":
    main()
