"""From labelled scores, in memory or counted in a histogram, to the labels of a policy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData, BadInput, Uncalibratable
from .calibrator import fit_calibrator, fit_pooled
from .candidate import Candidate, Source
from .curve import Curve
from .guarantee import Guarantee, Guaranteed
from .objective import Infeasible, Objective
from .plan import Plan
from .policy import Counts, LabelPolicy, Policy, reasons_of
from .scores import Cuts, Scores
from .search import count, window_curves, with_rest
from .sparse import from_previous, with_pooled_cuts

# Rows, from which it is faster to count the scores of all labels first than to sort them.
MANY_ROWS = 20_000


def fit_labels(data: Source, plan: Plan, previous: Policy | None = None) -> tuple[LabelPolicy, ...]:
    """Choose every label's cut, exactly, over all cuts that the data offer, and fit its probabilities.

    Args:
        data: scores in memory, or a histogram.
        plan: what for.
        previous: the policy before, for `plan.fallback` "previous".

    Raises:
        BadData: a labelled score is NaN, a target is none of 0, 1 and `UNLABELLED`; groups are asked for and there are none.
        BadInput: the plan has an objective for a label that is not there, or a guarantee and the rows are weighted.
        Uncalibratable: there are no rows, or no label at all gets a cut; the message gives the labels' reasons.
    """
    objectives = plan.for_labels(data.labels)
    guarantee = plan.guarantee
    if guarantee is not None:
        _check_guarantee(data, objectives, guarantee)
    delta = 0.0 if guarantee is None else guarantee.delta / (len(objectives) if guarantee.family == "simultaneous" else 1)
    pools = plan.calibrator != "none" or plan.shrink > 0 or plan.fallback == "pooled"
    every = pools or plan.fallback != "none"
    cuts: list[Cuts] = [
        "all" if every or objective.cuts == "all" or guarantee is not None else "positives" for objective in objectives
    ]

    def look(i: int, curve: Curve, points: Curve | None = None) -> Candidate:
        return _first_look(data, i, curve, objectives[i], plan, delta, (points or curve).binned() if pools else None)

    found = _searched(data, objectives, plan, delta, look) if isinstance(data, Scores) else {}
    rest = [i for i in range(len(objectives)) if i not in found]
    found |= zip(rest, data.map_curves(look, cuts, rest), strict=True)
    labels = [found[i] for i in range(len(objectives))]
    if all(label.counts.rows == 0 for label in labels):
        raise Uncalibratable("no labels: every entry is marked as not labelled")
    labels = _jointly(labels, plan.min_positives)
    if pools:
        labels = _with_calibrators(labels, plan)
        labels = with_pooled_cuts(data, labels, plan)
    if plan.fallback == "previous":
        labels = [from_previous(data, i, label, previous) for i, label in enumerate(labels)]
    fitted = tuple(_finished(data, i, label) for i, label in enumerate(labels))
    if all(label.threshold is None for label in fitted):
        raise Uncalibratable(f"{plan} can be met for no label: {reasons_of(fitted)}")
    return fitted


def fit_policy(
    data: Source,
    plan: Plan,
    *,
    model: str,
    model_version: int,
    model_digest: str,
    created: str,
    author: str,
    previous: Policy | None = None,
) -> Policy:
    """A whole policy for a graph: `fit_labels`, and from what data, when and by whom. Raises what `fit_labels` does."""
    return Policy(
        model=model,
        model_version=model_version,
        model_digest=model_digest,
        version=1 if previous is None else previous.version + 1,  # a store numbers it anew
        parent=None if previous is None else previous.version,
        created=created,
        author=author,
        data_digest=data.digest(),
        data=data.summary(),
        guarantee=plan.guarantee,
        labels=fit_labels(data, plan, previous),
    )


def refuse_probabilities(name: str, logits: NDArray[Any]) -> None:
    """Raise BadData where scores given as logits are plainly probabilities: 100 or more, all of them from 0 to 1.

    A threshold on probabilities, held against logits, would decide something else; rare events' logits are mostly negative.
    """
    if logits.size >= 100 and np.min(logits) >= 0 and np.max(logits) <= 1 and np.ptp(logits) > 0:
        found = f"all from {np.min(logits):.3g} to {np.max(logits):.3g}, as probabilities are"
        raise BadData.of(name, found, "logits, log(p / (1 - p)); the outputs 'logits', not 'scores'")


def _check_guarantee(data: Source, objectives: Sequence[Objective], guarantee: Guarantee) -> None:
    for objective in objectives:
        objective.check_guarantee()
    if data.weighted:
        raise BadInput.of("weights", "given", "none with a guarantee: no exact bound is known for weighted rows")
    if guarantee.unit == "group" and not data.has_groups:
        raise BadData.of("groups", "not given", "one for each row, for a guarantee by group")


def _first_look(
    data: Source, i: int, curve: Curve, objective: Objective, plan: Plan, delta: float, points: Curve | None
) -> Candidate:
    """A label's own choice, and of its curve only what is needed later."""
    classes = {"positives": curve.positives, "negatives": curve.negatives} if curve.labelled else {"unlabelled": curve.rows}
    counts = Counts(**{"positives": 0, "negatives": 0, "tp": 0, "fp": 0, **classes})
    label = Candidate(data.labels[i], objective, counts, curve.effective, points=points)
    if objective.joint:
        return replace(label, curve=curve.at_positives() if objective.lacking(curve, plan.min_positives) is None else curve)
    if plan.guarantee is None:
        choice = objective.choose(curve, plan.min_positives)
        return label.without(choice) if isinstance(choice, Infeasible) else label.at(curve, choice)
    lacking = objective.lacking(curve, plan.min_positives)
    if lacking is None:
        return _surely(data, i, curve, label, plan.guarantee, delta)
    if curve.rows > 0 and curve.labelled and lacking.needs is not None:
        sure = _surely(data, i, curve, label, plan.guarantee, delta)
        if sure.needs is not None and sure.needs.count > lacking.needs:  # the guarantee takes more than the objective
            return sure
    return label.without(lacking)


