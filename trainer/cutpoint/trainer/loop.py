"""The training loop, on Lightning, which gives it devices, processes, precision and gradients."""

import math
import signal
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from cutpoint.errors import BadConfig
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .config import Fit
from .epoch import Keeper, average_precisions, log_loss, suspects
from .interruption import Interrupted, Interruption
from .logs import Writer, open_logs
from .loss.training import TrainingLoss
from .progress import Watcher
from .run import CHECKPOINT_FILE, LOGS_FOLDER, Epoch
from .schedule import rate_share
from .steps import Batch, Fresh, Slices, Steps, seed_of


@dataclass(frozen=True)
class Fitted:
    """What the loop found; the network holds the weights of the `kept` epoch."""

    history: tuple[Epoch, ...]
    kept: Epoch


class Loop(pl.LightningModule):
    """Steps, validation, checkpoints.

    `epoch` and `step` say how many epochs, and how many steps of the next one, are done. All that is random in a step is
    seeded by them, so that a checkpoint holds no random state. Optimisation is manual: a step may take its rows in parts, and
    divides their gradient by the weight of the whole step, over all parts and processes.

    Args:
        network: x [batch, ...] to training logits.
        loss: of training logits and uint8 y.
        honest: training logits to logits [batch, ..., label] with the prior undone.
        train, valid: the rows.
        labels: their names.
        settings: of the loop.
        folder: of the run while it is unfinished.
        watcher: is told how it goes.
        writes: whether this process writes logs.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: TrainingLoss,
        honest: nn.Module,
        train: Steps,
        valid: Slices,
        labels: Sequence[str],
        settings: Fit,
        folder: Path,
        watcher: Watcher,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.loss, self.honest = network, loss, honest
        self.averaged: AveragedModel | None = None
        if settings.ema is not None:
            self.averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))  # type: ignore[no-untyped-call]
            self.averaged.requires_grad_(False)
        self.train_rows, self.valid_rows, self.labels = train, valid, labels
        self.settings, self.folder, self.watcher, self.writes = settings, folder, watcher, writes
        assert valid.dataset.y is not None  # split_rows refuses data without
        self.targets = valid.dataset.y[valid.rows]
        self.keeper = Keeper(int((self.targets == 1).sum()), settings.patience if settings.keep == "best" else None)
        self.epoch = self.step = 0
        self.losses = 0.0  # the sum of the losses of the steps of this epoch
        self.gradient_scale = torch.ones(())
        self.scored: list[Tensor] = []
        self.writers: list[Writer] = []
        self.interruption = Interruption()
        self.stop_signal = 0  # the same in all processes
        self.began_s = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.folder / CHECKPOINT_FILE

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(
            self.network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )

    def train_dataloader(self) -> Fresh:
        """The batches of each epoch from where it stands, for this process."""
        return Fresh(lambda: self.train_rows.batches(self.epoch, self.step, self.global_rank, self.trainer.world_size))

    def val_dataloader(self) -> Fresh:
        """The batches of the validation rows for this process."""
        return Fresh(lambda: self.valid_rows.batches(self.global_rank, self.trainer.world_size))

    def on_train_start(self) -> None:
        """Listen to signals, which Lightning has just set up in its own way, and open the logs."""
        self.interruption.listen()
        self.watcher.begin(self.settings.epochs, self.train_rows.count, self.epoch * self.train_rows.count + self.step)
        if self.writes:
            place = (self.epoch, self.step, self.train_rows.count)
            self.writers = open_logs(self.folder / LOGS_FOLDER, self.settings.log, self.labels, *place)

    def on_train_epoch_start(self) -> None:
        """Tell the loss, which may change with the epochs."""
        self.loss.begin_epoch(self.epoch + 1, self.settings.epochs)

    def training_step(self, batch: Batch, index: int) -> None:
        """One optimiser step."""
        x, y = batch
        optimizer: Any = self.optimizers()
        rate = self.settings.learning_rate * rate_share(
            self.settings, self.epoch * self.train_rows.count + self.step, self.steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        torch.manual_seed(seed_of(self.train_rows.seed, self.epoch, self.step, self.global_rank))
        entries = self.train_rows.size * y[0].numel()  # the same in all processes, and close to the weight
        size = self.settings.micro_batch or len(x)
        sums = torch.zeros(3, device=self.device)
        parts = []
        for start in range(0, len(x), size):
            with self._unsynced() if start + size < len(x) else nullcontext():
                logits = self.network(x[start : start + size]).float()
                loss, weight = self.loss.total(logits, y[start : start + size])
                self.manual_backward(loss / entries)
            parts.append(logits.detach())
            sums[:2] += torch.stack([loss.detach().float(), weight.detach().float()])
        sums[2] = self.interruption.signal
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        total, weight_, stop = sums.tolist()
        mean = total / weight_ if weight_ > 0 else 0.0
        if not math.isfinite(mean):
            raise self._diverged(f"loss at step {self.step + 1}", mean, [self.honest(part) for part in parts])
        # The mean over processes is what their gradients are made into.
        self.gradient_scale = entries * self.trainer.world_size / sums[1].clamp(min=1e-30)
        optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        self.stop_signal = (self.interruption.signal or signal.SIGTERM) if stop else 0
        self.losses += mean
        self.step += 1
        self.watcher.step()
        for writer in self.writers:
            writer.step(self.epoch + 1, self.step, mean, rate)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradient by the weight of the step, then clip it; here 16-bit gradients are as large as they say.

        Raises:
            BadConfig: it is not finite, and its step would leave no finite weight.
        """
        parameters = [each for each in self.network.parameters() if each.grad is not None]
        gradients = [each.grad for each in parameters if each.grad is not None]
        torch._foreach_mul_(gradients, self.gradient_scale)
        norm = nn.utils.get_total_norm(gradients)
        if self.settings.precision != "16-mixed" and not norm.isfinite():  # whose scaler leaves such a step out
            raise self._diverged(f"gradient at step {self.step + 1}", norm.item())
        if self.settings.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, norm)

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Leave a checkpoint where one is due, or somebody wants to stop."""
        if self.step == self.train_rows.count:
            return  # the end of the epoch is near
        every = self.settings.checkpoint_steps
        if self.stop_signal or (every is not None and self.step % every == 0):
            self._save()
        self._stop_if_told()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep the honest logits; they are ranked by label at the end."""
        self.scored.append(self.honest(self.judged(batch[0]).float()))

    def on_validation_epoch_end(self) -> None:
        """Rank, remember the weights if they are the best, and stop when nothing has improved for `patience` epochs."""
        mine = torch.cat(self.scored)
        self.scored.clear()
        gathered: Any = self.all_gather(mine) if self.trainer.world_size > 1 else mine.unsqueeze(0)
        logits = self.valid_rows.join(gathered)
        if not np.isfinite(logits).all():
            raise self._diverged("validation logits", "not finite", [torch.from_numpy(logits)])
        label_ap = average_precisions(logits, self.targets)
        epoch = Epoch(
            epoch=self.epoch + 1,
            loss=self.losses / self.train_rows.count,
            valid_ap=float(np.nanmean(label_ap)),
            valid_loss=log_loss(logits, self.targets),
            seconds=round(time.monotonic() - self.began_s, 3),
        )
        kept = self.keeper.add(epoch, self.judged.state_dict(), self.loss.settled)
        self.watcher.epoch(epoch, kept)
        for writer in self.writers:
            writer.epoch(epoch, label_ap.tolist())
        self.epoch, self.step, self.losses = self.epoch + 1, 0, 0.0
        if self.finished:
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Leave a checkpoint."""
        self._save()
        if not self.finished:
            self._stop_if_told()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know, and leave out where it stands, which `epoch` and `step` say."""
        del checkpoint["loops"]
        checkpoint["loop"] = {
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "seconds": time.monotonic() - self.began_s,
            "keeper": self.keeper.state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        state = checkpoint["loop"]
        self.epoch, self.step, self.losses = state["epoch"], state["step"], state["losses"]
        self.began_s = time.monotonic() - state["seconds"]
        self.keeper.load(state["keeper"])

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the network, or the average of its weights over steps."""
        return self.network if self.averaged is None else self.averaged.module

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.settings.epochs * self.train_rows.count

    @property
    def finished(self) -> bool:
        """Whether there is no epoch to come."""
        return self.epoch >= self.settings.epochs or self.keeper.tired

    def _save(self) -> None:
        for writer in self.writers:
            writer.flush()
        self.trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def _stop_if_told(self) -> None:
        if self.stop_signal:
            where = f"epoch {self.epoch + 1}, after step {self.step} of {self.train_rows.count}"
            raise Interrupted(
                f"stopped in {where}; `cutpoint train ... --resume` goes on from {self.checkpoint}", self.stop_signal
            )

    def _unsynced(self) -> AbstractContextManager[None]:
        """In which backward passes do not wait for other processes."""
        strategy: Any = self.trainer.strategy
        return strategy.block_backward_sync() if self.trainer.world_size > 1 else nullcontext()

    def _diverged(self, what: str, found: object, logits: Sequence[Tensor] = ()) -> BadConfig:
        label = suspects([each.float().cpu().numpy() for each in logits], self.labels) if logits else ""
        where = f" ({label})" if label else ""
        kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else ""
        rate = self.settings.learning_rate
        return BadConfig.of(
            f"{what} of epoch {self.epoch + 1}{where}",
            found, f"a finite number; fit.learning_rate is {rate:g}: lower it, set fit.clip, or look for huge x{kept}",
        )  # fmt: skip
