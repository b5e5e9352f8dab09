"""TLS, mutual TLS and tokens against a real `cutpoint serve`: who gets in, what each may do, and certificates that change."""

import hashlib
import logging
import queue
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from authority import Authority, Certificate, needs_openssl, openssl
from bundles import linear_bundle
from cutpoint.client import Client, Connection
from cutpoint.errors import BadConfig, PermissionDenied, Unauthenticated, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.security.certificates import Certificates, read_material
from cutpoint.server.security.guard import NEEDS, ROLES
from processes import ServerProcess, cutpoint, run_script, serving

pytestmark = needs_openssl
INFER = "/inference.GRPCInferenceService/ModelInfer"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other authority")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "models"
    folder.mkdir()
    linear_bundle(folder, name="m")
    return folder


@dataclass(frozen=True)
class Secured:
    """A server with TLS and tokens, and the tokens by role."""

    server: ServerProcess
    tokens: dict[str, str]

    @property
    def target(self) -> str:
        return self.server.target


def make_tokens(path: Path, *lines: str) -> dict[str, str]:
    """A file with a token of each role, called as its role, and more lines."""
    tokens = {role: secrets.token_urlsafe(32) for role in ROLES}
    made = [f"{role} {role} {hashlib.sha256(token.encode()).hexdigest()}" for role, token in tokens.items()]
    path.write_text("\n".join([*made, *lines]))
    path.chmod(0o600)
    return tokens


@pytest.fixture(scope="module")
def secured(ca: Authority, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    tokens, made = make_tokens(folder / "tokens"), ca.issue("localhost", file="secured")
    with serving(
        models, "--tls-cert", made.cert, "--tls-key", made.key, "--tokens", folder / "tokens", "--state", folder
    ) as server:
        yield Secured(server, tokens)


@pytest.fixture(scope="module")
def mutual(ca: Authority, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("mutual")
    lines = ("certificate:edge-8 score", "certificate:boss.lan admin")
    tokens, made = make_tokens(folder / "tokens", *lines), ca.issue("localhost", file="mutual")
    with serving(
        models, "--tls-cert", made.cert, "--tls-key", made.key, "--tls-client-ca", ca.root.cert, "--tokens", folder / "tokens",
        "--state", folder,
    ) as server:  # fmt: skip
        yield Secured(server, tokens)


def by_triton(target: str, ca: Authority, client: Certificate | None, token: str) -> dict[str, Any]:
    files = ("", "") if client is None else (str(client.key), str(client.cert))
    found: dict[str, Any] = run_script(Path(__file__).with_name("triton_tls_script.py"), target, ca.root.cert, *files, token)
    return found


def channel(target: str, ca: Authority, client: Certificate | None = None) -> grpc.Channel:
    pair = (None, None) if client is None else (client.key.read_bytes(), client.cert.read_bytes())
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.root.cert.read_bytes(), *pair))


def code_of(opened: grpc.Channel, method: str, token: str | None = None) -> str:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    try:
        opened.unary_unary(method)(b"", metadata=metadata, timeout=30)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def served_certificate(target: str, ca: Authority, version: ssl.TLSVersion | None = None) -> bytes:
    """What a new connection is shown, as DER."""
    context = ssl.create_default_context(cafile=str(ca.root.cert))
    context.set_alpn_protocols(["h2"])
    if version is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.maximum_version = context.minimum_version = version
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        found = tls.getpeercert(binary_form=True)
    assert found is not None
    return found


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_tritonclient_works_over_tls_with_a_token(secured: Secured, ca: Authority) -> None:
    found = by_triton(secured.target, ca, None, secured.tokens["score"])
    with Client(secured.target, Connection(tls_ca=ca.root.cert, token=secured.tokens["score"])) as client:
        wanted = client.score("m", X, outputs=["logits"]).logits.tolist()
    assert found["live"] is True
    assert found["server"] == "cutpoint"
    assert found["None"] == found["gzip"] == found["deflate"] == found["aio"] == wanted
    assert found["stream"] == [wanted]
    assert found["without a token"] == "StatusCode.UNAUTHENTICATED"


