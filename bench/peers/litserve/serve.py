"""LitServe: the rows as a multipart file over HTTP, two workers of one onnxruntime thread each."""

# ruff: noqa: D102

import sys

import litserve
import numpy as np
import onnxruntime as ort


class Score(litserve.LitAPI):
    """The graph as a LitServe API."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        self.shape = [-1, *self.session.get_inputs()[0].shape[1:]]

    def decode_request(self, request) -> np.ndarray:
        return np.frombuffer(request["x"].file.read(), np.float32).reshape(self.shape)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"x": x})[0]

    def encode_response(self, output: np.ndarray) -> dict:
        return {"logits": output.ravel().tolist()}


if __name__ == "__main__":
    path, _, port = sys.argv[1:]
    server = litserve.LitServer(Score(path), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
