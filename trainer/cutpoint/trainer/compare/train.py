"""Trains what a plan compares, what was finished earlier left out, and judges it."""

from collections.abc import Iterator

import torch
from cutpoint.dataset import Dataset, read_dataset
from cutpoint.errors import BadConfig, BadData
from rich.console import Console

from ..checkpoint import read_checkpoint
from ..config import Config
from ..fit import check_device, check_task, train
from ..models import build_network
from ..preprocess import blank_preprocess
from ..prior import label_priors
from ..run import CHECKPOINT_FILE, RUN_FILE, Run, check_free, read_run, unfinished
from ..sampler import build_order
from ..split import split_rows
from .judge import compare_runs
from .measure import measure_run
from .outcome import Comparison
from .plan import ComparePlan

DRAWS = 2000


def train_and_compare(
    plan: ComparePlan, recall: float = 0.9, quiet: bool = False, console: Console | None = None, draws: int = DRAWS
) -> Comparison:
    """Train every run of a plan with every seed, and compare them on the test split.

    A run that was finished earlier is not trained again, and one that was broken off goes on from its checkpoint: the same
    command after a crash ends in the same comparison.

    Args:
        plan: what to compare.
        recall: at which the price is told, above 0, at most 1.
        quiet: print no progress.
        console: where progress goes; standard error when None.
        draws: of the bootstrap.

    Raises:
        BadConfig: before anything trains: settings that do not fit the data or this machine, a model that cannot be built, or a
            run folder, finished or not, of other settings or data.
        BadData: the data cannot be read or split, or the test split has no positive.
    """
    if not 0 < recall <= 1:
        raise BadConfig.of("--recall", recall, "a rate above 0, at most 1")
    console = console or Console(stderr=True)
    finished, dataset = _check(plan)
    measured = {}
    for number, ((name, seed), config) in enumerate(plan.configs.items(), 1):
        run = finished.get((name, seed))
        if not quiet:
            done = "was trained before" if run is not None else "trains"
            console.print(f"{number} of {len(plan.configs)}: {name}, seed {seed}, {done}", highlight=False, markup=False)
        if run is None:
            run = train(config, quiet=quiet, console=console, resume=True)
        measured[name, seed] = measure_run(run, dataset, recall, draws)
    return compare_runs(plan, dataset, measured, recall, draws)


def _check(plan: ComparePlan) -> tuple[dict[tuple[str, int], Run], Dataset]:
    """The runs that are finished, and the data; whatever can be wrong is found here, before hours of training."""
    config = next(iter(plan.configs.values()))
    dataset = read_dataset(config.data.path)
    check_task(config, dataset)
    dataset.check_finite()
    split = split_rows(dataset, config.split, config.seed)
    assert dataset.y is not None  # check_task refuses data without
    if not (dataset.y[split.test] == 1).any():
        raise BadData.of(f"{dataset.path}: positives in split test", 0, "at least 1; that is what runs are compared on")
    y = dataset.y[split.train]
    for name in plan.runs:
        each = plan.configs[name, plan.seeds[0]]
        check_device(each)
        check_task(each, dataset)
        label_priors(y, build_order(each.sampler, y, each.seed).draws, each.loss, dataset.label_names)
        _check_network(each, dataset)
    return dict(_finished(plan, dataset.digest())), dataset


def _check_network(config: Config, dataset: Dataset) -> None:
    """Build what `config` trains, with figures that change nothing; the random state of torch is left as it was."""
    x_shape = tuple(int(n) for n in dataset.x.shape[1:])
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        blank = blank_preprocess(config.model, x_shape, config.task == "windows")
        build_network(config, x_shape, len(dataset.label_names), blank)


def _finished(plan: ComparePlan, data_digest: str) -> Iterator[tuple[tuple[str, int], Run]]:
    for key, config in plan.configs.items():
        path = config.run_path
        if not path.exists():
            _check_unfinished(config, data_digest)
            continue
        if not (path / RUN_FILE).is_file():
            raise BadConfig.of("run folder", f"{path} (exists)", "a new folder or a finished run")
        run = read_run(path)
        _check_same(run, config, data_digest)
        yield key, run


def _check_same(run: Run, config: Config, data_digest: str) -> None:
    if run.record.config_digest != config.digest():
        raise BadConfig.of("run folder", f"{run.path}, of other settings", "these settings; remove it, or choose another --out")
    if run.record.data_digest != data_digest:
        raise BadConfig.of(
            "run folder", f"{run.path}, of other data", f"{config.data.path}; remove it, or choose another --out"
        )


def _check_unfinished(config: Config, data_digest: str) -> None:
    """Check that the run can begin, or go on from its checkpoint where there is one."""
    check_free(config.run_path, force=False, resume=True)
    begun = unfinished(config.run_path)
    if not (begun / CHECKPOINT_FILE).exists():
        return
    try:
        read_checkpoint(begun / CHECKPOINT_FILE, {"configuration": config.digest(), "data": data_digest})
    except BadConfig as error:  # which advises --force, and a comparison has none
        found = f"{begun}, whose checkpoint is damaged, or of other settings or data"
        raise BadConfig.of("unfinished run", found, f"one to go on with; remove {begun}, or choose another --out") from error
