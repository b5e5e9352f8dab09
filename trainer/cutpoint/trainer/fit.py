"""From a configuration to a run folder: data, split, sampler, model, loss, loop."""

import time
from pathlib import Path

import numpy as np
import torch
from cutpoint.dataset import UNLABELLED, Dataset, read_dataset
from cutpoint.errors import BadConfig, BadData
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from .config import Config
from .correction import double_correction, prior_table
from .models import build_network
from .preprocess import measure_preprocess
from .prior import build_loss, honest_head, label_priors, settle_priors, start_logits
from .processes import ALONE, Processes
from .progress import watcher_for
from .run import Run, RunRecord, abandon_run, begin_run, check_free, finish_run, read_run, unfinished, versions_of
from .sampler import build_order
from .split import split_rows, split_table
from .steps import Slices, Steps

PARTS = ("cutpoint", "torch", "lightning", "numpy")


def train(
    config: Config,
    force: bool = False,
    quiet: bool = False,
    console: Console | None = None,
    resume: bool = False,
    processes: Processes = ALONE,
) -> Run:
    """Train a model and write its run folder, `config.run_path`.

    On the CPU the same configuration, data, versions and thread count give the same weights, bit for bit, also where the
    training was killed and resumed. The global random state of torch is left as it was.

    Args:
        config: what to train.
        force: replace an existing run folder, or an unfinished one.
        quiet: print no progress.
        console: where progress goes; standard error when None.
        resume: go on from the last checkpoint of an unfinished run; from the start when there is none.
        processes: which of how many this is; only the first one prints and writes.

    Raises:
        BadConfig: a setting does not fit the data, the run folder exists, the checkpoint is damaged or of another run, or the
            training diverged.
        BadData: the data cannot be read or split, hold NaN, or lack labels of either class.
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint has been left.
        OSError: a checkpoint cannot be written, since the disk is full, say.
    """
    first, path = processes.first, config.run_path
    quiet = quiet or not first
    console = console or Console(stderr=True)
    if first:
        check_free(path, force, resume)
    check_device(config)
    began_s = time.monotonic()
    dataset = read_dataset(config.data.path)
    check_task(config, dataset)
    dataset.check_finite()
    identity = {"configuration": config.digest(), "data": dataset.digest()}
    split = split_rows(dataset, config.split, config.seed)
    assert dataset.y is not None
    y = dataset.y[split.train]
    order = build_order(config.sampler, y, config.seed)
    priors = label_priors(y, order.draws, config.loss, dataset.label_names)
    warning = double_correction(priors, dataset.label_names, config.sampler, config.loss)
    if not quiet:
        console.print(split_table(dataset, split), prior_table(priors, dataset.label_names))
        for note in (*split.notes, *([warning] if warning else ())):
            console.print(note, style="bold red" if note == warning else "", markup=False, highlight=False)
    # Absolute, so that calibrate and evaluate find the data from wherever they run.
    resolved = config.model_copy(update={"data": config.data.model_copy(update={"path": Path(config.data.path).resolve()})})
    x_shape = tuple(int(n) for n in dataset.x.shape[1:])
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        preprocess = measure_preprocess(config.model, dataset, split.train, config.task == "windows")
        network = build_network(config, x_shape, len(dataset.label_names), preprocess, start_logits(priors, config.loss))
        from .engine import run_loop  # Lightning takes seconds to import, and only now is it known that all is well
        from .loop import Loop

        fit = config.fit
        loop = Loop(
            network,
            build_loss(config.loss, priors),
            honest_head(config.loss, priors),
            Steps(dataset, split.train, order, fit.batch_size, config.seed, getattr(network.model, "augment", None)),
            Slices(dataset, split.valid, fit.micro_batch or fit.batch_size),
            dataset.label_names,
            fit,
            begin_run(path, resolved, resume) if first else unfinished(path),
            watcher_for(console, quiet),
            first,
        )
        try:
            fitted = run_loop(loop, processes, identity, resume)
        except BaseException:
            if first:
                abandon_run(path)
            raise
    rows = {"train": split.train, "valid": split.valid}
    priors = settle_priors(
        config.loss, priors, lambda name: network_logits(network, dataset, rows[name]), y, dataset.y[split.valid],
        order.draws is not None,
    )  # fmt: skip
    record = RunRecord(
        task=config.task,
        labels=dataset.label_names,
        x_shape=x_shape,
        splits={name: tuple(rows.tolist()) for name, rows in split.items()},
        priors=priors,
        history=fitted.history,
        best_epoch=fitted.kept.epoch,
        valid_ap=fitted.kept.valid_ap,
        seconds=round(time.monotonic() - began_s, 3),
        data_digest=identity["data"],
        config_digest=identity["configuration"],
        versions=versions_of(PARTS),
        notes=(*split.notes, *([warning] if warning else ())),
    )
    run = finish_run(path, resolved, record, network, force) if first else None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return run or read_run(path)


def network_logits(
    network: nn.Module, dataset: Dataset, rows: NDArray[np.int64], batch_bytes: int = 16 << 20
) -> NDArray[np.float32]:
    """What `network` gives for rows of x, in evaluation mode, a batch at a time, [row, ..., label]."""
    batches = dataset.batches(rows, dataset.rows_in(batch_bytes))
    network.eval()
    with torch.no_grad():
        return np.concatenate([network(torch.from_numpy(x)).numpy() for _, x in batches])


def check_device(config: Config) -> None:
    """Check that the accelerator is there and can do the precision; BadConfig otherwise."""
    fit, found = config.fit, torch.cuda.is_available()
    if fit.accelerator == "gpu" and not found:
        raise BadConfig.of("fit.accelerator", "gpu", "cpu or auto: torch finds no GPU here")
    if fit.precision == "16-mixed" and not found:
        raise BadConfig.of("fit.precision", "16-mixed", "32 or bf16-mixed: 16-bit floats need a GPU, and torch finds none here")


def check_task(config: Config, dataset: Dataset) -> None:
    """Check that the data have the axes of `config.task` and something labelled; BadData otherwise."""
    y = dataset.y
    if y is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'y'", "'y', the labels to learn")
    wanted = {"binary": "[row, 1]", "multilabel": "[row, label]", "windows": "[sequence, window, label]"}[config.task]
    if y.ndim != (3 if config.task == "windows" else 2) or (config.task == "binary" and y.shape[1] != 1):
        raise BadData.of(f"{dataset.path}: y", f"of shape {list(y.shape)}", f"{wanted} for task {config.task}")
    if config.loss.two_class and y.shape[-1] != 1:
        wanted = f"1 label for loss {config.loss.name}, which has two classes"
        raise BadData.of(f"{dataset.path}: y", f"{y.shape[-1]} labels", wanted)
    if np.all(y == UNLABELLED):
        raise BadData.of(f"{dataset.path}: y", "nothing labelled", "0 and 1 somewhere")
