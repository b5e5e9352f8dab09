"""What outcomes cost, and how many there may be: `make bench-outcomes`.

Two servers with mlp512, one that keeps decisions and one that does not, get the same requests in turns, each with an id of its
own, over one stream: what keeping costs is what the first one's processors worked more. Then outcomes of those decisions are
reported in messages of 1000, over a stream, and one by one; a summary and a calibration are made of what is kept by then.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import grpc
import numpy as np
from claims import Claim, report
from cutpoint.client import Client, FromOutcomes, Outcomes
from cutpoint.oip import inference_pb2 as oip
from serving_load import STREAM, family
from serving_models import LABELS, mlp512, rows
from serving_process import Server, cutpoint_serve

REQUESTS, ROUNDS, REPORTED, SINGLE = 20_000, 7, 20_000, 500


def main() -> None:
    """Print the claims."""
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        mlp512(models)
        with (
            cutpoint_serve(models, "--decisions-mib", 1024) as keeping,
            cutpoint_serve(models, "--decisions-mib", 0) as not_kept,
        ):
            costs = _in_turns(keeping, not_kept)
            targets = (np.random.default_rng(0).random((REPORTED, LABELS)) < 0.01).astype(np.uint8)
            ids = [f"{ROUNDS}-{i:06d}" for i in range(REPORTED)]
            with Client(keeping.target, timeout_s=300) as client:
                reports = _reports(client, targets, ids)
    (kept_us, kept_rate), (plain_us, plain_rate) = costs
    report(
        [
            Claim(
                "a request of mlp512 with an id, kept, against not kept: processor time", kept_us, plain_us, 1.25, "us", False
            ),
            Claim("the same: requests a second over one stream", kept_rate, plain_rate, 0.9, "/s"),
            Claim("outcomes of 512 labels, messages of 1000, least 1000/s", reports["unary"], 1000, 1, "/s"),
            Claim("the same over a stream, least 1000/s", reports["stream"], 1000, 1, "/s"),
            Claim("outcomes of one label of 512, messages of 1000, least 2000/s", reports["one label"], 2000, 1, "/s"),
            Claim("the same again, counted once, least 2000/s", reports["again"], 2000, 1, "/s"),
            Claim("one outcome a message, on disk when answered, least 30/s", reports["single"], 30, 1, "/s"),
            Claim(f"a summary of {REPORTED} rows of 512 labels, limit 10 s", reports["summary"], 10, 1, "s", least=False),
            Claim(
                f"a calibration from {REPORTED} rows of 512 labels, limit 30 s", reports["calibrate"], 30, 1, "s", least=False
            ),
        ]
    )


def _in_turns(*servers: Server) -> list[tuple[float, float]]:
    """For each server the processor time of a request in us, and requests a second; medians of rounds in turns."""
    found: list[list[tuple[float, float]]] = [[] for _ in servers]
    row = rows("mlp512", 1).tobytes()
    head = oip.ModelInferRequest(model_name="mlp512")
    head.inputs.add(name="x", datatype="FP32", shape=[1, len(row) // 4])
    head.outputs.add(name="decisions")
    start, end = head.SerializeToString(), oip.ModelInferRequest(raw_input_contents=[row]).SerializeToString()
    for turn in range(ROUNDS + 1):
        messages = [start + oip.ModelInferRequest(id=f"{turn}-{i:06d}").SerializeToString() + end for i in range(REQUESTS)]
        for server, kept in zip(servers, found, strict=True):
            worked, begun = _worked_s(server), time.perf_counter()
            with grpc.insecure_channel(server.target) as channel:
                answers = sum(1 for _ in channel.stream_stream(STREAM)(iter(messages), timeout=300))
            assert answers == REQUESTS
            took_s = time.perf_counter() - begun
            time.sleep(0.2)  # what gathered is written
            if turn:
                kept.append((1e6 * (_worked_s(server) - worked) / REQUESTS, REQUESTS / took_s))
    return [(median(cost for cost, _ in each), median(rate for _, rate in each)) for each in found]


def _worked_s(server: Server) -> float:
    """Seconds that the processors worked for a server so far."""
    ticks = 0
    for pid in family(server.process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _reports(client: Client, targets: np.ndarray, ids: list[str]) -> dict[str, float]:
    """Outcomes a second in each way, and seconds of what is made of them."""
    half = len(targets) // 2
    first = np.full((len(targets), 1), 0)

    def unary() -> None:
        done = client.report_outcomes("mlp512", targets[:half], request_id=ids[:half], sampling="all")
        assert done.taken == half, done

    def streamed() -> None:
        batches: Iterator[Outcomes] = (
            Outcomes(targets[i : i + 1000], request_id=ids[i : i + 1000]) for i in range(half, len(targets), 1000)
        )
        assert sum(done.taken for done in client.stream_outcomes("mlp512", batches, sampling="all")) == half

    def one_label() -> None:
        name = client.policy("mlp512").labels[0].label
        of = [f"{ROUNDS - 1}-{i:06d}" for i in range(half)]
        done = client.report_outcomes("mlp512", first[:half, 0], labels=[name], request_id=of, sampling="unknown")
        assert done.taken == half, done

    def again() -> None:
        name = client.policy("mlp512").labels[0].label
        of = [f"{ROUNDS - 1}-{i:06d}" for i in range(half)]
        done = client.report_outcomes("mlp512", first[:half, 0], labels=[name], request_id=of, sampling="unknown")
        assert done.repeated == half, done

    def single() -> None:
        for i in range(SINGLE):
            client.report_outcomes("mlp512", targets[i : i + 1], request_id=f"{ROUNDS - 2}-{i:06d}", sampling="all")

    def seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return {
        "unary": half / seconds(unary),
        "stream": half / seconds(streamed),
        "one label": half / seconds(one_label),
        "again": half / seconds(again),
        "single": SINGLE / seconds(single),
        "summary": seconds(lambda: client.outcome_summary("mlp512")),
        "calibrate": seconds(
            lambda: client.calibrate(
                "mlp512", "max_fbeta=1", from_outcomes=FromOutcomes(), activate=False, allow_undecided=True
            )
        ),
    }


if __name__ == "__main__":
    main()
