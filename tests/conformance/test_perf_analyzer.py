"""NVIDIA's perf_analyzer as shipped: the last one that runs on glibc before 2.38, which came in tritonclient's own wheel."""

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ServerProcess

# It is linked against CUDA's runtime even where no GPU is asked for.
REQUIREMENTS = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")


@pytest.fixture(scope="module")
def analyze(environment: Callable[..., str], server: ServerProcess) -> Callable[..., tuple[int, str, dict[str, Any]]]:
    """Run it against the server: its exit code, what it printed, and the profile that it wrote."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("its wheel is for Linux on x86-64: PERF_ANALYZER IS NOT TESTED")
    home = Path(environment(*REQUIREMENTS, dependencies=False)).parents[1]
    (cuda,) = home.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    binary = home / "bin" / "perf_analyzer"
    found = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join((str(cuda), os.environ.get("LD_LIBRARY_PATH", "")))}
    if subprocess.run([binary, "--version"], env=found, capture_output=True, check=False).returncode:
        pytest.skip("it does not start, for want of libb64.so.0d (Debian: libb64-0d)? PERF_ANALYZER IS NOT TESTED")

    def run(*arguments: object, folder: Path) -> tuple[int, str, dict[str, Any]]:
        profile = folder / "profile.json"
        command = [
            str(binary), "-i", "grpc", "-u", server.target, "--profile-export-file", str(profile),
            # Any measurement will do: nothing is claimed of how fast it is.
            "--measurement-mode", "count_windows", "--measurement-request-count", "20", "-r", "3", "-s", "100000",
            *map(str, arguments),
        ]  # fmt: skip
        done = subprocess.run(command, env=found, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
        return done.returncode, done.stdout + done.stderr, json.loads(profile.read_text()) if profile.exists() else {}

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "simple", "--concurrency-range", "2"),
        ("-m", "simple", "-x", "1", "-b", "4", "--concurrency-range", "2"),
        ("-m", "simple", "--concurrency-range", "4", "--async"),
        ("-m", "simple", "--concurrency-range", "4", "--async", "--streaming"),
        ("-m", "simple", "--shared-memory", "system"),
        ("-m", "simple", "--grpc-compression-algorithm", "gzip"),
        ("-m", "simple", "--request-rate-range", "100"),
        ("-m", "simple_string", "--string-data", "5"),
        ("-m", "simple_int8"),
        ("-m", "linear", "--concurrency-range", "2"),
    ],
    ids=" ".join,
)
def test_it_measures(
    analyze: Callable[..., tuple[int, str, dict[str, Any]]], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    code, said, profile = analyze(*arguments, folder=tmp_path)
    assert code == 0, said
    assert "throughput: 0 infer/sec" not in said
    requests = [request for experiment in profile["experiments"] for request in experiment["requests"]]
    assert len(requests) >= 20
    assert all(request["response_timestamps"] for request in requests)


def test_it_says_that_there_is_no_such_model(analyze: Callable[..., tuple[int, str, dict[str, Any]]], tmp_path: Path) -> None:
    code, said, _ = analyze("-m", "none", folder=tmp_path)
    assert code != 0
    assert "Request for unknown model: 'none' is not found" in said
