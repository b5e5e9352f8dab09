"""Settings of the training loop."""

from typing import Annotated, Any, Literal, Self

from cutpoint.errors import BadConfig
from cutpoint.validation import Record
from pydantic import BeforeValidator, Field, model_validator

Log = Literal["csv", "tensorboard"]


# What is left out of `fit` is by the kind of model; what is not here is as in Fit. Window encoders see few, long sequences of
# few patients or machines: small steps, averaged weights, and no epoch chosen by what a handful of them looks like.
DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "mlp": {"learning_rate": 0.003},
    "window_encoder": {
        "epochs": 20, "batch_size": 4, "learning_rate": 0.005, "weight_decay": 0.02, "clip": 1.0, "warmup": 0.1, "ema": 0.98,
        "keep": "last",
    },
}  # fmt: skip


class Fit(Record):
    """The training loop.

    Attributes:
        batch_size: rows (for windows: sequences) an optimiser step, over all processes and parts.
        micro_batch: rows that a process holds at once: parts of a step's rows, whose gradients add up to the same. None: all.
        learning_rate: of AdamW, at its highest.
        clip: the largest norm of the gradient of a step, over all weights; None does not clip.
        schedule: of the learning rate: "cosine" falls to 0 over `epochs`.
        warmup: share of all steps over which the learning rate rises to its highest.
        ema: how much of the moving average of the weights a step keeps, as 0.98; the average is then what is validated and
            kept. None: the weights themselves.
        keep: whose weights: of the "best" epoch by validation AP, which also stops the training; or of the "last", where the
            validation rows are too few, or of too few groups, to tell epochs apart.
        patience: epochs without a better validation AP before it stops; of no meaning with keep: last.
        checkpoint_steps: steps between checkpoints within an epoch, beside the one at its end; None: only that.
        threads: of torch; None leaves torch's choice.
        accelerator: "cpu", "gpu", or "auto" for a GPU where there is one. Runs repeat bit for bit on the CPU.
        devices: processes, each with a device of its own (on the CPU: processes); `torchrun` says how many in its place.
        precision: 32, or mixed: half precision in the model, float32 weights and losses. 16-mixed needs a GPU.
        log: what is written into `logs` of the run folder, step by step.
    """

    epochs: int = Field(default=30, gt=0)
    batch_size: int = Field(default=64, gt=0)
    micro_batch: int | None = Field(default=None, gt=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    keep: Literal["best", "last"] = "best"
    patience: int = Field(default=10, gt=0)
    checkpoint_steps: int | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, gt=0)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, gt=0)
    precision: Literal[32, "bf16-mixed", "16-mixed"] = 32
    log: Annotated[tuple[Log, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)] = ("csv",)

    @model_validator(mode="after")
    def _precision_fits(self) -> Self:
        if self.precision == "16-mixed" and self.accelerator == "cpu":
            raise BadConfig.of("fit.precision", "16-mixed", "32 or bf16-mixed for fit.accelerator cpu; it needs a GPU")
        return self
