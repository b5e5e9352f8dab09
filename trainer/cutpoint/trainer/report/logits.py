"""What a run says of rows before the prior is undone and after, in torch, without an export."""

import numpy as np
import torch
from cutpoint.dataset import Dataset
from numpy.typing import NDArray

from ..export import load_served
from ..run import Run
from ..score import batch_size_of

Logits = NDArray[np.float32]


def run_logits(run: Run, dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Logits, Logits]:
    """Training logits as they are, and honest ones, both float32 [row, ..., label]; of two classes the difference."""
    network, honest_head = load_served(run).children()
    trained, honest = [], []
    with torch.no_grad():
        for _, x in dataset.batches(rows, batch_size_of(dataset)):
            raw = network(torch.from_numpy(x))
            undone = honest_head(raw)
            trained.append(_as_labels(raw, undone).float().numpy())
            honest.append(undone.float().numpy())
    return np.concatenate(trained), np.concatenate(honest)


def _as_labels(raw: torch.Tensor, honest: torch.Tensor) -> torch.Tensor:
    """Those of two classes, [batch, 2, ...], become their difference."""
    return raw if raw.shape == honest.shape else (raw[:, 1] - raw[:, 0]).reshape(honest.shape)
