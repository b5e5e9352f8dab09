"""The scikit-learn face: scikit-learn's own checks, and thresholds against brute force and TunedThresholdClassifierCV."""

import doctest
import pickle
from collections.abc import Iterator
from typing import Any

import cutpoint.estimator
import numpy as np
import pytest
import sklearn
from cutpoint.errors import BadInput, Uncalibratable
from cutpoint.estimator import ThresholdClassifierCV
from joblib import parallel_config
from pytest import approx
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import f1_score, log_loss, recall_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TunedThresholdClassifierCV,
    cross_val_predict,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_limits

Arrays = tuple[np.ndarray, np.ndarray]
FOLDS = StratifiedKFold(5)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):  # the problems are small, and the machine is shared
        yield


@pytest.fixture(scope="module")
def rare() -> Arrays:
    X, y = make_classification(3000, 8, n_informative=4, weights=[0.95], flip_y=0.02, class_sep=1.5, random_state=3)
    return X, y


@pytest.fixture(scope="module")
def several() -> Arrays:
    X, y = make_multilabel_classification(n_samples=400, n_features=6, n_classes=4, n_labels=2, random_state=1)
    return X, y


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def best_f1(scores: np.ndarray, y: np.ndarray) -> float:
    """Over all cuts."""
    alerts = scores >= np.unique(scores)[:, None]
    return float((2 * alerts[:, y == 1].sum(axis=1) / (alerts.sum(axis=1) + y.sum())).max())


def held_out(estimator: Any, X: np.ndarray, y: np.ndarray, cv: Any = FOLDS) -> np.ndarray:
    return logit(cross_val_predict(estimator, X, y, cv=cv, method="predict_proba")[:, 1])


# None is expected to fail. TunedThresholdClassifierCV fails those of sample weights, which for pooled counts are rows repeated,
# and check_classifiers_train, which wants decisions at a probability of 0.5: of its data F1 is largest at the same ones.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [
        ThresholdClassifierCV(LogisticRegression(C=1), cv=3),
        ThresholdClassifierCV(DecisionTreeClassifier(random_state=0), cv=3),  # takes indicator matrices as well
    ]
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    with np.errstate(all="warn"):  # its data are what they are
        check(estimator)


def test_the_example_runs() -> None:
    results = doctest.testmod(cutpoint.estimator)
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.parametrize("estimator", [LogisticRegression(), GaussianNB(), RandomForestClassifier(20, random_state=0)])
def test_the_threshold_is_the_best_of_all_cuts_over_the_pooled_held_out_scores(estimator: Any, rare: Arrays) -> None:
    X, y = rare
    with np.errstate(divide="ignore"):
        scores = held_out(estimator, X, y)
    fitted = ThresholdClassifierCV(estimator, cv=FOLDS).fit(X, y)
    decided = f1_score(y, scores.astype(np.float32) >= fitted.best_threshold_)
    assert decided == approx(best_f1(scores, y))
    (label,) = fitted.policy_labels_
    assert (label.counts.positives, label.counts.negatives) == (y.sum(), len(y) - y.sum())
    assert label.expected is not None and label.expected.recall is not None
    assert label.expected.recall.value == label.counts.tp / y.sum()


@pytest.mark.parametrize("objective", ["recall_at_least=0.8", "precision_at_least=0.6", "fpr_at_most=0.01"])
def test_bounds_are_kept_on_the_held_out_scores(objective: str, rare: Arrays) -> None:
    X, y = rare
    alerts = held_out(LogisticRegression(), X, y) >= ThresholdClassifierCV(
        LogisticRegression(), objective, cv=FOLDS
    ).fit(X, y).best_threshold_  # fmt: skip
    rate = {"recall": alerts[y == 1].mean(), "precision": y[alerts].mean(), "fpr": alerts[y == 0].mean()}
    name, bound = objective.split("=")
    found = rate[name.split("_")[0]]
    assert found <= float(bound) if "most" in name else found >= float(bound)


