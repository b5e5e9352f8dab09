"""Arrange the MIT-BIH arrhythmia windows as sequences: `python examples/mitbih/prepare.py MITBIH.npz OUT`.

Reads windows `X` [sequence x window, sample], `Y` [sequence x window, class] for `label_names`, and `seq_names`
("record_part"); writes a folder that `cutpoint train` reads: x [sequence, window, sample] in millivolt, y for the labels S
(supraventricular) and V (ventricular), and the record of every sequence as its group, so that no patient is on two sides.
"""

import sys
from pathlib import Path

import numpy as np

LABELS = ("S", "V")
WINDOWS = 140


def prepare(source: Path, out: Path) -> None:
    """Write x.npy, y.npy, group.npy and label_names.npy into the folder `out`."""
    with np.load(source, allow_pickle=False) as data:
        names = [str(name) for name in data["label_names"]]
        x = data["X"].reshape(-1, WINDOWS, data["X"].shape[1])
        y = data["Y"].reshape(-1, WINDOWS, data["Y"].shape[1])[..., [names.index(label) for label in LABELS]]
        sequences = [str(name) for name in np.atleast_1d(data["seq_names"])]
    if len(sequences) != len(x):  # given once a window
        sequences = sequences[::WINDOWS]
    out.mkdir(parents=True, exist_ok=True)
    group = np.array([name.partition("_")[0] for name in sequences])
    for key, array in (("x", x), ("y", y), ("group", group), ("label_names", np.array(LABELS))):
        np.save(out / f"{key}.npy", array, allow_pickle=False)
    shares = ", ".join(f"{label} {share:.1%}" for label, share in zip(LABELS, y.mean(axis=(0, 1)), strict=True))
    print(f"{out}: {len(x)} sequences of {x.shape[1]} x {x.shape[2]}, {len(set(group))} records; positive windows: {shares}")


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
