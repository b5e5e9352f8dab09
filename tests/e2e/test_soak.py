"""The short form of `make bench-soak`: a few hundred requests of each client, disturbed all the while."""

import subprocess
import sys

from processes import ENVIRONMENT, ROOT

SOAK = ROOT / "bench" / "soak.py"


def test_under_mixed_load_and_disturbance_every_answer_is_right_and_none_is_lost() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--requests", "500", "--every-s", "0.25", "--minutes", "5"],
        capture_output=True, text=True, timeout=420, check=False, env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "wrong answers" in done.stdout