def test_tritonclient_works_over_mutual_tls(mutual: Secured, ca: Authority) -> None:
    found = by_triton(mutual.target, ca, ca.issue("edge-8", names=""), "")
    assert found["None"] == found["aio"] == found["without a token"] or found["without a token"] == "OK"
    assert found["server"] == "cutpoint"


def test_our_client_over_mutual_tls_with_either(mutual: Secured, ca: Authority) -> None:
    known, unknown = ca.issue("edge-8", file="known"), ca.issue("nobody")
    with Client(mutual.target, Connection(tls_ca=ca.root.cert, tls_cert=known.cert, tls_key=known.key)) as client:
        assert client.score("m", X, outputs=["logits"]).logits.shape == (2, 2)
        with pytest.raises(PermissionDenied, match="edge-8 has score"):
            client.calibrate("m", "recall_at_least=0.9", logits=np.zeros((4, 2)), targets=np.eye(4, 2))
    strange = Connection(tls_ca=ca.root.cert, tls_cert=unknown.cert, tls_key=unknown.key)
    with Client(mutual.target, strange) as client, pytest.raises(Unauthenticated):
        client.score("m", X)


def test_an_alternative_name_is_a_name_too(mutual: Secured, ca: Authority) -> None:
    with channel(mutual.target, ca, ca.issue("something", names="DNS:boss.lan")) as opened:
        assert code_of(opened, "/cutpoint.v1.CalibrationService/ActivatePolicy") not in ("UNAUTHENTICATED", "PERMISSION_DENIED")


def test_a_client_without_a_good_certificate_does_not_get_in(mutual: Secured, ca: Authority, other_ca: Authority) -> None:
    for client in (None, other_ca.issue("edge-8"), ca.issue("edge-8", days=-1, file="late")):
        with channel(mutual.target, ca, client) as opened:
            assert code_of(opened, "/inference.GRPCInferenceService/ServerLive") == "UNAVAILABLE"


def test_what_is_not_tls_or_trusts_another_root_fails(secured: Secured, ca: Authority, other_ca: Authority) -> None:
    with grpc.insecure_channel(secured.target) as opened:
        assert code_of(opened, "/inference.GRPCInferenceService/ServerLive") == "UNAVAILABLE"
    with channel(secured.target, other_ca) as opened:
        assert code_of(opened, "/inference.GRPCInferenceService/ServerLive") == "UNAVAILABLE"
    with Client(secured.target, Connection(tls_ca=other_ca.root.cert)) as client, pytest.raises(Unavailable):
        client.ready(timeout_s=5)
    assert served_certificate(secured.target, ca)  # and the server is unharmed


def test_tls_is_1_2_or_newer(secured: Secured, ca: Authority) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert served_certificate(secured.target, ca, version)
    for name in ("TLSv1", "TLSv1_1"):
        with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, ConnectionError)):
            served_certificate(secured.target, ca, getattr(ssl.TLSVersion, name))


@pytest.mark.parametrize("method", sorted(NEEDS))
def test_every_rpc_asks_for_its_role(secured: Secured, ca: Authority, method: str) -> None:
    if method.endswith("Health/Watch"):
        pytest.skip("has no end; open like Check")
    needs = NEEDS[method]
    with channel(secured.target, ca) as opened:
        nobody = code_of(opened, method)
        if nobody == "UNIMPLEMENTED":
            pytest.skip("not served")
        for token in (None, "wrong", secured.tokens["score"][:-1]):
            assert (code_of(opened, method, token) == "UNAUTHENTICATED") is bool(needs)
        for held in ROLES:
            refused = bool(needs) and ROLES.index(held) < ROLES.index(needs)
            code = code_of(opened, method, secured.tokens[held])
            assert (code == "PERMISSION_DENIED") is refused
            assert code != "UNAUTHENTICATED"


