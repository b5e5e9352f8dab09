"""mosec: raw float32 bytes over HTTP, two worker processes of one onnxruntime thread each, no batching (but mlp512)."""

# ruff: noqa: D102

import os
import sys

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker


class Score(Worker):
    """Float32 bytes of one or more rows to those of their logits."""

    def __init__(self) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.shape = [-1, *self.session.get_inputs()[0].shape[1:]]

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32).reshape(self.shape)

    def forward(self, data: np.ndarray | list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        if not isinstance(data, list):
            return self.session.run(["logits"], {"x": data})[0]
        ends = np.cumsum([len(each) for each in data])[:-1]  # several requests in a batch
        return np.split(self.session.run(["logits"], {"x": np.concatenate(data)})[0], ends)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()


if __name__ == "__main__":
    os.environ["MODEL"], name, port = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--log-level", "warning"]
    server = Server()
    if name == "mlp512":  # small requests: batches of one worker were faster than two workers without
        server.append_worker(Score, num=1, max_batch_size=8, max_wait_time=1)
    else:
        server.append_worker(Score, num=2, max_batch_size=1)
    server.run()
