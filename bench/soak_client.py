"""One client process of the soak: `python soak_client.py KIND TARGET MODELS COUNT SEED`.

Sends requests one after another (or a few at a time), holds every answer against in-process onnxruntime and every decision
against the policy that the answer names, until it has sent COUNT or its standard input is closed. It prints
`ready` when it begins, and one line of JSON at its end.
"""

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import serving_models
from cutpoint.client import AioClient, Client, Connection
from cutpoint.oip import inference_pb2 as oip
from numpy.typing import NDArray
from serving_load import Caller, infer_message

KINDS = ("unary", "stream", "aio", "triton", "moving")
POOL = {"mlp512": 64, "tiny140": 6, "conv140": 6}
SHARES = (0.8, 0.15, 0.05)  # of the requests
TIMEOUT_S = 60.0
TOLERANCE = 1e-4
PER_STREAM = 50
TOGETHER = 4  # requests of the asyncio client under way


@dataclass
class Tally:
    """What one client saw; `sent` is `answered` and `failed` at the end, else requests were lost."""

    kind: str
    sent: int = 0
    answered: int = 0
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def check(self, good: bool, what: str) -> None:
        """Count an answer."""
        self.answered += 1
        if not good:
            self.wrong += 1
            self.examples = [*self.examples, f"wrong: {what}"][:5]

    def fail(self, error: BaseException) -> None:
        """Count an error in place of an answer: there is no reason for one."""
        self.failed[type(error).__name__] += 1
        self.examples = [*self.examples, f"{type(error).__name__}: {error}"[:300]][:5]


