"""BentoML: JSON over HTTP, as its numpy type has it, two workers of one onnxruntime thread each."""

# ruff: noqa: D102

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers=2)
class Score:
    """The graph as a BentoML service."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def score(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"x": x.astype(np.float32)})[0]


if __name__ == "__main__":
    os.environ["MODEL"], _, port = sys.argv[1:]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = Path(sys.executable).parent / "bentoml"
    folder = str(Path(__file__).parent)
    os.execv(command, [str(command), "serve", "serve:Score", "--working-dir", folder, "--host", "127.0.0.1", "--port", port])
