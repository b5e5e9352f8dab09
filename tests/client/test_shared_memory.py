"""Rows beside the message: the same answers; no region is written while a server may read it, or left by its client."""

import asyncio
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint import errors
from cutpoint.client import AioClient, Client, Connection, inference, shared_memory
from cutpoint.client.shared_memory import LEAST_BYTES, MOST_REGIONS, SharedMemory, at_once, blocking
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import REASON_KEY
from processes import ENVIRONMENT, ServerProcess, cutpoint, serving

FEATURES = 1000
LARGE = LEAST_BYTES // (4 * FEATURES) + 1  # rows that do not go in the message
SHARED = Connection(shared_memory=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models: Path = tmp_path_factory.mktemp("shared") / "models"
    models.mkdir()
    linear_bundle(models, name="m", labels=("a", "b", "c"), features=FEATURES)
    return models


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models) as process:
        yield process


def rows(seed: int, count: int = LARGE) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


def ask(target: str, name: str, request: Any, answer: Any) -> Any:
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        return answer.FromString(call(request.SerializeToString(), timeout=60))


def regions(target: str) -> set[str]:
    """What the server has registered; none of it has a name in the file system any more."""
    found = ask(
        target, "SystemSharedMemoryStatus", oip.SystemSharedMemoryStatusRequest(), oip.SystemSharedMemoryStatusResponse
    ).regions
    own = [status for status in found.values() if status.name.startswith("cutpoint-")]
    assert not any(Path("/dev/shm", status.key.removeprefix("/")).exists() for status in own)
    return set(found)


def assert_right(client: Client, x: np.ndarray) -> None:
    np.testing.assert_array_equal(client.score("m", x, timeout_s=60).logits, x[:, :3])


@contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """A server that takes requests in, and does nothing about them in the meantime."""
    server.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_answers_are_the_same_bit_for_bit(server: ServerProcess) -> None:
    wide = np.random.default_rng(1).normal(size=(LARGE, 2 * FEATURES))
    given = [
        rows(0), rows(0, 1), rows(1, 300), rows(2, 5000), rows(3, 40), wide[:, ::2], wide[:, ::-2].astype(">f4"),
        np.asfortranarray(wide[:, :FEATURES]), (10 * wide[:, :FEATURES]).astype(np.int16),
    ]  # fmt: skip

    async def scene() -> list[Any]:
        async with AioClient(server.target, SHARED) as client:
            found = [await client.score("m", x, request_id="a") for x in given]
            assert regions(server.target) > before  # two parts of one array at a time
            return found

    with Client(server.target) as plain:
        wanted = [plain.score("m", x) for x in given]
    with Client(server.target, SHARED) as client:
        found = [client.score("m", x, request_id="a") for x in given]
        assert len(before := regions(server.target)) == 1
        for each in (found, asyncio.run(scene())):
            for one, other in zip(each, wanted, strict=True):
                for name in ("logits", "scores", "decisions"):
                    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert regions(server.target) == before
    assert regions(server.target) == set()


def test_small_rows_go_in_the_message(server: ServerProcess) -> None:
    with Client(server.target, SHARED) as client:
        assert_right(client, rows(0, LARGE - 1))
        assert regions(server.target) == set()
        assert_right(client, rows(0))
        assert len(regions(server.target)) == 1


