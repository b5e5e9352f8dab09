"""Every sampler against its formula by brute force, and the order that comes of it against what was expected."""

import numpy as np
import pytest
import torch
import yaml
from cutpoint.errors import BadConfig
from cutpoint.trainer import label_priors, parse_config
from cutpoint.trainer.config import (
    LabelSetSampler,
    NoSampler,
    OverSampler,
    RepeatFactorSampler,
    UnderSampler,
    WeightedBCELoss,
    WeightedSampler,
)
from cutpoint.trainer.sampler import Order, build_order
from scipy.special import expit, logit
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from torch.utils.data import WeightedRandomSampler

EVERY = [
    WeightedSampler(),
    LabelSetSampler(),
    RepeatFactorSampler(threshold=0.2),
    OverSampler(ratio=0.37),
    UnderSampler(ratio=0.3),
]
KINDS = pytest.mark.parametrize("settings", EVERY, ids=lambda settings: settings.kind)


def labelled(rows: int = 600, rates: tuple[float, ...] = (0.15, 0.06, 0.02)) -> np.ndarray:
    rng = np.random.default_rng(5)
    y = (rng.random((rows, len(rates))) < rates).astype(np.uint8)
    y[rng.random(y.shape) < 0.05] = 255
    return y


def counted(order: Order, epochs: int) -> np.ndarray:
    """How often each row came in each epoch, [epoch, row]."""
    return np.array([np.bincount(order.epoch(number), minlength=order.rows) for number in range(epochs)])


@KINDS
def test_rows_come_as_often_as_is_expected(settings):
    """floor or ceil of what is expected every time, and on average exactly that: a chi-square over all rows."""
    order = build_order(settings, labelled(), 3)
    expected, epochs = order.draws, 400
    counts = counted(order, epochs)
    assert expected.sum() == pytest.approx(len(order), abs=1e-6)
    assert (counts.sum(axis=1) == len(order)).all()
    assert ((counts >= np.floor(expected)) & (counts <= np.ceil(expected))).all()
    share = expected - np.floor(expected)
    some = (share > 1e-9) & (share < 1 - 1e-9)
    statistic = ((counts.mean(axis=0) - expected)[some] ** 2 / (share * (1 - share) / epochs)[some]).sum()
    low, high = chi2.ppf([1e-4, 1 - 1e-4], some.sum())
    assert low < statistic < high or settings.kind in ("over", "under")
    if settings.kind in ("over", "under"):  # one share for all, whose total is fixed
        assert statistic < high


@KINDS
def test_an_epoch_is_a_function_of_seed_and_number(settings):
    y = labelled()
    one, two = build_order(settings, y, 1), build_order(settings, y, 1)
    first = one.epoch(0)
    assert first.dtype == np.int64
    later = one.epoch(7)
    assert np.array_equal(two.epoch(7), later)  # as after a resume, in a process that drew none of the epochs before
    assert np.array_equal(one.epoch(0), first)
    assert not np.array_equal(first, later)
    assert not np.array_equal(build_order(settings, y, 2).epoch(0), first)


@KINDS
@pytest.mark.parametrize("world", [2, 3])
def test_processes_draw_together_what_one_would(settings, world):
    """Each builds the order itself, cuts it into global batches, and takes every `world`-th row of them."""
    y = labelled()
    whole = build_order(settings, y, 4).epoch(2)
    size = 4 * world
    slices = []
    for rank in range(world):
        own = build_order(settings, y, 4).epoch(2)
        slices.append([own[start : start + size][rank::world] for start in range(0, len(own), size)])
    together = []
    for parts in zip(*slices, strict=True):
        batch = np.empty(sum(map(len, parts)), np.int64)
        for rank, part in enumerate(parts):
            batch[rank::world] = part
        together.append(batch)
    assert np.array_equal(np.concatenate(together), whole)


def test_no_sampler_deals_every_row_out_once():
    order = build_order(NoSampler(), labelled(50), 0)
    assert (order.draws, len(order)) == (None, 50)
    assert sorted(order.epoch(0)) == list(range(50))
    assert not np.array_equal(order.epoch(0), order.epoch(1))