@pytest.mark.parametrize("estimator", [LogisticRegression(), GaussianNB()])
def test_f1_is_no_less_than_tuned_threshold_classifier_cv(estimator: Any, rare: Arrays) -> None:
    X, y = rare
    tuned = TunedThresholdClassifierCV(estimator, scoring="f1", cv=FOLDS, response_method="predict_proba").fit(X, y)
    ours = ThresholdClassifierCV(estimator, cv=FOLDS).fit(X, y)
    scores = held_out(estimator, X, y)
    theirs = f1_score(y, expit(scores) >= tuned.best_threshold_)
    assert f1_score(y, scores >= ours.best_threshold_) >= theirs > 0.3


def test_decisions_are_those_of_the_refitted_estimator(rare: Arrays) -> None:
    X, y = rare
    fitted = ThresholdClassifierCV(LogisticRegression()).fit(X, y)
    alone = LogisticRegression().fit(X, y)
    assert (fitted.predict_proba(X) == alone.predict_proba(X)).all()
    assert (fitted.decision_function(X) == alone.decision_function(X)).all()
    assert (fitted.predict(X) == (alone.decision_function(X) >= fitted.best_threshold_)).all()
    assert fitted.score(X, y) == (fitted.predict(X) == y).mean()
    assert fitted.n_features_in_ == X.shape[1]
    assert (fitted.classes_ == [0, 1]).all()


def test_a_decision_function_is_taken_as_it_is(rare: Arrays) -> None:
    X, y = rare
    fitted = ThresholdClassifierCV(LinearSVC(), cv=FOLDS).fit(X, y)
    scores = cross_val_predict(LinearSVC(), X, y, cv=FOLDS, method="decision_function")
    assert f1_score(y, scores >= fitted.best_threshold_) == approx(best_f1(scores, y))
    assert not hasattr(fitted, "predict_proba")
    asked = ThresholdClassifierCV(LogisticRegression(), response_method="decision_function").fit(X, y)
    assert asked.best_threshold_ == approx(ThresholdClassifierCV(LogisticRegression()).fit(X, y).best_threshold_, abs=1e-5)


@pytest.mark.parametrize("kind", [str, object])
def test_classes_may_be_text_and_either_may_be_the_positive_one(kind: type, rare: Arrays) -> None:
    X, y = rare
    names = np.array(["good", "worn"])[y].astype(kind)
    plain = ThresholdClassifierCV(LogisticRegression()).fit(X, y)
    fitted = ThresholdClassifierCV(LogisticRegression()).fit(X, names)
    assert (fitted.predict(X) == np.array(["good", "worn"])[plain.predict(X)]).all()
    assert fitted.policy_labels_[0].label == "worn"
    turned = ThresholdClassifierCV(LogisticRegression(), "recall_at_least=0.99", pos_label="good").fit(X, names)
    assert (turned.policy_labels_[0].label, turned.policy_labels_[0].counts.positives) == ("good", (y == 0).sum())
    assert 0.97 < (turned.predict(X)[y == 0] == "good").mean() < 1
    assert turned.predict(X).dtype == names.dtype
    by_decisions = clone(turned).set_params(response_method="decision_function").fit(X, names)
    assert by_decisions.best_threshold_ == approx(turned.best_threshold_, abs=1e-5)
    with pytest.raises(BadInput, match="pos_label is 'bad'; expected one of"):
        ThresholdClassifierCV(LogisticRegression(), pos_label="bad").fit(X, names)