def test_reflection_is_off_where_tokens_are_asked_for(secured: Secured, ca: Authority) -> None:
    with channel(secured.target, ca) as opened:
        method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        assert code_of(opened, method, secured.tokens["admin"]) == "UNIMPLEMENTED"


def test_who_calibrates_is_the_author(secured: Secured, ca: Authority) -> None:
    rng = np.random.default_rng(0)
    targets = rng.random((400, 2)) < 0.3
    logits = (targets * 2.0 + rng.normal(size=(400, 2))).astype(np.float32)
    connection = Connection(tls_ca=ca.root.cert, token=secured.tokens["calibrate"])
    with Client(secured.target, connection) as client:
        made = client.calibrate("m", "recall_at_least=0.9", logits=logits, targets=targets, author="somebody else")
        assert client.policy("m").author == made.policy.author == "calibrate"


def test_a_token_that_is_taken_away_ends_its_streams(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens = make_tokens(path)
    request = oip.ModelInferRequest(model_name="m")
    with serving(models, "--tokens", path, "--state", tmp_path) as server, grpc.insecure_channel(server.target) as opened:
        stream = opened.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        live = opened.unary_unary("/inference.GRPCInferenceService/ServerLive")
        asked: dict[str, queue.SimpleQueue[bytes | None]] = {role: queue.SimpleQueue() for role in ROLES}
        calls = {role: stream(iter(asked[role].get, None), metadata=bearer(tokens[role])) for role in ROLES}
        for role, call in calls.items():
            asked[role].put(request.SerializeToString())
            assert next(call)
        staged = tmp_path / "staged"
        staged.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("score ")))
        staged.chmod(0o600)
        staged.rename(path)
        until(lambda: bool(live(b"")) and not calls["score"].is_active())  # any call is a reason to look at the file
        assert calls["score"].code() is grpc.StatusCode.UNAUTHENTICATED
        for role in ("calibrate", "admin"):
            asked[role].put(request.SerializeToString())
            assert next(calls[role])
        for role in ROLES:
            asked[role].put(None)


