"""A tensor in POSIX shared memory, as a caller on the same machine has it: registered, and written anew for every request.

A load by h2load only sends where the tensor is. What its callers would spend on writing is spent by `writing`, a process that
copies the tensor into the region as often as answers are expected, so that the load is charged with it.

`python serving_shared.py PATH BYTES RATE` writes until it is stopped.
"""

import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import numpy as np
from cutpoint.oip import inference_pb2 as oip
from numpy.typing import NDArray

REGISTER = "/inference.GRPCInferenceService/SystemSharedMemoryRegister"
FOLDER = Path("/dev/shm")
PAUSE_S = 0.05  # longer than a request takes: a process that wakes up has a cost of its own, which no caller has
TIMEOUT_S = 60


class SharedTensor:
    """`x`, [row, ...] float32, in a region of its own.

    Attributes:
        message: a ModelInferRequest that asks for `logits` of it.
    """

    def __init__(self, path: Path, model: str, x: NDArray[np.float32]) -> None:
        """The region is the file `path`, which is there, and is registered under its name."""
        self._path, self._x = path, x
        with path.open("r+b") as file:
            self._place = np.frombuffer(mmap.mmap(file.fileno(), x.nbytes), np.uint8)
        request = oip.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        tensor.parameters["shared_memory_region"].string_param = path.name
        tensor.parameters["shared_memory_byte_size"].int64_param = x.nbytes
        request.outputs.add(name="logits")
        self.message = bytes(request.SerializeToString())

    def write(self) -> None:
        """Copy the tensor into the region."""
        np.copyto(self._place, self._x.reshape(-1).view(np.uint8))

    @contextmanager
    def writing(self, rate: float) -> Iterator[None]:
        """Another process writes the same into the region, `rate` times a second."""
        writer = subprocess.Popen([sys.executable, __file__, str(self._path), str(self._x.nbytes), str(rate)])
        try:
            yield
        finally:
            writer.kill()
            writer.wait()


@contextmanager
def shared_tensor(target: str, model: str, x: NDArray[np.float32]) -> Iterator[SharedTensor]:
    """`x` in shared memory that the server at `target`, "host:port", knows; gone at the end."""
    path = FOLDER / f"cutpoint-bench-{uuid4().hex}"
    path.write_bytes(x.tobytes())
    try:
        register = oip.SystemSharedMemoryRegisterRequest(name=path.name, key=f"/{path.name}", offset=0, byte_size=x.nbytes)
        with grpc.insecure_channel(target, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            ask: Any = channel.unary_unary(REGISTER)
            ask(register.SerializeToString(), timeout=TIMEOUT_S)
        yield SharedTensor(path, model, x)
    finally:
        path.unlink()


def main() -> None:
    """Write."""
    path, size, rate = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with path.open("r+b") as file:
        place = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
    content = place.copy()
    done, begun = 0, time.monotonic()
    while True:
        while done < rate * (time.monotonic() - begun):
            np.copyto(place, content)
            done += 1
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