def test_prefit_takes_the_estimator_as_it_is(rare: Arrays) -> None:
    X, y = rare
    inner = LogisticRegression().fit(X[:1500], y[:1500])
    fitted = ThresholdClassifierCV(inner, cv="prefit", refit=False).fit(X[1500:], y[1500:])
    assert fitted.estimator_ is inner
    scores = inner.decision_function(X[1500:])
    assert f1_score(y[1500:], fitted.predict(X[1500:])) == approx(best_f1(scores, y[1500:]))
    with pytest.raises(BadInput, match="refit"):
        ThresholdClassifierCV(inner, cv="prefit").fit(X, y)
    with pytest.raises(NotFittedError):
        ThresholdClassifierCV(LogisticRegression(), cv="prefit", refit=False).fit(X, y)
    with pytest.raises(BadInput, match="classes of y"):
        ThresholdClassifierCV(inner, cv="prefit", refit=False).fit(X, y + 1)
    one_class = ThresholdClassifierCV(inner, "alert_rate_at_most=0.1", cv="prefit", refit=False).fit(X, np.zeros(len(y), int))
    assert one_class.predict(X).mean() == approx(0.1, abs=0.001)


@pytest.mark.parametrize("refit", [True, False])
def test_a_share_is_held_out_once(refit: bool, rare: Arrays) -> None:
    X, y = rare
    fitted = ThresholdClassifierCV(LogisticRegression(), cv=0.3, refit=refit, random_state=0).fit(X, y)
    train, test = next(StratifiedShuffleSplit(1, test_size=0.3, random_state=0).split(X, y))
    fold = LogisticRegression().fit(X[train], y[train])
    decided = fold.decision_function(X[test]) >= fitted.best_threshold_
    assert f1_score(y[test], decided) == approx(best_f1(fold.decision_function(X[test]), y[test]))
    kept = LogisticRegression().fit(X, y) if refit else fold
    assert (fitted.estimator_.coef_ == kept.coef_).all()


def test_splits_that_contradict_the_rest_are_refused(rare: Arrays) -> None:
    X, y = rare
    with pytest.raises(BadInput, match="refit is False; expected True where cv has several splits, here 5"):
        ThresholdClassifierCV(LogisticRegression(), refit=False).fit(X, y)
    with pytest.raises(BadInput, match="do not overlap"):
        ThresholdClassifierCV(LogisticRegression(), cv=RepeatedStratifiedKFold(n_splits=2, n_repeats=2)).fit(X, y)


def test_a_guarantee_is_the_order_statistic_of_the_held_out_scores(rare: Arrays) -> None:
    X, y = rare
    inner = LogisticRegression().fit(X[:1000], y[:1000])
    fitted = ThresholdClassifierCV(inner, "recall_at_least=0.8", delta=0.05, cv="prefit", refit=False).fit(X[1000:], y[1000:])
    positives = inner.decision_function(X[1000:])[y[1000:] == 1]
    missed = int((positives < fitted.best_threshold_).sum())
    assert binom.cdf(missed, len(positives), 0.2) <= 0.05 < binom.cdf(missed + 1, len(positives), 0.2)
    (label,) = fitted.policy_labels_
    assert label.guarantee is not None and label.guarantee.counted == len(positives)
    with pytest.raises(BadInput, match="sample_weight is given; expected none with delta"):
        clone(fitted).fit(X, y, sample_weight=np.ones(len(y)))
    with pytest.raises(BadInput, match="nothing else has a bound"):
        ThresholdClassifierCV(inner, "max_fbeta=1", delta=0.05).fit(X, y)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "0.1 with 5 splits and refit=True"),
        ({"cv": 3, "refit": False}, "0.1 with 3 splits and refit=False"),
        ({"cv": 0.5}, "0.1 with 1 split and refit=True"),
        ({"cv": [(np.arange(1000), np.arange(1000, 2000))]}, "0.1 with 1 split and refit=True"),
    ],
)
def test_a_guarantee_of_another_classifier_is_refused(settings: dict[str, Any], found: str, rare: Arrays) -> None:
    # A tree grown to the end scores its own rows perfectly and others hardly: the folds' cut keeps no bound after a refit.
    wanted = ThresholdClassifierCV(DecisionTreeClassifier(), "recall_at_least=0.8", delta=0.1, **settings)
    with pytest.raises(BadInput, match=f"delta is {found}; expected cv='prefit', or one split") as raised:
        wanted.fit(*rare)
    assert "refit=False" in str(raised.value) and not hasattr(wanted, "estimator_")


