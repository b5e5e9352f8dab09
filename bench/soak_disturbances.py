"""What happens to a server meanwhile: policies swapped, models replaced, calls cancelled or late, messages malformed."""

import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import serving_models
from cutpoint.client import Client
from cutpoint.oip import inference_pb2 as oip
from serving_load import INFER, LIMITS, STREAM, infer_message

TIMEOUT_S = 60.0
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
KEPT_VERSIONS = 2
VISIBLE_S = 30.0


class Disturbances:
    """Called once a second; each call does one of each. `wrong` lists what was not answered as it must be."""

    def __init__(self, target: str, models: Path, reloads: bool) -> None:
        """Disturb the server at `target`; with `reloads`, also by new versions of `moving` in its repository `models`."""
        self._target, self._models, self._reloads = target, models, reloads
        self._channel = grpc.insecure_channel(target, LIMITS)
        self._infer: Any = self._channel.unary_unary(INFER)
        self._stream: Any = self._channel.stream_stream(STREAM)
        self._client = Client(target, timeout_s=TIMEOUT_S)
        self._rng = np.random.default_rng(7)
        self._policies = {model: self._two_policies(model) for model in ("mlp512", "tiny140")}
        self._version = self._newest = 1  # of all that were written, and of those that are whole
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._malformed = self._all_malformed()

    def turn(self, number: int) -> None:
        """One of each."""
        self._swap(number)
        self._send_malformed(number)
        self._cancel()
        self._send_late()
        self._hang_up()
        if self._reloads and number % 5 == 4:
            self._replace(number // 5)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._channel.close()

    def _two_policies(self, model: str) -> tuple[int, int]:
        """The active policy, and another one made here."""
        labels = serving_models.LABELS if model == "mlp512" else 1
        logits = self._rng.normal(size=(200, labels)).astype(np.float32)
        targets = (logits + self._rng.normal(size=logits.shape) > 1).astype(np.uint8)
        before = self._client.policy(model).version
        made = self._client.calibrate(model, "max_fbeta=1", logits=logits, targets=targets, calibrator="none")
        return before, made.policy.version

    def _swap(self, number: int) -> None:
        for model, versions in self._policies.items():
            wanted = versions[number % 2]
            self._client.activate(model, wanted)
            x = serving_models.rows(model, 1)
            answer = oip.ModelInferResponse.FromString(self._infer(infer_message(model, x, ("decisions",)), timeout=TIMEOUT_S))
            if answer.parameters["policy_version"].int64_param != wanted:
                self.wrong.append(f"{model}: policy {wanted} was activated, the next answer had another")
            self.done["policy swaps"] += 1

    def _send_malformed(self, number: int) -> None:
        name, message, codes = self._malformed[number % len(self._malformed)]
        try:
            self._infer(message, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() not in codes:
                self.wrong.append(f"malformed, {name}: {error.code().name} {error.details()}")
        else:
            self.wrong.append(f"malformed, {name}: answered")
        self.done["malformed requests"] += 1

    def _cancel(self) -> None:
        """A call that takes its time, cancelled at once; a stream, cancelled in its midst."""
        x = serving_models.rows("conv140", 2)
        call = self._infer.future(infer_message("conv140", x), timeout=TIMEOUT_S)
        call.cancel()
        messages = [infer_message("conv140", x[:1])] * 4
        stream = self._stream(iter(messages), timeout=TIMEOUT_S)
        try:
            next(iter(stream))
        except grpc.RpcError as error:
            self.wrong.append(f"a stream: {error.code().name} {error.details()}")
        stream.cancel()
        self.done["cancellations"] += 2

    def _send_late(self) -> None:
        """A deadline that cannot be met: only DEADLINE_EXCEEDED will do, or an answer that was faster."""
        try:
            self._infer(infer_message("conv140", serving_models.rows("conv140", 2)), timeout=0.002)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                self.wrong.append(f"a deadline of 2 ms: {error.code().name} {error.details()}")
        self.done["deadlines missed"] += 1

    def _hang_up(self) -> None:
        """Bytes that are no HTTP/2, and a connection that is dropped."""
        host, port = self._target.rsplit(":", 1)
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(self._rng.bytes(64))
        self.done["connections of garbage"] += 1

    def _replace(self, turn: int) -> None:
        """In turn: a version above the others, after which the oldest ones go; another file for the newest; half a file."""
        kind = turn % 3
        staging, home = self._models.parent / "staging", self._models / "moving"
        shutil.rmtree(staging, ignore_errors=True)
        if kind == 0:
            self._version = self._newest = self._version + 1
            serving_models.moving(self._models, self._version)
            self._await_version()
            self.done["new versions"] += 1
            for old in sorted(int(v.name) for v in home.iterdir() if v.name.isdecimal())[:-KEPT_VERSIONS]:
                (home / str(old)).rename(home / f".gone.{old}")
                shutil.rmtree(home / f".gone.{old}")
        elif kind == 1:
            written = serving_models.moving(staging, self._newest, variant=1 + turn)
            (home / str(self._newest)).rename(staging / "old")
            written.rename(home / str(self._newest))
            self.done["replaced files"] += 1
        else:
            self._version += 1
            written = serving_models.moving(staging, self._version)
            data = (written / "model.onnx").read_bytes()
            (written / "model.onnx").write_bytes(data[: len(data) // 2])
            written.rename(home / str(self._version))
            self.done["broken versions"] += 1

    def _await_version(self) -> None:
        """Wait until the new version answers, as somebody does who then removes the old ones."""
        message = infer_message("moving", np.ones((1, serving_models.MOVING), np.float32))
        end = time.monotonic() + VISIBLE_S
        while time.monotonic() < end:
            answer = oip.ModelInferResponse.FromString(self._infer(message, timeout=TIMEOUT_S))
            if int(answer.model_version) == self._version:
                return
            time.sleep(0.05)
        self.wrong.append(f"version {self._version} of moving did not answer within {VISIBLE_S:g} s")

    def _all_malformed(self) -> list[tuple[str, bytes, tuple[grpc.StatusCode, ...]]]:
        x = serving_models.rows("mlp512", 1)
        good = oip.ModelInferRequest.FromString(infer_message("mlp512", x))

        def changed(change: Callable[[Any], object]) -> bytes:
            message = oip.ModelInferRequest()
            message.CopyFrom(good)
            change(message)
            return bytes(message.SerializeToString())

        nan = np.full_like(x, np.nan).tobytes()
        # What no parser can read is gRPC's own to refuse; its code for that is INTERNAL, and older ones said so.
        unreadable = (INVALID, grpc.StatusCode.INTERNAL)
        return [
            ("noise", self._rng.bytes(300), unreadable),
            ("cut off", good.SerializeToString()[:-7], unreadable),
            ("empty", b"", (INVALID, NOT_FOUND)),
            ("unknown model", changed(lambda m: setattr(m, "model_name", "none")), (NOT_FOUND,)),
            ("unknown version", changed(lambda m: setattr(m, "model_version", "77")), (NOT_FOUND,)),
            ("version that is no number", changed(lambda m: setattr(m, "model_version", "x")), (NOT_FOUND, INVALID)),
            ("another input", changed(lambda m: setattr(m.inputs[0], "name", "y")), (INVALID,)),
            ("another type", changed(lambda m: setattr(m.inputs[0], "datatype", "INT64")), (INVALID,)),
            ("no type at all", changed(lambda m: setattr(m.inputs[0], "datatype", "FP31")), (INVALID,)),
            ("a row too few", changed(lambda m: m.inputs[0].shape.__setitem__(0, 2)), (INVALID,)),
            ("a negative size", changed(lambda m: m.inputs[0].shape.__setitem__(0, -1)), (INVALID,)),
            ("a size beyond all memory", changed(lambda m: m.inputs[0].shape.__setitem__(0, 1 << 62)), (INVALID,)),
            ("another rank", changed(lambda m: m.inputs[0].shape.append(1)), (INVALID,)),
            ("a byte too many", changed(lambda m: m.raw_input_contents.__setitem__(0, x.tobytes() + b"x")), (INVALID,)),
            ("NaN", changed(lambda m: m.raw_input_contents.__setitem__(0, nan)), (INVALID,)),
            ("no data", changed(lambda m: m.ClearField("raw_input_contents")), (INVALID,)),
            ("data twice", changed(lambda m: m.raw_input_contents.append(b"1234")), (INVALID,)),
            ("an unknown output", changed(lambda m: m.outputs.add(name="none")), (INVALID,)),
        ]
