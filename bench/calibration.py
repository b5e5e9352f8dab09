"""Thresholds from labelled scores, beside scikit-learn: `make bench-calibration`.

Ours is `fit_labels` as a user calls it, with intervals and all, on all cores; or the estimator. Theirs is a loop over labels of
`precision_recall_curve` and an argmax, timed on some of the labels where there are many; or `TunedThresholdClassifierCV`.
Scores are N(0, 1), of positives N(2, 1), float32, with 5 positives in 512 rows where nothing else is said. Of cuts with one F1,
which do occur, both sides take the highest.
"""

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, report, timed
from cutpoint.calibration import LabelPolicy, Plan, ScoreHistogram, Scores, fit_labels, merge_histograms
from cutpoint.estimator import ThresholdClassifierCV
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_curve
from sklearn.model_selection import TunedThresholdClassifierCV

SMALL, LARGE = (100_000, 64), (1_000_000, 512)
SAMPLE = 8  # labels of the large one that scikit-learn is timed on
PLAN = Plan.of("max_fbeta=1", calibrator="none")
_CHUNK_ROWS = 1 << 13

Floats = NDArray[np.float32]
Classes = NDArray[np.uint8]


def labelled_scores(rows: int, labels: int, prevalence: float = 5 / 512, seed: int = 0) -> tuple[Floats, Classes]:
    """Scores and targets [row, label], made in chunks so that hardly more memory is needed than they take."""
    rng = np.random.default_rng(seed)
    scores, targets = np.empty((rows, labels), np.float32), np.empty((rows, labels), np.uint8)
    for start in range(0, rows, _CHUNK_ROWS):
        chunk = slice(start, min(rows, start + _CHUNK_ROWS))
        targets[chunk] = rng.random(targets[chunk].shape, np.float32) < prevalence
        rng.standard_normal(out=scores[chunk], dtype=np.float32)
        scores[chunk] += 2 * targets[chunk]
    return scores, targets


def fit(scores: Floats, targets: Classes) -> tuple[LabelPolicy, ...]:
    """Ours."""
    return fit_labels(Scores(scores, targets, [f"label{i}" for i in range(scores.shape[1])]), PLAN)


def loop(scores: Floats, targets: Classes, labels: int) -> list[float]:
    """Theirs: the cuts of the first labels."""
    found = []
    for i in range(labels):
        precision, recall, cuts = precision_recall_curve(targets[:, i], scores[:, i])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        # A tie in whole counts may differ in the last digits here; F1 of other counts differ by more.
        found.append(float(cuts[np.flatnonzero(f1[:-1] >= f1.max() * (1 - 1e-12))[-1]]))
    return found


def cut(scores: Floats, label: LabelPolicy) -> float:
    """The lowest score that alerts: our thresholds lie between it and the next lower one."""
    return float(scores[scores >= np.float32(label.threshold)].min())


def side_by_side(size: tuple[int, int], sample: int, rounds: int, target: float) -> list[Claim]:
    """Speed, and whether the cuts are the same."""
    rows, labels = size
    scores, targets = labelled_scores(rows, labels)
    our_s, their_s = timed(lambda: fit(scores, targets), lambda: loop(scores, targets, sample), rounds=rounds)
    ours = [cut(scores[:, i], label) for i, label in enumerate(fit(scores, targets)[:sample])]
    same = np.mean(np.array(ours) == np.array(loop(scores, targets, sample)))
    timed_on = "" if sample == labels else f", theirs timed on {sample} of the labels"
    name = f"F1 thresholds of {rows} x {labels}, labels a second{timed_on}, medians of {rounds}"
    compared = f"all {labels}" if sample == labels else f"these {sample}"
    return [
        Claim(name, labels / our_s, sample / their_s, target, "labels/s"),
        Claim(f"of {compared}, share of cuts equal to scikit-learn's", same, 1, 1, ""),
    ]