def test_a_guarantee_of_one_split_is_kept_by_an_overfitted_classifier() -> None:
    kept = 0
    for seed in range(40):
        X, y = make_classification(n_samples=6000, weights=[0.8], n_features=8, flip_y=0.2, random_state=seed)
        wanted = ThresholdClassifierCV(
            KNeighborsClassifier(3), "recall_at_least=0.5", delta=0.1, cv=0.5, refit=False, random_state=seed
        ).fit(X[:800], y[:800])
        kept += recall_score(y[800:], wanted.predict(X[800:])) >= 0.5
    assert kept >= 31  # of 36 expected; fewer with a probability of 0.005


def test_groups_stay_whole_and_a_guarantee_can_count_them(rare: Arrays) -> None:
    X, y = rare
    groups = np.arange(len(y)) // 3
    fitted = ThresholdClassifierCV(
        LogisticRegression(), "recall_at_least=0.8", delta=0.1, by_group=True, cv=0.5, refit=False, random_state=0
    )
    fitted.fit(X, y, groups=groups)
    (label,) = fitted.policy_labels_
    ((_, test),) = GroupShuffleSplit(1, test_size=0.5, random_state=0).split(X, y, groups)
    X, y, groups = X[test], y[test], groups[test]
    with_positives = np.unique(groups[y == 1])
    assert label.guarantee is not None
    assert (label.guarantee.unit, label.guarantee.counted) == ("group", len(with_positives))
    alerts = fitted.predict(X) == 1
    missed = len(with_positives) - len(np.unique(groups[(y == 1) & alerts]))
    assert binom.cdf(missed, len(with_positives), 0.2) <= 0.1 < binom.cdf(missed + 1, len(with_positives), 0.2)
    with pytest.raises(BadInput, match="groups is not given"):
        clone(fitted).fit(X, y)


@pytest.mark.parametrize("cv", [None, 4, 0.25])
def test_groups_stay_whole_where_the_splits_are_ours(cv: Any, rare: Arrays) -> None:
    X, _ = rare
    # Each row twice, in one group: a neighbour would find its own twin were they split.
    twice = np.repeat(np.arange(600), 2)
    noise = np.random.default_rng(0).integers(0, 2, 600)[twice]
    apart = ThresholdClassifierCV(KNeighborsClassifier(1), "fpr_at_most=0.9", cv=cv, random_state=0)
    (label,) = apart.fit(X[twice], noise, groups=[f"machine {i}" for i in twice]).policy_labels_
    assert label.expected is not None and label.expected.recall is not None
    assert label.expected.recall.value < 0.7


def test_weights_are_as_rows_repeated(rare: Arrays) -> None:
    X, y = rare[0][:600], rare[1][:600]
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    half = np.arange(len(y)) < 300
    repeated = np.repeat(np.arange(len(y)), weights)

    def halves(rows: np.ndarray) -> list[Arrays]:
        return [
            (np.flatnonzero(half[rows]), np.flatnonzero(~half[rows])),
            (np.flatnonzero(~half[rows]), np.flatnonzero(half[rows])),
        ]

    weighted = ThresholdClassifierCV(LogisticRegression(tol=1e-8), cv=halves(np.arange(len(y)))).fit(
        X, y, sample_weight=weights
    )
    plain = ThresholdClassifierCV(LogisticRegression(tol=1e-8), cv=halves(repeated)).fit(X[repeated], y[repeated])
    assert weighted.best_threshold_ == approx(plain.best_threshold_, abs=1e-4)
    np.testing.assert_allclose(weighted.estimator_.coef_, plain.estimator_.coef_, atol=1e-4)
    ours, theirs = weighted.policy_labels_[0].counts, plain.policy_labels_[0].counts
    assert (ours.tp, ours.fp, ours.positives) == (theirs.tp, theirs.fp, theirs.positives)
    with pytest.raises(BadInput, match=r"KNeighborsClassifier\.fit does not take it"):
        ThresholdClassifierCV(KNeighborsClassifier()).fit(X, y, sample_weight=weights)
    with pytest.raises(BadInput, match="weights"):
        ThresholdClassifierCV(LogisticRegression()).fit(X, y, sample_weight=-weights)


