"""Settings of the sampler."""

from typing import Literal

Sampler = Literal["none", "weighted"]