def peak_memory() -> Claim:
    """Of a process of its own."""
    made = subprocess.run([sys.executable, __file__, "memory"], check=True, capture_output=True, text=True)
    peak, of_scores = (int(number) for number in made.stdout.split())
    rows, labels = LARGE
    name = (
        f"peak resident memory while {rows} x {labels} are fitted, of the process less what it held before it had data: "
        "float32 scores, uint8 targets and all that is on top, against the scores' bytes"
    )
    return Claim(name, peak / 1e9, of_scores / 1e9, 1.6, "GB", least=False)


def print_peak() -> None:
    """In the process of its own: bytes at the peak over those before there were data, and bytes of the scores."""
    fit(*labelled_scores(1000, 32))  # what is imported and set up by a first fit is none of the data's
    gc.collect()
    before = _status_bytes("VmRSS")
    scores, targets = labelled_scores(*LARGE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    fit(scores, targets)
    print(_status_bytes("VmHWM") - before, scores.nbytes)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class Known(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier whose probabilities are given as X, so that none are computed on either side."""

    classes_ = np.array([0, 1])

    def fit(self, X: Any, y: Any) -> "Known":
        """Nothing."""
        return self

    def predict_proba(self, X: Any) -> Any:
        """X itself."""
        return X


def tuned() -> list[Claim]:
    """Beside TunedThresholdClassifierCV, on one binary problem of 100000 rows with 2 positives in 1000."""
    rows = 100_000
    scores, targets = labelled_scores(rows, 1, prevalence=0.002)
    trained, classes = labelled_scores(rows, 1, prevalence=0.002, seed=1)
    y = targets[:, 0].astype(np.int64)
    model = LogisticRegression().fit(trained, classes[:, 0])
    probabilities = model.predict_proba(scores)

    def ours(estimator: Any, X: Any) -> Any:
        return ThresholdClassifierCV(estimator, "max_fbeta=1", cv="prefit", refit=False).fit(X, y)

    def theirs(estimator: Any, X: Any) -> Any:
        return TunedThresholdClassifierCV(estimator, scoring="f1", cv="prefit", refit=False).fit(X, y)

    logits = model.decision_function(scores)[:, None]

    def thresholds() -> LabelPolicy:
        return fit_labels(Scores(logits, targets, ["1"]), PLAN)[0]

    bare_s, our_s, their_s = timed(thresholds, lambda: ours(Known(), probabilities), lambda: theirs(Known(), probabilities))
    f1 = [f1_score(y, made(model, scores).predict(scores)) for made in (ours, theirs)]
    name = f"against TunedThresholdClassifierCV, prefit, {rows} rows at 0.002"
    return [
        Claim(
            f"fit_labels {name}: thresholds a second, logits given to ours and probabilities to theirs",
            1 / bare_s,
            1 / their_s,
            500,
            "fits/s",
        ),
        Claim(
            f"ThresholdClassifierCV {name}: fits a second, probabilities given to both", 1 / our_s, 1 / their_s, 100, "fits/s"
        ),
        Claim(f"ThresholdClassifierCV {name}: F1 on these rows, which both maximise", f1[0], f1[1], 1, ""),
    ]


def histograms() -> list[Claim]:
    """Against fixed limits."""
    scores, targets = labelled_scores(1_000_000, 16)
    histogram = ScoreHistogram([f"label{i}" for i in range(16)])
    (update_s,) = timed(lambda: histogram.update(scores, targets))  # its first round, which does not count, is a first update
    names = [f"label{i}" for i in range(512)]
    shards = []
    for seed in range(100):
        shards.append(ScoreHistogram(names))
        shards[-1].update(*labelled_scores(2000, 512, seed=seed))
    (merge_s,) = timed(lambda: merge_histograms(shards))
    return [
        Claim("histogram update of 1000000 x 16, limit 10 ns a score", update_s * 1e9 / scores.size, 10, 1, "ns", least=False),
        Claim("merging 100 histograms of 512 labels, limit 1 s", merge_s, 1, 1, "s", least=False),
    ]


def main() -> None:
    """Print the claims."""
    report(
        [
            *side_by_side(SMALL, SMALL[1], rounds=5, target=10),
            *side_by_side(LARGE, SAMPLE, rounds=3, target=25),
            peak_memory(),
            *tuned(),
            *histograms(),
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        print_peak()
    else:
        main()