@pytest.mark.usefixtures("routing")
def test_metadata_is_routed(rare: Arrays) -> None:
    X, y = rare[0][:900], rare[1][:900]
    weights, groups = np.where(y == 1, 5.0, 1.0), np.arange(900) // 3
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    inner = make_pipeline(scaler, LogisticRegression().set_fit_request(sample_weight=True))
    both = ThresholdClassifierCV(inner, cv=GroupKFold(3)).fit(X, y, sample_weight=weights, groups=groups)
    only_curve = clone(both).set_params(
        estimator=make_pipeline(scaler, LogisticRegression().set_fit_request(sample_weight=False))
    )
    only_curve.fit(X, y, sample_weight=weights, groups=groups)
    alone = make_pipeline(StandardScaler(), LogisticRegression())
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(both.estimator_[-1].coef_, LogisticRegression().fit(scaled, y, weights).coef_, rtol=1e-6)
    np.testing.assert_allclose(only_curve.estimator_[-1].coef_, alone.fit(X, y)[-1].coef_, rtol=1e-6)
    assert both.policy_labels_[0].counts.positives == only_curve.policy_labels_[0].counts.positives == 5 * y.sum()
    with pytest.raises(TypeError, match="unexpected"):
        clone(both).fit(X, y, colour=weights)


def test_other_parameters_of_fit_need_routing(rare: Arrays) -> None:
    with pytest.raises(BadInput, match="enable_metadata_routing"):
        ThresholdClassifierCV(LogisticRegression()).fit(*rare, colour=1)


