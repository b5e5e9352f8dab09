"""The gradient of a step, whatever parts it is taken in; precision, augmentation, clipping, logs."""

import csv
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cutpoint.dataset import Dataset
from cutpoint.errors import BadConfig
from cutpoint.trainer import parse_config, read_run, train
from cutpoint.trainer.checkpoint import read_checkpoint
from cutpoint.trainer.config import Fit
from cutpoint.trainer.engine import run_loop
from cutpoint.trainer.loop import Loop
from cutpoint.trainer.loss import WeightedBCE
from cutpoint.trainer.processes import ALONE
from cutpoint.trainer.progress import Silence, Watcher
from cutpoint.trainer.run import CHECKPOINT_FILE
from cutpoint.trainer.sampler import Order
from cutpoint.trainer.steps import Slices, Steps
from safetensors import safe_open
from safetensors.numpy import load_file
from torch import Tensor, nn


def rare(rows: int = 40) -> Dataset:
    """Rows with one positive in twenty and a third of the entries not labelled, unevenly over parts: trap A3.7 of the notes."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 5)).astype(np.float32)
    y = (rng.random((rows, 3)) < 0.05).astype(np.uint8)
    y[rng.random(y.shape) < np.linspace(0.6, 0, rows)[:, None]] = 255
    y[:3] = np.eye(3, dtype=np.uint8)
    y[3:8, :] = 255  # a part with nothing labelled
    return Dataset(Path("d.npz"), x, y, ("a", "b", "c"))


class Recording(Loop):
    """Keeps the gradient that each step is taken with."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients = [*getattr(self, "gradients", []), self.network.weight.grad.clone()]


def gradients(
    folder: Path,
    loss: nn.Module | None = None,
    network: nn.Module | None = None,
    watcher: Watcher | None = None,
    **settings: Any,
) -> list[Tensor]:
    dataset, rows = rare(), np.arange(40)
    fit = Fit(**{"epochs": 1, "batch_size": 40, "accelerator": "cpu", "log": []} | settings)
    torch.manual_seed(0)
    network = network or nn.Linear(5, 3)
    loop = Recording(
        network,
        loss or WeightedBCE(torch.tensor([50.0, 20.0, 5.0])),
        nn.Identity(),
        Steps(dataset, rows, Order(40, 1), fit.batch_size, 1),
        Slices(dataset, rows, 40),
        dataset.label_names,
        fit,
        folder,
        watcher or Silence(),
    )
    run_loop(loop, ALONE, {}, resume=False)
    return loop.gradients


def test_parts_have_the_gradient_of_the_whole(tmp_path):
    """The oracle: torch's own loss in float64 over all labelled entries at once."""
    torch.manual_seed(0)
    network, dataset = nn.Linear(5, 3).double(), rare()
    assert dataset.y is not None
    on = torch.from_numpy(dataset.y != 255)
    target = torch.from_numpy(dataset.y).double().where(on, torch.zeros(()).double())
    each = F.binary_cross_entropy_with_logits(
        network(torch.from_numpy(dataset.x).double()), target, pos_weight=torch.tensor([50.0, 20, 5]).double(), reduction="none"
    )
    (each * on).sum().div(on.sum()).backward()
    wanted = network.weight.grad
    for size in (None, 1, 7, 40):
        (found,) = gradients(tmp_path / str(size), micro_batch=size)
        assert (found - wanted).norm() / wanted.norm() < 1e-6, size


def test_a_step_with_nothing_labelled_moves_nothing_but_momentum(tmp_path):
    found = gradients(tmp_path, batch_size=1)  # five rows of forty have no label
    assert len(found) == 40
    assert all(each.isfinite().all() for each in found)
    assert sum(not each.any() for each in found) >= 5


def test_clipping_bounds_the_norm_of_the_whole_gradient(tmp_path):
    (free,) = gradients(tmp_path / "free", network=nn.Linear(5, 3, bias=False))
    (held,) = gradients(tmp_path / "held", network=nn.Linear(5, 3, bias=False), clip=0.01, micro_batch=7)
    assert free.norm() > 0.01
    assert held.norm().item() == pytest.approx(0.01, rel=1e-4)


def test_an_average_of_the_weights_is_judged_and_kept(tmp_path):
    network, walked = nn.Linear(5, 3), []

    class Walking(Silence):
        def step(self) -> None:
            walked.append(network.weight.detach().clone())

    gradients(tmp_path, network=network, watcher=Walking(), batch_size=10, ema=0.75, learning_rate=0.1)
    average = walked[0]
    for weight in walked[1:]:
        average = 0.75 * average + 0.25 * weight
    assert torch.allclose(network.weight, average, rtol=0, atol=1e-6)
    assert (network.weight - walked[-1]).abs().max() > 0.01


def test_only_settled_epochs_are_kept(tmp_path):
    class Late(WeightedBCE):
        heard: ClassVar[list[tuple[int, int]]] = []

        def begin_epoch(self, epoch: int, epochs: int) -> None:
            self.heard.append((epoch, epochs))
            self.settled = epoch == 4

    late = Late(torch.tensor([1.0, 1, 1]))
    gradients(tmp_path, late, epochs=4)
    assert late.heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


