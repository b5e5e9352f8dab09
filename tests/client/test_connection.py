"""TLS, tokens and the other settings of a connection."""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from authority import Authority, needs_openssl
from bundles import linear_bundle
from cutpoint import errors
from cutpoint.client import AioClient, Client, Connection, Retry
from cutpoint.client.testing import FakeServer
from processes import cutpoint, serving

ONCE = Retry(attempts=1)


def faked(**given: Any) -> FakeServer:
    return FakeServer(lambda x: x[:, :1], model="m", **given)


def score(target: Any, connection: Connection, x: Any = ((1.0, 2.0),)) -> float:
    """The first logit, which both clients must agree on."""
    with Client(target, connection) as client:
        one = client.score("m", x).logits

    async def scene() -> Any:
        async with AioClient(target, connection) as client:
            return (await client.score("m", x)).logits

    np.testing.assert_array_equal(asyncio.run(scene()), one)
    return float(one.flat[0])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> grpc.ServerCredentials:
    server = authority.issue("server")
    return grpc.ssl_server_credentials([(server.key.read_bytes(), server.cert.read_bytes())])


@needs_openssl
def test_tls_from_files_and_bytes(authority: Authority, secure: grpc.ServerCredentials, tmp_path: Path) -> None:
    ca, other = authority.root.cert, Authority(tmp_path, "other").root.cert
    with faked(credentials=secure) as server:
        assert score(server.target, Connection(tls_ca=ca)) == 1
        assert score(server.target, Connection(tls_ca=str(ca))) == 1
        assert score(server.target, Connection(tls_ca=ca.read_bytes())) == 1
        assert score(server.target, Connection(credentials=grpc.ssl_channel_credentials(ca.read_bytes()))) == 1
        with Client(server.target, credentials=grpc.ssl_channel_credentials(ca.read_bytes())) as client:
            assert client.ready()
        for wrong in (Connection(retry=ONCE), Connection(tls=True, retry=ONCE), Connection(tls_ca=other, retry=ONCE)):
            with pytest.raises(errors.Unavailable):
                score(server.target, wrong)


@needs_openssl
def test_a_server_that_asks_who_calls_is_shown_a_certificate(authority: Authority) -> None:
    mine, theirs = authority.issue("client"), authority.issue("server", file="server2")
    ca = authority.root.cert
    asking = grpc.ssl_server_credentials([(theirs.key.read_bytes(), theirs.cert.read_bytes())], ca.read_bytes(), True)
    with faked(credentials=asking) as server:
        assert score(server.target, Connection(tls_ca=ca, tls_cert=mine.cert, tls_key=mine.key)) == 1
        assert score(server.target, Connection(tls_ca=ca, tls_cert=mine.cert.read_bytes(), tls_key=mine.key.read_bytes())) == 1
        with pytest.raises(errors.Unavailable):
            score(server.target, Connection(tls_ca=ca, retry=ONCE))


@needs_openssl
def test_the_name_in_the_certificate_may_be_another(authority: Authority) -> None:
    named = authority.issue("scores.example", names="DNS:scores.example")
    credentials = grpc.ssl_server_credentials([(named.key.read_bytes(), named.cert.read_bytes())])
    ca = authority.root.cert
    with faked(credentials=credentials) as one, faked(credentials=credentials) as two:
        with pytest.raises(errors.Unavailable):
            score(one.target, Connection(tls_ca=ca, retry=ONCE))
        connection = Connection(tls_ca=ca, server_name="scores.example")
        assert score(one.target, connection) == 1
        assert score([one.target, two.target.replace("127.0.0.1", "localhost")], connection) == 1
        with pytest.raises(errors.BadConfig, match="server_name is not given; expected the name in the certificates of all of"):
            score([one.target, two.target.replace("127.0.0.1", "localhost")], Connection(tls_ca=ca))


