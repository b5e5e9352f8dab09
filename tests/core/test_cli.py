"""The command: light, one line per error."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cutpoint.cli import COMMANDS
from processes import ENVIRONMENT, cutpoint

HEAVY = ("torch", "onnxruntime", "grpc", "sklearn", "scipy", "lightning", "onnx", "matplotlib", "prometheus_client")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False,
    )  # fmt: skip


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    done = run_python(
        "import sys\n"
        "sys.argv = ['cutpoint', '--help']\n"
        "from cutpoint.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    assert done.returncode == 0, done.stderr
    for name, (_, _, line) in COMMANDS.items():
        assert name in done.stdout
        assert line.split(",")[0][:30] in done.stdout
    assert "Start with: cutpoint demo" in done.stdout


@pytest.mark.parametrize("command", ["serve", "score", "policy", "outcomes"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = cutpoint(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: cutpoint {command}" in " ".join(done.stdout.split())


@pytest.mark.parametrize("action", ["list", "get", "activate", "calibrate"])
def test_every_policy_command_has_help_with_an_example(action: str) -> None:
    done = cutpoint("policy", action, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: cutpoint policy {action}" in " ".join(done.stdout.split())


def test_the_modules_named_are_there() -> None:
    for module, _, _ in COMMANDS.values():
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("score", "nothing.npz", "--model", "m"),
            "error: data path is nothing.npz (no such file); expected an .npz file or a folder",
        ),
        (("serve", "--models", "nowhere"), "error: models folder is nowhere; expected a folder holding"),
        (("policy", "list", "m", "--server", "127.0.0.1:1", "--timeout-s", "5"), "error: server 127.0.0.1:1 does not answer"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    done = cutpoint(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(text), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_unknown_command_or_option_is_exit_code_2() -> None:
    for arguments in (("nonsense",), ("serve", "--nonsense"), ("score",)):
        done = cutpoint(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_pickle_in_an_npz_is_exit_code_2(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([{}, {}]))
    done = cutpoint("score", tmp_path / "d.npz", "--model", "m")
    assert done.returncode == 2
    assert "pickled object array" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "said"), [("serve", "-event_engine_listener"), ("score", "None")])
def test_only_a_server_has_its_own_thread_read_the_sockets(command: str, said: str) -> None:
    done = run_python(
        "import os, sys\n"
        "from cutpoint.cli import main\n"
        "assert 'grpc' not in sys.modules\n"  # which reads it once, when it is imported
        "try:\n    main()\nexcept SystemExit:\n    print(os.environ.get('GRPC_EXPERIMENTS'))\n",
        command, "--help",
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [("serve", "onnxruntime", "server"), ("serve", "prometheus_client", "server"), ("train", "torch", "trainer")],
)
def test_a_missing_part_names_the_extra(command: str, missing: str, extra: str) -> None:
    done = run_python(
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"  # what import sees as not installed
        "from cutpoint.cli import main\n"
        "main()\n",
        command, "--help",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"error: cutpoint {command} needs the package {missing}: pip install 'cutpoint[{extra}]'\n"


def test_commands_match_the_documented_extras() -> None:
    assert json.dumps(sorted(COMMANDS)) == json.dumps(
        [
            "calibrate",
            "demo",
            "evaluate",
            "export",
            "histogram",
            "import",
            "outcomes",
            "policy",
            "report",
            "score",
            "serve",
            "token",
            "train",
            "tune",
            "watch",
        ]
    )