def test_an_epoch_is_in_random_order():
    """No row comes sooner than another, however often it comes: mean places, and repetitions are not neighbours."""
    y = np.zeros((40, 1), np.uint8)
    y[:4] = 1
    order = build_order(WeightedSampler(), y, 0)
    drawn = np.array([order.epoch(number) for number in range(2000)])
    places = [np.nonzero(drawn == row)[1].mean() for row in range(40)]
    # A place is uniform over 40: its variance is (40^2 - 1) / 12; a negative comes 0.56 times an epoch.
    assert np.abs(np.array(places) - 19.5).max() < 4.5 * np.sqrt((40**2 - 1) / 12 / (2000 * 20 / 36))
    # 20 of the 40 are of 4 rows, 5 each: two neighbours are the same row in 4 * 5 * 4 of 40 * 39 cases.
    assert (drawn[:, 1:] == drawn[:, :-1]).mean() == pytest.approx(80 / 1560, abs=0.004)


def test_weighted_draws_as_torch_does():
    y = labelled()
    positive = (y == 1).any(axis=1)
    for share in (0.5, 0.2):
        order = build_order(WeightedSampler(share=share), y, 0)
        weights = np.where(positive, share / positive.sum(), (1 - share) / (~positive).sum())
        assert order.draws == pytest.approx(len(y) * weights)
        generator = torch.Generator().manual_seed(0)
        theirs = np.array(list(WeightedRandomSampler(weights.tolist(), 200_000, generator=generator)))
        ours = np.concatenate([order.epoch(number) for number in range(300)])
        assert positive[ours].mean() == pytest.approx(share, abs=0.002)
        assert positive[ours].mean() == pytest.approx(positive[theirs].mean(), abs=0.005)
        assert len(order) == len(y)


def test_a_sequence_with_one_positive_window_is_a_positive_row():
    y = np.zeros((10, 140, 2), np.uint8)
    y[3, 77, 1] = 1
    y[5] = 255  # not labelled is not positive
    assert build_order(WeightedSampler(), y, 0).draws.tolist() == pytest.approx([10 / 18] * 3 + [5] + [10 / 18] * 6)
    assert build_order(OverSampler(), y, 0).draws.tolist() == [1, 1, 1, 9, 1, 1, 1, 1, 1, 1]
    under = build_order(UnderSampler(ratio=0.5), y, 0)
    assert len(under) == 3
    assert all(3 in under.epoch(number) for number in range(20))
    # f = 1/9 of the rows that are labelled.
    factor = np.sqrt(0.5 * 9)
    assert build_order(RepeatFactorSampler(threshold=0.5), y, 0).draws[3] == pytest.approx(factor * 12 / (9 + factor))


def test_label_sets_are_drawn_equally_often():
    rng = np.random.default_rng(0)
    for labels in (3, 64, 70, 130):
        y = np.zeros((500, labels), np.uint8)
        y[:, [0, 1, labels - 1]] = rng.random((500, 3)) < (0.3, 0.1, 0.02)
        sets = [frozenset(np.flatnonzero(row)) for row in y]
        size = {each: sets.count(each) for each in sets}
        draws = build_order(LabelSetSampler(), y, 0).draws
        for each in size:
            assert draws[[found == each for found in sets]].sum() == pytest.approx(500 / len(size))
        tempered = build_order(LabelSetSampler(power=0.5), y, 0).draws
        whole = sum(np.sqrt(n) for n in size.values())
        assert tempered == pytest.approx([500 / whole / np.sqrt(size[each]) for each in sets])


def test_repeat_factors_by_hand():
    """Gupta 2019: r(label) = max(1, sqrt(t / f)), r(row) the largest of its labels: f = 0.5, 0.04 and 0.01, t = 0.16."""
    y = np.zeros((100, 4), np.uint8)
    y[:50, 0] = 1
    y[[0, 60, 61, 62], 1] = 1
    y[60, 2] = 1
    factors = np.ones(100)
    factors[[0, 61, 62]] = 2
    factors[60] = 4
    order = build_order(RepeatFactorSampler(threshold=0.16), y, 0)  # the last label has no positive, and repeats nothing
    assert order.draws == pytest.approx(factors)
    assert (np.bincount(order.epoch(0)) == factors).all()
    # 105 and a part: an epoch has 106 rows, and each row its share of the part.
    y[70, 3] = 1
    order = build_order(RepeatFactorSampler(threshold=0.02), y, 0)
    factors = np.ones(100)
    factors[[60, 70]] = np.sqrt(2)
    assert len(order) == 101
    assert order.draws == pytest.approx(factors * 101 / factors.sum())


