"""Triton through pytriton: two instances of one onnxruntime thread, dynamic batches of up to 8, no delay."""

# ruff: noqa: D103

import socket
import sys

import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance(path: str):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @batch
    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"logits": session.run(["logits"], {"x": x})[0]}

    return infer, session


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main() -> None:
    path, name, port = sys.argv[1:]
    (first, session), (second, _) = instance(path), instance(path)
    loopback = "127.0.0.1"
    config = TritonConfig(
        grpc_address=loopback, grpc_port=int(port), http_address=loopback, http_port=free_port(), allow_metrics=False
    )
    x, logits = session.get_inputs()[0], session.get_outputs()[0]
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=[first, second],
            inputs=[Tensor(name="x", dtype=np.float32, shape=tuple(x.shape[1:]))],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=tuple(logits.shape[1:]))],
            config=ModelConfig(max_batch_size=64 if name == "mlp512" else 8, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
