"""`cutpoint tune` on conv140: what the version that it writes does, beside fp32 by the default provider, in the same rounds.

`python tuning.py [OUT] [--python PATH]` keeps the repository in OUT/tuned, for `serving.py --tuned OUT/tuned`; --python adds
another interpreter's onnxruntime, OpenVINO's build say.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import serving_models
from claims import Claim, report
from cutpoint.bundle import Computation, Profile, find_bundle, read_bundle, write_bundle
from numpy.typing import NDArray

SEQUENCES = 200
TRAIN = 40
RATE, P50_MS = 550, 4.0  # the goals, on two cores
AP_LOSS = 0.002


def write_task(bundle: Path, folder: Path) -> NDArray[np.float32]:
    """Noise in which one window of twenty has a burst, and what it takes to see them: the head's weights, fitted.

    The layers before the head stay random. Returns the weights, with the constant last.
    """
    rng = np.random.default_rng(3)
    x = serving_models.rows("conv140", SEQUENCES, seed=3)
    y = (rng.random(x.shape[:2]) < 0.05).astype(np.uint8)
    burst = np.sin(0.3 * np.arange(300)) * np.hanning(300)
    for sequence, window in np.argwhere(y):
        at = rng.integers(0, x.shape[2] - len(burst))
        x[sequence, window, at : at + len(burst)] += (rng.uniform(2, 6) * burst).astype(np.float32)
    folder.mkdir()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.save(folder / "label_names.npy", np.array(["event"]))
    np.save(folder / "valid.npy", np.arange(TRAIN, SEQUENCES))
    np.save(folder / "train.npy", np.arange(TRAIN))
    return _fitted(_features(bundle / "model.onnx", x[:TRAIN]), y[:TRAIN].reshape(-1))


def _features(model: Path, x: NDArray[np.float32]) -> NDArray[np.float64]:
    graph = onnx.load(model)
    graph.graph.output.append(onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(["h"], {"x": part})[0].transpose(0, 2, 1) for part in np.array_split(x, 10)]
    return np.concatenate(found).reshape(-1, found[0].shape[-1]).astype(np.float64)


def _fitted(h: NDArray[np.float64], y: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logistic regression by Newton's method, with some ridge."""
    scale = h.std(axis=0) + 1e-9
    features = np.column_stack([h / scale, np.ones(len(h))])
    weights = np.zeros(features.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-features @ weights))
        hessian = features.T @ (features * (p * (1 - p))[:, None]) + 1e-1 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, features.T @ (p - y) + 1e-1 * weights)
    return np.append(weights[:-1] / scale, weights[-1]).astype(np.float32)


def with_head(bundle: Path, weights: NDArray[np.float32], models: Path) -> Path:
    """The bundle with these weights in its last layer, in another repository."""
    source = read_bundle(bundle)
    assert source.manifest is not None
    model = onnx.load(source.model_path)
    for tensor in model.graph.initializer:
        if tensor.name == "head":
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[None, :-1, None], "head"))
        elif tensor.name == "head_bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[-1:], "head_bias"))
    file = models.parent / "fitted.onnx"
    onnx.save(model, file)
    return write_bundle(models, source.manifest, file)


def tune(out: Path, python: Path | None, minutes: float) -> Profile:
    """Build, tune by the command, and read what was written."""
    random = serving_models.conv140(out / "random")
    bundle = with_head(random, write_task(random, out / "data"), out / "fp32")
    command = [sys.executable, "-m", "cutpoint.cli", "tune", str(bundle), "--data", str(out / "data")]
    command += ["--models", str(out / "tuned"), "--objective", "recall_at_least=0.9", "--minutes", str(minutes)]
    subprocess.run(command + ([] if python is None else ["--python", str(python)]), check=True)
    return Profile.model_validate_json((find_bundle(out / "tuned" / "conv140") / "profile.json").read_bytes())


def claims_of(profile: Profile) -> list[Claim]:
    """The chosen one beside fp32 by the default provider."""
    measured, plain = profile.measured, Computation()
    busy = next(each for each in measured.busy if (each.computation, each.way) == (profile.computation, profile.way))
    before = max(
        (each for each in measured.busy if each.computation == plain), key=lambda each: (len(each.rows_per_s), each.median)
    )
    chosen = {each.wide: each.median for each in measured.idle if each.computation == profile.computation}
    idle = chosen[profile.wide_threads > 1]
    detection = next(each for each in measured.detection if each.computation == profile.computation)
    name = f"conv140, {profile.computation}"
    return [
        Claim(f"{name}: in process, beside the goal", busy.median, RATE, 1.0, "sequences/s"),
        Claim(f"{name}: in process, beside fp32", busy.median, before.median, 2.0, "sequences/s"),
        Claim(f"{name}: one caller, beside the goal", idle, P50_MS, 1.0, "ms", least=False),
        Claim(f"{name}: average precision lost", max(detection.loss, 0.0), AP_LOSS, 1.0, "", least=False),
    ]


def main() -> None:
    """Tune, then the claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder to keep (default: none)")
    parser.add_argument("--python", type=Path, help="another interpreter with cutpoint's server")
    parser.add_argument("--minutes", type=float, default=3.0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        report(claims_of(tune(out, asked.python, asked.minutes)))


if __name__ == "__main__":
    main()
