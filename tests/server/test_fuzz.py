"""The short form of `make bench-fuzz`, with the same messages: nonsense is refused for what it is, and harms nobody."""

import logging
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cutpoint.oip import inference_pb2 as oip
from fuzz_calls import InProcess, OverGrpc, Tally, in_process, resources
from fuzz_http2 import ATTACKS, damaged_connection
from fuzz_messages import INFER, STREAM, Case, bomb, damaged, fuzz_models, packed, probe, seeds, wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import ServerProcess, serving

Seeds = list[tuple[str, tuple[bytes, ...]]]
MIB = 8
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
# Found by seed, and the same in every run.
STEADY = settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "models"
    fuzz_models(folder)
    return folder


@pytest.fixture(scope="module")
def right() -> Iterator[Seeds]:
    """Right calls of every RPC, about a shared memory object that is there."""
    with tempfile.NamedTemporaryFile(prefix="cutpoint-fuzz-", dir="/dev/shm") as region:
        region.truncate(4096)
        name = Path(region.name).name
        yield [(method, tuple(message.SerializeToString() for message in messages)) for method, messages in seeds(name)]


@pytest.fixture(scope="module")
def here(models: Path) -> Iterator[InProcess]:
    logging.disable(logging.WARNING)  # of loading and unloading, hundreds of times
    try:
        with in_process(models, max_message_mib=MIB, state=models.parent / "here") as server:
            yield server
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def real(models: Path) -> Iterator[ServerProcess]:
    loads = [word for path in models.iterdir() for word in ("--load", path.name)]
    with serving(models, "--max-message-mib", MIB, "--model-control", "explicit", *loads) as process:
        yield process


@pytest.fixture
def channel(real: ServerProcess) -> Iterator[OverGrpc]:
    opened = OverGrpc(real.target)
    try:
        yield opened
    finally:
        opened.close()


def test_right_calls_of_every_rpc_are_answered(here: InProcess, right: Seeds) -> None:
    tally = Tally()
    for method, messages in right:
        here.answer([Case(method, messages, frozenset({"OK", "ABORTED", "INVALID_ARGUMENT"}))], tally)
    assert tally.wrong == []
    # One guarantee cannot be kept by four rows, and a policy is not active any more; everything else is right.
    assert sum(count for (_, code), count in tally.codes.items() if code != "OK") <= 2


@pytest.mark.parametrize("seed", range(4))
def test_damaged_and_wrong_calls_are_refused_and_right_ones_among_them_answered(
    here: InProcess, right: Seeds, seed: int
) -> None:
    rng, tally = random.Random(seed), Tally()
    while tally.calls < 1000:
        here.answer([probe(rng), *(damaged(rng, right) for _ in range(20)), *(wrong(rng) for _ in range(11))], tally)
    assert tally.wrong == []
    answered = sum(count for (_, code), count in tally.codes.items() if code == "OK")
    assert tally.calls * 0.05 < answered < tally.calls * 0.6  # neither everything nor nothing is refused


@STEADY
@given(data=st.binary(max_size=300), method=st.integers(0, 1000))
def test_any_bytes_are_no_reason_for_an_internal_error(here: InProcess, right: Seeds, data: bytes, method: int) -> None:
    tally = Tally()
    here.answer([Case(right[method % len(right)][0], (data,)), probe(random.Random(0))], tally)
    assert tally.wrong == []


@st.composite
def requests(draw: st.DrawFn) -> oip.ModelInferRequest:
    """Of the right names more often than not, and of any datatypes, shapes, contents and parameters."""
    made = oip.ModelInferRequest(
        model_name=draw(st.sampled_from(["linear", "simple", "text", "narrow", "half", "signals", "calibrated"])),
        model_version=draw(st.sampled_from(["", "", "1", "2"])),
        id=draw(st.text(max_size=5)),
    )
    datatypes = st.sampled_from(["FP32", "INT32", "BYTES", "INT8", "FP16", "BOOL", "BF16", ""])
    sizes = st.one_of(st.integers(-1, 20), st.sampled_from([1, 4, 16]), INT64)
    for _ in range(draw(st.integers(0, 3))):
        tensor = made.inputs.add(
            name=draw(st.sampled_from(["x", "s", "INPUT0", "INPUT1"])),
            datatype=draw(datatypes),
            shape=draw(st.lists(sizes, max_size=4)),
        )
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=8)))
        if draw(st.booleans()):
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=4), max_size=4)))
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=70), max_size=3)))
    for name in draw(st.lists(st.sampled_from(["logits", "scores", "decisions", "labels", "OUTPUT0", "o", "y"]), max_size=3)):
        output = made.outputs.add(name=name)
        if draw(st.booleans()):
            output.parameters["classification"].int64_param = draw(INT64)
    for name in draw(st.lists(st.sampled_from(["priority", "timeout", "sequence_start", "own"]), max_size=2)):
        if draw(st.booleans()):
            made.parameters[name].int64_param = draw(INT64)
        else:
            made.parameters[name].string_param = draw(st.text(max_size=5))
    return made


@STEADY
@given(request=requests(), method=st.sampled_from([INFER, STREAM]))
def test_any_request_is_answered_or_refused_for_a_reason(here: InProcess, request: Any, method: str) -> None:
    tally = Tally()
    # A timeout of microseconds may really pass.
    codes = frozenset({"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "DEADLINE_EXCEEDED"})
    here.answer([Case(method, (request.SerializeToString(),), codes), probe(random.Random(0))], tally)
    assert tally.wrong == []


def test_a_real_server_is_unharmed_by_messages_compressions_bombs_and_callers_who_leave(
    real: ServerProcess, channel: OverGrpc, right: Seeds
) -> None:
    rng, tally = random.Random(9), Tally()
    for method, messages in right:
        channel.answer([Case(method, messages)], Tally())
    before = resources(real.process.pid)
    while tally.calls < 1000:
        damages = [damaged(rng, right) for _ in range(40)]
        cases = [probe(rng), *(packed(rng, right) for _ in range(5)), *(wrong(rng) for _ in range(18)), *damages]
        channel.answer(cases, tally, left={rng.randrange(64)})
    for mib in (MIB + 1, 200):
        channel.answer([bomb(rng, mib) for _ in range(3)], tally)
    assert tally.wrong == []
    memory_mib, threads, files = resources(real.process.pid)
    assert memory_mib < before[0] + 64  # the bombs hold 600 MiB; one of 8 MiB is inflated at a time, or two
    assert threads < before[1] + 64  # the pool that load, calibrate and signals are worked on in
    assert files < before[2] + 16


def test_a_real_server_is_unharmed_by_connections_that_speak_nonsense(
    real: ServerProcess, channel: OverGrpc, models: Path
) -> None:
    rng, tally = random.Random(3), Tally()
    port = int(real.target.rsplit(":", 1)[1])
    for _ in range(100):
        damaged_connection(rng, port)
    channel.answer([probe(rng)], tally)
    for attack in ATTACKS.values():
        attack(port)
        channel.answer([probe(rng)], tally)
    assert tally.wrong == []
    assert real.process.poll() is None
    assert "ERROR cutpoint" not in (models.parent / "server.log").read_text(errors="replace")
