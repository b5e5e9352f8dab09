"""Several servers: each in turn, a dead one left out, one that is back used again."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint import errors
from cutpoint.client import AioClient, Client
from cutpoint.client.servers import Servers
from cutpoint.client.testing import FakeServer
from processes import ServerProcess, serving

MODEL = "linear"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(3):
        made.append(tmp_path / str(i) / "models")
        made[-1].mkdir(parents=True)
        linear_bundle(made[-1], name=MODEL)
    return made


def load(client: Client, stop: threading.Event, counts: list[int], i: int) -> None:
    """Score until told to stop, and check every answer."""
    rng = np.random.default_rng(i)
    while not stop.is_set():
        x = rng.normal(size=(2, 4)).astype(np.float32)
        np.testing.assert_array_equal(client.score(MODEL, x).logits, x[:, :2])
        counts[i] += 1


def grown(counts: list[int], by: int, futures: list[Future[None]]) -> None:
    """Wait until every caller has had `by` more answers: until the load has met what the servers are now."""
    wanted = [count + by for count in counts]
    waiting = threading.Event()
    for _ in range(6000):
        for future in futures:
            assert not future.done(), future.exception()  # no caller ends before it is told to
        if all(count >= least for count, least in zip(counts, wanted, strict=True)):
            return
        waiting.wait(0.01)
    raise AssertionError(f"{counts} answers; expected {wanted}")


@pytest.mark.parametrize("servers", [2, 3])
def test_no_request_is_lost_when_a_server_is_killed_under_load_and_it_is_used_again(folders: list[Path], servers: int) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(serving(folder)) for folder in folders[:servers]]
        client = stack.enter_context(Client([process.target for process in processes]))
        stop, counts = threading.Event(), [0] * 8
        with ThreadPoolExecutor(8) as pool:
            try:
                futures = [pool.submit(load, client, stop, counts, i) for i in range(8)]
                grown(counts, 30, futures)
                processes[0].process.kill()
                processes[0].process.wait()
                grown(counts, 30, futures)
                port = processes[0].target.rpartition(":")[2]
                back = stack.enter_context(serving(folders[0], "--port", port))
                assert back.target == processes[0].target
                for _ in range(600):
                    if served(back):
                        break
                    grown(counts, 10, futures)
                assert served(back)
            finally:
                stop.set()
            for future in futures:
                future.result()  # nothing was lost, nothing was wrong
        assert all(served(process) for process in [back, *processes[1:]])


def served(process: ServerProcess) -> bool:
    """Whether it has answered a ModelInfer."""
    return any("ModelInfer" in name and "handled" in name and value > 0 for name, value in process.metrics().items())


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeServer(lambda x: x[:, :1], model="m")) for _ in range(3)]


def used(fakes: list[FakeServer], targets: Any, calls: int = 60) -> list[int]:
    """How many of these calls each server got."""
    before = [len(fake.requests) for fake in fakes]
    with Client(targets) as client:
        for _ in range(calls):
            client.score("m", [[0.0]])
    return [len(fake.requests) - had for fake, had in zip(fakes, before, strict=True)]


def test_every_server_has_its_turn(fakes: list[FakeServer]) -> None:
    counts = used(fakes, [fake.target for fake in fakes])
    assert sum(counts) == 60
    assert min(counts) > 0
    assert used(fakes, "ipv4:" + ",".join(fake.target for fake in fakes[:2]))[2] == 0
    assert used(fakes, f"dns:///{fakes[0].target}") == [60, 0, 0]
    assert used(fakes, [fake.target.replace("127.0.0.1", "localhost") for fake in fakes])[0] > 0


def test_an_asynchronous_client_leaves_out_a_dead_server_too(fakes: list[FakeServer]) -> None:
    async def scene() -> None:
        async with AioClient([fake.target for fake in fakes]) as client:
            await asyncio.gather(*(client.score("m", [[0.0]]) for _ in range(30)))
            await asyncio.to_thread(fakes[0].stop)
            await asyncio.gather(*(client.score("m", [[0.0]]) for _ in range(30)))

    asyncio.run(scene())
    assert len(fakes[1].requests) + len(fakes[2].requests) >= 30


def test_servers_that_are_all_gone_are_unavailable_together(fakes: list[FakeServer]) -> None:
    targets = [fake.target for fake in fakes]
    for fake in fakes:
        fake.stop()
    with Client(targets) as client, pytest.raises(errors.Unavailable) as gone:
        client.score("m", [[0.0]])
    assert str(gone.value).startswith(f"one of the servers {', '.join(targets)} does not answer")


def test_a_policy_is_not_changed_on_one_of_several_servers() -> None:
    with Client(["127.0.0.1:1", "127.0.0.1:2"]) as client:
        for call in (lambda: client.activate("m", 1), lambda: client.calibrate("m", "max_fbeta=1", targets=[1], logits=[1.0])):
            with pytest.raises(errors.BadConfig, match="expected a client of one server: each keeps policies of its own"):
                call()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "servers is empty"),
        (["a:1", "a:1"], "servers is a:1, a:1; expected each once"),
        (["a:1", "dns:///b:2"], '"dns:///b:2" stands alone'),
        ("a", "server is 'a'; expected \"host:port\""),
        ("a:", "server is 'a:'"),
        ("a:99999", "server is 'a:99999'"),
        ("::1:8001", "server is '::1:8001'"),
        ("http://a:1", "server is 'http://a:1'"),
        (["127.0.0.1:1", "[::1]:1"], "expected all of them with an IPv4 address, or all with an IPv6 one"),
    ],
)
def test_servers_that_cannot_be_are_refused(given: Any, text: str) -> None:
    with pytest.raises(errors.BadConfig) as refused:
        Client(given)
    assert text in str(refused.value)


def test_a_name_that_nobody_knows_is_unavailable() -> None:
    with pytest.raises(errors.Unavailable, match=r"server nobody\.invalid:1 is not known"):
        Client(["nobody.invalid:1", "127.0.0.1:1"])


def test_what_stays_on_this_machine() -> None:
    for here in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/tmp/s", ["127.0.0.1:1", "localhost:2"]):
        assert Servers.of(here).here
    for away in ("10.0.0.1:1", "a:1", "dns:///localhost:1", "ipv4:127.0.0.1:1", ["127.0.0.1:1", "a:2"], "localhost.example:1"):
        assert not Servers.of(away).here
