"""Outcomes as labelled scores: what Calibrate takes in place of data that is sent."""

import numpy as np
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import Uncalibratable
from numpy.typing import NDArray

from ..policy.collection import Collection
from .database import Graph
from .store import Kept, Snapshot


def collect(
    kept: Snapshot,
    graph: Graph,
    into: Collection,
    *,
    since_s: float = 0.0,
    until_s: float = float("inf"),
    any_sampling: bool = False,
) -> None:
    """Put the labelled scores of a graph into a collection.

    A label of which it is not known how it came to be looked at is left out: a cut that is chosen from alerts takes every miss
    for nothing. The others are weighed by the inverse of their probability, and not at all where it is the same for all.

    Args:
        kept: outcomes.
        graph: whose logits are wanted.
        into: of the same labels.
        since_s: decisions from this time on, seconds since 1970.
        until_s: and before this one.
        any_sampling: take what is left out too, each as one row.

    Raises:
        Uncalibratable: nothing is left.
    """
    rows, labelled, least, most, windowed = 0, 0, np.inf, -np.inf, False
    for chunk in kept.kept(graph, since_s, until_s):
        weights = _weights(chunk, any_sampling)
        usable = weights[weights > 0]
        rows, labelled = rows + len(weights), labelled + len(usable)
        if len(usable):
            least, most = min(least, float(usable.min())), max(most, float(usable.max()))
            windowed = windowed or chunk.windowed
    if not labelled:
        raise Uncalibratable(_nothing(graph, rows))
    codes: dict[tuple[int, bytes, int], int] = {}
    for i, chunk in enumerate(kept.kept(graph, since_s, until_s)):
        weights = _weights(chunk, any_sampling)
        # NaN is of labels without an outcome, which are left out.
        logits = np.nan_to_num(chunk.labels["logit"], nan=0.0, posinf=np.inf, neginf=-np.inf)
        groups = np.array([codes.setdefault(group, len(codes)) for group in chunk.groups]) if windowed else None
        # A row has one weight: labels of another weight make a row of their own.
        for weight in np.unique(weights[weights > 0]):
            of = weights == weight
            some = of.any(axis=1)
            targets = np.where(of, chunk.labels["target"], UNLABELLED)[some].astype(np.uint8)
            each = None if least == most else np.full(len(targets), weight, np.float64)
            # Those of one weight may all be from 0 to 1: alerts alone, or what did not alert.
            into.add(f"outcomes {i}", logits[some], targets, each, None if groups is None else groups[some], known_logits=True)


def _weights(chunk: Kept, any_sampling: bool) -> NDArray[np.float32]:
    """What each label stands for, [row, label]; 0 for those without an outcome, or without a use."""
    weight = chunk.labels["weight"]
    if any_sampling:
        weight = np.where(weight == 0, np.float32(1), weight)
    found: NDArray[np.float32] = np.where(chunk.labels["target"] == UNLABELLED, np.float32(0), weight)
    return found


def _nothing(graph: Graph, rows: int) -> str:
    of = f"{graph.model}/{graph.version}"
    if not rows:
        return f"no outcomes are kept of what {of} has decided in this time with the graph that it has now"
    return (
        f"of {rows} rows with outcomes of {of} none says how it came to be looked at, or for alerting only: report outcomes "
        "with the sampling of their review (all, random, alerted_and_random), or ask for any sampling"
    )
