"""Nonsense sent to a server: `make bench-fuzz` (a million calls), `make bench-fuzz DATA=10000`.

Damaged bytes of right messages of every RPC, well-formed requests with one thing wrong, and between them right ones whose
answers are known. Most go to a server's own handlers in this process, the rest over gRPC to a `cutpoint serve`: with compressed
and damaged messages, bombs, callers who leave, and connections that speak damaged HTTP/2. It claims: every answer has a status
that fits and names what is wrong, none is missing, right requests are answered rightly all the while, and no memory, threads or
descriptors are left behind.
"""

import argparse
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from claims import Claim, report
from fuzz_calls import OverGrpc, Tally, in_process, resources
from fuzz_http2 import ATTACKS, damaged_connection
from fuzz_messages import Case, bomb, damaged, fuzz_models, packed, probe, seeds, wrong
from processes import serving

TOGETHER = 64  # calls at a time, four of them right ones
RIGHT = 4
MAX_MESSAGE_MIB = 16
SPARE = 8  # threads or descriptors that a moment more or less may make
Seeds = list[tuple[str, tuple[bytes, ...]]]


@dataclass(frozen=True)
class Growth:
    """What a server holds, before and after: MiB, threads, open files."""

    before: tuple[float, int, int]
    after: tuple[float, int, int]


def main() -> None:
    """Print the claims."""
    parser = argparse.ArgumentParser()
    parser.add_argument("calls", nargs="?", type=int, default=1_000_000, help="all together")
    parser.add_argument("--over-grpc", type=float, default=0.15, help="share of them that goes over gRPC")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    over_grpc = int(options.calls * options.over_grpc)
    with TemporaryDirectory() as scratch:
        report(fuzz(options.calls - over_grpc, over_grpc, options.seed, Path(scratch)))


def fuzz(here: int, over_grpc: int, seed: int, scratch: Path) -> list[Claim]:
    """Send so many calls to handlers of this process, and over gRPC; say how it went."""
    claims: list[Claim] = []
    for name, count, run in (("in process", here, _here), ("over gRPC", over_grpc, _over_grpc)):
        if not count:
            continue
        models = scratch / name.replace(" ", "-") / "models"
        fuzz_models(models)
        begun = time.perf_counter()
        with _region(f"cutpoint-fuzz-{seed}-{time.time_ns()}") as region:
            of = [(method, tuple(message.SerializeToString() for message in messages)) for method, messages in seeds(region)]
            tally, growth = run(models, of, count, random.Random(seed))
        _say(name, tally, time.perf_counter() - begun)
        for line in tally.wrong[:20]:
            print("wrong |", line, flush=True)
        claims += _claims(name, tally, growth)
    return claims


def _here(models: Path, of: Seeds, count: int, rng: random.Random) -> tuple[Tally, Growth]:
    tally = Tally()
    with in_process(models, max_message_mib=MAX_MESSAGE_MIB) as server:
        _warm(server.answer, of, count, rng)
        before = resources()
        while tally.calls < count:
            server.answer(_cases(rng, of), tally)
        return tally, Growth(before, resources())


