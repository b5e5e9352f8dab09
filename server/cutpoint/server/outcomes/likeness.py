"""Whether two answers are one, given twice."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A run of the same row in another batch differs in its last digits.
_TOLERANCE = 1e-3


def alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether logits of the same shape are the same but for the batch that they were computed in; NaN is like NaN alone."""
    return bool(np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