def test_each_of_many_threads_gets_the_answer_to_its_own_rows(server: ServerProcess) -> None:
    failed: list[BaseException] = []
    with Client(server.target, SHARED) as client:

        def work(seed: int) -> None:
            try:
                for i in range(5):
                    assert_right(client, rows(100 * seed + i, LARGE + seed))
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(MOST_REGIONS + 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert 1 <= len(regions(server.target)) <= MOST_REGIONS
    assert regions(server.target) == set()


def test_each_of_many_tasks_gets_the_answer_to_its_own_rows(server: ServerProcess) -> None:
    async def scene() -> None:
        async with AioClient(server.target, SHARED) as client:
            given = [rows(seed, LARGE + seed) for seed in range(MOST_REGIONS + 8)]
            found = await asyncio.gather(*(client.score("m", x) for x in given))
            for x, scores in zip(given, found, strict=True):
                np.testing.assert_array_equal(scores.logits, x[:, :3])
            assert len(regions(server.target)) == MOST_REGIONS

    asyncio.run(scene())
    assert regions(server.target) == set()


def test_a_region_whose_call_ran_out_of_time_is_not_used_again(server: ServerProcess) -> None:
    with Client(server.target, SHARED) as client:
        assert_right(client, rows(0))
        (used,) = regions(server.target)
        with stopped(server), pytest.raises(errors.DeadlineExceeded):
            client.score("m", rows(1), timeout_s=0.2)
        assert_right(client, rows(2))
        (now,) = regions(server.target)
        assert now != used
    with Client(server.target, SHARED) as client:
        with stopped(server), pytest.raises(errors.DeadlineExceeded):  # while it registers
            client.score("m", rows(1), timeout_s=0.2)
        assert_right(client, rows(3))
        assert len(regions(server.target)) == 1


def test_a_region_whose_call_was_cancelled_is_not_used_again(server: ServerProcess) -> None:
    async def scene() -> None:
        async with AioClient(server.target, SHARED) as client:
            await client.score("m", rows(0))
            (used,) = regions(server.target)
            with stopped(server):
                task = asyncio.create_task(client.score("m", rows(1)))
                await asyncio.sleep(0)  # it runs as far as its call
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            x = rows(2)
            np.testing.assert_array_equal((await client.score("m", x)).logits, x[:, :3])
            assert regions(server.target) != {used}

    asyncio.run(scene())


def test_a_refused_request_keeps_its_region(server: ServerProcess) -> None:
    x = rows(0)
    x[1, 2] = np.nan
    with Client(server.target, SHARED) as client:
        assert_right(client, rows(1))
        before = regions(server.target)
        for model, kind in (("m", errors.BadRequest), ("absent", errors.ModelNotFound)):
            with pytest.raises(kind):
                client.score(model, x)
        assert_right(client, rows(2))
        assert regions(server.target) == before


def test_a_server_that_has_forgotten_the_regions_is_told_again(server: ServerProcess) -> None:
    with Client(server.target, SHARED) as client:
        assert_right(client, rows(0))
        before = regions(server.target)
        unregister = oip.SystemSharedMemoryUnregisterRequest()
        ask(server.target, "SystemSharedMemoryUnregister", unregister, oip.SystemSharedMemoryUnregisterResponse)
        assert_right(client, rows(1))
        assert len(after := regions(server.target)) == 1
        assert after != before


def test_a_server_that_was_started_again_is_told_again(models: Path, tmp_path: Path) -> None:
    with serving(models, "--state", tmp_path) as first:
        client = Client(first.target, SHARED)
        assert_right(client, rows(0))
    with client, serving(models, "--state", tmp_path, "--port", first.target.rsplit(":", 1)[1]) as second:
        client.wait_ready(60)
        assert second.target == first.target
        assert_right(client, rows(1))
        assert len(regions(second.target)) == 1


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "raise SystemExit(3)", "1 / 0", "os._exit(4)"])
def test_nothing_is_left_of_a_client_that_ends_without_a_word(server: ServerProcess, end: str) -> None:
    script = f"""
import os, sys
import numpy as np
from cutpoint.client import Client, Connection
client = Client(sys.argv[1], Connection(shared_memory=True))
client.score("m", np.ones(({LARGE}, {FEATURES}), np.float32))
{end}
"""
    done = subprocess.run([sys.executable, "-c", script, server.target], env=ENVIRONMENT, check=False, stderr=subprocess.PIPE)
    assert done.returncode in (-9, 3, 1, 4)
    assert b"leaked" not in done.stderr
    left = regions(server.target)
    assert len(left) == 1
    with Client(server.target, SHARED) as client:
        assert_right(client, rows(0))
        assert not regions(server.target) & left  # the server saw, when it was told of another, that its owner is gone


def test_a_client_that_nobody_holds_any_more_keeps_no_descriptor(server: ServerProcess) -> None:
    def held() -> int:
        links = (path for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return sum("/dev/shm/cutpoint-" in str(path.readlink()) for path in links)

    client: Client | None = Client(server.target, SHARED)
    assert client is not None
    assert_right(client, rows(0))
    assert held() == 1
    client = None
    gc.collect()
    assert held() == 0


@pytest.mark.parametrize("known", [False, True])
def test_rows_for_which_there_is_no_room_go_in_the_message(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    written = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= 4096:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data[:4096], offset)

    with Client(server.target, SHARED) as client:
        if known:
            assert_right(client, rows(0))
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            assert_right(client, rows(1))
        assert_right(client, rows(2))
        assert len(regions(server.target)) == 1


def test_a_server_that_takes_no_more_regions_gets_the_message(models: Path, tmp_path: Path) -> None:
    name = f"cutpoint-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm", name)
    path.write_bytes(bytes(8))
    try:
        with serving(models, "--state", tmp_path / "state") as server, Client(server.target, SHARED) as client:
            for i in range(256):
                request = oip.SystemSharedMemoryRegisterRequest(name=str(i), key=name, byte_size=8)
                ask(server.target, "SystemSharedMemoryRegister", request, oip.SystemSharedMemoryRegisterResponse)
            assert_right(client, rows(0))
            ask(
                server.target, "SystemSharedMemoryUnregister", oip.SystemSharedMemoryUnregisterRequest(name="7"),
                oip.SystemSharedMemoryUnregisterResponse,
            )  # fmt: skip
            assert_right(client, rows(1))
            assert any(known.startswith("cutpoint-") for known in regions(server.target))
    finally:
        path.unlink()


