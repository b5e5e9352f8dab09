"""A scikit-learn face: a classifier whose thresholds are chosen by Cutpoint's objectives, with their guarantees.

The class is a shell: the scores of held-out rows become `Scores`, and `fit_labels` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn import get_config
from sklearn import model_selection as splitting
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params, check_is_fitted, column_or_1d, has_fit_parameter

from .calibration import Plan, Scores, fit_labels, reasons_of
from .calibration.curve import check_weights
from .dataset import UNLABELLED
from .errors import BadInput, Uncalibratable

Floats = NDArray[np.float64]
_METHODS = ("predict_proba", "decision_function")  # in the order in which "auto" looks for them, as scikit-learn does


def _answers(method: str) -> Callable[["ThresholdClassifierCV"], bool]:
    """Whether the estimator inside has the method; a calibrator gives probabilities of whatever scores."""
    return lambda self: (
        (method == "predict_proba" and self.calibrator != "none")
        or hasattr(getattr(self, "estimator_", self.estimator), method)
    )  # fmt: skip


class ThresholdClassifierCV(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that decides at thresholds chosen for an objective, on scores of rows that were held out.

    It stands beside scikit-learn's TunedThresholdClassifierCV and differs in three things. It takes what one wants kept (say
    `recall_at_least=0.9`), not only a metric to maximise, and on request guarantees it. It pools the held-out scores of all
    folds into one exact curve, with a cut at every score, where scikit-learn takes the mean over folds of curves interpolated
    at 100 thresholds: of rare positives a fold has too few for a ratio to say much. And it takes indicator matrices.

    Scores are logits: log p / (1 - p) of `predict_proba`, taken in float64, or what `decision_function` gives, as it is. A row
    is positive when its score, as float32, is at least the threshold. A probability of 0 or 1, as forests give it, counts as a
    logit of 1 beyond all held-out ones.

    A guarantee is of the one classifier that made the scores: it needs `cv="prefit"`, or one split and `refit=False`.

    Args:
        estimator: a classifier with `predict_proba` or `decision_function`.
        objective: `name=value` (see `cutpoint.calibration.objective`), or a list of it and of `label:name=value`.
        delta: asks for a guarantee, which may be broken with this probability; not with folds, nor with a refit.
        simultaneous: delta is for all labels at once.
        by_group: the guarantee counts groups of rows, given to `fit`.
        calibrator: of the probabilities: "none" (the estimator's own), "auto", "temperature", "platt", "beta", "isotonic" or
            "venn_abers".
        min_positives: a label with fewer positives gets no threshold.
        shrink: thresholds of labels with few positives are moved towards that of all labels together; see `Plan`.
        allow_undecided: let a label without a threshold be: it is never predicted. False to raise.
        cv: None or a number of folds (5), as scikit-learn makes them; a share of the rows to hold out once, stratified for one
            label; splits whose test rows do not overlap; "prefit" for an estimator fitted already, on other rows. Where groups
            are given, the first two keep them whole.
        refit: fit the estimator on all rows in the end; False for "prefit", or for one split, whose classifier is then kept.
        n_jobs: folds fitted at once.
        random_state: of the split where `cv` is a share.
        response_method: "predict_proba", "decision_function", or "auto" for the first of them that there is.
        pos_label: the positive class of a binary problem; None for `classes_[1]`.

    Attributes:
        estimator_: the fitted classifier; classes_, n_features_in_ and feature_names_in_ are its own.
        policy_labels_: a `LabelPolicy` for every label: threshold, status, counts, rates expected, calibrator.
        thresholds_: float32 [label], logits; NaN for a label without one.
        best_threshold_: the one threshold of a binary problem.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.metrics import recall_score
        >>> X, y = make_classification(n_samples=4000, weights=[0.95], flip_y=0, random_state=1)
        >>> classifier = ThresholdClassifierCV(LogisticRegression(), "recall_at_least=0.9").fit(X[:2000], y[:2000])
        >>> round(classifier.best_threshold_, 1), round(classifier.policy_labels_[0].expected.recall.value, 2)
        (-1.9, 0.91)
        >>> round(recall_score(y[2000:], classifier.predict(X[2000:])), 2)
        0.96
    """

    def __init__(
        self,
        estimator: Any,
        objective: str | Sequence[str] = "max_fbeta=1",
        *,
        delta: float | None = None,
        simultaneous: bool = False,
        by_group: bool = False,
        calibrator: str = "none",
        min_positives: int = 0,
        shrink: float = 0.0,
        allow_undecided: bool = False,
        cv: Any = None,
        refit: bool = True,
        n_jobs: int | None = None,
        random_state: Any = None,
        response_method: Literal["auto", "predict_proba", "decision_function"] = "auto",
        pos_label: Any = None,
    ) -> None:
        self.estimator = estimator
        self.objective = objective
        self.delta = delta
        self.simultaneous = simultaneous
        self.by_group = by_group
        self.calibrator = calibrator
        self.min_positives = min_positives
        self.shrink = shrink
        self.allow_undecided = allow_undecided
        self.cv = cv
        self.refit = refit
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.response_method = response_method
        self.pos_label = pos_label

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, **params: Any) -> Self:
        """Fit the estimator, and choose the thresholds on scores of rows that it was not fitted on.

        Args:
            X: [row, feature], whatever the estimator takes.
            y: [row] of two classes, or [row, label] of 0 and 1; with `cv="prefit"` also -1 for "not labelled", which is left
                out of that label's counts (no classifier can be trained on such entries, so nowhere else).
            sample_weight: [row], for the estimator's fit, and how many rows each stands for when the thresholds are chosen.
            groups: [row] integers or text, for the splits and for `by_group`: rows of one group are not independent.
            params: more for the estimator's fit or the splits, by scikit-learn's metadata routing.

        Raises:
            BadInput: a setting is unknown or contradicts another, y is of another kind, a guarantee is asked for with weights,
                folds or a refit.
            Uncalibratable: a label gets no threshold and `allow_undecided` is False, or no label gets one.
        """
        plan = self._plan(sample_weight is not None, groups is not None)
        X, y, sample_weight, groups = indexable(X, y, sample_weight, groups)
        array = self._checked_targets(y)
        target = y if self._multilabel else array
        weights = None if sample_weight is None else check_weights(np.asarray(sample_weight), array.shape[:1])
        if not (self._multilabel or self._prefit):
            found = np.unique(array if weights is None else array[weights > 0])
            if len(found) != 2:
                count = f"{len(found)} class{'' if len(found) == 1 else 'es'}"
                raise BadInput.of("y", f"{count} in rows of a weight above zero: {found[:5].tolist()}", "2 classes")
        rows, logits = self._held_out(X, target, array, *self._routed(sample_weight, groups, params), groups is not None)
        self._limits = _finite_limits(logits)
        logits = np.clip(logits, *self._limits)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        if self._multilabel:
            targets = np.where(array == -1, UNLABELLED, array).astype(np.uint8)[rows]
            names = [str(name) for name in getattr(y, "columns", range(array.shape[1]))]
        else:
            targets, names = (array[rows] == self._positive).astype(np.uint8)[:, None], [str(self._positive)]
        weights, units = (None if each is None else np.asarray(each)[rows] for each in (weights, groups))
        self.policy_labels_ = fit_labels(Scores(logits, targets, names, weights=weights, groups=units), plan)
        undecided = [label for label in self.policy_labels_ if label.threshold is None]
        if undecided and not self.allow_undecided:
            raise Uncalibratable(f"{plan} cannot be met for {len(undecided)} of {len(names)} labels: {reasons_of(undecided)}")
        thresholds = [np.nan if label.threshold is None else label.threshold for label in self.policy_labels_]
        self.thresholds_ = np.array(thresholds, np.float32)
        return self

    @property
    def classes_(self) -> Any:
        """The classes, as of `estimator_`."""
        return self.estimator_.classes_

    @property
    def best_threshold_(self) -> float:
        """The threshold of a binary problem, a logit."""
        if self._multilabel:
            raise AttributeError("best_threshold_ is of a binary problem; of several labels there are thresholds_")
        return float(self.thresholds_[0])

    def predict(self, X: Any) -> NDArray[Any]:
        """The classes [row], or the indicator matrix [row, label], of y's dtype."""
        check_is_fitted(self, "thresholds_")
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and decided alike
            alerts = np.clip(self._logits(X), *self._limits).astype(np.float32) >= self.thresholds_
        if self._multilabel:
            return alerts.astype(self._dtype)
        positive = self.classes_ == self._positive
        predicted: NDArray[Any] = np.where(alerts[:, 0], self.classes_[positive], self.classes_[~positive])
        return predicted

    @available_if(_answers("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Any:
        """Probabilities: with a calibrator float64 [row, class], or [row, label] of a 1; without one the estimator's own."""
        check_is_fitted(self, "thresholds_")
        if self.calibrator == "none":
            return self.estimator_.predict_proba(X)
        logits = np.clip(self._logits(X), *self._limits)
        odds = np.stack([label.calibrator.log_odds(logits[:, i]) for i, label in enumerate(self.policy_labels_)], axis=1)
        # Each class from the log-odds, since 1 - p has no digits left where p is almost 1.
        return expit(odds if self._multilabel else np.where(self.classes_ == self._positive, odds, -odds))

    @available_if(_answers("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> Any:
        """The estimator's own, float [row] or [row, label]; thresholds are on it only where there is no `predict_proba`."""
        check_is_fitted(self, "thresholds_")
        return self.estimator_.decision_function(X)

    def get_metadata_routing(self) -> MetadataRouter:
        """Where scikit-learn sends what is given to `fit`: to the estimator's fit and the splitter's split."""
        router = MetadataRouter(owner=type(self).__name__).add_self_request(self)
        router.add(estimator=self.estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
        return router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))

    def __sklearn_tags__(self) -> Any:
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = inner.classifier_tags is not None and inner.classifier_tags.multi_label
        tags.input_tags.sparse, tags.input_tags.allow_nan = inner.input_tags.sparse, inner.input_tags.allow_nan
        return tags

    @property
    def _prefit(self) -> bool:
        return isinstance(self.cv, str) and self.cv == "prefit"

    def _plan(self, weighted: bool, grouped: bool) -> Plan:
        """The settings, checked."""
        plan = Plan.of(
            self.objective,
            delta=self.delta,
            simultaneous=self.simultaneous,
            by_group=self.by_group,
            calibrator=self.calibrator,
            min_positives=self.min_positives,
            shrink=self.shrink,
        )
        if self._prefit and self.refit:
            raise BadInput.of("refit", True, "False with cv='prefit'")
        if self.response_method not in ("auto", *_METHODS):
            raise BadInput.of("response_method", repr(self.response_method), "auto, predict_proba or decision_function")
        if plan.guarantee is not None and weighted:
            raise BadInput.of("sample_weight", "given", "none with delta: no exact bound is known for weighted rows")
        if self.by_group and not grouped:
            raise BadInput.of("groups", "not given", "one for each row, with by_group")
        return plan

    def _checked_targets(self, y: Any) -> NDArray[Any]:
        """[row] or [row, label] of y; and keeps which of the two it is."""
        array: NDArray[Any] = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
        self._multilabel, self._dtype = array.ndim == 2 and array.shape[1] > 1, array.dtype
        if not self._multilabel:
            kind = "binary" if _of_two(array) else type_of_target(y, input_name="y")
            if kind != "binary":
                raise BadInput(f"Only binary classification is supported. Unknown label type: {kind}")
            return np.asarray(column_or_1d(y, warn=True))
        allowed, expected = ((-1, 0, 1), "-1, 0 or 1") if self._prefit else ((0, 1), "0 or 1; -1 only with cv='prefit'")
        wrong = array[~np.isin(array, allowed)]
        if wrong.size:
            raise BadInput.of("y [row, label]", np.unique(wrong)[:5].tolist(), expected)
        if self.pos_label is not None:
            raise BadInput.of("pos_label", repr(self.pos_label), "None with y [row, label]")
        return array

    def _routed(self, sample_weight: Any, groups: Any, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the estimator's fit and the splitter's split are given."""
        fit, split = {"sample_weight": sample_weight}, {"groups": groups}
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **fit, **split, **params)
            return routed.estimator.fit, split if self._splits_itself else routed.splitter.split
        if params:
            raise BadInput.of("parameters of fit", sorted(params), "none but by scikit-learn's enable_metadata_routing=True")
        if sample_weight is not None and not self._prefit and not has_fit_parameter(self.estimator, "sample_weight"):
            kind = type(self.estimator).__name__
            raise BadInput.of("sample_weight", "given", f"none: {kind}.fit does not take it, but by metadata routing")
        return {} if sample_weight is None else fit, {} if groups is None else split

    def _held_out(
        self, X: Any, y: Any, array: NDArray[Any], fit: Mapping[str, Any], split: Mapping[str, Any], grouped: bool
    ) -> tuple[NDArray[np.intp] | slice, Floats]:
        """Fit `estimator_`; which rows were held out, and their logits [row, label]."""
        rows = np.arange(len(array))
        if self._prefit:
            check_is_fitted(self.estimator, "classes_")
            self.estimator_ = self.estimator
            self._positive = self._positive_class(array)
            return slice(None), self._logits(X)
        splits = [(rows[train], rows[test]) for train, test in self._splitter(y, grouped).split(X, y, **split)]
        tested = np.concatenate([test for _, test in splits])
        if len(np.unique(tested)) < len(tested):
            raise BadInput.of("cv", repr(self.cv), "splits whose test rows do not overlap: a row counts once")
        if self.delta is not None and (self.refit or len(splits) > 1):
            found = f"{self.delta:g} with {len(splits)} splits and refit={self.refit}"
            raise BadInput.of(
                "delta", found.replace(" 1 splits", " 1 split"),
                "cv='prefit', or one split (cv=0.5, say) and refit=False: the scores of other classifiers guarantee nothing of "
                "the one that predicts",
            )  # fmt: skip
        if not self.refit and len(splits) > 1:
            raise BadInput.of("refit", False, f"True where cv has several splits, here {len(splits)}")
        self.estimator_ = _fitted(self.estimator, X, y, rows if self.refit else splits[0][0], fit)
        self._positive = self._positive_class(array)
        if not self.refit:
            return tested, self._logits(_safe_indexing(X, tested))
        parts = Parallel(n_jobs=self.n_jobs)(
            delayed(_fold_logits)(self.estimator, X, y, train, test, fit, self._answer) for train, test in splits
        )
        return tested, np.concatenate(parts)

    @property
    def _splits_itself(self) -> bool:
        return self.cv is None or isinstance(self.cv, Integral | float)

    def _splitter(self, y: Any, grouped: bool) -> Any:
        """What `cv` says, such that groups stay whole where the choice is ours."""
        if isinstance(self.cv, float) and 0 < self.cv < 1:
            alike = splitting.ShuffleSplit if self._multilabel else splitting.StratifiedShuffleSplit
            once = splitting.GroupShuffleSplit if grouped else alike
            return once(n_splits=1, test_size=self.cv, random_state=self.random_state)
        if grouped and self._splits_itself:
            whole = splitting.GroupKFold if self._multilabel else splitting.StratifiedGroupKFold
            return whole(5 if self.cv is None else self.cv)
        return splitting.check_cv(self.cv, y=y, classifier=True)

    def _positive_class(self, targets: NDArray[Any]) -> Any:
        """The class that is predicted at or above the threshold."""
        if self._multilabel:
            return 1
        classes = self.classes_
        if len(classes) != 2 or not ((targets == classes[0]) | (targets == classes[1])).all():
            raise BadInput.of("classes of y", np.unique(targets)[:5].tolist(), f"two, those of the estimator: {list(classes)}")
        if self.pos_label is not None and self.pos_label not in classes.tolist():
            raise BadInput.of("pos_label", repr(self.pos_label), f"one of {list(classes)}")
        return classes[1] if self.pos_label is None else classes[classes == self.pos_label][0]

    @property
    def _answer(self) -> Callable[[Any, Any], Floats]:
        """From a fitted classifier and X to logits [row, label]."""
        found = next((method for method in _METHODS if hasattr(self.estimator, method)), _METHODS[0])
        method = found if self.response_method == "auto" else self.response_method
        return partial(logits_of, method=method, positive=self._positive, multilabel=self._multilabel)

    def _logits(self, X: Any) -> Floats:
        return self._answer(self.estimator_, X)


def logits_of(estimator: Any, X: Any, method: str, positive: Any, multilabel: bool) -> Floats:
    """Scores of a fitted classifier as logits, float64 [row, label]; infinite where a probability is 0 or 1.

    Args:
        estimator: with `method`.
        X: [row, feature].
        method: "predict_proba", of which the log-odds are taken, or "decision_function".
        positive: the class whose logits are wanted.
        multilabel: whether it was fitted to an indicator matrix.
    """
    answer = getattr(estimator, method)(X)
    if method == "decision_function":
        scores = np.asarray(answer, np.float64)
        sign = 1 if multilabel or positive == estimator.classes_[-1] else -1
        return scores if multilabel else sign * scores.reshape(-1, 1)
    if not multilabel:
        return _log_odds(answer, estimator.classes_, positive)[:, None]
    if isinstance(answer, list):  # of [row, class], one for each label: MultiOutputClassifier, forests, neighbours
        return np.stack([_log_odds(p, classes, 1) for p, classes in zip(answer, estimator.classes_, strict=True)], axis=1)
    p = np.clip(np.asarray(answer, np.float64), 0, 1)
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(p) - np.log1p(-p)
    return odds


def _log_odds(probabilities: NDArray[Any], classes: NDArray[Any], positive: Any) -> Floats:
    """[row] from [row, class]: of one class against the others, which have more digits than 1 - p where p is almost 1.

    A fold may lack a class, whose probability then is 0.
    """
    p, chosen = np.asarray(probabilities, np.float64), np.asarray(classes) == positive
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(p[:, chosen].sum(axis=1)) - np.log(p[:, ~chosen].sum(axis=1))
    return odds


def _of_two(array: NDArray[Any]) -> bool:
    """Whether a list of integers plainly has two values or one: told by comparing, where scikit-learn sorts them all."""
    if array.ndim != 1 or array.dtype.kind not in "biu" or len(array) == 0:
        return False
    return bool(((array == array.min()) | (array == array.max())).all())


def _finite_limits(logits: Floats) -> tuple[Floats, Floats]:
    """What to clip logits [row, label] to, [label] each: 1 below and above the finite ones and 0, where some are infinite.

    So that a cut among rows of probability 0, which alerts on every row, or one above a probability of 1, has a finite
    threshold. Decisions at any other threshold are the same with the limits and without.
    """
    finite = np.isfinite(logits)
    low = np.where(np.isneginf(logits).any(axis=0), np.min(logits, axis=0, where=finite, initial=0) - 1, -np.inf)
    high = np.where(np.isposinf(logits).any(axis=0), np.max(logits, axis=0, where=finite, initial=0) + 1, np.inf)
    return low, high


def _fitted(estimator: Any, X: Any, y: Any, train: NDArray[np.intp], params: Mapping[str, Any]) -> Any:
    """A clone, fitted to some of the rows."""
    chosen = _check_method_params(X, params, indices=train)
    return clone(estimator).fit(_safe_indexing(X, train), _safe_indexing(y, train), **chosen)


def _fold_logits(
    estimator: Any,
    X: Any,
    y: Any,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    params: Mapping[str, Any],
    answer: Callable[[Any, Any], Floats],
) -> Floats:
    """Logits of the held-out rows of one fold."""
    return answer(_fitted(estimator, X, y, train, params), _safe_indexing(X, test))
