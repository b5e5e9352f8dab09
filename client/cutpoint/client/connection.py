"""How servers are reached: TLS, token, keepalive, compression, sizes, retries."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import grpc
import grpc.aio
from cutpoint.errors import BadConfig

from .bearer import Token
from .methods import MODEL_INFER, REGISTER_MEMORY, UNREGISTER_MEMORY, Method
from .retry import Attempts, Retry
from .servers import Servers
from .shared_memory import Call, SharedMemory, at_once, blocking

_COMPRESSION = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


@dataclass(frozen=True)
class Connection:
    """Settings of a connection; the defaults are for a server on a network that is trusted.

    Files are given as a path, their content as bytes. Certificates and keys are read when a client is made.

    Attributes:
        tls: encrypt, and check the server's certificate; any of the four settings that follow asks for it too.
        tls_ca: PEM of the authorities that are trusted; without it those that gRPC comes with.
        tls_cert: PEM of the client's certificate chain, for servers that ask for one; with
        tls_key: PEM of its key.
        server_name: the name in the server's certificate, where it is not the one that is connected to.
        token: sent with every call as `authorization: Bearer TOKEN`; or
        token_file: a file that holds one. It is read again when it changes.
        token_in_plaintext: send the token without TLS to other machines than this one: whoever listens has it.
        compression: of what is sent: none, gzip or deflate. Numbers of sensors hardly shrink; for slow networks.
        connect_timeout_s: how long a connection may take to come about.
        keepalive_s: how often to ask a server that says nothing, during a call, whether it is there. Servers take pings more
            often than every 5 minutes for an attack, and hang up, unless they are told otherwise.
        max_message_mib: the largest message, either way; None for no limit.
        shared_memory: have `score` leave large rows (from 128 KiB a request) in shared memory, where a server on this machine
            reads them; streams send theirs. The server has to have it (it does on loopback, or with --shared-memory), and a
            token the role admin: an error says so where it is not so.
        retry: when a call is made again.
        credentials: gRPC's own, in place of all TLS settings.
    """

    tls: bool = False
    tls_ca: str | Path | bytes | None = None
    tls_cert: str | Path | bytes | None = None
    tls_key: str | Path | bytes | None = field(default=None, repr=False)
    server_name: str = ""
    token: str = field(default="", repr=False)
    token_file: str | Path | None = None
    token_in_plaintext: bool = False
    compression: Literal["none", "gzip", "deflate"] = "none"
    connect_timeout_s: float = 10.0
    keepalive_s: float = 330.0
    max_message_mib: int | None = None
    shared_memory: bool = False
    retry: Retry = field(default_factory=Retry)
    credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise BadConfig.of(missing, "not given", f"the other half of {given}")
        if self.token and self.token_file is not None:
            raise BadConfig.of("token and token_file", "both given", "one of them")
        if self.compression not in _COMPRESSION:
            raise BadConfig.of("compression", repr(self.compression), "one of " + ", ".join(_COMPRESSION))
        for name, value, least in (("connect_timeout_s", self.connect_timeout_s, 0.001), ("keepalive_s", self.keepalive_s, 10)):
            if not least <= value < 1 << 21:  # gRPC keeps milliseconds in 31 bits
                raise BadConfig.of(name, value, f"seconds, from {least:g}")
        if self.max_message_mib is not None and not 1 <= self.max_message_mib < 1 << 11:
            raise BadConfig.of("max_message_mib", self.max_message_mib, "a whole number from 1 to 2047, or None for no limit")

    @classmethod
    def of(cls, connection: Self | None, credentials: grpc.ChannelCredentials | None) -> Self:
        """The settings that a client was given, or the defaults."""
        made = cls() if connection is None else connection
        return made if credentials is None else replace(made, credentials=credentials)

    @property
    def secure(self) -> bool:
        """Whether what is sent is encrypted."""
        asked = (self.tls_ca, self.tls_cert, self.tls_key, self.credentials)
        return self.tls or bool(self.server_name) or any(part is not None for part in asked)


class Channel:
    """A gRPC channel, and what every call on it carries. `calls` is `grpc` or `grpc.aio`."""

    def __init__(self, calls: Any, servers: str | Sequence[str], connection: Connection, timeout_s: float) -> None:
        self.servers = Servers.of(servers)
        self._retry = connection.retry
        self._timeout_s = timeout_s
        self._token = Token.of(connection.token, connection.token_file)
        if self._token is not None and not (connection.secure or connection.token_in_plaintext or self.servers.here):
            wanted = "tls, or token_in_plaintext where whoever listens may have it"
            raise BadConfig.of(f"a token for {self.servers}", "not encrypted", wanted)
        if connection.shared_memory and not (self.servers.here and len(self.servers.names) == 1):
            raise BadConfig.of(f"shared_memory with {self.servers}", "on", "one server, on this machine: 127.0.0.1 or unix:")
        target, options = self.servers.target(), _options(self.servers, connection)
        compression = _COMPRESSION[connection.compression]
        self._channel = (
            calls.secure_channel(target, _credentials(self.servers, connection), options, compression)
            if connection.secure
            else calls.insecure_channel(target, options, compression)
        )
        self._methods: dict[str, Any] = {}
        self._aio = calls is grpc.aio
        self._memory: SharedMemory | None = None
        if connection.shared_memory:
            self._memory = SharedMemory(self.servers.said, self._awaited(REGISTER_MEMORY), self._awaited(MODEL_INFER))

    def close(self) -> Any:
        """Close the connection; to be awaited where calls are."""
        if self._memory is None:
            return self._channel.close()
        closing = self._closing(self._memory)
        return closing if self._aio else at_once(closing)

    async def _closing(self, memory: SharedMemory) -> None:
        unregister = self._awaited(UNREGISTER_MEMORY)
        try:
            await memory.close(lambda request, timeout: unregister(request, timeout=timeout, metadata=self.metadata()))
        finally:
            closed = self._channel.close()
            if self._aio:
                await closed

    def _awaited(self, method: Method) -> Call:
        made: Call = method.on(self._channel)
        return made if self._aio else blocking(made)

    def on(self, method: Method) -> Any:
        """The callable for an RPC; that of MODEL_INFER takes a `Part`.

        Raises:
            BadConfig: it changes a server's state, and there are several.
        """
        if method.changes and len(self.servers.names) > 1:
            one = "a client of one server: each keeps policies of its own, and the others would decide by the old one"
            raise BadConfig.of(f"servers of {method.name}", str(self.servers), one)
        found = self._methods.get(method.path)
        if found is None:
            found = self._methods[method.path] = self._infer() if method is MODEL_INFER else method.on(self._channel)
        return found

    def _infer(self) -> Any:
        memory, call = self._memory, MODEL_INFER.on(self._channel)
        if memory is None:
            return lambda part, **given: call(part.message(), **given)
        return memory.infer if self._aio else lambda part, **given: at_once(memory.infer(part, **given))

    def attempts(self, method: Method, timeout_s: float | None) -> Attempts:
        """The attempts of one call of an RPC."""
        retry = self._retry if method.repeatable else None
        return Attempts(retry, method.name, self.servers.said, self._timeout_s if timeout_s is None else timeout_s)

    def errors(self, method: Method) -> Attempts:
        """The one attempt of a stream, which has a deadline of its own."""
        return Attempts(None, method.name, self.servers.said, self._timeout_s)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent beside every request; BadConfig where the token's file holds none."""
        return () if self._token is None else (("authorization", f"Bearer {self._token.read()}"),)


