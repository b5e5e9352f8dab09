"""`make bench-transport`: our serving thread beside grpc.aio, both echoing 256 bytes and 560 KB, one process each, by h2load.

What the private queue of grpcio buys; docs/design.md says why it is used.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from claims import Claim, report

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CALLERS, ROUNDS = 16, 5
SIZES = {"256 bytes": (256, 20_000), "560 KB": (560_000, 3_000)}
TIMEOUT_S = 120
OURS = """
import sys
from cutpoint.server.port.limits import channel_options
from cutpoint.server.port.transport import Transport
transport = Transport({"METHOD": lambda call: call.read(lambda data: call.finish(data[:256]))}, channel_options(64))
print(transport.listen("127.0.0.1:0"), flush=True)
transport.start()
sys.stdin.read()
transport.stop(1)
"""
THEIRS = """
import asyncio, sys
import grpc
async def answer(data, context):
    return data[:256]
async def serve():
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 64 << 20),))
    service, method = "METHOD".strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(1)
asyncio.run(serve())
"""


def main() -> None:
    """Measure in turns and print the claims; exit with 1 where one is short, with 2 without h2load."""
    if shutil.which("h2load") is None:
        print("h2load is not installed: apt-get install nghttp2-client", file=sys.stderr)
        sys.exit(2)
    claims = []
    servers = [_started(OURS), _started(THEIRS)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, (size, requests) in SIZES.items():
                body = Path(folder) / "body"
                body.write_bytes(b"\0" + size.to_bytes(4, "big") + b"\1" * size)
                rates: list[list[float]] = [[], []]
                for _ in range(ROUNDS):
                    for (_, port), into in zip(servers, rates, strict=True):
                        into.append(_rate(body, port, requests))
                ours, theirs = (statistics.median(each) for each in rates)
                # A large message is copies in the kernel and in C-core, whoever waits for it.
                least = 1.3 if size < 1000 else 0.85
                claims.append(Claim(f"echo of {name}, {CALLERS} callers, against grpc.aio", ours, theirs, least, "req/s"))
    finally:
        for server, _ in servers:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(TIMEOUT_S)
    report(claims)


def _started(program: str) -> tuple[subprocess.Popen[str], int]:
    server = subprocess.Popen(
        [sys.executable, "-c", program.replace("METHOD", METHOD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, int(server.stdout.readline())


def _rate(body: Path, port: int, requests: int) -> float:
    done = subprocess.run(
        ["h2load", "-n", str(requests), "-c", str(CALLERS), "-m", "1", "-d", str(body), "-H", "content-type: application/grpc",
         "-H", "te: trailers", f"http://127.0.0.1:{port}{METHOD}"],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    ).stdout  # fmt: skip
    assert f"{requests} succeeded" in done, done
    return float(done.split("finished in ")[1].split(", ")[1].split(" ")[0])


if __name__ == "__main__":
    main()
