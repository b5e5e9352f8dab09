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
from .models import build_network
from .preprocess import measure_preprocess
from .prior import build_loss, honest_head, label_priors, match_rates, start_logits
from .progress import watcher_for
from .run import Run, RunRecord, check_free, versions_of, write_run
from .sampler import balanced_weights, row_sampler
from .split import split_rows

PARTS = ("cutpoint", "torch", "lightning", "numpy")


def train(config: Config, force: bool = False, quiet: bool = False, console: Console | None = None) -> Run:
    """Train a model and write its run folder, `config.run_path`.

    On the CPU the same configuration, data, versions and thread count give the same weights, bit for bit. The global random
    state of torch is left as it was.

    Args:
        config: what to train.
        force: replace an existing run folder.
        quiet: print no progress.
        console: where progress goes; standard error when None.

    Raises:
        BadConfig: a setting does not fit the data, the run folder exists, or the training diverged.
        BadData: the data cannot be read or split, hold NaN, or lack labels of either class.
    """
    from .loop import fit_network  # Lightning takes seconds to import, and only training needs it

    check_free(config.run_path, force)
    if config.fit.accelerator == "gpu" and not torch.cuda.is_available():
        raise BadConfig.of("fit.accelerator", "gpu", "cpu or auto: torch finds no GPU here")
    began_s = time.monotonic()
    dataset = read_dataset(config.data.path)
    check_task(config, dataset)
    dataset.check_finite()
    split = split_rows(dataset, config.split, config.seed)
    assert dataset.y is not None
    y = dataset.y[split.train]
    weights = balanced_weights(y) if config.sampler == "weighted" else None
    priors = label_priors(y, weights, config.loss, dataset.label_names)
    windows = config.task == "windows"
    x_shape = tuple(int(n) for n in dataset.x.shape[1:])
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        preprocess = measure_preprocess(config.model, dataset, split.train, windows)
        start = start_logits(priors, config.loss)
        network = build_network(config, x_shape, len(dataset.label_names), preprocess, start)
        fitted = fit_network(
            network,
            build_loss(config.loss, priors),
            honest_head(config.loss, priors),
            dataset,
            split.train,
            split.valid,
            row_sampler(len(split.train), weights, config.seed),
            config.fit,
            watcher_for(console or Console(stderr=True), quiet),
        )
        if weights is not None and y[0].size > 1:
            unshifted = honest_head(config.loss, [prior.model_copy(update={"shift": 0.0}) for prior in priors])
            priors = match_rates(priors, network_logits(nn.Sequential(network, unshifted), dataset, split.train), y)
    # Absolute, so that calibrate and evaluate find the data from wherever they run.
    resolved = config.model_copy(update={"data": config.data.model_copy(update={"path": Path(config.data.path).resolve()})})
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
        data_digest=dataset.digest(),
        config_digest=config.digest(),
        versions=versions_of(PARTS),
        notes=split.notes,
    )
    return write_run(config.run_path, resolved, record, network, force)


def network_logits(
    network: nn.Module, dataset: Dataset, rows: NDArray[np.int64], batch_bytes: int = 16 << 20
) -> NDArray[np.float32]:
    """What `network` gives for rows of x, in evaluation mode, a batch at a time, [row, ..., label]."""
    size = max(1, batch_bytes // max(1, 4 * int(np.prod(dataset.x.shape[1:]))))
    network.eval()
    with torch.no_grad():
        return np.concatenate([network(torch.from_numpy(x)).numpy() for _, x in dataset.batches(rows, size)])


def check_task(config: Config, dataset: Dataset) -> None:
    """Check that the data have the axes of `config.task` and something labelled; BadData otherwise."""
    y = dataset.y
    if y is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'y'", "'y', the labels to learn")
    wanted = {"binary": "[row, 1]", "multilabel": "[row, label]", "windows": "[sequence, window, label]"}[config.task]
    if y.ndim != (3 if config.task == "windows" else 2) or (config.task == "binary" and y.shape[1] != 1):
        raise BadData.of(f"{dataset.path}: y", f"of shape {list(y.shape)}", f"{wanted} for task {config.task}")
    if config.loss.name == "weighted_ce" and y.shape[-1] != 1:
        raise BadData.of(f"{dataset.path}: y", f"{y.shape[-1]} labels", "1 label for loss weighted_ce, which has two classes")
    if np.all(y == UNLABELLED):
        raise BadData.of(f"{dataset.path}: y", "nothing labelled", "0 and 1 somewhere")
