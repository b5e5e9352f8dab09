"""From scores to a policy, and into the bundle that it is shipped with."""

import datetime
import importlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle, read_bundle, write_policy
from ..calibration import Plan, Policy, ScoreHistogram, Scores, fit_policy, reasons_of
from ..dataset import Dataset
from ..errors import BadBundle, MissingPart, Uncalibratable


def make_policy(
    data: Scores | ScoreHistogram,
    plan: Plan,
    bundle: Bundle | None = None,
    *,
    name: str = "scores",
    allow_undecided: bool = False,
    author: str = "cutpoint calibrate",
) -> Policy:
    """A policy made now, for a bundle's graph, or for none.

    Args:
        data: scores of the graph, with the bundle's labels.
        plan: what for.
        bundle: whose graph gave the scores; None where it is not at hand: then the policy can be read, and decides nowhere.
        name: of the model, where there is no bundle.
        allow_undecided: whether some labels (but not all) may get no cut.
        author: who or what makes it.

    Raises:
        BadData, BadInput: what `cutpoint.calibration.fit_labels` says.
        Uncalibratable: a label gets no cut; the message says what each lacks.
    """
    policy = fit_policy(
        data,
        plan,
        model=bundle.name if bundle is not None else name,
        model_version=bundle.version if bundle is not None else 1,
        model_digest=bundle.digest if bundle is not None else "",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        author=author,
        previous=bundle.policy if bundle is not None else None,
    )
    if policy.undecided and not allow_undecided:
        counted = f"{len(policy.undecided)} of {len(policy.labels)} labels get no threshold ({reasons_of(policy.undecided)})"
        raise Uncalibratable(f"{counted}; --allow-undecided ships it all the same, or change the objective")
    return policy


def require_trainer() -> None:
    """Raise MissingPart where the trainer, which scores data with a model, is not installed."""
    try:
        importlib.import_module("cutpoint.trainer")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("cutpoint"):
            raise
        raise MissingPart(
            f"scoring data with a model needs the package {error.name}: pip install 'cutpoint[trainer]'; --scores does not"
        ) from error


def read_to_calibrate(path: Path) -> Bundle:
    """The bundle at `path`; with its policy, which becomes the parent of the next, where that can be read and is of this graph.

    Raises:
        BadBundle: what else is wrong with the bundle.
    """
    try:
        return read_bundle(path)
    except BadBundle:
        return read_bundle(path, with_policy=False)


def score_bundle(bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64]) -> Scores:
    """Scores of labelled rows by the bundle's graph; needs the trainer.

    Rows of a group, where the data name groups, and the windows of one sequence are taken as dependent on each other.

    Raises:
        BadData: no y, or labels, names or shapes that are not the model's.
    """
    require_trainer()
    from cutpoint.trainer import labels_of, score_rows

    targets = labels_of(bundle, dataset, rows)
    groups = dataset.group[rows] if dataset.group is not None else rows if targets.ndim > 2 else None
    names = bundle.manifest.labels if bundle.manifest is not None else dataset.label_names
    return Scores(score_rows(bundle, dataset, rows), targets, names, groups=groups)


def calibrate_bundle(
    path: Path,
    dataset: Dataset,
    rows: NDArray[np.int64],
    plan: Plan,
    *,
    allow_undecided: bool = False,
    author: str = "cutpoint calibrate",
) -> Policy:
    """Score `rows` (not those that trained the model) with the bundle at `path`, choose its cuts, and write its policy.json.

    Raises what `make_policy` and `score_bundle` raise; then nothing is written.
    """
    bundle = read_to_calibrate(path)
    data = score_bundle(bundle, dataset, rows)
    policy = make_policy(data, plan, bundle, allow_undecided=allow_undecided, author=author)
    write_policy(bundle.path, policy)
    return policy
