"""What a policy swap does to those who are being answered meanwhile."""

import threading
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median

import numpy as np
import serving_models
from claims import Claim
from cutpoint.client import Client
from cutpoint.oip import inference_pb2 as oip
from serving_race import Contestant, built, check_failures, ours, processes, quiet_load, say

CALLERS = 4
SWAPS = 50
SWAP_S, OFTEN_S = 1.0, 0.1  # between swaps: far more often than anybody swaps, and so often that they are work of their own


def swaps(options: Namespace, scratch: Path) -> list[Claim]:
    """Whether the next request sees a new policy, whatever its connection, and what swaps do to the others' p99."""
    claims = []
    for model in ("tiny140", "mlp512"):
        graph = built(scratch / model / "models", model)
        for name, extra in processes(options):
            with ExitStack() as stack:
                decided = ours(
                    stack, graph.parents[2], model, serving_models.rows(model, 1), options, *extra,
                    command=options.cutpoint, outputs=("logits", "decisions"),
                )  # fmt: skip
                claims += _swaps(stack, decided, model, f"{model}, {name}", options)
                check_failures(decided)
    return claims


def _swaps(stack: ExitStack, decided: Contestant, model: str, name: str, options: Namespace) -> list[Claim]:
    client = stack.enter_context(Client(decided.server.target))
    versions = _two_policies(client, model)
    callers = [decided.caller() for _ in range(CALLERS)]
    seen = 0
    for i in range(SWAPS):
        client.activate(model, versions[i % 2])
        seen += sum(_policy_of(caller.infer(message)) == versions[i % 2] for caller, message in callers)
    for caller, _ in callers:
        caller.close()
    p99_ms: dict[float, list[float]] = {0.0: [], SWAP_S: [], OFTEN_S: []}
    for _ in range(options.rounds):
        for every_s, found in p99_ms.items():
            with _Swapping(client, model, versions, every_s) if every_s else nullcontext():
                found.append(quiet_load(decided, CALLERS, options).p99_ms)
    ratios = {each: median(a / b for a, b in zip(p99_ms[each], p99_ms[0.0], strict=True)) for each in (SWAP_S, OFTEN_S)}
    say("note", f"{name}: p99 with a swap every {OFTEN_S:g} s: {ratios[OFTEN_S]:.3g} times that without")
    without_ms = median(p99_ms[0.0])
    return [
        Claim(f"{name}: next requests that saw the policy swapped in", seen, SWAPS * CALLERS, 1, "requests"),
        Claim(f"{name}: p99 with a swap every second", ratios[SWAP_S] * without_ms, without_ms, 1.1, "ms", False),
    ]


def _two_policies(client: Client, model: str) -> tuple[int, int]:
    """The policy that came with the model, and another one made now."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, serving_models.LABELS if model == "mlp512" else 1)).astype(np.float32)
    targets = (logits + rng.normal(size=logits.shape) > 1).astype(np.uint8)
    before = client.policy(model).version
    return before, client.calibrate(model, "max_fbeta=1", logits=logits, targets=targets, calibrator="none").policy.version


class _Swapping:
    """Activates the versions in turn every so many seconds until the block ends, beginning after half of them."""

    def __init__(self, client: Client, model: str, versions: Sequence[int], every_s: float) -> None:
        self._every_s = every_s
        self._client, self._model, self._versions = client, model, versions
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "_Swapping":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        wait_s, done = self._every_s / 2, 0
        while not self._end.wait(wait_s):
            self._client.activate(self._model, self._versions[done % 2])
            wait_s, done = self._every_s, done + 1


def _policy_of(answer: bytes) -> int:
    return int(oip.ModelInferResponse.FromString(answer).parameters["policy_version"].int64_param)
