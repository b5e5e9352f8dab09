"""Which servers: one, several, or whatever a name stands for."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cutpoint.errors import BadConfig, Unavailable

_ALONE = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:", "vsock:")  # gRPC's own ways to write a target


@dataclass(frozen=True)
class Servers:
    """The servers of a client, as they were given."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, servers: str | Sequence[str]) -> Self:
        """From "host:port", a list of them, or a target as gRPC writes it ("dns:///name:port", "unix:/path")."""
        names = (servers,) if isinstance(servers, str) else tuple(servers)
        if not names:
            raise BadConfig.of("servers", "empty", '"host:port", or a list of them')
        if len(set(names)) < len(names):
            raise BadConfig.of("servers", ", ".join(names), "each once")
        for name in names:
            if not name.startswith(_ALONE):
                _host_and_port(name)
            elif len(names) > 1:
                raise BadConfig.of("servers", ", ".join(names), f'"host:port" each; "{name}" stands alone')
        return cls(names)

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def said(self) -> str:
        """What an error calls them: which one of several it was, gRPC does not say."""
        return f"server {self}" if len(self.names) == 1 else f"one of the servers {self}"

    @property
    def balanced(self) -> bool:
        """Whether calls go to each in turn."""
        return len(self.names) > 1 or self.names[0].startswith(_ALONE)

    @property
    def hosts(self) -> frozenset[str]:
        """The names of the machines, where there are several servers."""
        return frozenset(_host_and_port(name)[0] for name in self.names) if len(self.names) > 1 else frozenset()

    @property
    def here(self) -> bool:
        """Whether what is sent stays on this machine."""
        return all(_is_here(name) for name in self.names)

    def target(self) -> str:
        """What gRPC connects to. Names in a list are looked up now, once: gRPC has no target of several names.

        Raises:
            Unavailable: a name in a list is not known.
            BadConfig: the servers of a list have no kind of address in common.
        """
        if len(self.names) == 1:
            return self.names[0]
        found = {name: _addresses(name) for name in self.names}
        for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
            if all(family in addresses for addresses in found.values()):
                return f"{scheme}:" + ",".join(dict.fromkeys(found[name][family] for name in self.names))
        raise BadConfig.of("servers", str(self), "all of them with an IPv4 address, or all with an IPv6 one")


def _host_and_port(name: str) -> tuple[str, int]:
    host, colon, port = name.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not port.isdecimal() or not 0 < int(port) < 1 << 16 or (":" in bare) != (bare != host):
        raise BadConfig.of("server", repr(name), '"host:port", as "127.0.0.1:8001" or "[::1]:8001"')
    return bare, int(port)


def _is_here(name: str) -> bool:
    if name.startswith(("unix:", "unix-abstract:")):
        return True
    if name.startswith(_ALONE):
        return False
    host, _ = _host_and_port(name)
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _addresses(name: str) -> dict[int, str]:
    """The first address of each kind, with the port."""
    host, port = _host_and_port(name)
    try:
        lines = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"server {name} is not known: {error.strerror}") from error
    found: dict[int, str] = {}
    for family, _, _, _, address in lines:
        found.setdefault(family, f"[{address[0]}]:{port}" if family == socket.AF_INET6 else f"{address[0]}:{port}")
    return found
