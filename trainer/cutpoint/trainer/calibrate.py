"""The policy that a bundle is shipped with: a cut per label, from the scores of rows that did not train the model."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cutpoint.bundle import Bundle, read_bundle, write_policy
from cutpoint.calibration import Objective, Policy, digest_of, fit_labels, refuse_probabilities
from cutpoint.dataset import Dataset, read_arrays, target_codes
from cutpoint.errors import BadData, Uncalibratable
from numpy.typing import NDArray

from .score import score_rows


def calibrate_bundle(
    path: Path,
    dataset: Dataset,
    rows: NDArray[np.int64],
    objective: Objective,
    min_positives: int = 0,
    allow_undecided: bool = False,
    author: str = "cutpoint calibrate",
) -> Policy:
    """Score `rows` with the bundle, choose its cuts, and write its policy.json.

    Args:
        path: the version folder.
        dataset: with y.
        rows: indices; not those that trained the model.
        objective: what the cuts are chosen for.
        min_positives: labels with fewer labelled positives (or 1, where the objective needs labels) get no cut.
        allow_undecided: write the policy although some labels (but not all) get no cut.
        author: who or what makes it.

    Raises:
        BadData: no y, or labels, names or shapes that are not the model's.
        Uncalibratable: a label gets no cut; the message says what each lacks. Nothing is written.
    """
    bundle = read_bundle(path, with_policy=False)
    targets = labels_of(bundle, dataset, rows)
    logits = score_rows(bundle, dataset, rows)
    names = bundle.manifest.labels if bundle.manifest else dataset.label_names
    return calibrate_scores(bundle, logits, targets, names, objective, min_positives, allow_undecided, author)


def calibrate_scores(
    bundle: Bundle,
    logits: NDArray[np.float32],
    targets: NDArray[np.uint8],
    names: Sequence[str],
    objective: Objective,
    min_positives: int = 0,
    allow_undecided: bool = False,
    author: str = "cutpoint calibrate",
) -> Policy:
    """Choose the bundle's cuts from scores [..., label] with targets of the same shape, and write its policy.json."""
    labels = fit_labels(logits, targets, names, objective, min_positives)
    policy = Policy(
        model=bundle.name,
        model_version=bundle.version,
        model_digest=bundle.digest,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        author=author,
        data_digest=digest_of(logits, targets),
        labels=labels,
    )
    if policy.undecided and not allow_undecided:
        reasons = "; ".join(f"{label.label}: {label.status}, {label.reason}" for label in policy.undecided[:5])
        more = f"; and {len(policy.undecided) - 5} more" if len(policy.undecided) > 5 else ""
        counted = f"{len(policy.undecided)} of {len(labels)} labels get no threshold"
        raise Uncalibratable(f"{counted} ({reasons}{more}); --allow-undecided ships it all the same, or change the objective")
    write_policy(bundle.path, policy)
    return policy


def labels_of(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The targets of `rows`, uint8 [..., label]; BadData without y or where the labels are not the model's."""
    if dataset.y is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'y'", "'y', the labels to calibrate or evaluate with")
    if bundle.manifest is not None and dataset.label_names != bundle.manifest.labels:
        found, wanted = list(dataset.label_names[:5]), list(bundle.manifest.labels[:5])
        raise BadData.of(f"{dataset.path}: label_names", found, f"{wanted}, the labels of {bundle.name}, in that order")
    return np.asarray(dataset.y[rows])


def read_scores(path: Path, labels: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read scores made elsewhere, a .npz with `logits` [row], [row, label] or [sequence, window, label] and `y` alike.

    Args:
        path: of the file.
        labels: how many there must be; None for any number.

    Returns:
        float32 logits and uint8 targets (0, 1, `UNLABELLED`), both [..., label].

    Raises:
        BadData: no such file, a pickle, missing keys, shapes that differ, NaN scores, labels other than 0, 1, -1, 255, NaN.
    """
    arrays = read_arrays(path)
    if set(arrays) != {"logits", "y"}:
        raise BadData.of(f"{path}: keys", sorted(arrays), "logits and y")
    logits, y = (arrays[key][..., None] if arrays[key].ndim == 1 else arrays[key] for key in ("logits", "y"))
    numeric = all(a.dtype.kind in "biuf" for a in (logits, y))
    if logits.ndim == y.ndim + 1 and logits.shape[-1] == 1:
        y = y[..., None]
    if not numeric or logits.shape != y.shape or (labels is not None and logits.shape[-1] != labels):
        wanted = "label" if labels is None else f"{labels} labels"
        raise BadData.of(
            f"{path}: shapes of logits and y", f"{list(logits.shape)} and {list(y.shape)}", f"the same, [..., {wanted}]"
        )
    refuse_probabilities(f"{path}: logits", logits)
    return logits.astype(np.float32), target_codes(f"{path}: y", y)
