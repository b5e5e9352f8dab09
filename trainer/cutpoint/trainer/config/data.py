"""Where the data lie and how they are split."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from cutpoint.errors import BadConfig
from cutpoint.validation import Record
from pydantic import Field, model_validator


class Data(Record):
    """The labelled data; `rate_hz` is the sample rate of windows, kept in the manifest."""

    path: Path
    rate_hz: float | None = Field(default=None, gt=0)


class GivenSplit(Record):
    """The data's own `train`, `valid` and `test` row indices."""

    by: Literal["given"] = "given"


class SharedSplit(Record):
    """Shares of the rows, which sum to 1 (test may have none).

    "group" keeps rows of one group together, "time" trains on the oldest, "random" deals rows out. `seed` is of the order in
    which groups are placed and rows are dealt; None for that of the configuration.
    """

    by: Literal["group", "time", "random"]
    train: float = Field(default=0.6, gt=0, lt=1)
    valid: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    seed: int | None = Field(default=None, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if not math.isclose(self.train + self.valid + self.test, 1, abs_tol=1e-9):
            raise BadConfig.of("split", f"{self.train:g} + {self.valid:g} + {self.test:g}", "shares that sum to 1")
        return self


Split = Annotated[GivenSplit | SharedSplit, Field(discriminator="by")]
