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
from serving_ceiling import best_alone, best_busy, measure
from serving_load import STREAM, Caller, Machine, framed, grpc_request, load, require_h2load
from serving_peers import PEERS
from serving_process import COMMAND, cutpoint_serve
from serving_race import (
    EVERYTHING,
    OURS,
    TUNED,
    Contestant,
    alone,
    asked,
    built,
    ceiling_of,
    check,
    check_failures,
    expected,
    ours,
    peers_ready,
    processes,
    race,
    rate_of,
    say,
    times,
)
from serving_swaps import swaps

CALLERS = 16
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


def conv140(options: argparse.Namespace, scratch: Path) -> list[Claim]:
    """The model that takes its time: how much of the cores the server leaves to it."""
    graph = built(scratch / "models", "conv140")
    tuned = options.tuned or _quantised(scratch)
    x = serving_models.rows("conv140", 1)
    busy, single = best_busy(graph, 200), best_alone(graph, 60)
    say("in process", f"most a second: {busy}", f"soonest: {single}")
    with ExitStack() as stack:
        plain = ours(stack, scratch / "models", "conv140", x, options, command=options.cutpoint)
        command = options.tuned_cutpoint or options.cutpoint
        fast = ours(stack, tuned, "conv140", x, options, *options.tuned_serve, command=command, name=TUNED)
        decided = asked(EVERYTHING, plain.server, "conv140", x, ())
        tuned_graph = max((tuned / "conv140").iterdir(), key=lambda v: int(v.name) if v.name.isdecimal() else 0) / "model.onnx"
        wanted = ((plain, expected(graph, x), 1e-4), (fast, expected(tuned_graph, x), 0.05))
        for each, want, tolerance in wanted:
            check(each, want, tolerance)
        peers = stack.enter_context(peers_ready(options, scratch, graph, "conv140", x))
        laps = race([plain, fast, decided, *peers], CALLERS, options, ceiling_of(graph, busy, 300))
        p50 = alone([plain, fast, *peers], options, lambda: measure(graph, single, 60).p50_ms, 60)
        peers = [each for each in peers if not each.out]
        for each, want, tolerance in wanted:
            check(each, want, tolerance)
        check_failures(plain, fast)
        _say_memory(plain, fast, *peers)
    ceiling = median(lap.ceiling for lap in laps[OURS])
    share = median(lap.share for lap in laps[OURS])
    say("note", f"conv140, all outputs against logits alone: {times(laps[EVERYTHING], laps[OURS]):.3f}")
    claims = [Claim(f"conv140, {CALLERS} callers, against in process at its best", share * ceiling, ceiling, 0.88, "seq/s")]
    rate, fast_rate = rate_of(laps[OURS]), rate_of(laps[TUNED])
    for each in peers:
        assert each.peer is not None
        ratio = times(laps[OURS], laps[each.name])
        claims.append(
            Claim(f"conv140, {CALLERS} callers, against {each.name}", rate, rate / ratio, each.peer.conv_target, "seq/s")
        )
    claims.append(
        Claim("conv140, one caller, p50, limit in process + 1.5 ms", p50[OURS], p50["in process"] + 1.5, 1, "ms", False)
    )
    claims.append(Claim(f"conv140 tuned, {CALLERS} callers, at least 550 seq/s", fast_rate, 550, 1, "seq/s"))
    claims.append(Claim("conv140 tuned, one caller, p50, limit 4 ms", p50[TUNED], 4, 1, "ms", False))
    if peers:
        soonest = min(p50[each.name] for each in peers)
        claims.append(Claim("conv140, one caller, p50, against the best peer", p50[OURS], soonest, 0.65, "ms", False))
        best = min(times(laps[TUNED], laps[each.name]) for each in peers)
        claims.append(
            Claim(f"conv140 tuned, {CALLERS} callers, against the best peer", fast_rate, fast_rate / best, 2.5, "seq/s")
        )
    return claims


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
        for each in servers:
            check(each, expected(graph, x))
        peers = stack.enter_context(peers_ready(options, scratch, graph, "tiny140", x))
        laps = race([*servers, decided, *peers], CALLERS, options)
        alone([plain, *peers], options, lambda: measure(graph, single, 500).p50_ms, 200)
        peers = [each for each in peers if not each.out]
        one = load(plain.server.target, plain.request, 1, 300)
        say("note", f"tiny140, one caller by h2load: p50 {one.p50_ms:.3g} ms (p99 over TCP is its own artefact)")
        for each in servers:
            check(each, expected(graph, x))
            check_failures(each)
        peak = max(peak for each in servers for peak in each.server.peak_mb().values())
        _say_memory(*servers, *peers)
    fastest = max(servers, key=lambda each: rate_of(laps[each.name])).name
    rate = rate_of(laps[fastest])
    say("note", f"tiny140, all outputs against logits alone: {times(laps[EVERYTHING], laps[plain.name]):.3f}")
    claims = [Claim(f"tiny140, {CALLERS} callers, at least 2000 requests/s", rate, 2000, 1, "req/s")]
    for each in peers:
        ratio = times(laps[fastest], laps[each.name])
        if each.request.grpc:
            claims.append(Claim(f"tiny140, {CALLERS} callers, against {each.name}", rate, rate / ratio, 1, "req/s"))
        else:
            say("note", f"tiny140 against {each.name} over HTTP: {ratio:.3g} times")
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
        _say_memory(*servers, *peers)
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


def _say_memory(*contestants: Contestant) -> None:
    for each in contestants:
        peaks = each.server.peak_mb().values()
        text = f"peak {max(peaks):.0f} MB the largest of {len(peaks)}, {sum(peaks):.0f} MB summed"
        say(
            "memory",
            each.name,
            text,
            f"shared pages once: {each.server.shared_mb():.0f} MB now",
            f"ready after {each.server.ready_s:.2f} s",
        )


def _quantised(scratch: Path) -> Path:
    """conv140 in int8, as the trainer's export makes it: what stands in where `cutpoint tune` has not been run."""
    say("note", "tuned: int8 by the export's quantisation; --tuned MODELS takes what `cutpoint tune` made")
    models = scratch / "tuned"
    models.mkdir()
    serving_models.int8(scratch / "models" / "conv140" / "1", models)
    return models


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
