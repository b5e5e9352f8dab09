"""Let pytriton 0.7.0 run on Python 3.11.5 and newer: its interpreter is older than the standard library that it reads.

Its C `RLock` lacks `_recursion_count`, which multiprocessing's resource tracker asks for; the one written in Python has it.
"""

# ruff: noqa: D103

import importlib.util
from pathlib import Path

MARK = "# Written by bench/peers/pytriton/patch.py."
PATCH = f"""{MARK}
from multiprocessing import resource_tracker as _tracker

if not hasattr(_tracker._resource_tracker._lock, "_recursion_count"):
    _tracker._resource_tracker._lock = threading._PyRLock()

LOGGER = logging.getLogger(__name__)
"""


def main() -> None:
    found = importlib.util.find_spec("pytriton")
    assert found is not None and found.origin is not None
    file = Path(found.origin).parent / "proxy" / "data.py"
    text = file.read_text()
    if MARK not in text:
        file.write_text(text.replace("LOGGER = logging.getLogger(__name__)\n", PATCH, 1))


if __name__ == "__main__":
    main()