@pytest.mark.parametrize("target", ["scores.example:1", ["127.0.0.1:1", "127.0.0.1:2"], "dns:///localhost:1", "10.0.0.1:1"])
def test_other_machines_and_several_servers_are_refused(target: Any) -> None:
    with pytest.raises(errors.BadConfig, match=r"shared_memory with .* is on; expected one server, on this machine"):
        Client(target, SHARED)


def test_a_server_without_shared_memory_is_an_error_that_says_so(models: Path, tmp_path: Path) -> None:
    with serving(models, "--state", tmp_path, "--no-shared-memory") as off, Client(off.target, SHARED) as client:
        assert_right(client, rows(0, 1))
        with pytest.raises(errors.BadConfig, match=r"shared_memory is refused by server .*; expected one with --shared-memory"):
            client.score("m", rows(0))


def test_all_workers_of_a_server_know_the_regions(models: Path, tmp_path: Path) -> None:
    with serving(models, "--state", tmp_path, "--workers", 2) as process:
        clients = [Client(process.target, Connection(shared_memory=True, keepalive_s=300 + i)) for i in range(6)]
        for seed, client in enumerate(clients):  # each with a connection of its own, to one worker or the other
            with client:
                for i in range(3):
                    assert_right(client, rows(10 * seed + i))
        assert regions(process.target) == set()


def test_a_token_needs_the_role_for_it(models: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    score, admin = (cutpoint("token", role, "--role", role, "--tokens", tokens).stdout.strip() for role in ("score", "admin"))
    with serving(models, "--state", tmp_path / "state", "--tokens", tokens) as process:
        with Client(process.target, Connection(shared_memory=True, token=score)) as client:
            assert_right(client, rows(0, 1))
            with pytest.raises(errors.PermissionDenied, match="admin"):
                client.score("m", rows(0))
        with Client(process.target, Connection(shared_memory=True, token=admin)) as client:
            assert_right(client, rows(0))


def test_a_system_without_shared_memory_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "_FOLDER", tmp_path / "absent")
    with Client("127.0.0.1:1", SHARED) as client, pytest.raises(errors.BadConfig, match=r"shared_memory is not to be had .*No"):
        client.score("m", rows(0))


class Refused(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, reason: str = "") -> None:
        self._code, self._reason = code, reason

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "no"

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((REASON_KEY, self._reason),) if self._reason else ()


class Server:
    """Which regions requests named, and what becomes of the next one."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.fails: BaseException | None = None
        self.memory = SharedMemory("server s", blocking(lambda request, **given: None), blocking(self._infer))

    def _infer(self, message: bytes, **given: Any) -> str:
        tensor = oip.ModelInferRequest.FromString(message).inputs[0]
        self.named.append(tensor.parameters["shared_memory_region"].string_param)
        failed, self.fails = self.fails, None
        if failed is not None:
            raise failed
        return "answer"

    def ask(self) -> str:
        (part,) = inference.Asked("m").parts(rows(0))
        try:
            at_once(self.memory.infer(part, timeout=60))
        except (grpc.RpcError, KeyboardInterrupt) as error:
            assert self.fails is None, error
        return self.named[-1]

    def close(self) -> None:
        at_once(self.memory.close(blocking(lambda request, **given: None)))


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"), True),
        (Refused(grpc.StatusCode.RESOURCE_EXHAUSTED), False),  # of gRPC's, which knows nothing of what the server does
        (Refused(grpc.StatusCode.UNAVAILABLE, "unavailable"), False),
        (Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_a_region_is_kept_only_if_the_server_is_done_with_it(error: BaseException, kept: bool) -> None:
    server = Server()
    first = server.ask()
    assert server.ask() == first
    server.fails = error
    assert server.ask() == first
    assert (server.ask() == first) is kept
    server.close()


def test_a_forked_process_has_regions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    first = server.ask()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert server.ask() != first
    server.close()
