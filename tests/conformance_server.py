"""What other people's clients ask the server of tests/conformance, and what is right."""

from collections.abc import Callable
from typing import Any

# Python, script, arguments to what the script found.
Ask = Callable[..., dict[str, Any]]

# Of the model `linear`, for [[1, 3, 0, 0], [0, 1, 0, 0]]; its cuts are 0.5 and 2.
LOGITS, DECISIONS = [[1, 3], [0, 1]], [[True, True], [False, False]]
