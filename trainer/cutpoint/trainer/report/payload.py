"""What the page of a model shows, as plain JSON values."""

import math
from typing import Any, Final

import numpy as np
from cutpoint.bundle import Bundle, LabelPrior
from cutpoint.calibration import Curve, Expected, LabelPolicy, Rate, exact_curve, log_loss_skill, reliability
from cutpoint.dataset import SPLITS, Dataset
from cutpoint.errors import BadConfig
from cutpoint.report.payload import thinned
from numpy.typing import NDArray

from ..run import Run
from ..score import labels_of, score_rows
from .evaluation import LabelEvaluation, evaluate_scores
from .logits import run_logits
from .mistakes import RowMistakes, SequenceMistakes

# Points of a precision-recall curve: all labels' together.
_MOST_POINTS, _LEAST_POINTS, _POINTS = 160, 40, 24_000
_BINS: Final = 10

Logits = NDArray[np.float32]


def model_data(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], split: str, run: Run | None) -> dict[str, Any]:
    """All figures of the page.

    Args:
        bundle: with its policy, where it has one.
        dataset: with y.
        rows: indices of the rows to judge on.
        split: what to call them.
        run: that the bundle was exported from; without it there is nothing of training.

    Raises:
        BadData: no y, or labels or shapes that are not the model's.
        BadConfig: the bundle is not an export of `run`.
    """
    _check_run(bundle, run)
    targets = labels_of(bundle, dataset, rows)
    honest = score_rows(bundle, dataset, rows)
    evaluation = evaluate_scores(bundle, dataset, rows, honest, targets, split)
    raw = None if run is None else run_logits(run, dataset, rows)[0]
    windows = targets.ndim == 3
    count = targets.shape[-1]
    mistakes: RowMistakes | SequenceMistakes
    if windows:
        mistakes = SequenceMistakes(dataset, rows, None if run is None else run.config.model, count)
    else:
        mistakes = RowMistakes(dataset, rows, rows if run is None else run.rows("train"))
    most = max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS // count))
    labels = []
    for i, evaluated in enumerate(evaluation.labels):
        policy = bundle.policy.labels[i] if bundle.policy else None
        y = targets[..., i]
        sets = {} if raw is None else {"training logits": raw[..., i]}
        labels.append(
            {
                **_judged(evaluated, policy),
                "splits": _splits(dataset, i, rows, split, run),
                "prior": _prior(run.record.priors[i]) if run is not None and i < len(run.record.priors) else None,
                "curve": _precision_recall(exact_curve(honest[..., i].ravel(), y.ravel()), most),
                "reliability": _reliability({**sets, "exported": honest[..., i]}, y, policy),
                "mistakes": _with_probabilities(mistakes.of_label(i, honest[..., i], y), policy),
            }
        )
    return {
        "head": {
            "model": f"{bundle.name}/{bundle.version}",
            "task": bundle.manifest.task if bundle.manifest else "windows" if windows else "multilabel",
            "split": split,
            "rows": len(rows),
            "windows": int(targets.shape[1]) if windows else None,
            "groups": None if dataset.group is None else len(np.unique(dataset.group[rows])),
            "mean_ap": _interval(evaluation.mean_average_precision, evaluation.mean_interval),
            "policy": None
            if bundle.policy is None
            else {"version": bundle.policy.version, "created": bundle.policy.created, "author": bundle.policy.author},
            "data": dataset.path.name,
        },
        "training": None if run is None else _training(run),
        "exported": _exported(bundle),
        "sequences": mistakes.drawn if isinstance(mistakes, SequenceMistakes) else {},
        "labels": labels,
    }


def _check_run(bundle: Bundle, run: Run | None) -> None:
    if run is None or bundle.manifest is None:
        return
    made, wanted = bundle.manifest.provenance.config_digest, run.record.config_digest
    if made != wanted or bundle.manifest.provenance.data_digest != run.record.data_digest:
        found = f"{run.path}, of configuration {wanted[:12]}"
        raise BadConfig.of("--run", found, f"the run that {bundle.name}/{bundle.version} was exported from, {str(made)[:12]}")


def _judged(label: LabelEvaluation, policy: LabelPolicy | None) -> dict[str, Any]:
    return {
        "name": label.label,
        "positives": label.positives,
        "negatives": label.negatives,
        "prevalence": number(label.prevalence),
        "ap": _interval(label.average_precision, label.interval),
        "status": None if policy is None else policy.status,
        "objective": None if policy is None else policy.objective,
        "reason": "" if policy is None else policy.reason,
        "calibrator": None if policy is None else policy.calibrator.kind,
        "cut": number(label.threshold),
        "p": None if policy is None or policy.threshold is None else _probability(policy.threshold, policy),
        "observed": _rates(label.observed),
        "expected": _rates(label.expected),
    }


