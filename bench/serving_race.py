"""Servers side by side: all ready, loaded in turn, round after round, each between two measurements of the ceiling."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import onnxruntime as ort
import serving_models
from numpy.typing import NDArray
from serving_ceiling import Setting, measure
from serving_load import (
    INFER,
    Caller,
    HttpCaller,
    Load,
    Machine,
    Request,
    framed,
    grpc_request,
    infer_message,
    latencies_ms,
    load,
    logits_of,
    takes,
)
from serving_peers import PEERS, Peer, serving_peer
from serving_process import COMMAND, Server, cutpoint_serve
from serving_shared import SharedTensor, shared_tensor

OUTSIDE_CORES = 0.10  # of others' load: beyond it a measurement is repeated
CALLERS = 16
OURS, TUNED, EVERYTHING = "cutpoint", "cutpoint tuned", "cutpoint, all outputs"
SHARED = "{}, shared memory"


class Options(Protocol):
    """What the command line says."""

    rounds: int
    seconds: float
    retries: int
    peers: list[str]
    peers_folder: Path
    cutpoint: Path
    serve: list[str]
    workers: int


@dataclass
class Contestant:
    """A server and what it is asked.

    Attributes:
        peer: whose server it is; None for ours.
        rate_hint: requests a second as last seen; 0 before the first.
        out: a peer that failed in the midst; it is named in the output and no longer compared.
        tensor: what is written before each request, where the input is in shared memory.
    """

    name: str
    server: Server
    request: Request
    peer: Peer | None = None
    rate_hint: float = 0.0
    out: bool = False
    tensor: SharedTensor | None = None

    def caller(self) -> tuple[Caller | HttpCaller, bytes]:
        """One caller, and the message that it sends."""
        if self.request.grpc:
            return Caller(self.server.target), self.request.body[5:]
        return HttpCaller(self.server.target, self.request), self.request.body

    def logits(self) -> NDArray[np.float32]:
        """The logits it answers now, in one row."""
        caller, message = self.caller()
        try:
            answer = caller.infer(message)
        finally:
            caller.close()
        return logits_of(answer).ravel() if self.peer is None else self.peer.decode(answer)


@dataclass(frozen=True)
class Lap:
    """One load of one contestant, and the ceiling around it in the same unit."""

    load: Load
    ceiling: float

    @property
    def share(self) -> float:
        """Of the ceiling."""
        return self.load.rate / self.ceiling


def say(*parts: object) -> None:
    """One line, at once."""
    print(" | ".join(map(str, parts)), flush=True)


def expected(model: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of in-process onnxruntime, in one row."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(["logits"], {"x": x})[0]
    return answer.ravel()


def check(contestant: Contestant, want: NDArray[np.float32], tolerance: float = 1e-4) -> None:
    """RuntimeError where its answer is not the wanted one."""
    found = contestant.logits()
    if found.shape != want.shape or not np.allclose(found, want, rtol=0, atol=tolerance):
        raise RuntimeError(f"{contestant.name} answered other logits than onnxruntime in process: {found[:4]}, {want[:4]}")


def check_failures(*contestants: Contestant) -> None:
    """RuntimeError where a server of ours counted a call that was not answered with OK."""
    for each in contestants:
        if failed := each.server.failures():
            raise RuntimeError(f"{each.name}: {failed:g} calls ended with another code than OK, by its own counters")


def ours(
    stack: ExitStack, models: Path, model: str, x: NDArray[np.float32], options: Options, *arguments: object,
    command: Path = COMMAND, name: str = OURS, outputs: Sequence[str] = ("logits",),
) -> Contestant:  # fmt: skip
    """A ready `cutpoint serve` with what it is asked."""
    server = stack.enter_context(cutpoint_serve(models, *options.serve, *arguments, command=command))
    return asked(name, server, model, x, outputs)


def asked(
    name: str, server: Server, model: str, x: NDArray[np.float32], outputs: Sequence[str] = ("logits",), method: str = INFER
) -> Contestant:
    """A contestant: `server` asked for `outputs` of `x`."""
    message = infer_message(model, x, outputs)
    caller = Caller(server.target)
    answer = caller.infer(message)
    caller.close()
    return Contestant(name, server, grpc_request(method, message, answer_bytes=len(framed(answer))))


def in_shared_memory(stack: ExitStack, of: Contestant, model: str, x: NDArray[np.float32]) -> Contestant:
    """The same server, asked for the logits of `x` in shared memory."""
    tensor = stack.enter_context(shared_tensor(of.server.target, model, x))
    request = grpc_request(INFER, tensor.message, answer_bytes=of.request.answer_bytes)
    return Contestant(SHARED.format(of.name), of.server, request, tensor=tensor)


def processes(options: Options) -> list[tuple[str, tuple[object, ...]]]:
    """Names and arguments of the servers to measure where the number of processes matters: one, and several where it can."""
    found: list[tuple[str, tuple[object, ...]]] = [("one process", ())]
    if takes(options.cutpoint, "--workers"):
        found.append((f"{options.workers} workers", ("--workers", options.workers)))
    else:
        say("note", "this server has no --workers: measured in one process only")
    return found


@contextmanager
def peers_ready(options: Options, scratch: Path, graph: Path, model: str, x: NDArray[np.float32]) -> Iterator[list[Contestant]]:
    """All peers asked for that start here; of each of the others, a line that says why it is missing."""
    want = expected(graph, x)
    with ExitStack() as stack:
        found = []
        for peer in PEERS:
            if peer.name not in options.peers:
                continue
            try:
                server, request = stack.enter_context(serving_peer(peer, options.peers_folder, scratch, graph, model, x))
                contestant = Contestant(peer.name, server, request, peer)
                check(contestant, want)
            except (RuntimeError, OSError) as error:
                say("peer missing", model, peer.name, " ".join(str(error).split())[-300:])
                continue
            found.append(contestant)
        yield found


def quiet_load(contestant: Contestant, callers: int, options: Options) -> Load:
    """A load of about `options.seconds`, repeated while others use the machine; the quietest one."""
    least = callers if contestant.request.items > 1 else 4 * callers
    if not contestant.rate_hint:
        probe = load(contestant.server.target, contestant.request, callers, least)
        contestant.rate_hint = probe.rate / contestant.request.items
    best: Load | None = None
    for _ in range(options.retries + 1):
        count = int(min(max(contestant.rate_hint * options.seconds, least), 200_000))
        machine = Machine()
        expected_rate = contestant.rate_hint * contestant.request.items
        with nullcontext() if contestant.tensor is None else contestant.tensor.writing(expected_rate):
            ran = load(contestant.server.target, contestant.request, callers, count)
        ran = replace(ran, outside_cores=machine.outside_cores())
        contestant.rate_hint = ran.rate / contestant.request.items
        if best is None or ran.outside_cores < best.outside_cores:
            best = ran
        if best.outside_cores <= OUTSIDE_CORES:
            break
    assert best is not None
    return best


def race(
    contestants: Sequence[Contestant], callers: int, options: Options, ceiling: Callable[[], float] = lambda: 1.0
) -> dict[str, list[Lap]]:
    """`options.rounds` rounds of loads in turn, the order turned by one each round; a peer that fails is out."""
    laps: dict[str, list[Lap]] = {contestant.name: [] for contestant in contestants}
    before = ceiling()
    for turn in range(options.rounds):
        first = turn % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            if contestant.out:
                continue
            try:
                ran = quiet_load(contestant, callers, options)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                if contestant.peer is None:
                    raise
                contestant.out = True
                say("peer failed", contestant.name, f"{callers} callers", " ".join(str(error).split())[-300:])
                continue
            after = ceiling()
            lap = Lap(ran, (before + after) / 2)
            before = after
            laps[contestant.name].append(lap)
            share = f"share of in-process {lap.share:.2f}" if lap.ceiling != 1 else ""
            say(
                f"round {turn + 1}", f"{contestant.name}, {callers} callers", f"{ran.rate:.4g}/s",
                f"p50 {ran.p50_ms:.3g} ms, p99 {ran.p99_ms:.3g} ms", f"outside load {ran.outside_cores:.2f} core", share,
            )  # fmt: skip
    return laps


def alone(contestants: Sequence[Contestant], options: Options, ceiling: Callable[[], float], calls: int) -> dict[str, float]:
    """Median ms of one caller on gRPC's C core (http.client for HTTP), all in turn; "in process" is the ceiling's."""
    found: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    found["in process"] = []
    for _ in range(options.rounds):
        found["in process"].append(ceiling())
        for contestant in (each for each in contestants if not each.out):
            caller, message = contestant.caller()

            def call() -> None:
                if contestant.tensor is not None:  # noqa: B023
                    contestant.tensor.write()  # noqa: B023
                caller.infer(message)  # noqa: B023

            try:
                latencies_ms(call, 3)
                found[contestant.name].append(median(latencies_ms(call, calls)))
            finally:
                caller.close()
    medians = {name: median(each) for name, each in found.items() if each}
    for name, p50_ms in medians.items():
        say("one caller", name, f"p50 {p50_ms:.3g} ms")
    return medians


def say_memory(*contestants: Contestant) -> None:
    """A line for each server: what it takes, and when it was ready."""
    for each in contestants:
        peaks = each.server.peak_mb().values()
        text = f"peak {max(peaks):.0f} MB the largest of {len(peaks)}, {sum(peaks):.0f} MB summed"
        now, ready = f"shared pages once: {each.server.shared_mb():.0f} MB now", f"ready after {each.server.ready_s:.2f} s"
        say("memory", each.name, text, now, ready)


def rate_of(laps: Sequence[Lap]) -> float:
    """Median rate."""
    return median(lap.load.rate for lap in laps)


def times(ours_: Sequence[Lap], theirs: Sequence[Lap]) -> float:
    """Median over the rounds of our rate over theirs."""
    return median(a.load.rate / b.load.rate for a, b in zip(ours_, theirs, strict=True))


def ceiling_of(graph: Path, setting: Setting, runs: int) -> Callable[[], float]:
    """Measures rows a second of the graph in process."""
    return lambda: measure(graph, setting, runs).rate


def built(models: Path, model: str) -> Path:
    """A repository with this model alone; returns the graph."""
    models.mkdir(parents=True)
    return serving_models.BUILDERS[model](models) / "model.onnx"
