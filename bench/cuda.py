"""`cutpoint serve --provider cuda` on a GPU: its answers, its memory, its speed beside the CPU's: `make bench-cuda`.

Run it with the interpreter of an environment that has `cutpoint[gpu]` and onnx, on a machine with an NVIDIA GPU; h2load loads
the server from the same machine. Without a GPU it says so and measures nothing. All servers of a model are up together and
loaded in turns, round after round.
"""

import argparse
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cuda_in_process
import grpc
import numpy as np
import onnxruntime as ort
import serving_models
from claims import Claim, report
from cuda_in_process import LIMIT_MIB, SIZES, card, ceiling, used_mib
from cutpoint.bundle import Examples, read_bundle, write_bundle
from cutpoint.server.runs.session import OnnxSession
from serving_load import Caller, infer_message, logits_of, require_h2load
from serving_process import COMMAND, cutpoint_serve
from serving_race import Contestant, Lap, alone, check, check_failures, expected, ours, race, rate_of, say, times

MODELS = (serving_models.conv140, serving_models.wide140, serving_models.tiny140, serving_models.mlp512)
CPU, CPU_WORKERS = "cpu", "cpu, 4 workers"
PLAIN, GRAPHS, WORKERS = "cuda", "cuda, graphs", "cuda, graphs, 4 workers"
MANY = 64


def main() -> None:
    """Print the claims."""
    options = _options()
    if options.provider == "cuda" and ("CUDAExecutionProvider" not in ort.get_available_providers() or not card()):
        print("SKIPPED: no GPU, or an onnxruntime without CUDA: nothing was measured")
        sys.exit(0)
    require_h2load()
    say("machine", card() or "no GPU", f"{os.cpu_count()} cores", f"onnxruntime {ort.__version__}")
    claims: list[Claim] = []
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        graphs = {build.__name__: _bundle(scratch, build) for build in MODELS}
        provider = options.provider
        if "process" in options.only:
            for name, graph in graphs.items():
                claims += cuda_in_process.exact(provider, graph, name)
            claims += cuda_in_process.shapes(provider, graphs["conv140"], "conv140")
            claims += cuda_in_process.memory(provider, graphs["conv140"], used_mib)
            claims += cuda_in_process.stop(provider, scratch)
        if "served" in options.only:
            claims += answered(options, graphs, scratch)
            claims += exhausted(options, graphs["conv140"], scratch)
            claims += conv140(options, graphs["conv140"], scratch)
            claims += wide140(options, graphs["wide140"], scratch)
            claims += mlp512(options, graphs["mlp512"], scratch)
    report(claims)


def answered(options: argparse.Namespace, graphs: dict[str, Path], scratch: Path) -> list[Claim]:
    """All models, with the rows recorded on a CPU, which the server checks at load; then answers of their own."""
    claims = []
    for name, more in ((PLAIN, _plain(options)), (GRAPHS, _graphs(options))):
        with ExitStack() as stack:
            server = stack.enter_context(cutpoint_serve(scratch / "all", *more, command=options.cutpoint))
            furthest = 0.0
            for model, graph in graphs.items():
                for rows in (1, 3, 8):
                    x = serving_models.rows(model, rows, seed=rows)
                    caller = Caller(server.target)
                    found = logits_of(caller.infer(infer_message(model, x))).ravel()
                    caller.close()
                    furthest = max(furthest, float(np.abs(found - expected(graph, x)).max()))
            said = [line for line in server.log.read_text().splitlines() if "examples agree" in line]
            say("served", name, f"{len(said)} models whose recorded rows agree", f"ready after {server.ready_s:.2f} s")
            claims.append(
                Claim(f"{name}: furthest logit from the CPU's over the wire, limit 1e-4", furthest, 1e-4, 1, "", False)
            )
            claims.append(Claim(f"{name}: models whose recorded rows agree", len(said), len(graphs), 1, "models"))
    return claims


