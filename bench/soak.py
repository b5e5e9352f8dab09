"""A server under mixed load and steady disturbance: `make bench-soak` (30 minutes), `make bench-soak DATA="--minutes 1"`.

Five client processes (Client, AioClient, a bidirectional stream, tritonclient, and one on a model whose versions come and go)
hold every answer against in-process onnxruntime and every decision against the policy that it names. Every second: policies are
swapped, a malformed request is sent, a call and a stream are cancelled, a deadline is missed, garbage is sent, and every fifth
second a new version of a model appears, some of them broken, and an old one goes. It claims: no wrong answer, no lost request,
every disturbance answered as it must be, no growth of memory, threads and file descriptors, exit with 0 at SIGTERM.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import serving_models
from claims import Claim, report
from serving_load import family, takes
from serving_process import COMMAND, Server, cutpoint_serve
from soak_client import KINDS
from soak_disturbances import Disturbances

CLIENT = Path(__file__).parent / "soak_client.py"
MOST_PER_S = 20_000  # requests of one client: a bound, nothing reaches it
LEAVE_S = 180.0
WARM = 0.2  # of the samples do not count
SPARE = 2  # threads or descriptors that a moment more or less may make
# Of a short run, in which the server's heap has hardly found its size, and of a long one.
GROWTH_SHORT, GROWTH_LONG, LONG_S = 2.0, 1.05, 600.0


@dataclass(frozen=True)
class Sample:
    """What the server holds now, all its processes together."""

    at_s: float
    memory_mb: float
    threads: int
    descriptors: int


def main() -> None:
    """Print the claims."""
    options = _options()
    with TemporaryDirectory() as scratch:
        report(soak(options, Path(scratch)))


def soak(options: argparse.Namespace, scratch: Path) -> list[Claim]:
    """Run it and say how it went."""
    models = scratch / "models"
    models.mkdir()
    for build in serving_models.BUILDERS.values():
        build(models)
    serving_models.moving(models, 1)
    seconds = 60 * options.minutes
    reloads = options.model_control or takes(options.cutpoint, "--model-control")
    arguments = [*options.serve, *(["--model-control", "poll", "--poll-s", "0.5"] if reloads else [])]
    samples: list[Sample] = []
    with cutpoint_serve(models, *arguments, command=options.cutpoint) as server, ExitStack() as stack:
        disturbances = Disturbances(server.target, models, reloads)
        stack.callback(disturbances.close)
        count = options.requests or int(seconds * MOST_PER_S)
        clients = [_client(stack, kind, server, models, count, seed) for seed, kind in enumerate(KINDS)]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()  # it is ready
        begun = time.monotonic()
        turn = 0
        while any(client.poll() is None for client in clients) and time.monotonic() < begun + seconds:
            disturbances.turn(turn)
            samples.append(_sample(server, time.monotonic() - begun))
            if turn % max(1, round(min(60.0, seconds / 10) / options.every_s)) == 0:
                _say(f"{samples[-1].at_s:.0f} s", samples[-1], disturbances)
            turn += 1
            time.sleep(max(0.0, begun + turn * options.every_s - time.monotonic()))
        tallies = [_tally(client) for client in clients]
        _say("end", samples[-1], disturbances)
        open_calls = _open_calls(server)
    for tally in tallies:
        print("client |", json.dumps(tally), flush=True)
    for wrong in disturbances.wrong[:20]:
        print("disturbance |", wrong, flush=True)
    if not reloads:
        print("note | this server has no --model-control: no model was replaced", flush=True)
    return [*_claims(tallies, disturbances, open_calls), *_growth(samples)]


def _claims(tallies: list[dict[str, Any]], disturbances: Disturbances, open_calls: float) -> list[Claim]:
    sent, answered, wrong = (sum(tally[name] for tally in tallies) for name in ("sent", "answered", "wrong"))
    done = sum(disturbances.done.values())
    return [
        Claim(f"wrong answers, of {answered}", wrong, 1, 0, "answers", False),
        Claim(f"requests without an answer, of {sent}", sent - answered, 1, 0, "requests", False),
        Claim("clients that answers came to", sum(tally["answered"] > 0 for tally in tallies), len(KINDS), 1, "clients"),
        Claim(f"disturbances not answered as they must be, of {done}", len(disturbances.wrong), 1, 0, "calls", False),
        Claim("calls that never ended, by the server's counters", open_calls, 1, 0, "calls", False),
    ]


def _growth(samples: list[Sample]) -> list[Claim]:
    """The last third of the samples after the warm-up against their first third, medians."""
    warm = samples[int(WARM * len(samples)) :]
    third = max(1, len(warm) // 3)
    first, last = warm[:third], warm[-third:]
    limit = GROWTH_LONG if samples[-1].at_s >= LONG_S else GROWTH_SHORT
    claims = [
        Claim("memory at the end", median(s.memory_mb for s in last), median(s.memory_mb for s in first), limit, "MB", False)
    ]
    for name in ("threads", "descriptors"):
        before, after = (median(getattr(s, name) for s in some) for some in (first, last))
        claims.append(Claim(f"{name} at the end, {SPARE} more allowed", after, before + SPARE, 1, name, False))
    return claims


def _client(stack: ExitStack, kind: str, server: Server, models: Path, count: int, seed: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(CLIENT), kind, server.target, str(models), str(count), str(seed)]
    process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    return process


def _tally(client: "subprocess.Popen[str]") -> dict[str, Any]:
    """Ask a client to stop, and read what it saw; RuntimeError where it says nothing."""
    said, _ = client.communicate(timeout=LEAVE_S)
    if client.returncode or not said:
        raise RuntimeError(f"a client of the soak ended with {client.returncode}: see above")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def _sample(server: Server, at_s: float) -> Sample:
    memory_kib = threads = descriptors = 0
    for pid in family(server.process.pid):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "Threads"))}
        memory_kib += int(fields["VmRSS"])
        threads += int(fields["Threads"])
        descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return Sample(at_s, 1.024e-3 * memory_kib, threads, descriptors)


def _open_calls(server: Server) -> float:
    """Calls started and not handled, once nobody calls any more: the server may take a moment to see a client leave."""
    end = time.monotonic() + 10
    while True:
        found = server.metrics()
        begun, handled = (
            sum(value for name, value in found.items() if name.startswith(f"grpc_server_{what}_total"))
            for what in ("started", "handled")
        )
        if begun == handled or time.monotonic() > end:
            return begun - handled
        time.sleep(0.1)


def _say(when: str, sample: Sample, disturbances: Disturbances) -> None:
    held = f"{sample.memory_mb:.0f} MB, {sample.threads} threads, {sample.descriptors} descriptors"
    done = ", ".join(f"{count} {what}" for what, count in disturbances.done.items())
    print(f"soak | {when} | {held} | {done} | {len(disturbances.wrong)} not as they must be", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="at most")
    parser.add_argument("--requests", type=int, default=0, help="each client ends after so many")
    parser.add_argument("--every-s", type=float, default=1.0, help="between disturbances")
    parser.add_argument("--cutpoint", type=Path, default=COMMAND, help="the command to test")
    parser.add_argument("--serve", type=str.split, default=[], help="more arguments of cutpoint serve, in one string")
    parser.add_argument("--model-control", action="store_true", help="replace models (default: where the server can)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
