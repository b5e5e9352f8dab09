"""A certificate authority of a test's own, by the command `openssl`: roots, servers' and clients' certificates."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the command openssl is not installed: TLS IS NOT TESTED"
)
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """Two PEM files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """A root with a key of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._serial = folder, 0
        self.root = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
        openssl(
            "req", "-x509", *_NEW_KEY, "-keyout", self.root.key, "-out", self.root.cert, "-days", 30, "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 30, names: str = "IP:127.0.0.1,DNS:localhost", file: str = "") -> Certificate:
        """A certificate for the common name `name`; with negative `days` it has expired.

        Args:
            name: the common name.
            days: how long it is valid.
            names: alternative names, as openssl writes them; "" for none.
            file: what the files are called; `name` by default.
        """
        self._serial += 1
        made = Certificate(self._folder / f"{file or name}.pem", self._folder / f"{file or name}.key")
        request, extensions = made.cert.with_suffix(".csr"), made.cert.with_suffix(".ext")
        openssl("req", *_NEW_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        extensions.write_text("basicConstraints=CA:FALSE\n" + (f"subjectAltName={names}\n" if names else ""))
        openssl(
            "x509", "-req", "-in", request, "-CA", self.root.cert, "-CAkey", self.root.key, "-set_serial", self._serial,
            "-days", days, "-extfile", extensions, "-out", made.cert,
        )  # fmt: skip
        return made


def openssl(*arguments: object) -> str:
    """Run the command; its output."""
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True, timeout=60).stdout