def test_a_token_is_sent_and_its_file_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    with faked() as server, Client(server.target, Connection(token_file=path)) as client:

        def sent() -> Any:
            client.score("m", [[1.0]])
            return server.requests[-1].metadata["authorization"]

        assert sent() == sent() == "Bearer first"
        path.write_text("second")
        assert sent() == "Bearer second"
        (tmp_path / "new").write_text("third!")  # as long as the one before: told apart by what file it is
        (tmp_path / "new").replace(path)
        assert sent() == "Bearer third!"
        path.unlink()
        with pytest.raises(errors.BadConfig, match=r"token_file .*token is No such file or directory; expected a file with a"):
            sent()
        path.write_text("fourth")
        assert [len(found) for found in client.stream("m", [[[1.0]]])] == [1]
        assert server.requests[-1].metadata["authorization"] == "Bearer fourth"
    with faked() as server:
        score(server.target, Connection(token="abc"))
        assert [request.metadata["authorization"] for request in server.requests] == ["Bearer abc"] * 2
        score(server.target, Connection())
        assert "authorization" not in server.requests[-1].metadata


def test_a_token_does_not_leave_this_machine_in_plain_text() -> None:
    for target in ("scores.example:1", ["127.0.0.1:1", "10.0.0.1:1"], "dns:///scores.example:1"):
        with pytest.raises(errors.BadConfig, match=r"a token for .* is not encrypted; expected tls"):
            Client(target, Connection(token="abc"))
        Client(target, Connection(token="abc", token_in_plaintext=True)).close()
        if isinstance(target, str):
            Client(target, Connection(token="abc", tls=True)).close()
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/nowhere"):
        Client(target, Connection(token="abc")).close()


def test_what_is_on_this_machine_is_not_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with faked() as server:
        assert score(server.target, Connection(retry=ONCE)) == 1


def test_secrets_are_not_shown() -> None:
    shown = repr(Connection(token="secret1", tls_cert=b"c", tls_key=b"secret2"))
    assert "secret" not in shown
    with pytest.raises(errors.BadConfig) as refused:
        Client("127.0.0.1:1", Connection(token="secret word"))
    assert str(refused.value) == "token is 11 characters; expected a token: visible ASCII, no spaces"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"tls_cert": b"c"}, "tls_key is not given; expected the other half of tls_cert"),
        ({"tls_key": b"c"}, "tls_cert is not given; expected the other half of tls_key"),
        ({"token": "a", "token_file": "b"}, "token and token_file is both given; expected one of them"),
        ({"compression": "zstd"}, "compression is 'zstd'; expected one of none, gzip, deflate"),
        ({"keepalive_s": 1}, "keepalive_s is 1; expected seconds, from 10"),
        ({"connect_timeout_s": 0}, "connect_timeout_s is 0"),
        ({"connect_timeout_s": float("nan")}, "connect_timeout_s is nan"),
        ({"max_message_mib": 0}, "max_message_mib is 0"),
        ({"tls_ca": "/nowhere/ca.pem"}, "tls_ca is /nowhere/ca.pem (No such file or directory); expected a PEM file"),
        ({"tls_ca": b"nothing"}, "tls_ca is bytes; expected PEM, with a line -----BEGIN CERTIFICATE-----"),
        ({"tls_cert": b"-----BEGIN CERTIFICATE-----", "tls_key": __file__}, "expected PEM, with a line -----BEGIN PRIVATE KEY"),
        ({"token_file": "/nowhere/token"}, "token_file /nowhere/token is No such file or directory"),
        ({"token_file": os.devnull}, "is 0 characters; expected a token"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.BadConfig) as refused:
        Client("127.0.0.1:1", Connection(**given))
    assert text in str(refused.value)


@contextmanager
def counting(target: str) -> Iterator[tuple[str, Callable[[], int]]]:
    """A relay to `target` for one connection, and how many bytes went there."""
    host, port = target.split(":")
    counted = [0]
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def copy(source: socket.socket, sink: socket.socket, at: list[int]) -> None:
            with suppress(OSError):  # either end may close first
                while data := source.recv(1 << 16):
                    at[0] += len(data)
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def relay() -> None:
            with listening.accept()[0] as client, socket.create_connection((host, int(port))) as server:
                back = threading.Thread(target=copy, args=(server, client, [0]))
                back.start()
                copy(client, server, counted)
                back.join()

        thread = threading.Thread(target=relay)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", lambda: counted[0]
        thread.join()


@pytest.mark.parametrize(("compression", "least", "most"), [("none", 1 << 20, 2 << 20), ("gzip", 1000, 1 << 16)])
def test_what_is_sent_is_compressed_where_that_is_wanted(compression: Any, least: int, most: int) -> None:
    with faked() as server, counting(server.target) as (target, sent):
        with Client(target, Connection(compression=compression)) as client:
            assert len(client.score("m", np.zeros((1, 1 << 18)))) == 1
        assert least < sent() < most


