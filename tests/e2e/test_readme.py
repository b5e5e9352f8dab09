"""The README's session runs as it stands, in an empty folder, against a real server."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from processes import ENVIRONMENT, ROOT, ServerProcess, serving

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_session_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    session = text[text.index("## On your own data") : text.index("## More")]
    environment = ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    server: ServerProcess | None = None
    printed = []
    with ExitStack() as stack:
        for language, block in BLOCK.findall(session):
            if language == "yaml":
                name = re.match(r"# (\S+)\n", block)
                assert name, f"the first line of a yaml block names its file: {block}"
                (tmp_path / name[1]).write_text(block)
            elif language == "python":
                printed.append(_run([sys.executable, "-W", "error", "-c", _on(server, block)], tmp_path, environment))
            elif language == "sh":
                for line in block.strip().splitlines():
                    if line == "cutpoint serve --models models":  # on free ports, since it is not alone on this machine
                        server = stack.enter_context(serving(tmp_path / "models"))
                        continue
                    elsewhere = server is not None and re.match(r"cutpoint (score|policy) ", line)
                    whole = f"{line} --server {server.target}" if elsewhere and server else line
                    printed.append(_run(["bash", "-euo", "pipefail", "-c", _on(server, whole)], tmp_path, environment))
            else:
                raise AssertionError(f"a block without a language that is run: {block}")
    everything = "\n".join(printed)
    assert server is not None
    assert "('fault',)" in everything
    assert "expected [-1, 8]" in everything  # the BadRequest of the asynchronous snippet
    assert "policy 1 of mine is active (before: 2)" in everything
    assert 'cutpoint_expected_positives_total{label="fault",model="mine",version="1"}' in everything


def test_the_two_commands_and_every_target_exist() -> None:
    listed = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    for target in ("demo", "test", "lint", "proto", "runtime"):
        assert f"make {target} " in listed
    assert (ROOT / "docs/images/demo.png").stat().st_size > 10_000


def test_make_says_how_to_mend_a_python_without_venv(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    copy = tmp_path / "clone"
    copy.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run(["make", "-C", copy, "test", f"PYTHON={python}"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "sudo apt-get install -y python3-venv python3-pip" in done.stdout


def _on(server: ServerProcess | None, text: str) -> str:
    if server is None:
        return text
    return text.replace("127.0.0.1:8001", server.target).replace("http://127.0.0.1:8002/metrics", server.metrics_url)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout
