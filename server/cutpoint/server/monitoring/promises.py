"""What a policy promises of each label, as gauges beside the live counts."""

import numpy as np
from cutpoint.calibration import LabelPolicy, Policy, Rate, parse_objective
from numpy.typing import NDArray

# The names, in the order of `promises_of`, and their help.
PROMISES = {
    "cutpoint_threshold": "Active threshold, a logit.",
    "cutpoint_expected_positive_rate": "Share of decisions expected to be positive under the active policy, 0 to 1.",
    "cutpoint_expected_positive_rate_rse": "Relative standard error of the expected rate, from its interval in the policy.",
    "cutpoint_expected_recall": "Share of the calibration data's true positives at or above the threshold.",
    "cutpoint_expected_false_positive_rate": "Share of the calibration data's true negatives at or above the threshold.",
    "cutpoint_expected_precision": "Share of true positives among the calibration data at or above the threshold.",
    "cutpoint_expected_prevalence": "Share of true positives in the calibration data, 0 to 1.",
    "cutpoint_target_precision": "Precision that the label's objective asks for; absent where it asks for something else.",
    "cutpoint_target_recall": "Recall that the label's objective asks for; absent where it asks for something else.",
}
RATE, RSE, RECALL, FALSE_POSITIVES, PREVALENCE = 1, 2, 3, 4, 6
_TARGETS = ("precision_at_least", "recall_at_least")


def promises_of(policy: Policy) -> NDArray[np.float64]:
    """[gauge, label] in the order of `PROMISES`; NaN for what is not known, and all of it where a label has no threshold."""
    return np.array([_of(label) for label in policy.labels], np.float64).T


def _of(label: LabelPolicy) -> list[float]:
    if label.threshold is None or label.expected is None:
        return [np.nan] * len(PROMISES)
    expected, counts = label.expected, label.counts
    rate, labelled = expected.alert_rate.value, counts.positives + counts.negatives
    prevalence = counts.positives / labelled if labelled else np.nan
    objective = parse_objective(label.objective)
    targets = [objective.value if objective.name == name else np.nan for name in _TARGETS]
    rates = [_value(each) for each in (expected.recall, expected.fpr, expected.precision)]
    return [label.threshold, rate, expected.alert_rate.rse, *rates, prevalence, *targets]


def _value(rate: Rate | None) -> float:
    return np.nan if rate is None else rate.value
