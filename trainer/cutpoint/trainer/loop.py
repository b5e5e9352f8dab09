"""The training loop, on Lightning."""

import logging
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from cutpoint.calibration import average_precision, exact_curve
from cutpoint.dataset import UNLABELLED, Dataset
from cutpoint.errors import BadConfig
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from .config import Fit
from .progress import Watcher
from .run import Epoch

Batch = tuple[Tensor, Tensor]


class Rows(TorchDataset[Batch]):
    """Chosen rows of a dataset, read a batch at a time: float32 x [batch, ...] and uint8 y [batch, ..., label]."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64]) -> None:
        assert dataset.y is not None  # split_rows refuses data without
        self.x, self.y, self.rows = dataset.x, dataset.y, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch at `indices` of the chosen rows."""
        chosen = self.rows[indices]
        x = np.ascontiguousarray(self.x[chosen], dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(self.y[chosen]))


@dataclass(frozen=True)
class Fitted:
    """What the loop found; the network holds the weights of the `kept` epoch."""

    history: tuple[Epoch, ...]
    kept: Epoch


class Loop(pl.LightningModule):
    """Steps, validation, and the memory of the epoch to keep.

    That is the one with the best validation AP, and among epochs as good, the one whose probabilities have the lowest log
    loss: AP sees only the ranking, which is often learnt long before the probabilities are. As good means within a quarter
    of the standard error of the best AP, sqrt(AP (1 - AP) / positives), since epochs are compared on the same rows.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, honest: nn.Module, settings: Fit, watcher: Watcher) -> None:
        super().__init__()
        self.network, self.loss, self.honest = network, loss, honest
        self.settings, self.watcher = settings, watcher
        self.history: list[Epoch] = []
        self.best_ap = -1.0
        self.kept: Epoch | None = None
        self.kept_weights: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []
        self.scored: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self.began_s = time.monotonic()

    def configure_optimizers(self) -> Any:
        """AdamW, with the schedule of the settings, stepped every step."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        if self.settings.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        x, y = batch
        loss: Tensor = self.loss(self.network(x), y)
        if not torch.isfinite(loss):
            raise self._diverged(f"loss at step {index + 1}", float(loss))
        self.losses.append(loss.detach())
        self.watcher.step()
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep the logits; they are ranked by label at the end of the epoch."""
        x, y = batch
        self.scored.append((self.honest(self.network(x)).float().cpu().numpy(), y.cpu().numpy()))

    def on_validation_epoch_end(self) -> None:
        """Rank, remember the best weights, and stop when nothing has improved for `patience` epochs."""
        logits, targets = (np.concatenate(part) for part in zip(*self.scored, strict=True))
        self.scored.clear()
        if not np.isfinite(logits).all():
            raise self._diverged("validation logits", "not finite")
        number = self.current_epoch + 1
        epoch = Epoch(
            epoch=number,
            loss=float(torch.stack(self.losses).mean()),
            valid_ap=mean_average_precision(logits, targets),
            valid_loss=log_loss(logits, targets),
            seconds=round(time.monotonic() - self.began_s, 3),
        )
        self.losses.clear()
        self.history.append(epoch)
        keep = self._is_better(epoch, int((targets == 1).sum()))
        if keep:
            self.kept = epoch
            self.kept_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.watcher.epoch(epoch, keep)
        if self.kept is not None and number - self.kept.epoch >= self.settings.patience:
            self.trainer.should_stop = True

    def _is_better(self, epoch: Epoch, positives: int) -> bool:
        self.best_ap = max(self.best_ap, epoch.valid_ap)
        enough = self.best_ap - math.sqrt(self.best_ap * (1 - self.best_ap) / positives) / 4
        if self.kept is None or self.kept.valid_ap < enough:
            return epoch.valid_ap >= enough
        return epoch.valid_ap >= enough and epoch.valid_loss < self.kept.valid_loss

    def _diverged(self, what: str, found: object) -> BadConfig:
        rate = self.settings.learning_rate
        return BadConfig.of(
            f"{what} of epoch {self.current_epoch + 1}",
            found, f"a finite number; fit.learning_rate is {rate:g}: lower it, or look for huge values in x",
        )  # fmt: skip


def fit_network(
    network: nn.Module,
    loss: nn.Module,
    honest: nn.Module,
    dataset: Dataset,
    train: NDArray[np.int64],
    valid: NDArray[np.int64],
    sampler: Sampler[int],
    settings: Fit,
    watcher: Watcher,
) -> Fitted:
    """Train `network` in place and leave in it the weights of the best epoch on the validation rows.

    Args:
        network: x [batch, ...] to training logits.
        loss: (training logits, uint8 y) to the mean loss.
        honest: training logits to logits [batch, ..., label] with the prior undone, which are judged on validation.
        dataset: with y.
        train: row indices to learn from.
        valid: row indices to stop by.
        sampler: order of the training rows, as positions in `train`.
        settings: of the loop.
        watcher: is told how it goes.

    Raises:
        BadConfig: the loss or a validation logit is not finite, or shapes do not fit.
    """
    loop = Loop(network, loss, honest, settings, watcher)
    train_loader = _loader(Rows(dataset, train), settings.batch_size, sampler)
    valid_loader = _loader(Rows(dataset, valid), settings.batch_size, None)
    watcher.begin(settings.epochs, len(train_loader))
    try:
        with _quiet_lightning(), _threads(settings.threads):
            trainer = pl.Trainer(
                max_epochs=settings.epochs,
                accelerator=settings.accelerator,
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
            )
            trainer.fit(loop, train_loader, valid_loader)
    finally:
        watcher.end()
    assert loop.kept is not None  # the first epoch is always kept
    network.cpu().load_state_dict({name: value.cpu() for name, value in loop.kept_weights.items()})
    return Fitted(tuple(loop.history), loop.kept)


def mean_average_precision(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Average precision per label over all rows and windows, [..., label]; the mean over labels with positives, 0 to 1."""
    labels = logits.shape[-1]
    flat, y = logits.reshape(-1, labels), targets.reshape(-1, labels)
    each = [average_precision(exact_curve(flat[:, i], y[:, i])) for i in range(labels)]
    return float(np.nanmean(each))


def log_loss(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean binary log loss of logits [..., label] in nats per labelled entry, in float64; exact for large logits."""
    on = targets != UNLABELLED
    z, y = logits[on].astype(np.float64), targets[on]
    return float(np.logaddexp(0, np.where(y == 1, -z, z)).mean())


def _loader(rows: Rows, batch_size: int, sampler: Sampler[int] | None) -> DataLoader[Batch]:
    return DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch  # Rows gives whole batches


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's tips, banners and advice on workers are not ours to print; its errors are raised all the same."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