@pytest.mark.parametrize(
    "estimator",
    [
        MultiOutputClassifier(LogisticRegression()),
        OneVsRestClassifier(LogisticRegression()),
        MLPClassifier((8,), solver="lbfgs", max_iter=50, random_state=0),
        RandomForestClassifier(10, random_state=0),
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), RidgeClassifier()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_labels_have_a_threshold_each(estimator: Any, several: Arrays) -> None:
    X, y = several
    train, test = np.arange(300), np.arange(300, 400)
    fitted = ThresholdClassifierCV(estimator, cv=[(train, test)], refit=False).fit(X, y)
    assert [label.label for label in fitted.policy_labels_] == ["0", "1", "2", "3"]
    assert (fitted.thresholds_.dtype, fitted.thresholds_.shape) == (np.float32, (4,))
    predicted = fitted.predict(X[test])
    assert (predicted.dtype, predicted.shape) == (y.dtype, (100, 4))
    inner = clone(estimator).fit(X[train], y[train])
    answer = inner.predict_proba(X[test]) if hasattr(inner, "predict_proba") else inner.decision_function(X[test])
    scores = np.stack([p[:, 1] for p in answer], axis=1) if isinstance(answer, list) else answer
    for i in range(4):
        assert f1_score(y[test, i], predicted[:, i]) == approx(best_f1(scores[:, i], y[test, i]))
    assert fitted.score(X[test], y[test]) == (predicted == y[test]).all(axis=1).mean()
    with pytest.raises(AttributeError, match="thresholds_"):
        _ = fitted.best_threshold_


def test_several_labels_are_cross_validated_and_chosen_for_jointly(several: Arrays) -> None:
    X, y = several
    inner = MultiOutputClassifier(LogisticRegression())
    scores = np.stack([p[:, 1] for p in cross_val_predict(inner, X, y, cv=3, method="predict_proba")], axis=1)
    micro = {}
    for objective in ("max_fbeta=1", "max_micro_fbeta=1"):
        fitted = ThresholdClassifierCV(inner, objective, cv=3).fit(X, y)
        micro[objective] = f1_score(y, logit(scores) >= fitted.thresholds_, average="micro")
    assert micro["max_micro_fbeta=1"] >= micro["max_fbeta=1"]
    budget = ThresholdClassifierCV(inner, "alert_budget=0.1", cv=3).fit(X, y)
    assert 0.05 < (logit(scores) >= budget.thresholds_).sum(axis=1).mean() <= 0.1
    one = ThresholdClassifierCV(inner, ["max_fbeta=1", "2:recall_at_least=1"], cv=3).fit(X, y)
    assert (logit(scores[:, 2]) >= one.thresholds_[2])[y[:, 2] == 1].all()
    assert [label.objective for label in one.policy_labels_] == ["max_fbeta=1"] * 2 + ["recall_at_least=1", "max_fbeta=1"]


def test_an_entry_of_minus_one_is_not_labelled(several: Arrays) -> None:
    X, y = several
    inner = RandomForestClassifier(10, random_state=0).fit(X[:200], y[:200])
    partly = y[200:].copy()
    partly[::3, 1] = -1
    fitted = ThresholdClassifierCV(inner, cv="prefit", refit=False).fit(X[200:], partly)
    known = partly[:, 1] >= 0
    assert [label.counts.rows for label in fitted.policy_labels_] == [200, known.sum(), 200, 200]
    only = ThresholdClassifierCV(inner, cv="prefit", refit=False).fit(X[200:][known], partly[known])
    assert fitted.thresholds_[1] == only.thresholds_[1]
    with pytest.raises(BadInput, match=r"y \[row, label\] is \[-1\]; expected 0 or 1; -1 only with cv='prefit'"):
        ThresholdClassifierCV(inner).fit(X[200:], partly)
    with pytest.raises(BadInput, match=r"\[2\]; expected -1, 0 or 1"):
        ThresholdClassifierCV(inner, cv="prefit", refit=False).fit(X[200:], np.where(partly == -1, 2, partly))
    with pytest.raises(BadInput, match="pos_label"):
        ThresholdClassifierCV(inner, cv="prefit", refit=False, pos_label=1).fit(X[200:], partly)


def test_a_label_without_a_threshold_is_an_error_unless_allowed(several: Arrays) -> None:
    X, y = several[0], several[1].copy()
    y[:, 2] = 0
    y[::80, 2] = 1
    inner = RandomForestClassifier(10, random_state=0)
    with pytest.raises(Uncalibratable, match=r"cannot be met for 1 of 4 labels: 2: INSUFFICIENT, 5 labelled positives"):
        ThresholdClassifierCV(inner, min_positives=6).fit(X, y)
    fitted = ThresholdClassifierCV(inner, min_positives=6, allow_undecided=True).fit(X, y)
    assert np.isnan(fitted.thresholds_).tolist() == [False, False, True, False]
    assert not fitted.predict(X)[:, 2].any() and fitted.predict(X)[:, 1].any()
    with pytest.raises(Uncalibratable, match="no label"):
        ThresholdClassifierCV(inner, min_positives=500, allow_undecided=True).fit(X, y)


def test_a_label_that_a_fold_lacks_scores_lowest_there(several: Arrays) -> None:
    X, y = several[0], several[1].copy()
    y[:, 2] = np.arange(len(y)) < 40  # all in the first of five folds: its classifier never saw one
    fitted = ThresholdClassifierCV(RandomForestClassifier(5, random_state=0), "fpr_at_most=0.3").fit(X, y)
    assert fitted.policy_labels_[2].counts.tp == 0


def test_calibrated_probabilities(rare: Arrays) -> None:
    X, y = rare
    shifted = LogisticRegression(class_weight="balanced")
    fitted = ThresholdClassifierCV(shifted, calibrator="platt").fit(X[::2], y[::2])
    ours = fitted.predict_proba(X[1::2])
    assert (ours.dtype, ours.shape) == (np.float64, (1500, 2))
    np.testing.assert_allclose(ours.sum(axis=1), 1)
    assert log_loss(y[1::2], ours) < 0.7 * log_loss(y[1::2], fitted.estimator_.predict_proba(X[1::2]))
    machine = ThresholdClassifierCV(LinearSVC(), calibrator="auto").fit(X[::2], y[::2])
    assert log_loss(y[1::2], machine.predict_proba(X[1::2])) < log_loss(y[1::2], np.full(1500, y.mean()))
    turned = ThresholdClassifierCV(LinearSVC(), calibrator="platt", pos_label=0).fit(X, y)
    assert turned.predict_proba(X)[y == 1, 1].mean() > turned.predict_proba(X)[y == 0, 1].mean()


def test_calibrated_probabilities_of_several_labels(several: Arrays) -> None:
    X, y = several
    fitted = ThresholdClassifierCV(RandomForestClassifier(10, random_state=0), calibrator="auto", shrink=4).fit(X, y)
    assert fitted.predict_proba(X).shape == y.shape
    assert ((fitted.predict_proba(X) >= 0) & (fitted.predict_proba(X) <= 1)).all()


def test_certain_probabilities_have_finite_thresholds(rare: Arrays) -> None:
    X, y = rare
    tree = DecisionTreeClassifier(random_state=0)  # answers 0 or 1, right for its own rows, not for others
    fitted = ThresholdClassifierCV(tree).fit(X, y)
    assert -1 < fitted.best_threshold_ < 1
    assert (fitted.predict(X) == y).all()
    everything = ThresholdClassifierCV(tree, "recall_at_least=1", calibrator="platt").fit(X, y)
    assert np.isfinite(everything.best_threshold_)
    assert everything.predict(X).all()
    assert everything.predict_proba(X).min() > 0
    nothing = ThresholdClassifierCV(tree, "min_cost=0.01").fit(X, y)
    assert np.isfinite(nothing.best_threshold_)
    assert not nothing.predict(X).any()


def test_it_is_a_scikit_learn_estimator(rare: Arrays) -> None:
    X, y = rare
    pipeline = make_pipeline(StandardScaler(), ThresholdClassifierCV(LogisticRegression(), cv=3))
    search = GridSearchCV(
        pipeline, {"thresholdclassifiercv__objective": ["max_fbeta=1", "recall_at_least=0.99"]}, scoring="f1", cv=3
    ).fit(X, y)
    assert search.best_params_ == {"thresholdclassifiercv__objective": "max_fbeta=1"}
    copied = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (copied.predict(X) == search.predict(X)).all()
    assert copied[-1].policy_labels_ == search.best_estimator_[-1].policy_labels_
    assert clone(copied[-1]).get_params()["estimator__C"] == 1.0
    assert copied[-1].set_params(estimator__C=2.0).estimator.C == 2.0
    with pytest.raises(NotFittedError):
        clone(copied[-1]).predict(X)
    with parallel_config("threading"):
        two = ThresholdClassifierCV(LogisticRegression(), n_jobs=2).fit(X, y)
    assert two.best_threshold_ == ThresholdClassifierCV(LogisticRegression()).fit(X, y).best_threshold_


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "max_f1"}, "objective"),
        ({"calibrator": "magic"}, "calibrator"),
        ({"delta": 2.0, "objective": "recall_at_least=0.9"}, "delta"),
        ({"simultaneous": True}, "delta is not given"),
        ({"response_method": "predict"}, "response_method"),
        ({"cv": 1.5}, "cross-validation"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, Any], message: str, rare: Arrays) -> None:
    with pytest.raises(ValueError, match=message):
        ThresholdClassifierCV(LogisticRegression(), **settings).fit(*rare)


def test_y_of_another_kind_is_refused(rare: Arrays) -> None:
    X, y = rare
    with pytest.raises(BadInput, match="Only binary classification"):
        ThresholdClassifierCV(LogisticRegression()).fit(X, np.arange(len(y)) % 3)
    with pytest.raises(BadInput, match="y is 1 class in rows"):
        ThresholdClassifierCV(KNeighborsClassifier()).fit(X, np.zeros(len(y)))