def test_over_and_under_keep_what_they_promise():
    """imbalanced-learn's counts, for its sampling_strategy: positives over negatives after sampling."""
    y = np.zeros((1000, 1), np.uint8)
    y[:30] = 1
    for ratio, wanted in ((1.0, 970), (0.5, 485), (0.1, 97)):
        counts = counted(build_order(OverSampler(ratio=ratio), y, 0), 5)
        assert (counts[:, :30].sum(axis=1) == wanted).all()
        assert (counts[:, 30:] == 1).all()
    for ratio, wanted in ((1.0, 30), (0.5, 60), (0.1, 300)):
        counts = counted(build_order(UnderSampler(ratio=ratio), y, 0), 200)
        assert (counts[:, :30] == 1).all()
        assert (counts[:, 30:].sum(axis=1) == wanted).all()
        assert counts.max() == 1
        assert (counts[0] != counts[1]).any()
        assert (counts.sum(axis=0) > 0).mean() > 0.99 or ratio == 1  # every negative is seen sooner or later


@pytest.mark.parametrize("positive", [0, 5])
def test_nothing_to_balance(positive):
    y = np.zeros((5, 1), np.uint8)
    y[:positive] = 1
    for settings in (WeightedSampler(), OverSampler(), UnderSampler()):
        with pytest.raises(BadConfig, match=f"sampler is {settings.kind}; expected none: {positive} of 5 training rows"):
            build_order(settings, y, 0)
    with pytest.raises(BadConfig, match="hold the same labels"):
        build_order(LabelSetSampler(), y, 0)


def test_settings_that_would_change_nothing():
    y = (np.arange(100)[:, None] < 20).astype(np.uint8)
    for settings in (OverSampler(ratio=0.25), UnderSampler(ratio=0.25)):
        with pytest.raises(BadConfig, match=r"sampler.ratio is 0.25; expected more than 0.25"):
            build_order(settings, y, 0)
    with pytest.raises(BadConfig, match=r"sampler.threshold is 0.2; expected more than 0.2, the frequency of the rarest label"):
        build_order(RepeatFactorSampler(threshold=0.2), y, 0)


def test_more_rows_than_torch_takes():
    """WeightedRandomSampler refuses more than 2^24 rows; here the last of them comes as often as the first."""
    rows = 2**24 + 1000
    with pytest.raises(RuntimeError, match="2\\^24"):
        list(WeightedRandomSampler(torch.ones(rows), 1))
    y = np.zeros((rows, 1), np.uint8)
    y[-1000:] = 1
    order = build_order(UnderSampler(ratio=0.01), y, 0)
    drawn = order.epoch(0)
    assert len(drawn) == len(order) == 101_000
    assert np.array_equal(np.sort(drawn)[-1000:], np.arange(2**24, rows))
    # Of each 16th of the negatives a 16th is drawn, of the last as of the first.
    sixteenths = np.bincount(drawn[drawn < 2**24] >> 20, minlength=16)
    assert ((sixteenths - 6250) ** 2 / 6250).sum() < chi2.ppf(1 - 1e-4, 15)