def _over_grpc(models: Path, of: Seeds, count: int, rng: random.Random) -> tuple[Tally, Growth]:
    tally = Tally()
    controls = ("--model-control", "explicit", *(word for path in models.iterdir() for word in ("--load", path.name)))
    with serving(models, "--max-message-mib", MAX_MESSAGE_MIB, *controls) as server:
        port = int(server.target.rsplit(":", 1)[1])
        channel = OverGrpc(server.target)
        try:
            _warm(channel.answer, of, count, rng)
            _disturb(rng, port, 20)
            bombs = [bomb(rng, mib) for mib in (MAX_MESSAGE_MIB + 1, 200) for _ in range(3)]
            channel.answer(bombs, tally)
            before = resources(server.process.pid)
            turn = 0
            while tally.calls < count:
                cases = _cases(rng, of)
                for i in range(RIGHT, TOGETHER, 7):
                    cases[i] = packed(rng, of)
                left = {rng.randrange(TOGETHER) for _ in range(4)}
                channel.answer(cases, tally, rng.choice((None, None, *_COMPRESSIONS)), left)
                turn += 1
                if turn % 100 == 0:
                    channel.answer([rng.choice(bombs)], tally)
                if turn % 10 == 0:
                    _disturb(rng, port, 10)
            for name, attack in ATTACKS.items():
                attack(port)
                told = Tally()
                channel.answer([probe(rng) for _ in range(RIGHT)], told)
                tally.wrong += [f"after {name}: {each}" for each in told.wrong]
            after = _settled(server.process.pid, before)
        finally:
            channel.close()
        server.process.terminate()
        if server.process.wait(60):
            tally.wrong.append(f"the server ended with {server.process.returncode}")
    # grpc itself logs headers that are not UTF-8, with a traceback; what the server did not foresee is its own to log.
    log = (models.parent / "server.log").read_text(errors="replace")
    if "ERROR cutpoint" in log:
        tally.wrong.append(f"the server's log: {log[log.index('ERROR cutpoint') :][:2000]}")
    return tally, Growth(before, after)


def _cases(rng: random.Random, of: Seeds) -> list[Case]:
    right = [probe(rng) for _ in range(RIGHT)]
    return right + [damaged(rng, of) if rng.random() < 0.65 else wrong(rng) for _ in range(TOGETHER - RIGHT)]


def _warm(answer: Callable[[list[Case], Tally], None], of: Seeds, count: int, rng: random.Random) -> None:
    """Right calls of every kind, and a tenth of all the others: a server's heap finds its size by them."""
    for method, messages in of:
        answer([Case(method, messages)], Tally())
    told = Tally()
    while told.calls < min(count // 10, 20_000):
        answer(_cases(rng, of), told)


def _disturb(rng: random.Random, port: int, count: int) -> None:
    for _ in range(count):
        damaged_connection(rng, port)


def _settled(pid: int, before: tuple[float, int, int]) -> tuple[float, int, int]:
    """What is held when what was cut off has been taken down, which gRPC does in its own time."""
    end_s = time.monotonic() + 30
    while (found := resources(pid))[2] > before[2] + SPARE and time.monotonic() < end_s:
        time.sleep(0.1)
    return found


@contextmanager
def _region(name: str) -> Iterator[str]:
    """A shared memory object of 4 KiB."""
    path = Path("/dev/shm") / name
    path.write_bytes(bytes(4096))
    try:
        yield name
    finally:
        path.unlink()


def _say(name: str, tally: Tally, seconds: float) -> None:
    codes: Counter[str] = Counter()
    for (_, code), count in tally.codes.items():
        codes[code] += count
    counts = ", ".join(f"{code} {count}" for code, count in codes.most_common())
    print(f"{name} | {tally.calls} calls, {tally.messages} messages, {seconds:.0f} s | {counts}", flush=True)


def _claims(name: str, tally: Tally, growth: Growth) -> list[Claim]:
    (memory, threads, files), (memory_after, threads_after, files_after) = growth.before, growth.after
    return [
        Claim(f"{name}: wrong or missing answers, of {tally.calls}", len(tally.wrong), 1, 0, "answers", False),
        Claim(f"{name}: memory held after it, beside before", memory_after, memory, 1.25, "MiB", False),
        Claim(f"{name}: threads after it, beside before", threads_after, threads + SPARE, 1, "threads", False),
        Claim(f"{name}: open files after it, beside before", files_after, files + SPARE, 1, "files", False),
    ]


def _compressions() -> tuple[object, ...]:
    import grpc

    return grpc.Compression.Gzip, grpc.Compression.Deflate


_COMPRESSIONS = _compressions()

if __name__ == "__main__":
    main()
