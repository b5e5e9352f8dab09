"""Settings of the training loop."""

from typing import Literal

from cutpoint.validation import Record
from pydantic import Field


class Fit(Record):
    """The training loop.

    Attributes:
        batch_size: rows (for windows: sequences) a step.
        schedule: of the learning rate: "cosine" falls to 0 over `epochs`.
        patience: epochs without a better validation AP before it stops.
        threads: of torch; None leaves torch's choice.
        accelerator: "cpu", "gpu", or "auto" for a GPU where there is one. Runs repeat bit for bit on the CPU.
    """

    epochs: int = Field(default=30, gt=0)
    batch_size: int = Field(default=64, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    patience: int = Field(default=10, gt=0)
    threads: int | None = Field(default=None, gt=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal[32] = 32