def test_many_labels_shift_one_by_one():
    """Rows with about 5 of 512 labels: sampling rows hardly balances any, and each label shifts by its own amount."""
    rng = np.random.default_rng(0)
    rates = np.clip(np.exp(rng.normal(-5.2, 1.3, 512)), 3e-4, 0.3)
    y = np.zeros((20000, 512), np.uint8)
    for i, rate in enumerate(rates):
        y[rng.choice(20000, max(1, int(rate * 20000)), replace=False), i] = 1
    names = [str(i) for i in range(512)]
    order = build_order(RepeatFactorSampler(threshold=0.01), y, 0)
    priors = label_priors(y, order.draws, WeightedBCELoss(name="weighted_bce", pos_weight=1), names)
    shift = np.array([prior.shift for prior in priors])
    assert -0.1 < shift.min() < 0 < np.median(shift) < 0.2
    assert 1 < shift.max() < 2
    # What is recorded is what comes.
    drawn = np.concatenate([order.epoch(number) for number in range(8)])
    rate = y[drawn].mean(axis=0)
    common = rates > 0.005
    assert [prior.sampled_rate for prior in priors] == pytest.approx(rate, rel=0.05)
    assert (np.abs(logit(rate) - logit(y.mean(axis=0)) - shift)[common] < 0.04).all()


@pytest.mark.parametrize(
    ("settings", "weight", "least_shift"),
    [
        (WeightedSampler(), 1.0, 3),
        (WeightedSampler(share=0.2), 5.0, 3),
        (OverSampler(ratio=0.5), 1.0, 2.5),
        (UnderSampler(ratio=0.2), 1.0, 1.5),
        (RepeatFactorSampler(threshold=0.5), 1.0, 1),
        (LabelSetSampler(power=0.5), "auto", 3),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_what_sampling_shifts_is_what_is_undone(settings, weight, least_shift):
    """A well-specified model of a known posterior: less the recorded shift its log-odds are true within 10 %."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200_000, 2))
    true = 1.5 * x[:, 0] + x[:, 1] - 5.0
    y = (rng.random(len(x)) < expit(true)).astype(np.uint8)[:, None]
    order = build_order(settings, y, 0)
    loss = WeightedBCELoss(name="weighted_bce", pos_weight=weight)
    (prior,) = label_priors(y, order.draws, loss, ["event"])
    assert prior.shift > least_shift
    drawn = np.concatenate([order.epoch(number) for number in range(2)])
    model = LogisticRegression(C=np.inf)
    model.fit(x[drawn], y[drawn, 0], sample_weight=np.where(y[drawn, 0] == 1, prior.pos_weight, 1.0))
    found = model.decision_function(x) - prior.shift
    assert np.abs(found - true).mean() < 0.1 * np.abs(true).mean()
    assert np.abs(found - true).mean() < 0.15
    assert expit(found).mean() == pytest.approx(y.mean(), rel=0.05)


MINIMAL = {
    "name": "m",
    "task": "binary",
    "data": {"path": "d.npz"},
    "split": {"by": "random"},
    "model": {"kind": "mlp"},
    "loss": {"name": "weighted_bce"},
}


def test_a_word_is_a_kind_with_its_defaults():
    for word, settings in (("none", NoSampler()), ("weighted", WeightedSampler()), ("repeat_factor", RepeatFactorSampler())):
        config = parse_config({**MINIMAL, "sampler": word})
        assert config.sampler == settings
        assert parse_config(yaml.safe_load(config.to_yaml())) == config
    assert parse_config(MINIMAL).sampler == NoSampler()
    assert parse_config({**MINIMAL, "sampler": {"kind": "over", "ratio": 0.2}}).sampler == OverSampler(ratio=0.2)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("smote", r"c: sampler is 'smote': .*expected none, weighted, label_set, repeat_factor, over, under"),
        ({"share": 0.3}, r"c: sampler is \{'share': 0.3\}: .*expected none, weighted"),
        (3, r"c: sampler is 3: .*expected none, weighted"),
        ({"kind": "weighted", "share": 1}, r"c: sampler.share is 1: .*less than 1"),
        ({"kind": "weighted", "ratio": 1}, r"c: sampler.ratio is not a known key"),
        ({"kind": "under", "ratio": 0}, r"c: sampler.ratio is 0: .*greater than 0"),
        ({"kind": "label_set", "power": 2}, r"c: sampler.power is 2"),
        ({"kind": "repeat_factor", "threshold": 0}, r"c: sampler.threshold is 0"),
    ],
)
def test_what_is_wrong_is_named(sampler, message):
    with pytest.raises(BadConfig, match=message):
        parse_config({**MINIMAL, "sampler": sampler}, "c")
