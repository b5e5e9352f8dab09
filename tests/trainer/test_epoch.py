"""What an epoch is worth, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from cutpoint.trainer.epoch import Keeper, average_precisions, log_loss, suspects
from cutpoint.trainer.run import Epoch
from sklearn.metrics import average_precision_score
from sklearn.metrics import log_loss as sklearn_log_loss


def epoch(number: int, ap: float, loss: float) -> Epoch:
    return Epoch(epoch=number, loss=1, valid_ap=ap, valid_loss=loss, seconds=0)


def test_validation_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 7, 3)) * 3
    y = (rng.random((60, 7, 3)) < [0.1, 0.3, 0]).astype(np.uint8)  # the last label has no positive
    y[rng.random(y.shape) < 0.2] = 255
    flat, targets = z.reshape(-1, 3), y.reshape(-1, 3)
    on = targets != 255
    wanted = [average_precision_score(targets[on[:, i], i], flat[on[:, i], i]) for i in (0, 1)]
    found = average_precisions(z, y)
    assert found[:2].tolist() == pytest.approx(wanted)
    assert np.isnan(found[2])
    assert log_loss(z, y) == pytest.approx(sklearn_log_loss(targets[on], 1 / (1 + np.exp(-flat[on]))))
    assert log_loss(np.array([[800.0]]), np.array([[0]])) == 800


def test_which_epoch_is_kept():
    """The best AP; within a quarter of its standard error (0.0125 here), the lowest log loss."""
    keeper = Keeper(positives=100, patience=9)
    kept = []
    for number, (ap, loss) in enumerate([(0.3, 9), (0.5, 5), (0.51, 5.1), (0.505, 4), (0.49, 3), (0.6, 8), (0.5, 1)], 1):
        if keeper.add(epoch(number, ap, loss), {"w": torch.tensor(number)}, settled=True):
            kept.append(number)
    assert kept == [1, 2, 4, 6]
    assert keeper.kept == keeper.history[5]
    assert keeper.weights == {"w": torch.tensor(6)}


def test_the_last_epoch_is_kept_where_none_is_to_be_chosen():
    keeper = Keeper(positives=100, patience=None)
    for number, ap in enumerate((0.6, 0.2, 0.1), 1):
        assert keeper.add(epoch(number, ap, 1), {"w": torch.tensor(number)}, settled=True)
        assert not keeper.tired
    assert keeper.kept == keeper.history[-1] and keeper.weights == {"w": torch.tensor(3)}


def test_no_epoch_is_kept_or_counted_before_the_loss_has_settled():
    keeper = Keeper(positives=100, patience=2)
    for number, (ap, settled) in enumerate([(0.9, False), (0.9, False), (0.9, False), (0.3, True)], 1):
        assert keeper.add(epoch(number, ap, 1), {}, settled) == settled
        assert not keeper.tired
    for number in (5, 6):
        keeper.add(epoch(number, 0.1, 1), {}, settled=True)
    assert keeper.tired
    assert keeper.kept == keeper.history[3]


def test_a_keeper_goes_on_from_its_state():
    one, other = Keeper(positives=10, patience=3), Keeper(positives=10, patience=3)
    one.add(epoch(1, 0.4, 1), {"w": torch.ones(2)}, settled=True)
    one.add(epoch(2, 0.1, 1), {"w": torch.zeros(2)}, settled=True)
    other.load(one.state())
    assert (other.history, other.kept, other.best_ap) == (one.history, one.kept, one.best_ap)
    assert (other.weights["w"] == 1).all()


def test_labels_whose_logits_are_not_finite_are_named():
    z = np.zeros((3, 2, 3))
    assert suspects([z], ("a", "b", "c")) == ""
    z[2, 1, 1] = np.nan
    assert suspects([np.zeros((1, 2, 3)), z], ("a", "b", "c")) == "label 'b'"
    z[0, 0, 2] = np.inf
    assert suspects(z, ("a", "b", "c")) == "2 of 3 labels, the first is 'b'"
