"""Tiny data and configurations for all three tasks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cutpoint.trainer import Config, parse_config


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are faster on one thread, and other tests share the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.npz, labels.npz (512 labels) and windows.npz (12 windows of 64 samples)."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(7)
    x = rng.normal(size=(1500, 4)).astype(np.float32)
    eta = 1 / (1 + np.exp(-(2 * x[:, 0] + x[:, 1] - 3)))
    y = (rng.random(1500) < eta).astype(np.int8)
    y[::50] = -1  # not labelled
    np.savez(folder / "rows.npz", x=x, y=y, label_names=["fault"], group=np.arange(1500) // 5, time=np.arange(1500) / 10)

    latent = rng.normal(size=(900, 16)).astype(np.float32)
    logits = latent @ rng.normal(size=(16, 512)) * 0.3 - 5.3 + rng.normal(size=512) * 0.2
    many = (rng.random((900, 512)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    for split in (slice(0, 500), slice(500, 700), slice(700, 900)):
        lacking = np.flatnonzero(many[split].sum(axis=0) == 0)
        many[split.start + np.arange(len(lacking)) % 200, lacking] = 1
    given = {"train": np.arange(500), "valid": np.arange(500, 700), "test": np.arange(700, 900)}
    np.savez(folder / "labels.npz", x=latent, y=many, **given)

    signal = rng.normal(size=(90, 12, 64)).astype(np.float32)
    hit = rng.random((90, 12)) < 0.06
    signal[hit] += 3 * np.sin(np.arange(64) * 0.7).astype(np.float32)
    np.savez(folder / "windows.npz", x=signal, y=hit.astype(np.uint8), label_names=["tone"], group=np.arange(90) // 2)
    return folder


SETTINGS: dict[str, dict[str, Any]] = {
    "rows": {
        "task": "binary",
        "split": {"by": "random"},
        "model": {"kind": "mlp", "hidden": [16]},
        "loss": {"name": "weighted_bce"},
        "fit": {"epochs": 4, "batch_size": 64, "learning_rate": 0.01},
    },
    "labels": {
        "task": "multilabel",
        "split": {"by": "given"},
        "model": {"kind": "mlp", "hidden": []},
        "loss": {"name": "weighted_bce", "pos_weight": "sqrt"},
        "fit": {"epochs": 3, "batch_size": 64, "learning_rate": 0.02},
    },
    "windows": {
        "task": "windows",
        "split": {"by": "group"},
        "model": {"kind": "window_encoder", "channels": [8], "kernels": [9], "strides": [2], "context": 8, "context_layers": 1},
        "loss": {"name": "weighted_bce"},
        "fit": {"epochs": 6, "batch_size": 8, "learning_rate": 0.01},
    },
}


def settings_of(folder: Path, kind: str, run: Path, **changes: Any) -> dict[str, Any]:
    """The settings of one kind of tiny run, with top-level changes."""
    return {"name": kind, "data": {"path": str(folder / f"{kind}.npz")}, "out": str(run), **SETTINGS[kind]} | changes


@pytest.fixture
def configure(data: Path, tmp_path: Path):
    """configure(kind, **changes) -> Config."""

    def build(kind: str, **changes: Any) -> Config:
        return parse_config(settings_of(data, kind, tmp_path / "run", **changes))

    return build