def test_a_connection_that_does_not_come_about_is_given_up_before_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and says nothing
        connection = Connection(connect_timeout_s=0.1, retry=ONCE)
        client = Client(f"127.0.0.1:{silent.getsockname()[1]}", connection, timeout_s=10)  # without it gRPC takes 20 s
        with client, pytest.raises(errors.Unavailable):
            client.score("m", [[1.0]])


def test_messages_may_be_held_to_a_size() -> None:
    wide = FakeServer(lambda x: np.zeros((len(x), 1024)), model="m", labels=[str(i) for i in range(1024)])
    with wide as server, Client(server.target, Connection(max_message_mib=1)) as client:
        assert len(client.score("m", np.zeros((50, 1)))) == 50
        with pytest.raises(errors.BadRequest, match="larger than max"):
            client.score("m", np.zeros((1000, 1)))
        with pytest.raises(errors.BadRequest, match="larger than max"):
            client.score("m", np.zeros((1, 1 << 19)))


def test_a_server_is_not_pinged_more_often_than_it_likes() -> None:
    from cutpoint.client.connection import _options
    from cutpoint.client.servers import Servers

    options = dict(_options(Servers.of("a:1"), Connection()))
    assert options["grpc.keepalive_time_ms"] > 300_000  # what gRPC's servers stand, unless told otherwise
    assert options["grpc.keepalive_permit_without_calls"] == 0


@needs_openssl
def test_commands_take_tls_and_a_token(authority: Authority, tmp_path: Path) -> None:
    mine, theirs = authority.issue("client", file="client2"), authority.issue("server", file="server3")
    ca = authority.root.cert
    asking = grpc.ssl_server_credentials([(theirs.key.read_bytes(), theirs.cert.read_bytes())], ca.read_bytes(), True)
    np.savez(tmp_path / "data.npz", x=np.ones((2, 3), np.float32))
    (tmp_path / "token").write_text("abc")
    tls = ("--tls-ca", ca, "--tls-cert", mine.cert, "--tls-key", mine.key, "--token-file", tmp_path / "token")
    with faked(credentials=asking) as server:
        done = cutpoint("score", tmp_path / "data.npz", "--model", "m", "--server", server.target, *tls)
        assert done.returncode == 0, done.stderr
        assert server.requests[-1].metadata["authorization"] == "Bearer abc"
        done = cutpoint("policy", "list", "m", "--server", server.target, *tls)
        assert (done.returncode, done.stderr) == (2, "error: UNIMPLEMENTED: Method not found!\n")  # it got that far
        done = cutpoint("policy", "list", "m", "--server", server.target, "--tls-cert", mine.cert)
        assert (done.returncode, done.stderr) == (2, "error: tls_key is not given; expected the other half of tls_cert\n")


@needs_openssl
def test_a_real_server_with_tls_and_roles(authority: Authority, models: Path, tmp_path: Path) -> None:
    linear_bundle(models, name="m")
    theirs = authority.issue("server", file="server4")
    tokens = tmp_path / "tokens"
    made = {role: cutpoint("token", role, "--role", role, "--tokens", tokens).stdout.strip() for role in ("score", "calibrate")}
    with serving(models, "--tls-cert", theirs.cert, "--tls-key", theirs.key, "--tokens", tokens) as process:
        ca = authority.root.cert
        assert score(process.target, Connection(tls_ca=ca, token=made["score"]), np.ones((1, 4))) == 1
        with Client(process.target, Connection(tls_ca=ca)) as nobody, pytest.raises(errors.Unauthenticated):
            nobody.score("m", np.ones((1, 4)))
        asked = {"targets": [[0, 1], [1, 0]], "logits": [[0.0, 1.0], [1.0, 0.0]]}
        with (
            Client(process.target, Connection(tls_ca=ca, token=made["score"])) as scorer,
            pytest.raises(errors.PermissionDenied),
        ):
            scorer.calibrate("m", "max_fbeta=1", **asked)  # type: ignore[arg-type]
        with Client(process.target, Connection(tls_ca=ca, token=made["calibrate"])) as calibrator:
            assert calibrator.calibrate("m", "max_fbeta=1", **asked).policy.version == 1  # type: ignore[arg-type]