def exhausted(options: argparse.Namespace, graph: Path, scratch: Path) -> list[Claim]:
    """A request that needs more memory than there is: it is refused, and the next one is answered."""
    more = ("--provider", options.provider, "--provider-option", f"gpu_memory_mib={LIMIT_MIB}")
    x = serving_models.rows("conv140", 64)
    with cutpoint_serve(_only(scratch, "conv140"), *more, command=options.cutpoint) as server:
        caller = Caller(server.target)
        code = "OK"
        for _ in range(3):
            try:
                caller.infer(infer_message("conv140", x))
            except grpc.RpcError as error:
                code = error.code().name
                say("exhausted", code, error.details())
        found = logits_of(caller.infer(infer_message("conv140", x[:2]))).ravel()
        caller.close()
    right = code == "RESOURCE_EXHAUSTED" and np.allclose(found, expected(graph, x[:2]), rtol=0, atol=1e-4)
    return [Claim("a request beyond the memory is refused, and the next one answered", float(right), 1, 1, "")]


def conv140(options: argparse.Namespace, graph: Path, scratch: Path) -> list[Claim]:
    """7 ms on one core, 560 KB a request."""
    best = ceiling(options.provider, graph, "conv140")
    kinds = {
        CPU: _cpu(options), CPU_WORKERS: (*_cpu(options), "--workers", 4, "--lanes", max(1, (os.cpu_count() or 4) // 4)),
        PLAIN: _plain(options), GRAPHS: _graphs(options), WORKERS: _workers(options),
    }  # fmt: skip
    few, many, p50 = _raced(options, "conv140", graph, scratch, kinds)
    say("note", f"conv140, {MANY} callers: of what onnxruntime does in process, one process serves "
        f"{rate_of(many[GRAPHS]) / best:.2f}, 4 workers {rate_of(many[WORKERS]) / best:.2f}")  # fmt: skip
    cpu = max((CPU, CPU_WORKERS), key=lambda name: rate_of(many[name]))
    return [
        _beside("conv140, 16 callers, graphs beside without", few, GRAPHS, PLAIN, 1.5),
        _beside(f"conv140, {MANY} callers, graphs beside without", many, GRAPHS, PLAIN, 1.1),
        _beside(f"conv140, {MANY} callers, graphs beside the CPU", many, GRAPHS, CPU, 1.2),
        _beside(f"conv140, {MANY} callers, graphs and 4 workers beside the CPU at its best", many, WORKERS, cpu, 1.5),
        Claim("conv140, one caller, p50, graphs beside the CPU", p50[GRAPHS], p50[CPU], 0.5, "ms", False),
    ]


def wide140(options: argparse.Namespace, graph: Path, scratch: Path) -> list[Claim]:
    """Fifteen times the work on the same request."""
    best = ceiling(options.provider, graph, "wide140")
    kinds = {CPU: _cpu(options), GRAPHS: _graphs(options), WORKERS: _workers(options)}
    _, many, p50 = _raced(options, "wide140", graph, scratch, kinds)
    say("note", f"wide140, {MANY} callers: of what onnxruntime does in process, one process serves "
        f"{rate_of(many[GRAPHS]) / best:.2f}, 4 workers {rate_of(many[WORKERS]) / best:.2f}")  # fmt: skip
    return [
        _beside(f"wide140, {MANY} callers, graphs beside the CPU", many, GRAPHS, CPU, 5),
        _beside(f"wide140, {MANY} callers, graphs and 4 workers beside the CPU", many, WORKERS, CPU, 10),
        Claim("wide140, one caller, p50, graphs beside the CPU", p50[GRAPHS], p50[CPU], 0.2, "ms", False),
    ]


def mlp512(options: argparse.Namespace, graph: Path, scratch: Path) -> list[Claim]:
    """10 us on one core: no work for a GPU."""
    kinds = {CPU: _cpu(options), GRAPHS: _graphs(options)}
    few, _, _ = _raced(options, "mlp512", graph, scratch, kinds, callers=(16,))
    say("note", f"mlp512, 16 callers: a GPU gives {times(few[GRAPHS], few[CPU]):.2f} of the CPU's rate")
    return []


def _raced(
    options: argparse.Namespace, model: str, graph: Path, scratch: Path, kinds: dict[str, tuple[object, ...]],
    callers: tuple[int, ...] = (16, MANY),
) -> tuple[dict[str, list[Lap]], dict[str, list[Lap]], dict[str, float]]:  # fmt: skip
    """Laps of the first and the last number of callers, and the median ms of one caller."""
    x = serving_models.rows(model, 1)
    models = _only(scratch, model)
    with ExitStack() as stack:
        servers: list[Contestant] = [
            ours(stack, models, model, x, options, *more, command=options.cutpoint, name=name) for name, more in kinds.items()
        ]
        for each in servers:
            check(each, expected(graph, x))
        p50 = alone(servers, options, lambda: _in_process_ms(options.provider, graph, x), 40)
        laps = []
        for count in callers:
            laps.append(race(servers, count, options))
            for each in servers:
                each.rate_hint = 0.0
        for name, found in laps[-1].items():
            rates = [f"{count} callers {rate_of(lap[name]):.4g}/s" for count, lap in zip(callers, laps, strict=True)]
            say("rate", model, name, *rates, f"p50 {median(lap.load.p50_ms for lap in found):.3g} ms")
        for each in servers:
            check(each, expected(graph, x))
        check_failures(*servers)
    return laps[0], laps[-1], p50


_sessions: dict[Path, OnnxSession] = {}


def _in_process_ms(provider: str, graph: Path, x: np.ndarray) -> float:
    session = _sessions.setdefault(graph, OnnxSession(graph, cuda_in_process.settings(provider)))
    return cuda_in_process.median_ms(lambda: session.run({"x": x}), 40)


def _beside(name: str, laps: dict[str, list[Lap]], ours_: str, theirs: str, target: float) -> Claim:
    rate = rate_of(laps[ours_])
    return Claim(name, rate, rate / times(laps[ours_], laps[theirs]), target, "req/s")


def _cpu(options: argparse.Namespace) -> tuple[object, ...]:
    return ("--provider", "cpu")


def _plain(options: argparse.Namespace) -> tuple[object, ...]:
    return ("--provider", options.provider)


def _graphs(options: argparse.Namespace) -> tuple[object, ...]:
    sizes = f"batch_sizes={','.join(map(str, SIZES))}"
    graphs = ("--provider-option", "cuda_graphs=true") if options.provider == "cuda" else ()
    return ("--provider", options.provider, "--provider-option", sizes, *graphs)


def _workers(options: argparse.Namespace) -> tuple[object, ...]:
    return (*_graphs(options), "--lanes", 2, "--workers", 4)


def _bundle(scratch: Path, build: object) -> Path:
    """The model in a repository of all of them, with rows and their logits as a CPU gives them; returns the graph."""
    made = build(scratch / "made")  # type: ignore[operator]
    source = read_bundle(made)
    assert source.manifest is not None
    x = serving_models.rows(source.name, 4, seed=5)
    logits = OnnxSession(source.model_path).run({"x": x})["logits"]
    written = write_bundle(scratch / "all", source.manifest, source.model_path, Examples(x, logits))
    shutil.copyfile(made / "policy.json", written / "policy.json")
    return written / "model.onnx"


def _only(scratch: Path, model: str) -> Path:
    """A repository with this model alone."""
    models = scratch / f"only-{model}"
    if not models.exists():
        models.mkdir()
        (models / model).symlink_to(scratch / "all" / model)
    return models


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="cpu tries the script without a GPU")
    parser.add_argument(
        "--only", nargs="+", choices=("process", "served"), default=("process", "served"), help="these parts alone"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of one load, about")
    parser.add_argument("--retries", type=int, default=0, help="of a load while others use more than 0.1 core")
    parser.add_argument("--cutpoint", type=Path, default=COMMAND, help="the command to measure")
    parser.add_argument("--serve", type=str.split, default=[], help="more arguments of cutpoint serve, in one string")
    return parser.parse_args()


if __name__ == "__main__":
    main()