def _options(servers: Servers, connection: Connection) -> tuple[tuple[str, Any], ...]:
    limit = -1 if connection.max_message_mib is None else connection.max_message_mib << 20
    connect_ms = round(connection.connect_timeout_s * 1000)
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        # How long an attempt to connect may take; the pause between two grows, and a server that is back is found soon.
        ("grpc.min_reconnect_backoff_ms", connect_ms),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.keepalive_time_ms", round(connection.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
    ]
    if servers.here:
        options.append(
            ("grpc.enable_http_proxy", 0)
        )  # http_proxy is for the way out; gRPC would go through it to 127.0.0.1 too
    if servers.balanced:
        options.append(("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})))
    if len(servers.names) > 1:
        options.append(("grpc.default_authority", connection.server_name or servers.names[0]))
    if connection.server_name:
        options.append(("grpc.ssl_target_name_override", connection.server_name))
    return tuple(options)


def _credentials(servers: Servers, connection: Connection) -> grpc.ChannelCredentials:
    if connection.credentials is not None:
        return connection.credentials
    if len(servers.hosts) > 1 and not connection.server_name:
        raise BadConfig.of("server_name", "not given", f"the name in the certificates of all of {servers}")
    ca, key, cert = (
        _pem(name, getattr(connection, name), mark)
        for name, mark in (("tls_ca", "CERTIFICATE"), ("tls_key", "PRIVATE KEY"), ("tls_cert", "CERTIFICATE"))
    )
    return grpc.ssl_channel_credentials(ca, key, cert)


def _pem(name: str, given: str | Path | bytes | None, mark: str) -> bytes | None:
    """The content of a PEM file; gRPC would say of a wrong one, at the first call, that the server does not answer."""
    if given is None:
        return None
    where = "bytes" if isinstance(given, bytes) else str(given)
    try:
        content = given if isinstance(given, bytes) else Path(given).read_bytes()
    except OSError as error:
        raise BadConfig.of(name, f"{where} ({error.strerror})", "a PEM file that can be read") from None
    if f"{mark}-----".encode() not in content:
        raise BadConfig.of(name, where, f"PEM, with a line -----BEGIN {mark}-----")
    return content
