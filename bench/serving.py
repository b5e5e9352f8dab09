"""`cutpoint serve` against in-process onnxruntime and against its peers: `make bench-serving`.

The server is a black box: the command, its gRPC port, /metrics. Load comes from h2load on the same machine, one connection per
caller. `make bench-serving DATA="--only tiny140 --no-peers"` for a part. Peers (bench/peers) are installed at first use,
each into an environment of its own in --peers-folder. Rates ask for `logits` alone, as the peers answer nothing else; a line
beside says what scores, decisions and labels cost. Absolute figures move by 25 % with the host; ratios in one run hold to 10 %.
"""

import argparse
import os
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import grpc
import serving_models
from claims import Claim, report
from cutpoint.oip import inference_pb2 as oip
from serving_ceiling import best_alone, measure
from serving_conv140 import conv140
from serving_load import STREAM, Caller, Machine, framed, grpc_request, load, require_h2load
from serving_peers import PEERS
from serving_process import COMMAND, cutpoint_serve
from serving_race import (
    CALLERS,
    EVERYTHING,
    Contestant,
    alone,
    asked,
    built,
    check,
    check_failures,
    expected,
    in_shared_memory,
    ours,
    peers_ready,
    processes,
    race,
    rate_of,
    say,
    say_memory,
    times,
)
from serving_swaps import swaps

MESSAGES = 400  # of one stream
STREAMING = ("pytriton",)  # peers with the stream of Triton's protocol


def main() -> None:
    """Print the claims."""
    options = _options()
    require_h2load()
    say("machine", f"{os.cpu_count()} cores", _processor(), f"others use {_outside():.2f} core now")
    claims: list[Claim] = []
    for part in options.only or PARTS:
        with TemporaryDirectory() as scratch:
            begun = time.monotonic()
            try:
                claims += PARTS[part](options, Path(scratch))
            except RuntimeError as error:  # the other parts are worth measuring all the same
                say("failed", part, error)
                claims.append(Claim(f"{part} could be measured", 0, 1, 1, "parts"))
            say("took", part, f"{time.monotonic() - begun:.0f} s")
    report(claims)


def tiny140(options: argparse.Namespace, scratch: Path) -> list[Claim]:
    """The same request and next to no computation: what the way in and out costs, by one process and by several."""
    graph = built(scratch / "models", "tiny140")
    x, single = serving_models.rows("tiny140", 1), best_alone(graph, 500)
    with ExitStack() as stack:
        servers = [
            ours(stack, scratch / "models", "tiny140", x, options, *extra, command=options.cutpoint, name=name)
            for name, extra in processes(options)
        ]
        plain = servers[0]
        decided = asked(EVERYTHING, plain.server, "tiny140", x, ())
        near = [in_shared_memory(stack, each, "tiny140", x) for each in servers]
        for each in (*servers, *near):
            check(each, expected(graph, x))
        peers = stack.enter_context(peers_ready(options, scratch, graph, "tiny140", x))
        laps = race([*servers, *near, decided, *peers], CALLERS, options)
        alone([plain, near[0], *peers], options, lambda: measure(graph, single, 500).p50_ms, 200)
        peers = [each for each in peers if not each.out]
        one = load(plain.server.target, plain.request, 1, 300)
        say("note", f"tiny140, one caller by h2load: p50 {one.p50_ms:.3g} ms (p99 over TCP is its own artefact)")
        for each in (*servers, *near):
            check(each, expected(graph, x))
            check_failures(each)
        peak = max(peak for each in servers for peak in each.server.peak_mb().values())
        say_memory(*servers, *peers)
    say("note", f"tiny140, all outputs against logits alone: {times(laps[EVERYTHING], laps[plain.name]):.3f}")
    claims = []
    for how, own in (("", servers), (", shared memory", near)):
        fastest = max(own, key=lambda each: rate_of(laps[each.name])).name
        rate, callers = rate_of(laps[fastest]), f"{CALLERS} callers{how}"
        claims.append(Claim(f"tiny140, {callers}, at least 2000 requests/s", rate, 2000, 1, "req/s"))
        for each in peers:
            ratio = times(laps[fastest], laps[each.name])
            if each.request.grpc:
                claims.append(Claim(f"tiny140, {callers}, against {each.name}", rate, rate / ratio, 1, "req/s"))
            else:
                say("note", f"tiny140, {callers}, against {each.name} over HTTP: {ratio:.3g} times")
    claims.append(Claim("tiny140, peak memory of a process, limit 220 MB", peak, 220, 1, "MB", False))
    return claims


