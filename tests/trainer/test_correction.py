"""What is said of the prior: the table at every size, and the warning where it is due and only there."""

import numpy as np
import pytest
from cutpoint.bundle import LabelPrior
from cutpoint.trainer import label_priors
from cutpoint.trainer.config import (
    ClassBalancedLoss,
    FocalLoss,
    LogitAdjustedLoss,
    NoSampler,
    OverSampler,
    UnderSampler,
    WeightedBCELoss,
    WeightedCELoss,
    WeightedSampler,
)
from cutpoint.trainer.correction import double_correction, prior_table
from cutpoint.trainer.sampler import build_order
from rich.console import Console
from scipy.special import expit, logit


def shown(table) -> list[str]:
    console = Console(width=200, no_color=True, soft_wrap=True)
    with console.capture() as capture:
        console.print(table)
    return [line.strip() for line in capture.get().splitlines() if line.strip()]


def rare(rows: int = 20_000) -> np.ndarray:
    """Two labels of 1.81 % (the notes' trap 9) and 10 %, of different rows."""
    y = np.zeros((rows, 2), np.uint8)
    y[: rows * 181 // 10_000, 0] = 1
    y[rows // 2 : rows * 6 // 10, 1] = 1
    return y


def warned(y, sampler, loss):
    names = ("fault", "wear")[: y.shape[1]]
    return double_correction(label_priors(y, build_order(sampler, y, 0).draws, loss, names), names, sampler, loss)


def bce(weight):
    return WeightedBCELoss(name="weighted_bce", pos_weight=weight)


def test_a_sampler_and_a_weight_are_told_with_the_numbers():
    y = rare()[:, :1]
    odds = (1 - y.mean()) / y.mean()
    text = warned(y, WeightedSampler(), bce(odds))
    assert text.startswith("THE PRIOR IS SHIFTED TWICE, by sampler weighted and by loss weighted_bce, for 1 of 1 labels:\n")
    # Trap 9 of the notes: 7.983 = 2 log((1 - r) / r).
    once, reported = np.log(odds), 100 * expit(logit(0.01) + 2 * np.log(odds))
    numbers = f"rate 0.0181, sampled at 0.5: log-odds +{once:.2f}; weight {odds:.4g}: +{once:.2f}; together +{2 * once:.2f}"
    assert f"  fault: {numbers}: an event of 1 % would be reported at {reported:.3g} %\n" in text
    assert "together +7.99" in text
    assert "auto, sqrt or effective" in text


@pytest.mark.parametrize(
    ("sampler", "loss"),
    [
        (WeightedSampler(), bce(54.0)),
        (WeightedSampler(share=0.3), bce((2.0, 1.0))),
        (OverSampler(), bce({"fault": 3.0})),
        (UnderSampler(), FocalLoss(name="focal", alpha=0.75)),
        (WeightedSampler(), FocalLoss(name="focal", alpha=None, pos_weight=10.0)),
        (WeightedSampler(), FocalLoss(name="focal", alpha=0.75, pos_weight="auto")),
    ],
)
def test_what_is_given_doubles(sampler, loss):
    assert "  fault: " in warned(rare(), sampler, loss)


@pytest.mark.parametrize(
    ("sampler", "loss"),
    [
        (NoSampler(), bce(54.0)),
        (WeightedSampler(), bce("auto")),
        (WeightedSampler(share=0.3), bce("auto")),
        (WeightedSampler(share=0.3), bce("sqrt")),
        (OverSampler(ratio=0.3), bce("effective")),
        (WeightedSampler(), bce(1.0)),
        (WeightedSampler(), bce({"fault": 0.5})),
        (WeightedSampler(), FocalLoss(name="focal")),  # its alpha of a quarter weighs positives less
        (UnderSampler(ratio=0.3), ClassBalancedLoss(name="class_balanced")),
        (UnderSampler(ratio=0.3), LogitAdjustedLoss(name="logit_adjusted")),
    ],
)
def test_what_is_derived_does_not(sampler, loss):
    y = rare()
    assert warned(y, sampler, loss) is None
    if isinstance(loss, WeightedBCELoss) and loss.pos_weight == "auto":  # the two correct once: to even odds
        priors = label_priors(y, build_order(sampler, y, 0).draws, loss, ("fault", "wear"))
        assert [prior.shift for prior in priors] == pytest.approx([-logit(prior.rate) for prior in priors])


def test_only_labels_that_are_shifted_twice_are_named():
    y = rare()
    text = warned(y, WeightedSampler(), bce({"wear": 4.0}))
    assert "for 1 of 2 labels" in text
    assert "  wear: " in text
    assert "fault" not in text
    text = warned(y[:, :1], WeightedSampler(), WeightedCELoss(name="weighted_ce", class_weight=(1, 8)))
    assert "by loss weighted_ce" in text
    assert warned(y[:, :1], WeightedSampler(), WeightedCELoss(name="weighted_ce")) is None


def test_of_many_labels_the_worst_are_named():
    names = [f"label {i}" for i in range(512)]
    priors = [LabelPrior(rate=0.001, sampled_rate=0.002 + 1e-5 * i, pos_weight=9, shift=3 + i / 512) for i in range(512)]
    text = double_correction(priors, names, WeightedSampler(), bce(9.0))
    assert text.splitlines()[1].startswith("  label 511: ")
    assert len(text.splitlines()) == 23
    assert "and 492 more labels" in text
    lines = shown(prior_table(priors, names))
    assert lines[3].split() == ["label", "511", "0.001", "0.00711", "9", "+4.00"]
    assert lines[-2].split() == [
        "492",
        "more",
        "0.001",
        "to",
        "0.001",
        "0.002",
        "to",
        "0.00691",
        "9",
        "to",
        "9",
        "3",
        "to",
        "3.96",
    ]
    assert len(lines) == 1 + 2 + 21 + 1


def test_the_table_says_what_it_means():
    y = rare()
    loss = bce("auto")
    priors = label_priors(y, build_order(WeightedSampler(), y, 0).draws, loss, "ab")
    lines = shown(prior_table(priors, ("fault", "[bold]wear")))
    assert lines[0] == "what training does to the prior"
    assert lines[1].split() == ["label", "rate", "as", "sampled", "weight", "shift"]
    assert lines[3].split() == ["fault", "0.0181", "0.0766", "12.05", "+3.99"]
    assert lines[4].startswith("[bold]wear")
    mean = np.mean([prior.shift for prior in priors])
    moved = f"weights and sampler move the log-odds by +{mean:.2f} on average: an event of 1 % would be reported at "
    assert lines[-1].startswith(f"{moved}{100 * expit(logit(0.01) + mean):.3g} %")


def test_the_table_of_nothing_and_of_what_is_fitted_later():
    y = rare()
    assert shown(prior_table(label_priors(y, None, bce(1.0), "ab"), "ab"))[-1] == (
        "weights and sampler leave the log-odds as they are"
    )
    later = [LabelPrior(rate=0.1, sampled_rate=0.5, pos_weight=1, shift=0, undone="fitted")] * 2
    lines = shown(prior_table(later, "ab"))
    assert lines[3].split() == ["a", "0.1", "0.5", "1", "after", "training"]
    assert lines[-1].startswith("the loss has no inverse")