def bearer(token: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


def test_what_cannot_be_served_is_said_at_the_start(ca: Authority, models: Path, tmp_path: Path) -> None:
    good, late = ca.issue("good"), ca.issue("late", days=-1, file="expired")
    openssl("ec", "-in", good.key, "-aes128", "-passout", "pass:secret", "-out", tmp_path / "locked.key")
    (tmp_path / "text").write_text("no PEM")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for cert, key, roots, message in (
        (good.cert, late.key, None, r"tls_key is .*expired.key, another key than that of .*good.pem"),
        (
            late.cert,
            late.key,
            None,
            r"tls_cert is .*expired.pem, which expired at 20.*; expected a certificate that is valid now",
        ),
        (good.cert, tmp_path / "locked.key", None, "tls_key is .*locked.key, which has a passphrase"),
        (tmp_path / "text", good.key, None, r"tls_cert is .*text; expected a PEM file of a certificate \(no BEGIN"),
        (garbage, good.key, None, "tls_cert is .*garbage.pem; expected a PEM file"),
        (good.key, good.key, None, "tls_cert is .*; expected a PEM file of a certificate"),
        (good.cert, good.cert, None, "tls_cert and tls_key is .*; expected two PEM files"),
        (tmp_path / "none", good.key, None, "TLS certificates: .*none cannot be read"),
        (good.cert, good.key, tmp_path / "text", "tls_client_ca is .*text; expected a PEM file of root"),
        (good.cert, good.key, tmp_path / "none", "TLS certificates: .*none cannot be read"),
    ):
        with pytest.raises(BadConfig, match=message):
            Certificates(cert, key, roots)
    done = cutpoint(
        "serve", "--models", models, "--port", 0, "--metrics-port", 0, "--tls-cert", good.cert, "--tls-key", late.key
    )
    assert done.returncode == 2
    assert "another key than that of" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("days", [1, 30, 9000, 20000])  # the last two on either side of 2050, where the date's form changes
def test_the_expiry_is_opensslS(ca: Authority, days: int) -> None:
    made = ca.issue("dated", days=days, file=f"dated-{days}")
    printed = openssl("x509", "-in", made.cert, "-noout", "-enddate").strip().removeprefix("notAfter=")
    wanted = datetime.strptime(printed, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC).timestamp()
    assert read_material(made.cert, made.key, None, time.time()).not_after_s == wanted


def test_a_certificate_that_expires_soon_is_said(ca: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    made = ca.issue("soon", days=3)
    Certificates(made.cert, made.key)
    assert "expires at" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    made.key.chmod(0o644)
    Certificates(made.cert, made.key)
    assert "can be read by everybody" in caplog.text


def test_a_chain_with_its_root_is_served_whole(ca: Authority, tmp_path: Path) -> None:
    made = ca.issue("leaf")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(made.cert.read_bytes() + ca.root.cert.read_bytes())
    assert read_material(chain, made.key, None, time.time()).chain == chain.read_bytes()


def until(found: Callable[[], bool]) -> None:
    """Ask again until it is so; a certificate is looked at once a second."""
    end_s = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end_s


def replace(target: Certificate, source: Certificate) -> None:
    """First the one, then the other, as careless scripts do: between them the pair does not fit."""
    for old, new in ((target.key, source.key), (target.cert, source.cert)):
        staged = old.with_suffix(".staged")
        staged.write_bytes(new.read_bytes())
        staged.chmod(0o600)
        staged.rename(old)


def test_certificates_change_under_load_without_a_lost_request(
    ca: Authority, other_ca: Authority, models: Path, tmp_path: Path
) -> None:
    used = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    given = [ca.issue("localhost", file=f"round-{number}") for number in range(3)]
    replace(used, given[0])
    stop, errors, answered = threading.Event(), [], [0, 0]

    with serving(models, "--tls-cert", used.cert, "--tls-key", used.key, "--state", tmp_path) as server:

        def ask(number: int, connection_each_time: bool) -> None:
            request = Connection(tls_ca=ca.root.cert)
            client = Client(server.target, request)
            try:
                while not stop.is_set():
                    if connection_each_time:
                        client.close()
                        client = Client(server.target, request)
                    client.score("m", X)
                    answered[number] += 1
            except Exception as error:
                errors.append(error)
            finally:
                client.close()

        threads = [threading.Thread(target=ask, args=(number, number == 1)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            assert served_certificate(server.target, ca) == der(given[0].cert)
            for new in given[1:]:
                replace(used, new)
                until(lambda new=new: served_certificate(server.target, ca) == der(new.cert))
            used.cert.write_text("broken")
            log = models.parent / "server.log"
            until(
                lambda: (
                    bool(served_certificate(server.target, ca))
                    and "TLS certificates changed and cannot be used" in log.read_text()
                )
            )
            assert served_certificate(server.target, ca) == der(given[2].cert)
            replace(used, given[0])
            until(lambda: served_certificate(server.target, ca) == der(given[0].cert))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert errors == []
    assert min(answered) > 0


def test_a_new_root_of_clients_counts_for_new_connections(
    ca: Authority, other_ca: Authority, models: Path, tmp_path: Path
) -> None:
    made, roots = ca.issue("localhost", file="rooted"), tmp_path / "roots.pem"
    mine, theirs = ca.issue("mine"), other_ca.issue("theirs")
    roots.write_bytes(ca.root.cert.read_bytes())

    def gets_in(client: Certificate) -> bool:
        with channel(server.target, ca, client) as opened:
            return code_of(opened, "/inference.GRPCInferenceService/ServerLive") == "OK"

    with serving(
        models, "--tls-cert", made.cert, "--tls-key", made.key, "--tls-client-ca", roots, "--state", tmp_path
    ) as server:
        assert gets_in(mine)
        assert not gets_in(theirs)
        staged = tmp_path / "staged.pem"
        staged.write_bytes(other_ca.root.cert.read_bytes())
        staged.rename(roots)
        until(lambda: gets_in(theirs))
        assert not gets_in(mine)
