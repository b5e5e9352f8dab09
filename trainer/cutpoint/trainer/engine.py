"""Lightning's Trainer as it is set up here: silent, its checkpoints without pickle, one process or many."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch

from .checkpoint import SafeCheckpoints, read_checkpoint
from .loop import Fitted, Loop
from .processes import Processes


def run_loop(loop: Loop, processes: Processes, identity: dict[str, str], resume: bool) -> Fitted:
    """Train the network of `loop` in place and leave in it the weights of the epoch to keep.

    Args:
        loop: with all that it needs.
        processes: which of how many this is; where it is alone, `fit.devices` says how many to start.
        identity: what a checkpoint must agree with: digests of the configuration and the data.
        resume: go on from the checkpoint where there is one.

    Raises:
        BadConfig: the loss, its gradient or a validation logit is not finite, or the checkpoint is damaged or of another run.
        Interrupted: a signal came; a checkpoint has been left.
        OSError: a checkpoint cannot be written.
    """
    settings = loop.settings
    together = processes.together and resume
    if together:
        join_group(processes, settings.accelerator)
    checkpoint = loop.checkpoint if resume and first_says(loop.checkpoint.exists(), together) else None
    if checkpoint is not None:
        loop.on_load_checkpoint(read_checkpoint(checkpoint, identity))
    if together:
        torch.distributed.barrier()  # until all have read it, the first one may not finish the run
    if not loop.finished:
        devices = processes.local_world if processes.world > 1 else settings.devices
        nodes = processes.world // processes.local_world
        try:
            with quiet_lightning(), threads(settings.threads), loop.interruption:
                pl.Trainer(
                    max_epochs=-1,  # the loop says when to stop
                    accelerator=settings.accelerator,
                    devices=devices,
                    num_nodes=nodes,
                    strategy="ddp" if devices * nodes > 1 else "auto",
                    precision=settings.precision,
                    plugins=[SafeCheckpoints(identity)],
                    default_root_dir=loop.folder,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=False,
                    enable_model_summary=False,
                    num_sanity_val_steps=0,
                    use_distributed_sampler=False,
                ).fit(loop, ckpt_path=checkpoint)
        finally:
            loop.watcher.end()
            for writer in loop.writers:
                writer.close()
    kept = loop.keeper.kept
    assert kept is not None  # every loss is settled by the last epoch
    loop.network.cpu().load_state_dict(loop.keeper.weights)
    return Fitted(tuple(loop.keeper.history), kept)


def join_group(processes: Processes, accelerator: str) -> None:
    """Wait for all processes, before Lightning would, which takes the group as it finds it."""
    if not torch.distributed.is_initialized():
        gpu = accelerator != "cpu" and torch.cuda.is_available()
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        torch.distributed.init_process_group(backend, rank=processes.rank, world_size=processes.world)


def first_says(found: bool, together: bool) -> bool:
    """What the first process found; what this one did where they are not `together` in a group."""
    said = torch.tensor(int(found))
    if together:
        torch.distributed.broadcast(said, 0)
    return bool(said)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """A context with so many threads of torch; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
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
