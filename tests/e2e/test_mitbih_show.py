"""examples/mitbih/monitor.py whole, on made-up patients and a model that reads the answer: the alert fires when it should."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
from bundles import linear_bundle, policy
from cutpoint.bundle import write_policy
from cutpoint.dataset import Dataset, read_dataset
from monitor import MODEL, RATE_HZ, rehearse
from rules_files import binary

WINDOWS = 40
SEQUENCE_S = 120  # at 1200 times as fast and four beds, 40 sequences a second
CALM, BUSY = 20, 2  # patients
EACH = 2  # sequences of a patient


def ward(folder: Path) -> Dataset:
    """Windows whose second sample says whether V is there, but for a few: a tenth of calm patients', most of busy ones'."""
    rng = np.random.default_rng(0)
    shares = np.repeat([0.1] * CALM + [0.8] * BUSY, EACH)
    y = np.zeros((len(shares), WINDOWS, 2), np.uint8)
    for label, of in enumerate((np.full(len(shares), 0.1), shares)):  # so many in each, so that patients are much alike
        y[..., label] = rng.permuted(np.arange(WINDOWS) < np.round(of[:, None] * WINDOWS), axis=1)
    x = np.zeros((*y.shape[:2], SEQUENCE_S * RATE_HZ // WINDOWS), np.float32)
    x[..., :2] = np.where(rng.random(y.shape) < 0.98, 2.0 * y - 1, 1 - 2.0 * y)
    folder.mkdir()
    group = np.repeat([f"patient {i:02d}" for i in range(CALM + BUSY)], EACH)
    for name, array in {"x": x, "y": y, "group": group, "label_names": np.array(["S", "V"])}.items():
        np.save(folder / f"{name}.npy", array)
    return read_dataset(folder)


def test_the_show_goes_as_it_should(tmp_path: Path) -> None:
    binary("prometheus")
    dataset = ward(tmp_path / "data")
    bundle = linear_bundle(tmp_path / "models", MODEL, ("S", "V"), dataset.x.shape[-1], windows=True)
    write_policy(bundle, policy(bundle, {"S": 0.0, "V": 0.0}))
    asked = Namespace(
        models=tmp_path / "models", out=tmp_path / "out", objective="max_fbeta=1", choose="rates", calm=16, speed=1200, beds=4,
        seed=0,
    )  # fmt: skip
    valid, test = np.arange(EACH * CALM // 2), np.arange(EACH * CALM // 2, EACH * (CALM + BUSY))
    assert rehearse(asked, dataset, valid, test)
    written = json.loads((tmp_path / "out" / "monitor.json").read_text())
    assert (written["watched"], written["fired"]) == ("V", ["CutpointPositiveRateHigh V"])
    assert (tmp_path / "out" / "monitor.png").read_bytes()[:4] == b"\x89PNG"
