"""The manifest: what a bundle says about its model, and nothing that changes while it is served.

FORMAT is an integer. To raise it: write the new number here, keep a reader for the old one beside it with a bundle of that
format in the tests, say in CHANGELOG what an old server does with a new bundle (it refuses it, naming the number), and never
change the meaning of a field under the same number. Adding an optional field needs no new number.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from ..validation import Record

FORMAT: Literal[1] = 1
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
POLICY_FILE = "policy.json"

Task = Literal["binary", "multilabel", "windows"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


class Input(Record):
    """The graph's one input.

    Attributes:
        name: tensor name.
        shape: sizes with the batch first; -1 is any size.
    """

    name: str = "x"
    datatype: Literal["FP32"] = "FP32"
    shape: tuple[int, ...]


class Windows(Record):
    """How a sequence is cut: `count` windows of `samples` points of `channels`; None where any number will do."""

    count: int | None = None
    samples: int = Field(gt=0)
    channels: int = Field(default=1, gt=0)
    rate_hz: float | None = Field(default=None, gt=0)


class LabelPrior(Record):
    """What training did to one label's prior, and what the graph undoes.

    Attributes:
        rate: share of positives among the labelled training entries, 0 to 1.
        sampled_rate: the same share as the sampler presents it, 0 to 1.
        pos_weight: weight of a positive over that of a negative in the loss (1 for none).
        shift: log-odds that the graph subtracts: log(pos_weight) + logit(sampled_rate) - logit(rate); where whole rows of
            several entries were sampled, the one at which the mean probability over the training rows is `rate`.
    """

    rate: float = Field(ge=0, le=1)
    sampled_rate: float = Field(ge=0, le=1)
    pos_weight: float = Field(gt=0)
    shift: float


class Loss(Record):
    """The training loss; alpha and gamma are set for focal only, whose inverse the graph applies before the shift."""

    name: Literal["weighted_bce", "weighted_ce", "focal"]
    alpha: float | None = None
    gamma: float | None = None


class Parity(Record):
    """Torch against onnxruntime on real rows.

    Attributes:
        max_abs_difference: largest difference of a logit.
        tolerance: what was allowed.
        batch_sizes: the batch sizes compared.
        rows: how many rows in all.
    """

    max_abs_difference: float = Field(ge=0)
    tolerance: float = Field(gt=0)
    batch_sizes: tuple[int, ...]
    rows: int


class Provenance(Record):
    """Where the model came from.

    Attributes:
        created: UTC time, ISO 8601.
        data_digest: SHA-256 of the training data's x and y.
        config_digest: SHA-256 of the training configuration.
        seed: of the split, the initial weights and the sampler.
        versions: of what made it: cutpoint, torch, onnxruntime, ...
        opset: ONNX opset of the graph.
        ir_version: ONNX IR version of the file.
    """

    created: str
    data_digest: str
    config_digest: str
    seed: int
    versions: dict[str, str]
    opset: int
    ir_version: int


class Manifest(Record):
    """Everything a server or a calibration needs to know about `model.onnx`.

    Attributes:
        labels: label names, in the order of the graph's last axis.
        preprocessing: what the graph does to its input first, in words.
        sampler: name of the training sampler.
        digests: SHA-256 by file name; `model.onnx` is always among them.
    """

    format: Literal[1] = FORMAT
    name: Name
    version: int = Field(ge=1)
    task: Task
    labels: tuple[str, ...] = Field(min_length=1)
    input: Input
    windows: Windows | None = None
    preprocessing: str = "none"
    loss: Loss
    sampler: str = "none"
    priors: tuple[LabelPrior, ...]
    parity: Parity
    provenance: Provenance
    digests: dict[str, str]

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):  # one series twice, and Prometheus refuses the whole scrape
            raise ValueError("labels must differ")
        return labels