def _searched(
    data: Scores, objectives: Sequence[Objective], plan: Plan, delta: float, look: Callable[..., Candidate]
) -> dict[int, Candidate]:
    """The labels, by index, whose own choice can be made without sorting all scores, where there are many of them."""
    by_group = plan.guarantee is not None and plan.guarantee.unit == "group"
    if data.weighted or by_group or data.rows < MANY_ROWS:
        return {}
    wanted = [i for i, objective in enumerate(objectives) if not objective.joint]
    if not wanted:
        return {}
    points = list(count(data).map_curves(lambda _, curve: curve))
    coarse = [with_rest(curve) for curve in points]
    windows = {}
    for i in wanted:
        if objectives[i].lacking(coarse[i], plan.min_positives) is None and len(coarse[i].cuts):
            window = objectives[i].bracket(coarse[i], None if plan.guarantee is None else delta)
            if window is not None:
                windows[i] = window
    curves = window_curves(data, coarse, windows)
    return {i: look(i, curve, points[i]) for i, curve in curves.items()}


def _surely(data: Source, i: int, curve: Curve, label: Candidate, guarantee: Guarantee, delta: float) -> Candidate:
    objective = label.objective
    assert objective.rate is not None  # checked at the beginning
    unit = guarantee.unit
    counted = data.unit_curve(i, objective.rate) if unit == "group" else curve
    choice = objective.choose_surely(counted, delta, f"{unit}s")
    if isinstance(choice, Infeasible):
        return label.without(choice)
    units = {"recall": counted.positives, "fpr": counted.negatives}.get(objective.rate, counted.rows)
    sure = Guaranteed(rate=objective.rate, bound=objective.value, delta=delta, unit=unit, counted=int(units))
    # Precision may be less above the lowest threshold, about which alone the test says something; the others may not.
    threshold = counted.lowest_threshold(choice) if objective.rate == "precision" else None
    index = curve.index_at(float(counted.cuts[choice]) if threshold is None else threshold)
    return replace(label.at(curve, index, threshold), guarantee=sure)


def _jointly(labels: Sequence[Candidate], min_positives: int) -> list[Candidate]:
    """With the cuts of joint objectives, chosen together among the labels that share one."""
    found = list(labels)
    for objective in {str(label.objective): label.objective for label in labels if label.objective.joint}.values():
        of = [i for i, label in enumerate(labels) if label.objective == objective]
        curves = [labels[i].curve for i in of]
        choices = objective.choose_jointly([curve for curve in curves if curve is not None], min_positives)
        for i, curve, choice in zip(of, curves, choices, strict=True):
            assert curve is not None
            found[i] = labels[i].without(choice) if isinstance(choice, Infeasible) else labels[i].at(curve, choice)
            found[i] = replace(found[i], curve=None)
    return found


def _with_calibrators(labels: Sequence[Candidate], plan: Plan) -> list[Candidate]:
    if plan.calibrator == "none":
        return list(labels)
    points = [label.points for label in labels if label.points is not None and label.points.labelled]
    pooled = fit_pooled(points, plan.calibrator) if len(points) > 1 else None
    return [
        replace(label, calibrator=fit_calibrator(label.points, plan.calibrator, pooled=pooled))
        if label.points is not None
        else label
        for label in labels
    ]


def _finished(data: Source, i: int, label: Candidate) -> LabelPolicy:
    expected = label.expected
    if label.threshold is not None and expected is None:
        expected = data.expected(i, label.threshold, label.counts, label.effective)
    return LabelPolicy(
        label=label.name,
        objective=str(label.objective),
        status=label.status,
        threshold=label.threshold,
        reason=label.reason,
        needs=label.needs,
        guarantee=label.guarantee,
        counts=label.counts,
        expected=expected,
        calibrator=label.calibrator,
    )
