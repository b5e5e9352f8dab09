"""What promtool says of an exposition."""

import shutil
import subprocess
import warnings

import pytest


def faults(text: bytes) -> str:
    """What `promtool check metrics` finds wrong, nothing where all is right; the test is skipped where there is no promtool."""
    promtool = shutil.which("promtool")
    if promtool is None:
        warnings.filterwarnings("default", message="promtool")
        warnings.warn("promtool is not installed: the exposition format went unchecked", stacklevel=1)
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode()
    return said or (f"exit code {done.returncode}" if done.returncode else "")
