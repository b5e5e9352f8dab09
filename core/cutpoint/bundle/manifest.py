"""The manifest: what a bundle says about its model, and nothing that changes while it is served.

FORMAT is an integer. To raise it: write the new number here, keep a reader for the old one beside it with a bundle of that
format in the tests, say in CHANGELOG what an old server does with a new bundle (it refuses it, naming the number), and never
change the meaning of a field under the same number. Adding an optional field needs no new number.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ..validation import Record

FORMAT: Literal[2] = 2
MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
POLICY_FILE = "policy.json"

Task = Literal["binary", "multilabel", "windows"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
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
    """How a sequence is cut: `count` windows of `samples` points of `channels`; None where any number will do.

    Attributes:
        trained_count: windows of the sequences that it was trained on; None where nobody knows.
        context: how many windows either way can change a window's logit; None where that is unknown, or the whole sequence is
            looked at.
    """

    count: int | None = None
    samples: int = Field(gt=0)
    channels: int = Field(default=1, gt=0)
    rate_hz: float | None = Field(default=None, gt=0)
    trained_count: int | None = Field(default=None, gt=0)
    context: int | None = Field(default=None, ge=0)


class LabelPrior(Record):
    """What training did to one label's prior, and what the graph undoes.

    The graph gives `slope` * inverse(z) - `shift` for a training logit z, where `inverse` is that of the loss (the identity for
    cross-entropy).

    Attributes:
        rate: share of positives among the labelled training entries, 0 to 1.
        sampled_rate: the same share as the sampler presents it, 0 to 1.
        pos_weight: weight of a positive over that of a negative in the loss (1 for none).
        shift: log-odds that the graph subtracts.
        slope: 1 but where `undone` is "fitted".
        undone: "closed_form": shift is log(pos_weight) + logit(sampled_rate) - logit(rate). "matched": whole rows of several
            entries were sampled; shift is the one at which the mean probability over the training rows is `rate`. "fitted":
            the loss has no inverse; slope and shift are the logistic fit to the validation rows.
    """

    rate: float = Field(ge=0, le=1)
    sampled_rate: float = Field(ge=0, le=1)
    pos_weight: float = Field(gt=0)
    shift: float
    slope: float = Field(default=1.0, gt=0)
    undone: Literal["closed_form", "matched", "fitted"] = "closed_form"


class Loss(Record):
    """The training loss and its parameters, as configured; what it did to each label is in the priors."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Parity(Record):
    """The graph against what it was made from (torch, or the graph that was imported) on real rows.

    Of a lower precision: how far the fp32 graph that it was made from is; what it adds itself is its cost.

    Attributes:
        max_abs_difference: largest difference of a logit.
        tolerance: what was allowed.
        batch_sizes: the batch sizes compared.
        window_counts: the numbers of windows compared, where the graph takes any.
        rows: how many rows in all; those of the largest magnitude are among them.
        batch_difference: largest difference of a logit of this graph between a row alone and in a batch; None where nobody
            looked.
    """

    max_abs_difference: float = Field(ge=0)
    tolerance: float = Field(gt=0)
    batch_sizes: tuple[int, ...]
    window_counts: tuple[int, ...] = ()
    rows: int
    batch_difference: float | None = Field(default=None, ge=0)


class Provenance(Record):
    """Where the model came from.

    Attributes:
        created: UTC time, ISO 8601.
        data_digest: SHA-256 of the training data's x and y; None for an imported model.
        config_digest: SHA-256 of the training configuration; None for an imported model.
        seed: of the split, the initial weights and the sampler; None for an imported model.
        versions: of what made it: cutpoint, torch, onnxruntime, ...
        opset: ONNX opset of the graph.
        ir_version: ONNX IR version of the file.
    """

    created: str
    data_digest: str | None = None
    config_digest: str | None = None
    seed: int | None = None
    versions: dict[str, str]
    opset: int
    ir_version: int


class LabelCost(Record):
    """What a precision costs one label, on the rows of `PrecisionCost`.

    Attributes:
        average_precision: of this graph, 0 to 1.
        reference: that of the fp32 graph on the same rows.
        low, high: 95 % interval of the loss, `reference` less `average_precision`, by bootstrap of whole rows (groups where the
            data have them), both graphs on the same draws; None where there are too few positives for one.
    """

    label: str
    average_precision: float = Field(ge=0, le=1)
    reference: float = Field(ge=0, le=1)
    low: float | None = None
    high: float | None = None


class PrecisionCost(Record):
    """What a graph of lower precision loses against the fp32 graph of the same run.

    Attributes:
        loss: mean over the labels of `reference` less `average_precision`; below 0 where it is better by chance.
        low, high: 95 % interval of `loss`, as those of the labels.
        max_abs_difference: largest difference of a logit.
        rows: how many rows were compared, none of which trained the model or calibrated the quantisation.
        labels: those with positives among these rows.
    """

    loss: float
    low: float | None = None
    high: float | None = None
    max_abs_difference: float = Field(ge=0)
    rows: int
    labels: tuple[LabelCost, ...] = Field(min_length=1)


class Manifest(Record):
    """Everything a server or a calibration needs to know about `model.onnx`.

    Attributes:
        origin: "trained" by Cutpoint, or "imported" from elsewhere; only the former has loss and priors.
        labels: label names, in the order of the graph's last axis.
        precision: of the layers but the last; input, preprocessing and logits are float32 always.
        cost: of the precision, or of a provider that computes in another one; None for fp32 computed as it is.
        preprocessing: what the graph does to its input first, in words.
        sampler: name of the training sampler.
        sampler_parameters: its settings, as configured; empty where it has none, and in older manifests.
        digests: SHA-256 by file name; `model.onnx` is always among them.
    """

    format: Literal[2] = FORMAT
    origin: Literal["trained", "imported"] = "trained"
    name: Name
    version: int = Field(ge=1)
    task: Task
    labels: tuple[str, ...] = Field(min_length=1)
    input: Input
    windows: Windows | None = None
    preprocessing: str = "none"
    precision: Precision = "fp32"
    cost: PrecisionCost | None = None
    loss: Loss | None = None
    sampler: str = "none"
    sampler_parameters: dict[str, Any] = Field(default_factory=dict)
    priors: tuple[LabelPrior, ...] = ()
    parity: Parity
    provenance: Provenance
    digests: dict[str, str]

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):  # one series twice, and Prometheus refuses the whole scrape
            raise ValueError("labels must differ")
        return labels

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, document: Any) -> Any:
        """A document of format 1, whose loss had alpha and gamma only, as one of format 2."""
        if not isinstance(document, dict) or document.get("format") != 1:
            return document
        loss = document.get("loss")
        if isinstance(loss, dict):
            known = {key: loss[key] for key in ("alpha", "gamma") if loss.get(key) is not None}
            loss = {"name": loss.get("name"), "parameters": known}
        return {**document, "format": FORMAT, "loss": loss}