def _with_probabilities(mistakes: dict[str, Any], policy: LabelPolicy | None) -> dict[str, Any]:
    for each in (*mistakes["missed"], *mistakes["false"]):
        each["p"] = _probability(each["score"], policy)
    return mistakes


def _probability(logit: float, policy: LabelPolicy | None) -> float | None:
    """By the policy's calibrator, where there is one."""
    log_odds = logit if policy is None else float(policy.calibrator.log_odds(logit))
    return number(float(np.exp(-np.logaddexp(0, -log_odds))))


def _splits(dataset: Dataset, label: int, rows: NDArray[np.int64], split: str, run: Run | None) -> list[list[Any]]:
    """[split, rows, positives, negatives, not labelled] of every split that there is."""
    assert dataset.y is not None  # labels_of refuses data without
    parts = {name: run.rows(name) for name in SPLITS} if run is not None else {}
    if split not in parts:
        parts[split] = rows
    found = []
    for name, part in parts.items():
        y = dataset.y[part][..., label]
        counts = [int((y == value).sum()) for value in (1, 0)]
        if len(part):
            found.append([name, len(part), *counts, int(y.size) - sum(counts)])
    return found


def _prior(prior: LabelPrior) -> dict[str, Any]:
    return {
        "rate": number(prior.rate),
        "sampled_rate": number(prior.sampled_rate),
        "weight": number(prior.pos_weight),
        "shift": number(prior.shift),
        "slope": number(prior.slope),
        "undone": prior.undone,
    }


def _precision_recall(curve: Curve, most: int) -> list[list[float | None]]:
    """[recall, precision] where a positive comes in, from the highest cut down."""
    at = curve.at_positives()
    if not len(at.cuts):
        return []
    kept = thinned(at, [], most)
    return [[number(tp / at.positives), number(tp / (tp + fp))] for tp, fp in zip(at.tp[kept], at.fp[kept], strict=True)]


def _reliability(sets: dict[str, Logits], y: NDArray[np.uint8], policy: LabelPolicy | None) -> list[dict[str, Any]]:
    """Bins and log loss skill of the training logits, of the graph's, and of the policy's probabilities."""
    curves = {name: exact_curve(logits.ravel(), y.ravel()) for name, logits in sets.items()}
    maps: list[tuple[str, Curve, Any]] = [(name, curve, None) for name, curve in curves.items()]
    if policy is not None and (policy.calibrator.kind != "none" or policy.calibrator.shift != 0):
        maps.append(("calibrated", curves["exported"], policy.calibrator.log_odds))
    found = []
    for name, curve, log_odds in maps:
        coarse = curve.binned() if np.abs(curve.cuts).max(initial=0) < 32 else curve
        bins = [
            [number(each.predicted), number(each.observed), number(each.low), number(each.high), each.rows, each.positives]
            for each in reliability(coarse, log_odds, _BINS)
        ]
        found.append({"name": name, "skill": number(log_loss_skill(curve, log_odds)), "bins": bins})
    return found


def _training(run: Run) -> dict[str, Any]:
    config, record = run.config, run.record
    settings = config.model_dump(mode="json")
    return {
        "loss": settings["loss"],
        "sampler": settings["sampler"],
        "split": settings["split"],
        "model": settings["model"],
        "fit": settings["fit"],
        "seed": config.seed,
        "history": [[e.epoch, number(e.loss), number(e.valid_ap), number(e.valid_loss), e.seconds] for e in record.history],
        "kept": record.best_epoch,
        "valid_ap": number(record.valid_ap),
        "seconds": record.seconds,
        "notes": list(record.notes),
        "versions": record.versions,
        "data_digest": record.data_digest,
        "config_digest": record.config_digest,
    }


def _exported(bundle: Bundle) -> dict[str, Any] | None:
    manifest = bundle.manifest
    if manifest is None:
        return None
    return {
        "origin": manifest.origin,
        "created": manifest.provenance.created,
        "input": list(manifest.input.shape),
        "preprocessing": manifest.preprocessing,
        "opset": manifest.provenance.opset,
        "ir": manifest.provenance.ir_version,
        "bytes": bundle.model_path.stat().st_size,
        "digest": manifest.digests.get(bundle.model_path.name),
        "parity": manifest.parity.model_dump(mode="json"),
        "precision": manifest.precision,
        "cost": None if manifest.cost is None else manifest.cost.model_dump(mode="json"),
    }


def _rates(expected: Expected | None) -> dict[str, list[float | None] | None] | None:
    if expected is None:
        return None
    return {name: _rate(getattr(expected, name)) for name in ("precision", "recall", "fpr", "alert_rate")}


def _rate(rate: Rate | None) -> list[float | None] | None:
    return None if rate is None else [number(rate.value), number(rate.low), number(rate.high)]


def _interval(value: float | None, interval: tuple[float, float] | None) -> list[float | None] | None:
    return None if value is None else [number(value), *(map(number, interval) if interval else (None, None))]


def number(value: float | None) -> float | None:
    """6 significant digits; None for what is not finite."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
