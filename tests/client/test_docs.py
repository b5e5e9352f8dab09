"""The snippets of docs/client.md run as they stand, against fake servers."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from authority import Authority, needs_openssl
from cutpoint.client.testing import FakeServer
from processes import ENVIRONMENT, ROOT

TEXT = Path(os.environ.get("CLIENT_DOCS", ROOT / "docs/client.md")).read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PROGRAMS = [block for block in BLOCKS if not block.startswith("# ")]
FILES = {block[2 : block.index("\n")]: block for block in BLOCKS if block.startswith("# ")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[list[FakeServer]]:
    """Two without TLS, and one that asks for a certificate, whose files are in the folder."""
    authority = Authority(folder, "ca")
    theirs, mine = authority.issue("server"), authority.issue("me")
    (folder / "token").write_text("abc")
    tls = grpc.ssl_server_credentials(
        [(theirs.key.read_bytes(), theirs.cert.read_bytes())], authority.root.cert.read_bytes(), require_client_auth=True
    )
    assert mine.cert == folder / "me.pem"
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                FakeServer(lambda x: x[:, :1], model="pumps", labels=["leak"], thresholds=0.5, credentials=each)
            )
            for each in (None, None, tls)
        ]


@needs_openssl
@pytest.mark.parametrize("block", PROGRAMS)
def test_a_snippet_runs(block: str, folder: Path, servers: list[FakeServer]) -> None:
    one, two, secure = (server.target for server in servers)
    text = block.replace("127.0.0.1:8001", secure if "tls_ca" in block else one).replace("127.0.0.1:8002", two)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_example_of_a_users_tests_passes(tmp_path: Path) -> None:
    assert len(FILES) == 2
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
