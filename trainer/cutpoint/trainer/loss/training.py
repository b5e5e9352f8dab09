"""What the training loop asks of a loss."""

from collections.abc import Callable

import torch
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig
from torch import Tensor, nn

from .arguments import PerLabel


class TrainingLoss(nn.Module):
    """A loss whose parameters are fixed, of training logits and uint8 targets, `UNLABELLED` (255) where not labelled.

    A mean over a step's rows is the sum of the parts' `total`s over the sum of their weights, however rows fall into
    micro-batches and processes.

    Attributes:
        settled: False while the loss is not yet the one whose inverse the served graph applies.
    """

    settled: bool = True

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and weight of a part of a step's rows, [] each; 0 and 0 where nothing is labelled."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over these rows, []; 0 where nothing is labelled."""
        total, weight = self.total(logits, targets)
        return total / torch.where(weight > 0, weight, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Hear that `epoch`, from 1, of `epochs` begins."""


class EntryLoss(TrainingLoss):
    """The mean over labelled entries of a pure function of (logits, targets, labelled, ..., reduction)."""

    def __init__(self, function: Callable[..., Tensor], **parameters: PerLabel | None) -> None:
        super().__init__()
        self.function = function
        self.numbers = {name: value for name, value in parameters.items() if value is None or isinstance(value, int | float)}
        for name, value in parameters.items():
            if name not in self.numbers:
                self.register_buffer(name, torch.as_tensor(value), persistent=False)

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses, and the number of labelled entries."""
        on = targets != UNLABELLED
        return self.function(logits, targets, on, **self.numbers, **dict(self.named_buffers()), reduction="sum"), on.sum()


class ClassLoss(EntryLoss):
    """The same for two classes of one label: logits [batch, 2, ...], targets [batch, ..., 1]."""

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of the losses, and the number of labelled entries."""
        if targets.shape[-1] != 1:
            raise BadConfig.of("targets of a loss of two classes", f"{targets.shape[-1]} labels", "1 label")
        return super().total(logits, targets.squeeze(-1))


class BatchLoss(EntryLoss):
    """A loss of a batch as a whole: parts of a step are averaged by their labelled entries, which is not the loss of all."""

    def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's loss times its labelled entries, and their number."""
        on = targets != UNLABELLED
        loss = self.function(logits, targets, on, **self.numbers, **dict(self.named_buffers()))
        return loss * on.sum(), on.sum()
