"""MLServer: a runtime of its own around onnxruntime, one thread a run, in the server's process."""

# ruff: noqa: D102, D103

import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput, TensorData


class Onnx(MLModel):
    """The graph as an MLServer runtime."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(self.settings.parameters.uri, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        x = np.asarray(given.data, np.float32).reshape(given.shape)
        y = (await asyncio.to_thread(self.session.run, ["logits"], {"x": x}))[0]
        output = ResponseOutput(
            name="logits", shape=list(y.shape), datatype="FP32", data=TensorData(y.ravel().tolist()), parameters=Parameters()
        )
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main() -> None:
    path, name, port = sys.argv[1:]
    folder = Path(tempfile.mkdtemp())
    settings = {
        "host": "127.0.0.1", "http_port": free_port(), "grpc_port": int(port), "metrics_port": free_port(),
        "parallel_workers": 0, "grpc_max_message_length": 64 << 20, "use_structured_logging": False, "debug": False,
    }  # fmt: skip
    model = {"name": name, "implementation": "serve.Onnx", "parameters": {"uri": path}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    command = Path(sys.executable).parent / "mlserver"
    os.execv(command, [str(command), "start", str(folder)])


if __name__ == "__main__":
    main()
