"""TLS and mutual TLS: certificates from PEM files, taken up anew when the files change."""

import base64
import logging
import os
import re
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from cutpoint.errors import BadConfig

from .reloaded import Reloaded

log = logging.getLogger("cutpoint.server")

_DAY_S: Final = 86400
_WARN_DAYS: Final = 14
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s+(.+?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


@dataclass(frozen=True)
class Material:
    """What a handshake needs, checked: the key fits the certificate, and it has not expired.

    Attributes:
        chain: PEM of the certificate and those between it and the root.
        key: PEM of its private key.
        client_ca: PEM of the roots that clients' certificates must come from; None asks clients for none.
        not_after_s: when the first certificate of the chain expires, in seconds since 1970.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    not_after_s: float


class Certificates:
    """The server's certificate, its key and the roots of its clients, read again when the files change.

    A new connection gets the newest good ones; open connections keep theirs. TLS is 1.2 or newer: gRPC's own floor.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        client_ca: Path | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
        date_s: Callable[[], float] = time.time,
    ) -> None:
        """Read and check the files.

        Args:
            cert: PEM, the server's certificate first, then any between it and the root.
            key: PEM, its private key, without a passphrase.
            client_ca: PEM, the roots of clients' certificates; with it a client without one is refused.
            now_s: a steady clock, in seconds.
            date_s: seconds since 1970.

        Raises:
            BadConfig: a file is missing or no PEM, the key is another certificate's, or the certificate has expired.
        """
        paths = (cert, key) if client_ca is None else (cert, key, client_ca)
        self._client_ca = client_ca is not None
        self._material = Reloaded("TLS certificates", paths, lambda: read_material(cert, key, client_ca, date_s()), now_s=now_s)
        self._given: Material | None = None

    @property
    def not_after_s(self) -> float:
        """When the certificate in use expires, in seconds since 1970."""
        return self._material.value.not_after_s

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC server binds its port with."""
        material = self._given = self._material.value
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            _configuration(material), self._fetch, require_client_authentication=self._client_ca
        )
        return made

    def _fetch(self) -> Any:
        """Called by gRPC at every handshake; None keeps what it has. Must not raise."""
        material = self._material.value
        if material is self._given:
            return None
        self._given = material
        return _configuration(material)


def read_material(cert: Path, key: Path, client_ca: Path | None, date_s: float) -> Material:
    """Read and check the PEM files at the time `date_s`, in seconds since 1970.

    Raises:
        BadConfig: a file is no PEM, the key is another certificate's or has a passphrase, or the certificate has expired.
        OSError: a file cannot be read.
    """
    paths = [path for path in (cert, key, client_ca) if path is not None]
    data = [path.read_bytes() for path in paths]
    chain, private = data[:2]
    not_after_s = _not_after_s(cert, chain)
    _check_pair(cert, key)
    # The check reads the files by their paths. Where they changed meanwhile, it was not of these bytes.
    if [path.read_bytes() for path in paths] != data:
        raise BadConfig.of("tls_cert", f"{cert}, written while it was read", "files that are replaced by a rename")
    if client_ca is not None:
        _check_roots(client_ca, data[2])
    expires = datetime.fromtimestamp(not_after_s, UTC).isoformat(timespec="seconds")
    days = (not_after_s - date_s) / _DAY_S
    if days <= 0:
        raise BadConfig.of("tls_cert", f"{cert}, which expired at {expires}", "a certificate that is valid now")
    log.log(
        logging.WARNING if days < _WARN_DAYS else logging.INFO,
        "certificate %s expires at %s, in %.1f days",
        cert,
        expires,
        days,
    )
    if stat.S_IMODE(os.stat(key).st_mode) & 0o004:  # noqa: PTH116
        log.warning("%s, a private key, can be read by everybody on this machine: chmod 600", key)
    return Material(chain, private, data[2] if client_ca is not None else None, not_after_s)


def _configuration(material: Material) -> Any:
    return grpc.ssl_server_certificate_configuration([(material.key, material.chain)], material.client_ca)


def _check_pair(cert: Path, key: Path) -> None:
    def refuse() -> str:
        raise BadConfig.of("tls_key", f"{key}, which has a passphrase", "a key without one, readable by the server alone")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadConfig.of("tls_key", f"{key}, another key than that of {cert}", "the certificate's own key") from None
        raise BadConfig.of("tls_cert and tls_key", f"{cert} and {key}", f"two PEM files ({error.reason or error})") from None


def _check_roots(path: Path, data: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=data.decode("latin-1"))
    except (ssl.SSLError, ValueError) as error:
        raise BadConfig.of("tls_client_ca", str(path), f"a PEM file of root certificates ({error})") from None


def _not_after_s(path: Path, pem: bytes) -> float:
    """When the first certificate in a PEM file expires: X.509 (RFC 5280, section 4.1), of which only the way to it is read."""
    found = _PEM.search(pem)
    try:
        if found is None:
            raise ValueError("no BEGIN CERTIFICATE")
        der = base64.b64decode(found[1])
        _, at, _ = _element(der, 0)  # Certificate
        _, at, _ = _element(der, at)  # TBSCertificate
        tag, _, end = _element(der, at)
        if tag == 0xA0:  # version, which may be left out
            _, _, end = _element(der, end)  # serial number
        for _ in ("signature algorithm", "issuer"):
            _, _, end = _element(der, end)
        _, at, _ = _element(der, end)  # validity
        _, _, at = _element(der, at)  # not before
        tag, start, end = _element(der, at)  # not after
        text = der[start:end].decode("ascii")
        if tag == _UTC_TIME:  # two digits of the year: 50 to 99 are of the last century
            text = ("19" if text[:2] >= "50" else "20") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError("no date where one was expected")
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError) as error:
        raise BadConfig.of("tls_cert", str(path), f"a PEM file of a certificate ({error})") from None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the contents of the DER element at `at`."""
    tag, size, start = der[at], der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(der[start : start + count]), start + count
    if start + size > len(der):
        raise ValueError("it ends too early")
    return tag, start, start + size