def mlp512(options: argparse.Namespace, scratch: Path) -> list[Claim]:
    """256 bytes in, 10 us of model: what one request costs, alone, in a stream, 64 rows at a time."""
    graph = built(scratch / "models", "mlp512")
    x, many = serving_models.rows("mlp512", 1), serving_models.rows("mlp512", 64)
    best: dict[str, float] = {}
    with ExitStack() as stack:
        peers = stack.enter_context(peers_ready(options, scratch, graph, "mlp512", x))
        rows_ = [*peers]
        kinds: dict[str, list[Contestant]] = {"unary": rows_, "decided": [], "stream": [], "64 rows": []}
        servers = []
        for name, extra in processes(options):
            plain = ours(stack, scratch / "models", "mlp512", x, options, *extra, command=options.cutpoint, name=name)
            servers.append(plain)
            check(plain, expected(graph, x))
            rows_.insert(0, plain)
            kinds["decided"].append(asked(f"{name}, all outputs", plain.server, "mlp512", x, ()))
            kinds["64 rows"].append(asked(f"{name}, 64 rows", plain.server, "mlp512", many))
            stream = _stream(f"{name}, stream", plain)
            kinds["stream"] += [] if stream is None else [stream]
        for peer in peers:
            stream = _stream(f"{peer.name}, stream", peer) if peer.name in STREAMING else None
            kinds["stream"] += [] if stream is None else [stream]
        for kind, contestants in kinds.items():
            laps = race(contestants, CALLERS, options) if contestants else {}
            own = [rate_of(laps[each.name]) for each in contestants if each.peer is None]
            best[kind] = max(own, default=0.0) * (64 if kind == "64 rows" else 1)
            peers = [each for each in peers if not each.out]
            for peer in peers if kind == "unary" else ():
                say("note", f"mlp512, unary, best of ours over {peer.name}: {best[kind] / rate_of(laps[peer.name]):.3g} times")
        for plain in servers:
            check(plain, expected(graph, x))
            check_failures(plain)
        say_memory(*servers, *peers)
    say("note", f"mlp512, all outputs against logits alone: {best['decided'] / best['unary']:.3f}")
    return [
        Claim("mlp512, one row a request, at least 10000/s", best["unary"], 10_000, 1, "req/s"),
        Claim("mlp512, one row a message of a stream, at least 15000/s", best["stream"], 15_000, 1, "msg/s"),
        Claim("mlp512, 64 rows a request, at least 100000 rows/s", best["64 rows"], 100_000, 1, "rows/s"),
    ]


def ready(options: argparse.Namespace, scratch: Path) -> list[Claim]:
    """From the command to the first ServerReady that says yes, with one model; median of 7, after one that warms the disk."""
    built(scratch / "models", "conv140")
    took = []
    for _ in range(8):
        with cutpoint_serve(scratch / "models", *options.serve, command=options.cutpoint) as server:
            took.append(server.ready_s)
    say("note", "ready after " + ", ".join(f"{each:.2f}" for each in took[1:]) + " s")
    return [Claim("ready with one model, limit 1.0 s", median(took[1:]), 1, 1, "s", False)]


def _stream(name: str, plain: Contestant) -> Contestant | None:
    """The stream of `MESSAGES` messages; None where this server has none."""
    message = plain.request.body[5:]
    caller = Caller(plain.server.target)
    try:
        answers = caller.stream([message] * MESSAGES)
    except grpc.RpcError as error:
        say("note", f"no stream: {error.code().name}")
        return None
    finally:
        caller.close()
    first = oip.ModelStreamInferResponse.FromString(answers[0])
    if first.error_message or len(answers) != MESSAGES:
        raise RuntimeError(f"a stream answered {len(answers)} of {MESSAGES} messages: {first.error_message}")
    request = grpc_request(STREAM, *[message] * MESSAGES, answer_bytes=sum(len(framed(answer)) for answer in answers))
    return Contestant(name, plain.server, request, plain.peer)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _outside() -> float:
    machine = Machine()
    time.sleep(0.5)
    return machine.outside_cores()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--peers", nargs="*", choices=names, default=names, help="these peers alone")
    parser.add_argument("--no-peers", dest="peers", action="store_const", const=[], help="none")
    parser.add_argument(
        "--peers-folder", type=Path, default=Path.home() / ".cache" / "cutpoint-peers", help="of their environments"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of one load, about")
    parser.add_argument("--retries", type=int, default=2, help="of a load while others use more than 0.1 core")
    parser.add_argument("--cutpoint", type=Path, default=COMMAND, help="the command to measure")
    parser.add_argument("--serve", type=str.split, default=[], help="more arguments of cutpoint serve, in one string")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--tuned", type=Path, help="repository with conv140 as `cutpoint tune` left it (default: int8, made here)"
    )
    parser.add_argument("--tuned-cutpoint", type=Path, help="the command that serves it, of another environment (OpenVINO)")
    parser.add_argument("--tuned-serve", type=str.split, default=[], help="more arguments for it, in one string")
    return parser.parse_args()


PARTS = {"conv140": conv140, "tiny140": tiny140, "mlp512": mlp512, "ready": ready, "swaps": swaps}

if __name__ == "__main__":
    main()
