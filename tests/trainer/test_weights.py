"""Positive weights of every form, by their formulas."""

import numpy as np
import pytest
from cutpoint.errors import BadConfig
from cutpoint.trainer import parse_config
from cutpoint.trainer.weights import positive_weights

POSITIVES, NEGATIVES = np.array([10.0, 2000.0]), np.array([990.0, 8000.0])


def weights(setting):
    return positive_weights(setting, POSITIVES, NEGATIVES, ("crack", "wear")).tolist()


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("auto", [99, 4]),
        ("sqrt", [np.sqrt(99), 2]),
        ("effective=0.9", [(1 - 0.9**990) / (1 - 0.9**10), (1 - 0.9**8000) / (1 - 0.9**2000)]),
        ("effective", [(1 - 0.9999**990) / (1 - 0.9999**10), (1 - 0.9999**8000) / (1 - 0.9999**2000)]),
        (7.0, [7, 7]),
        ((2.0, 3.0), [2, 3]),
        ({"wear": 5.0}, [1, 5]),
        ({"wear": 5.0, "crack": 0.5}, [0.5, 5]),
    ],
)
def test_every_form(setting, wanted):
    assert weights(setting) == pytest.approx(wanted, rel=1e-9)


def test_the_effective_number_lies_between_nothing_and_auto():
    """auto where both classes are few against 1 / (1 - beta), 1 where both are many."""
    assert weights("effective=0.0001") == pytest.approx([1, 1], rel=1e-3)
    assert weights("effective=0.99999999") == pytest.approx(weights("auto"), rel=1e-4)
    many = positive_weights("effective", 1e5 * POSITIVES, 1e5 * NEGATIVES, ("crack", "wear"))
    assert many.tolist() == [1, 1]


def test_one_weight_for_one_label():
    assert positive_weights("auto", np.array([2.0]), np.array([8.0]), ("a",)).tolist() == [4]


def test_what_does_not_fit_the_labels():
    with pytest.raises(BadConfig, match=r"loss.pos_weight is a weight for label 'crank'; expected .*'crack', 'wear'$"):
        weights({"wear": 2.0, "crank": 3.0})
    with pytest.raises(BadConfig, match=r"loss.pos_weight is a list of 3; expected 2 weights, one per label"):
        weights((1.0, 2.0, 3.0))
    names = [f"label {i}" for i in range(512)]
    with pytest.raises(BadConfig, match=r"label that exists: 'label 5.*', .* and 492 more$"):
        positive_weights({"label 512": 2.0}, np.ones(512), np.ones(512), names)


def configured(setting):
    loss = {"name": "weighted_bce", "pos_weight": setting}
    config = {
        "name": "m",
        "task": "multilabel",
        "data": {"path": "d"},
        "split": {"by": "random"},
        "model": {"kind": "mlp"},
        "loss": loss,
    }
    return parse_config(config).loss.pos_weight


def test_settings_are_read_as_they_are_meant():
    for setting in ("auto", "sqrt", "effective", "effective=0.999", 3.0, {"wear": 2.0}):
        assert configured(setting) == setting
    assert configured([1, 2.5]) == (1, 2.5)
    assert configured({0: 2}) == {"0": 2}  # labels without names are "0", "1", ...; YAML reads numbers


NUMBERS = [-1, 0, True, None, float("inf"), float("nan")]
LISTS = [[], [1, "x"], [1, -1], [True], {}, {"wear": 0}, {"wear": "auto"}, {"wear": [1]}]
WORDS = ["balanced", "effective=1", "effective=0", "effective=much", "effective="]


@pytest.mark.parametrize("setting", [*NUMBERS, *LISTS, *WORDS])
def test_one_message_for_what_is_no_weight(setting):
    with pytest.raises(BadConfig, match=r"loss.pos_weight is .*expected auto, sqrt, effective, .*per label name$"):
        configured(setting)