class Root(nn.Module):
    """Adds sqrt(0) times `weight`, from its call `broken` on: finite, and its gradient 0 times infinity."""

    def __init__(self, broken: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 5))
        self.left = broken

    def forward(self, x: Tensor) -> Tensor:
        logits = x @ self.weight.T
        if self.training:
            self.left -= 1
        return logits + (self.weight * 0).square().sum().sqrt() if self.left <= 0 else logits


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_it_is_stepped_with(tmp_path, clip):
    """Six steps of a loss that is finite throughout, the last gradient NaN: the 2nd of epoch 2."""
    network = Root(broken=6)
    with pytest.raises(BadConfig, match=r"gradient at step 2 of epoch 2 is nan; .*the last good checkpoint is .*last\.safe"):
        gradients(tmp_path, network=network, batch_size=10, epochs=3, clip=clip, checkpoint_steps=1)
    assert network.weight.isfinite().all()
    checkpoint = read_checkpoint(tmp_path / CHECKPOINT_FILE, {})
    assert (checkpoint["loop"]["epoch"], checkpoint["loop"]["step"]) == (1, 1)
    with safe_open(tmp_path / CHECKPOINT_FILE, "pt") as file:
        kept = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  # no dict
    assert len(kept) >= 4  # weight, two moments, the best epoch's weight
    assert all(each.isfinite().all() for each in kept)


def test_bfloat16_trains_with_a_loss_in_float32(configure, tmp_path):
    seen = []

    class Watched(WeightedBCE):
        def total(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            seen.append((logits.dtype, torch.is_autocast_enabled("cpu")))
            return super().total(logits, targets)

    (mixed,) = gradients(tmp_path / "mixed", Watched(torch.tensor([50.0, 20, 5])), precision="bf16-mixed")
    (full,) = gradients(tmp_path / "full")
    assert seen == [(torch.float32, True)]
    assert mixed.dtype == torch.float32
    assert 1e-5 < (mixed - full).norm() / full.norm() < 0.02
    run = train(configure("windows", fit={"epochs": 2, "batch_size": 16, "precision": "bf16-mixed"}), quiet=True)
    assert all(value.dtype != np.float16 for value in load_file(run.path / "weights.safetensors").values())
    assert np.isfinite([epoch.loss for epoch in run.record.history]).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_16_bits_and_gpus_are_refused_without_one(configure):
    with pytest.raises(BadConfig, match=r"fit.precision is 16-mixed; expected 32 or bf16-mixed for fit.accelerator cpu"):
        configure("rows", fit={"precision": "16-mixed", "accelerator": "cpu"})
    with pytest.raises(BadConfig, match=r"16-bit floats need a GPU, and torch finds none"):
        train(configure("rows", fit={"precision": "16-mixed"}), quiet=True)
    with pytest.raises(BadConfig, match=r"fit.accelerator is gpu; expected cpu or auto"):
        train(configure("rows", fit={"accelerator": "gpu"}), quiet=True)


class Jittered(nn.Module):
    """With a hook for training batches."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self.training
        Jittered.calls += 1
        return x + 0.1 * torch.randn(x.shape, generator=generator), y


def test_a_model_may_augment_training_batches(configure):
    model = {"kind": "import", "path": f"{__name__}:Jittered"}
    run = train(configure("rows", model=model, fit={"epochs": 2, "batch_size": 512}), quiet=True)
    assert Jittered.calls == 4  # 901 rows are two steps an epoch
    assert len(run.record.history) == 2


def test_logs_hold_every_step_and_epoch(configure):
    fit = {"epochs": 3, "batch_size": 256, "warmup": 0.5, "log": ["csv", "tensorboard"], "learning_rate": 0.01}
    run = train(configure("labels", fit=fit), quiet=True)
    with (run.path / "logs" / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in steps] == [(e, s) for e in "123" for s in "12"]
    rates = [float(row["learning_rate"]) for row in steps]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.0075, 0.0025])
    losses = np.array([float(row["loss"]) for row in steps]).reshape(3, 2).mean(axis=1)
    assert losses.tolist() == pytest.approx([epoch.loss for epoch in run.record.history])
    with (run.path / "logs" / "epochs.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [float(row["valid_ap"]) for row in epochs] == [epoch.valid_ap for epoch in run.record.history]
    assert len([name for name in epochs[0] if name.startswith("valid_ap ")]) == 20  # of 512 labels
    (events,) = (run.path / "logs").glob("events.out.tfevents.*")
    content = events.read_bytes()
    for name in (b"train/loss", b"train/learning_rate", b"valid/ap", b"valid/log_loss", b"valid_ap/0"):
        assert name in content
    assert read_run(run.path).record == run.record
    none = train(configure("labels", fit={"epochs": 1, "log": []}), quiet=True, force=True)
    assert not (none.path / "logs").exists()


def test_settings_of_the_loop_are_checked(configure):
    for fit, message in (
        ({"micro_batch": 0}, "fit.micro_batch is 0"),
        ({"clip": 0}, "fit.clip is 0"),
        ({"warmup": 1}, "fit.warmup is 1"),
        ({"precision": 16}, "fit.precision is 16"),
        ({"log": "wandb"}, "fit.log.0 is 'wandb'"),
        ({"devices": 0}, "fit.devices is 0"),
    ):
        with pytest.raises(BadConfig, match=message):
            configure("rows", fit=fit)
    assert configure("rows", fit={"log": "tensorboard"}).fit.log == ("tensorboard",)
    assert parse_config(configure("rows").model_dump(mode="json")) == configure("rows")
