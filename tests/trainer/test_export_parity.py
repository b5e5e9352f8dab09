"""Parity on hand-built graphs: what is compared, and what is refused."""

import numpy as np
import pytest
import torch
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle
from cutpoint.trainer.export.parity import compare, measure_parity, parity_batches
from torch import nn

from .graphs import node, save_graph

RNG = np.random.default_rng(3)


class Less(nn.Module):
    """x less what `of` gives for it."""

    def __init__(self, of) -> None:
        super().__init__()
        self.of = of

    def forward(self, x):
        return x - self.of(x)


def test_batches_are_of_several_sizes_with_the_largest_rows(tmp_path):
    x = RNG.normal(size=(400, 3)).astype(np.float32)
    extremes = np.array([17, 230, 399])
    x[extremes, 1] = (1e4, -1e6, 1e5)
    batches = parity_batches(Dataset(tmp_path, x), np.arange(10, 400), any_windows=False)
    assert [len(batch) for batch in batches] == [1, 2, 5, 256, 8]
    np.testing.assert_array_equal(batches[-1][:3], x[[230, 399, 17]])
    assert all(batch.dtype == np.float32 and batch.flags.c_contiguous for batch in batches)
    few = parity_batches(Dataset(tmp_path, x), np.arange(3), any_windows=False)
    assert [len(batch) for batch in few] == [1, 2, 5, 256, 3]  # repeated, so that a large batch is run all the same


def test_batches_of_windows_are_of_several_counts_and_not_too_large(tmp_path):
    x = RNG.normal(size=(5, 140, 1000)).astype(np.float32)
    batches = parity_batches(Dataset(tmp_path, x), np.arange(5), any_windows=True)
    assert [batch.shape[:2] for batch in batches] == [
        (1, 140), (2, 140), (5, 140), (29, 140), (5, 140), (2, 1), (2, 70), (2, 280),
    ]  # fmt: skip
    assert max(batch.nbytes for batch in batches) <= 16 << 20
    one = parity_batches(Dataset(tmp_path, x[:, :1]), np.arange(5), any_windows=True)
    assert {batch.shape[1] for batch in one} == {1, 2}


def test_a_row_may_not_depend_on_the_others_of_its_batch(tmp_path):
    """The graph and torch agree, and both take the mean of the batch from every row."""
    nodes = [node("ReduceMean", "x first", "mean"), node("Sub", "x mean", "logits")]
    file = save_graph(tmp_path / "m.onnx", nodes, {"first": np.array([0])}, ["batch", 3], ["batch", 3])
    batches = [RNG.normal(size=(size, 3)).astype(np.float32) for size in (1, 2, 5)]
    with pytest.raises(BadBundle, match=r"alone and in a batch.*may not depend on the others"):
        measure_parity(Less(lambda x: x.mean(0, keepdim=True)), file, batches)


def test_what_is_recorded(tmp_path):
    file = save_graph(tmp_path / "m.onnx", [node("Sub", "x c", "logits")], {"c": np.float32(1)}, ["b", "w", 3], ["b", "w", 3])
    batches = [np.full((2, 4, 3), 50, np.float32), np.zeros((3, 7, 3), np.float32)]
    parity = measure_parity(Less(lambda x: 1 + torch.full_like(x, 1e-3)), file, batches)
    assert parity.max_abs_difference == pytest.approx(1e-3, rel=0.01)
    assert parity.tolerance == pytest.approx(1e-4 * 49, rel=1e-3)
    assert (parity.batch_sizes, parity.window_counts, parity.rows, parity.batch_difference) == ((2, 3), (4, 7), 5, 0)
    assert measure_parity(Less(torch.ones_like), file, batches[:1]).window_counts == ()
    with pytest.raises(BadBundle, match=r"parity .*0\.001 apart.*at most 0\.0001"):
        measure_parity(Less(lambda x: 1 + torch.full_like(x, 1e-3)), file, batches[1:])


def test_shape_type_and_finiteness():
    x = np.ones((2, 3), np.float32)
    assert compare(lambda x: 2 * x, lambda x: 2 * x + np.float32(0.5), [x]) == (0.5, 2)
    for other, message in (
        (lambda x: x[:, :1], r"float32 \[2, 1\].*float32 \[2, 3\]"),
        (lambda x: x.astype(np.float16), "float16"),
        (lambda x: x * np.float32("nan"), "not finite"),
        (lambda x: x + np.float32("inf"), "not finite"),
    ):
        with pytest.raises(BadBundle, match=message):
            compare(lambda x: x, other, [x])
