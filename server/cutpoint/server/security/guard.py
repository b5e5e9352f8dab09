"""Who may call what: bearer tokens and client certificates with roles, from one file.

The file of `--tokens`, a line for each token or certificate, `#` for comments:

    # who                    may        SHA-256 of the token
    edge-7                   score      (64 digits)
    nightly                  calibrate  (64 digits)
    certificate:edge-8.lan   score

It never holds a token, only what a token can be recognised by: `cutpoint token` makes both. Two lines may have one name, so
that a new token can be given out before the old one is taken away. Each role includes those before it: score, calibrate, admin.
"""

import hashlib
import ipaddress
import logging
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cutpoint.errors import BadConfig, PermissionDenied, Unauthenticated

from .reloaded import Reloaded

log = logging.getLogger("cutpoint.server")

# Least first: whoever may load models can ship any threshold with one, and whoever calibrates has to score.
ROLES: Final = ("score", "calibrate", "admin")
CERTIFICATE: Final = "certificate:"
_LARGEST_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,99}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def _each(service: str, role: str, *methods: str) -> dict[str, str]:
    return {f"/{service}/{method}": role for method in methods}


_OIP, _V1, _REFLECTION = "inference.GRPCInferenceService", "cutpoint.v1.CalibrationService", "ServerReflection"

