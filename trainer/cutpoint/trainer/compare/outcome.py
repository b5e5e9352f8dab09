"""The record of a comparison: what each run reached, and how sure it is."""

from typing import Any

from cutpoint.validation import Record


class Estimate(Record):
    """A figure with its interval; no interval where none can be given.

    Attributes:
        value: over seeds: the mean.
    """

    value: float
    low: float | None = None
    high: float | None = None


class Price(Record):
    """What the wanted recall costs: at cuts chosen on the validation split, counted on the test split; all labels and seeds.

    Attributes:
        recall, precision, fpr: rates, 0 to 1; None where the denominator is 0.
        alerts_per_hit: alerts for every true positive; None without one.
        missing: labels, over all seeds, for which validation offers no such cut; they are not counted.
    """

    recall: float | None
    precision: float | None
    fpr: float | None
    alerts_per_hit: float | None
    missing: int = 0


class SeedOutcome(Record):
    """One run with one seed.

    Attributes:
        run: its folder.
        average_precision: on the test split, the mean over labels with positives, 0 to 1.
        skill_before: log loss skill of the training logits as they are, all labels together; None where it is not finite.
        skill_after: the same with the prior undone.
    """

    seed: int
    run: str
    best_epoch: int
    seconds: float
    average_precision: float
    skill_before: float | None
    skill_after: float | None


class LabelOutcome(Record):
    """One label of a run, over seeds; `difference` is to the baseline."""

    label: str
    positives: int
    average_precision: Estimate | None
    difference: Estimate | None = None
    price: Price


class RunOutcome(Record):
    """One run over its seeds.

    Attributes:
        average_precision: the mean over labels, and over seeds.
        difference: of it to the baseline's; None for the baseline.
        skill_before, skill_after: means over seeds; low and high are the lowest and highest seed.
    """

    name: str
    changes: dict[str, Any]
    average_precision: Estimate
    difference: Estimate | None
    skill_before: Estimate | None
    skill_after: Estimate | None
    price: Price
    seeds: tuple[SeedOutcome, ...]
    labels: tuple[LabelOutcome, ...]


class Comparison(Record):
    """The content of compare.json.

    Attributes:
        rows: of the test split.
        prevalence: mean over the labels with positives.
        recall: wanted.
        method: how the intervals were made.
        conclusions: what they allow to say.
    """

    model: str
    data: str
    data_digest: str
    rows: int
    prevalence: float
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    recall: float
    draws: int
    method: tuple[str, ...]
    runs: tuple[RunOutcome, ...]
    conclusions: tuple[str, ...] = ()
