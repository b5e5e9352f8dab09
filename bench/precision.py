"""What each precision is worth and costs: speed, file size and average precision beside fp32, in plain onnxruntime.

`make bench-precision` trains the window encoder on simulated bearings (sequences of 140 windows of 1000 bins) and exports it in
every precision; `make bench-precision DATA=FOLDER` does so with `examples/mitbih` on the ECG records too. Speeds are of one
sequence on one thread, all precisions in turn; average precision is that of validation groups (machines, patients).
"""

import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from claims import Claim, report, timed
from cutpoint.bundle import Bundle, read_bundle
from cutpoint.dataset import read_dataset
from cutpoint.demo.bearing import simulate
from cutpoint.terminal import console
from cutpoint.trainer import Config, parse_config, read_config, train
from cutpoint.trainer.export import PRECISIONS, cost_table, export_precisions

EXAMPLE = Path(__file__).parents[1] / "examples" / "mitbih"
EPOCHS = 5
ROUNDS = 25
# Share of fp32's speed at least, and of its file at most. On x86 onnxruntime has no float16 arithmetic: it adds casts. int8
# hurries convolutions only; statistics and events stay float32, and events are most of what a model with them computes.
SPEED = {"fp16": 0.5, "bf16": 0.8, "int8": 1.5}
SPEED_WITH_EVENTS = {**SPEED, "int8": 1.1}
SIZE = {"fp16": 0.65, "bf16": 0.65, "int8": 0.5}
AP_SHARE = 0.98


def write_bearings(folder: Path) -> None:
    """240 simulated sequences of 40 machines, as `cutpoint demo` makes them."""
    spectra = simulate(240, seed=0)
    folder.mkdir()
    names = {"x": spectra.x, "y": spectra.y, "group": spectra.machine, "label_names": np.array(["fault"])}
    for name, array in names.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def write_records(source: Path, folder: Path) -> None:
    """The ECG records as the example arranges them."""
    subprocess.run([sys.executable, EXAMPLE / "prepare.py", source, folder], check=True, stdout=subprocess.DEVNULL)


def bearings(folder: Path) -> Config:
    """The defaults without events, as of a spectrum: convolutions are more of the work."""
    return parse_config(
        {
            "name": folder.name,
            "task": "windows",
            "data": {"path": str(folder)},
            "split": {"by": "group"},
            "model": {"kind": "window_encoder", "log_input": True, "events": 0},
            "loss": {"name": "weighted_bce", "pos_weight": "sqrt"},
            "fit": {"epochs": EPOCHS, "batch_size": 4, "accelerator": "cpu"},
            "out": f"{folder}.run",
        }
    )


def records(folder: Path) -> Config:
    """The example's, for fewer epochs."""
    return read_config(EXAMPLE / "train.yaml", [f"data.path={folder}", f"fit.epochs={EPOCHS}"], Path(f"{folder}.run"))


def export_all(config: Config, models: Path) -> list[Bundle]:
    """Train, and export in every precision."""
    with contextlib.redirect_stderr(io.StringIO()):
        run = train(config, quiet=True)
        return [read_bundle(path) for path in export_precisions(run, models, PRECISIONS, max_ap_loss=1)]


def claims_of(name: str, bundles: list[Bundle], x: np.ndarray, speed: dict[str, float]) -> list[Claim]:
    """Speed on `x` [1, window, sample], file size and average precision of every precision beside fp32."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"]) for bundle in bundles
    ]
    seconds = timed(*(lambda session=session: session.run(["logits"], {"x": x}) for session in sessions), rounds=ROUNDS)
    sizes = [bundle.model_path.stat().st_size / 1024 for bundle in bundles]
    claims = []
    for bundle, took, size in list(zip(bundles, seconds, sizes, strict=True))[1:]:
        cost = bundle.manifest.cost
        precision = bundle.manifest.precision
        reference = float(np.mean([label.reference for label in cost.labels]))
        claims += [
            Claim(f"{name}, {precision}: speed", 1 / took, 1 / seconds[0], speed[precision], "sequences/s"),
            Claim(f"{name}, {precision}: file", size, sizes[0], SIZE[precision], "KiB", least=False),
            Claim(f"{name}, {precision}: average precision", reference - cost.loss, reference, AP_SHARE, ""),
        ]
    return claims


def main(data: Path | None) -> None:
    """Print the tables of cost, then the claims."""
    claims = []
    with tempfile.TemporaryDirectory() as scratch:
        jobs = {"bearings": bearings} | ({} if data is None else {"mitbih": records})
        for name, configure in jobs.items():
            folder = Path(scratch) / name
            if configure is records:
                write_records(data / "mitbih" / "mitbih_ds1_train.npz", folder)
            else:
                write_bearings(folder)
            bundles = export_all(configure(folder), Path(scratch) / "models")
            console().print(name, cost_table([bundle.manifest for bundle in bundles]))
            speed = SPEED_WITH_EVENTS if configure is records else SPEED
            claims += claims_of(name, bundles, np.ascontiguousarray(read_dataset(folder).x[:1], np.float32), speed)
    report(claims)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