# The role that each RPC needs; "" where anybody may call. A test holds this table against the protocols: an RPC that is
# missing there fails it, and is for admin alone here.
NEEDS: Final[Mapping[str, str]] = {
    # Probes have no token.
    **_each("grpc.health.v1.Health", "", "Check", "Watch", "List"),
    **_each(_OIP, "", "ServerLive", "ServerReady"),
    **_each(_OIP, "score", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "ModelInfer", "ModelStreamInfer"),
    **_each(_OIP, "score", "ModelStatistics", "RepositoryIndex"),
    **_each(_OIP, "admin", "RepositoryModelLoad", "RepositoryModelUnload"),
    # A region is named by its key: who registers one reads and writes memory of other processes on this machine.
    **_each(_OIP, "admin", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    **_each(_OIP, "admin", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    **_each(_OIP, "admin", "TraceSetting", "LogSettings"),
    # Reading a policy tells no more than the decisions do; making or activating one changes them for everybody.
    **_each(_V1, "score", "ListPolicies", "GetPolicy"),
    **_each(_V1, "calibrate", "Calibrate", "ActivatePolicy"),
    # Outcomes become thresholds: by a calibration from them, and by what people make of the confirmed precision.
    **_each("cutpoint.v1.OutcomeService", "calibrate", "ReportOutcomes", "StreamOutcomes"),
    **_each("cutpoint.v1.OutcomeService", "score", "GetOutcomeSummary"),
    **_each("cutpoint.v1.SignalService", "score", "ScoreSignal"),
    **_each(f"grpc.reflection.v1alpha.{_REFLECTION}", "score", "ServerReflectionInfo"),
    **_each(f"grpc.reflection.v1.{_REFLECTION}", "score", "ServerReflectionInfo"),
}


@dataclass(frozen=True)
class Caller:
    """Who calls; `name` is the author of the policies that it makes, "" where nobody asked who it is."""

    name: str
    roles: frozenset[str]


NOBODY: Final = Caller("", frozenset())
ANYBODY: Final = Caller("", frozenset(ROLES))


@dataclass(frozen=True)
class Callers:
    """What a file of tokens says: by the SHA-256 of a token, and by the name in a certificate."""

    by_digest: Mapping[bytes, Caller]
    by_certificate: Mapping[str, Caller]


class Guard:
    """Lets a call through or refuses it, by the token or the certificate that comes with it.

    A request costs one SHA-256 and one look-up. The file is looked at again at most once a second, when any call comes.

    Attributes:
        changed: called when the file has changed, so that calls without an end can be asked about again.
    """

    def __init__(self, tokens: Path | None, *, client_ca: bool = False, now_s: Callable[[], float] = time.monotonic) -> None:
        """Guard by the file `tokens`; without one everybody may do everything.

        Args:
            tokens: the file; None for no checks.
            client_ca: whether clients' certificates are verified; the file may name certificates only then.
            now_s: a steady clock, in seconds.

        Raises:
            BadConfig: the file is missing, wrong (the message has the line), or others than its owner may write it.
        """
        self.changed: Callable[[], None] = lambda: None
        self._callers: Reloaded[Callers] | None = None
        if tokens is not None:
            read = partial(read_callers, tokens, client_ca)
            self._callers = Reloaded("tokens", (tokens,), read, now_s=now_s, changed=self._told)

    @property
    def checks(self) -> bool:
        """Whether anything is asked for at all."""
        return self._callers is not None

    def _told(self) -> None:
        self.changed()

    def authorize(
        self,
        method: str,
        metadata: Iterable[tuple[str, str | bytes]],
        identities: Callable[[], Iterable[str | bytes]] = tuple,
    ) -> Caller:
        """Who calls `method`, where that is allowed.

        Args:
            method: the RPC's full name, `/package.Service/Method`.
            metadata: the call's, with `authorization: Bearer TOKEN`.
            identities: gives the names in the client's verified certificate; asked only where no token came.

        Raises:
            Unauthenticated: no token came and no certificate that the file names, or the token is unknown.
            PermissionDenied: the caller lacks the role that `method` needs.
        """
        if self._callers is None:
            return ANYBODY
        callers = self._callers.value  # before anything else: a probe is a reason to look, too
        # What has no row is new, and nobody has said who may call it.
        role = NEEDS.get(method, "admin")
        if not role:
            return NOBODY
        caller = _by_token(callers, metadata)
        if caller is None:
            caller = _by_certificate(callers, identities)
        if role not in caller.roles:
            held = ", ".join(each for each in ROLES if each in caller.roles)
            raise PermissionDenied(f"{caller.name} has {held}; {method.rpartition('/')[2]} needs the role {role}")
        return caller


def read_callers(path: Path, client_ca: bool = True) -> Callers:
    """Read a file of tokens.

    Raises:
        BadConfig: a line is wrong, two lines have one token or one certificate, there is no line at all, or others than the
            owner may write the file: whoever can write it can let anybody in.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o022:
            raise BadConfig.of(f"tokens: mode of {path}", f"{mode:o}", "that only its owner may write it: chmod 600")
        data = file.read(_LARGEST_BYTES + 1)
    if len(data) > _LARGEST_BYTES:
        raise BadConfig.of(f"tokens: size of {path}", f"more than {_LARGEST_BYTES} bytes", "a file with a line a token")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise BadConfig.of(f"tokens: {path}", "not UTF-8", "text, a line a token") from None
    by_digest: dict[bytes, Caller] = {}
    by_certificate: dict[str, Caller] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        words = _words(where, line)
        if not words:
            continue
        if words[0].startswith(CERTIFICATE):
            name = words[0].removeprefix(CERTIFICATE)
            if len(words) != 2 or not name:
                raise _wrong(where, f"{len(words)} words", f"two: {CERTIFICATE}NAME ROLE")
            if not client_ca:
                raise _wrong(where, words[0], "a token: certificates are verified only with --tls-client-ca")
            if by_certificate.setdefault(name, caller := Caller(name, _roles(where, words[1]))) is not caller:
                raise _wrong(where, words[0], "a certificate once")
            continue
        if len(words) != 3:
            raise _wrong(where, f"{len(words)} words", "three: NAME ROLE SHA-256, as `cutpoint token` writes them")
        if not _NAME.fullmatch(words[0]):
            raise _wrong(where, words[0], "a name of letters, digits and _.@+-")
        if not _DIGEST.fullmatch(words[2]):
            # Not shown: somebody may have put the token itself there.
            raise _wrong(where, "(a third word that is not shown)", "the token's SHA-256, 64 digits 0-9 a-f")
        digest = bytes.fromhex(words[2])
        if by_digest.setdefault(digest, caller := Caller(words[0], _roles(where, words[1]))) is not caller:
            raise _wrong(where, words[0], "a token of its own; this one has a line already")
    if not by_digest and not by_certificate:
        raise BadConfig.of(f"tokens: {path}", "without a line", "a line a token; `cutpoint token` makes one")
    if mode & 0o004:
        log.warning("%s can be read by everybody on this machine; it holds no token, and chmod 600 is better still", path)
    return Callers(by_digest, by_certificate)


def check_caller_name(name: str) -> str:
    """`name` itself, where a token may have it; BadConfig otherwise."""
    if not _NAME.fullmatch(name):
        raise BadConfig.of("name", name or "empty", "1 to 100 letters, digits or _.@+-, a letter or a digit first")
    return name


def warn_of_open_doors(host: str, *, tokens: bool, tls: bool, client_ca: bool) -> None:
    """Say in the log what anybody who reaches `host` can do; loopback is nobody's but this machine's."""
    if is_loopback(host):
        return
    if not tokens and not client_ca:
        log.warning(
            "listening on %s without --tokens: whoever reaches it may score, calibrate and load models; "
            "see --tokens and --tls-client-ca", host,
        )  # fmt: skip
    elif tokens and not tls:
        log.warning("listening on %s without --tls-cert: tokens cross the network in the clear", host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _by_token(callers: Callers, metadata: Iterable[tuple[str, str | bytes]]) -> Caller | None:
    """The caller by its token; None where no token came."""
    values = [value for key, value in metadata if key == "authorization"]
    if not values:
        return None
    if len(values) > 1:
        raise Unauthenticated(f"{len(values)} authorization headers came; expected one")
    value = values[0] if isinstance(values[0], str) else values[0].decode("latin-1")
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("the authorization header is not `Bearer TOKEN`")
    # The time of a look-up tells something of the digest at most, from which no token follows: nothing to compare in
    # constant time is left.
    caller = callers.by_digest.get(digest_of(token))
    if caller is None:
        raise Unauthenticated("this server does not know the token")
    return caller


def digest_of(token: str) -> bytes:
    """What a token is recognised by."""
    return hashlib.sha256(token.encode()).digest()


def _by_certificate(callers: Callers, identities: Callable[[], Iterable[str | bytes]]) -> Caller:
    if callers.by_certificate:
        for each in identities():
            caller = callers.by_certificate.get(each if isinstance(each, str) else each.decode("utf-8", "replace"))
            if caller is not None:
                return caller
    raise Unauthenticated("no token came; expected metadata `authorization: Bearer TOKEN`")


def _words(where: str, line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise _wrong(where, str(error), "words, in quotes where a name has spaces") from None


def _roles(where: str, text: str) -> frozenset[str]:
    names = text.split(",")
    for name in names:
        if name not in ROLES:
            raise _wrong(where, f"the role {name or '(empty)'}", f"one of {', '.join(ROLES)}")
    return frozenset(ROLES[: 1 + max(ROLES.index(name) for name in names)])


def _wrong(where: str, found: str, expected: str) -> BadConfig:
    return BadConfig(f"tokens: {where}: {found}; expected {expected}")
