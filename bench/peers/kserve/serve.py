"""KServe's Python server, its gRPC part alone: onnxruntime in `asyncio.to_thread`, one thread a run.

Its own start binds every interface; here the address is replaced.
"""

# ruff: noqa: D102, D103

import asyncio
import logging
import sys

import onnxruntime as ort
from grpc import aio
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension


class Onnx(Model):
    """The graph as a KServe model."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        x = payload.inputs[0].as_numpy()
        y = (await asyncio.to_thread(self.session.run, ["logits"], {"x": x}))[0]
        output = InferOutput("logits", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


async def main() -> None:
    path, name, port = sys.argv[1:]
    logging.getLogger("kserve").setLevel(logging.WARNING)
    bind = aio.Server.add_insecure_port
    aio.Server.add_insecure_port = lambda self, address: bind(self, address.replace("[::]", "127.0.0.1"))
    repository = ModelRepository()
    repository.update(Onnx(name, path))
    limits = {"grpc_max_send_message_length": 64 << 20, "grpc_max_receive_message_length": 64 << 20}
    server = GRPCServer(int(port), DataPlane(repository), ModelRepositoryExtension(repository), limits)
    await server.start(4)


if __name__ == "__main__":
    asyncio.run(main())