class Oracle:
    """Rows, and their logits by onnxruntime in this process."""

    def __init__(self, models: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.x: dict[str, NDArray[np.float32]] = {}
        self.logits: dict[str, NDArray[np.float32]] = {}
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        for model, count in POOL.items():
            session = ort.InferenceSession(models / model / "1" / "model.onnx", options, providers=["CPUExecutionProvider"])
            self.x[model] = serving_models.rows(model, count, seed)
            self.logits[model] = session.run(["logits"], {"x": self.x[model]})[0]

    def pick(self) -> tuple[str, slice]:
        """A model and some of its rows: up to 16 of mlp512, one or two sequences of the others."""
        model = str(self.rng.choice(list(POOL), p=SHARES))
        rows = int(self.rng.integers(1, 17 if model == "mlp512" else 3))
        start = int(self.rng.integers(0, POOL[model] - rows + 1))
        return model, slice(start, start + rows)

    def agrees(self, model: str, some: slice, logits: NDArray[Any]) -> bool:
        """Whether these are the logits of these rows."""
        want = self.logits[model][some]
        return logits.shape == want.shape and bool(np.allclose(logits, want, rtol=0, atol=TOLERANCE))


class Policies:
    """Thresholds by model and policy version, asked of the server once each."""

    def __init__(self, target: str) -> None:
        self._client, self._known = Client(target, timeout_s=TIMEOUT_S), dict[tuple[str, int], NDArray[np.float32]]()
        self._lock = threading.Lock()

    def agrees(self, model: str, version: int | None, logits: NDArray[Any], decisions: NDArray[Any] | None) -> bool:
        """Whether the decisions are those of the policy that the answer names."""
        if version is None or decisions is None:
            return False
        with self._lock:
            if (model, version) not in self._known:
                self._known[model, version] = self._client.policy(model, version).thresholds()
        thresholds = self._known[model, version]
        with np.errstate(invalid="ignore"):
            return bool(np.array_equal(decisions, logits >= thresholds))


def unary(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    """`Client.score`: logits, scores and decisions."""
    with Client(target, timeout_s=TIMEOUT_S) as client:
        for _ in turns:
            model, some = oracle.pick()
            tally.sent += 1
            try:
                found = client.score(model, oracle.x[model][some])
            except Exception as error:
                tally.fail(error)
                continue
            good = oracle.agrees(model, some, found.logits)
            good = good and policies.agrees(model, found.policy_version, found.logits, found.decisions)
            tally.check(good, f"{model} {some} policy {found.policy_version}")


async def _aio(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    async with AioClient(target, Connection(shared_memory=True), timeout_s=TIMEOUT_S) as client:

        async def one() -> None:
            for _ in turns:
                model, some = oracle.pick()
                tally.sent += 1
                try:
                    found = await client.score(model, oracle.x[model][some])
                except Exception as error:
                    tally.fail(error)
                    continue
                good = oracle.agrees(model, some, found.logits)
                good = good and policies.agrees(model, found.policy_version, found.logits, found.decisions)
                tally.check(good, f"{model} {some} policy {found.policy_version}")

        await asyncio.gather(*(one() for _ in range(TOGETHER)))


def aio(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    """`AioClient.score`, several requests at a time."""
    asyncio.run(_aio(target, oracle, policies, tally, turns))


def stream(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    """ModelStreamInfer: answers by id, each once."""
    caller = Caller(target)
    ended = False
    while not ended:
        asked: dict[str, tuple[str, slice]] = {}
        for _ in turns:
            asked[str(len(asked))] = oracle.pick()
            if len(asked) == PER_STREAM:
                break
        else:
            ended = True
        tally.sent += len(asked)
        messages = [_message(oracle, model, some, name) for name, (model, some) in asked.items()]
        try:
            answers = caller.stream(messages) if messages else []
        except Exception as error:
            for _ in asked:
                tally.fail(error)
            continue
        for answer in answers:
            message = oip.ModelStreamInferResponse.FromString(answer)
            response = message.infer_response
            question = asked.pop(response.id, None)
            if message.error_message or question is None:
                tally.check(False, f"stream: {message.error_message or 'an id that was not asked, or was answered before'}")
                continue
            arrays = _arrays(response)
            version = int(response.parameters["policy_version"].int64_param)
            good = oracle.agrees(*question, arrays["logits"])
            good = good and policies.agrees(question[0], version, arrays["logits"], arrays["decisions"])
            tally.check(good, f"stream {question} policy {version}")
        for _ in asked:
            tally.fail(LookupError("a message of a stream was not answered"))
    caller.close()


def triton(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    """NVIDIA's client, as shipped."""
    import tritonclient.grpc as shipped  # type: ignore[import-untyped]

    with shipped.InferenceServerClient(target) as client:
        for _ in turns:
            model, some = oracle.pick()
            x = oracle.x[model][some]
            tensor = shipped.InferInput("x", x.shape, "FP32")
            tensor.set_data_from_numpy(x)
            outputs = [shipped.InferRequestedOutput(name) for name in ("logits", "decisions")]
            tally.sent += 1
            try:
                found = client.infer(model, [tensor], outputs=outputs, client_timeout=TIMEOUT_S)
            except Exception as error:
                tally.fail(error)
                continue
            logits, version = found.as_numpy("logits"), int(found.get_response().parameters["policy_version"].int64_param)
            good = oracle.agrees(model, some, logits)
            good = good and policies.agrees(model, version, logits, found.as_numpy("decisions"))
            tally.check(good, f"{model} {some} policy {version}")


def moving(target: str, oracle: Oracle, policies: Policies, tally: Tally, turns: Iterator[None]) -> None:
    """The model whose versions come and go: its logits are its version times x, so that an answer says who gave it."""
    caller = Caller(target)
    for _ in turns:
        x = oracle.rng.normal(size=(int(oracle.rng.integers(1, 9)), serving_models.MOVING)).astype(np.float32)
        tally.sent += 1
        try:
            response = oip.ModelInferResponse.FromString(caller.infer(infer_message("moving", x)))
        except Exception as error:
            tally.fail(error)
            continue
        logits = _arrays(response)["logits"]
        good = np.array_equal(logits, x * np.float32(int(response.model_version)))
        tally.check(bool(good), f"moving version {response.model_version}")
    caller.close()


CLIENTS: dict[str, Callable[[str, Oracle, Policies, Tally, Iterator[None]], None]] = {
    "unary": unary, "stream": stream, "aio": aio, "triton": triton, "moving": moving,
}  # fmt: skip


def _message(oracle: Oracle, model: str, some: slice, name: str) -> bytes:
    message = oip.ModelInferRequest.FromString(infer_message(model, oracle.x[model][some], ("logits", "decisions")))
    message.id = name
    return bytes(message.SerializeToString())


def _arrays(response: oip.ModelInferResponse) -> dict[str, NDArray[Any]]:
    dtypes = {"FP32": "<f4", "BOOL": "?"}
    return {
        output.name: np.frombuffer(raw, dtypes[output.datatype]).reshape(tuple(output.shape))
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def main() -> None:
    """Run one client to its end."""
    kind, target, models, count, seed = sys.argv[1:]
    end = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        end.set()

    threading.Thread(target=watch, daemon=True).start()

    def turns() -> Iterator[None]:
        for _ in range(int(count)):
            if end.is_set():
                return
            yield

    tally = Tally(kind)
    oracle, policies = Oracle(Path(models), int(seed)), Policies(target)
    print("ready", flush=True)
    CLIENTS[kind](target, oracle, policies, tally, turns())
    print(json.dumps(vars(tally)), flush=True)


if __name__ == "__main__":
    main()
