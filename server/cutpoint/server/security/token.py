"""`cutpoint token`: a new token, shown once, and the line by which a server recognises it."""

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from .guard import check_caller_name, digest_of, read_callers

app = typer.Typer()


@app.command(epilog="Example: cutpoint token edge-7 --role score --tokens tokens")
def token(
    name: Annotated[str, typer.Argument(help="Who will use it; the author of the policies that it makes.")],
    role: Annotated[
        Literal["score", "calibrate", "admin"], typer.Option(help="What it may do; each includes those before it.")
    ] = "score",
    tokens: Annotated[Path | None, typer.Option(help="File to add the line to; made where it does not exist.")] = None,
) -> None:
    """Make a token: printed on standard output, once; the server's file of --tokens holds only its SHA-256."""
    check_caller_name(name)
    # 256 random bits: nobody finds them from their SHA-256, so the file needs no slow hash and a request costs microseconds.
    made = secrets.token_urlsafe(32)
    line = f"{name} {role} {digest_of(made).hex()}\n"
    if tokens is None:
        print(
            f"the line for the file of --tokens:\n{line}the token, which nothing can show again:", file=sys.stderr, flush=True
        )
    else:
        add_line(tokens, line)
        print(f"{tokens} has a line for it; the token, which nothing can show again:", file=sys.stderr, flush=True)
    print(made)


def add_line(path: Path, line: str) -> None:
    """Add a line to a file of tokens, by one write; a new file may be read by its owner alone.

    Raises:
        BadConfig: the file is none of tokens, so that nothing is added.
    """
    if path.exists() and path.read_bytes().strip():
        read_callers(path)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())
        os.fsync(file.fileno())
