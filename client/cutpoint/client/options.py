"""The options of every command that talks to a server, written once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .client import TIMEOUT_S, Client
from .connection import Connection

_Server = Annotated[str, typer.Option(help="Where the server listens.", metavar="HOST:PORT")]
_Timeout = Annotated[float, typer.Option(help="Deadline of each request, in seconds.")]
_Tls = Annotated[bool, typer.Option("--tls", help="Encrypt; each of the other --tls options asks for it too.")]
_Ca = Annotated[Path | None, typer.Option(help="PEM of the authority that signed the server's certificate.", metavar="FILE")]
_Cert = Annotated[Path | None, typer.Option(help="PEM of your certificate, where the server asks for one.", metavar="FILE")]
_Key = Annotated[Path | None, typer.Option(help="PEM of its key.", metavar="FILE")]
_Token = Annotated[Path | None, typer.Option(help="A file with the token that says who you are.", metavar="FILE")]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "server": (_Server, "127.0.0.1:8001"),
    "timeout_s": (_Timeout, TIMEOUT_S),
    "tls": (_Tls, False),
    "tls_ca": (_Ca, None),
    "tls_cert": (_Cert, None),
    "tls_key": (_Key, None),
    "token_file": (_Token, None),
}


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Have a command, whose first argument is a `Client`, take the options of a connection in its place."""
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def run(*, server: str, timeout_s: float, **given: Any) -> None:
        settings = {name: given.pop(name) for name in _OPTIONS if name in given}
        with Client(server, Connection(**settings), timeout_s=timeout_s) as client:
            command(client, **given)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    # What typer reads a command's options from.
    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
    return run
