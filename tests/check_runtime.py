"""`make check-runtime`: the client and the server as a user installs them, apart from each other, scoring together.

Usage: check_runtime.py CLIENT_ENVIRONMENT SERVER_ENVIRONMENT. Not a pytest test: it needs two fresh installs.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bundles import linear_bundle

ABSENT = """
import importlib.util, sys
found = [name for name in {names} if importlib.util.find_spec(name)]
sys.exit(f"installed although it must not be: {{found}}" if found else 0)
"""
SCORE = """
import sys, numpy as np
from cutpoint.client import Client
with Client(sys.argv[1]) as client:
    x = np.eye(4, dtype=np.float32)
    made = client.calibrate("linear", "max_fbeta=1", targets=[[1], [0], [0], [0]], inputs=x)
    scores = client.score("linear", x)
assert made.activated and scores.decisions.ravel().tolist() == [True, False, False, False], scores
print("client and server, each from its own wheel install: scored, calibrated, decided")
"""


def main(client: Path, server: Path) -> None:
    """Check both environments; a failure is a non-zero exit."""
    for environment, names in (
        (client, ["torch", "onnxruntime", "scipy", "prometheus_client"]),
        (server, ["torch", "lightning"]),
    ):
        subprocess.run([environment / "bin/python", "-c", ABSENT.format(names=names)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        linear_bundle(models, labels=("a",))
        process = subprocess.Popen(
            [server / "bin/cutpoint", "serve", "--models", models, "--port", "0", "--metrics-port", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            found = re.match(r"serving grpc=(\S+)", process.stdout.readline())
            assert found, "the server did not start"
            subprocess.run([client / "bin/python", "-c", SCORE, found[1]], check=True)
            subprocess.run([client / "bin/cutpoint", "policy", "list", "linear", "--server", found[1]], check=True)
        finally:
            process.terminate()
            assert process.wait() == 0, "the server did not stop cleanly on SIGTERM"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
