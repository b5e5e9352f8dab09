"""The training configuration: one frozen tree, read from YAML, overridden from the command line.

    name: bearing                        # of the model
    task: windows                        # binary | multilabel | windows
    data: {path: data/bearing.npz}       # relative to where the command runs
    split: {by: group, train: 0.6, valid: 0.2, test: 0.2}
    model: {kind: window_encoder, channels: [16, 32], kernels: [9, 9], strides: [4, 4]}
    loss: {name: weighted_bce, pos_weight: auto}
    sampler: none                        # none | weighted
    fit: {epochs: 20, batch_size: 8, learning_rate: 0.001}
    seed: 0

Every key that is left out has the default written below; an unknown key is an error.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from cutpoint.bundle.manifest import Name, Task
from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import BeforeValidator, Field, ValidationError, model_validator


class Data(Record):
    """The labelled data; `rate_hz` is the sample rate of windows, kept in the manifest."""

    path: Path
    rate_hz: float | None = Field(default=None, gt=0)


class GivenSplit(Record):
    """The data's own `train`, `valid` and `test` row indices."""

    by: Literal["given"] = "given"


class SharedSplit(Record):
    """Shares of the rows, which sum to 1 (test may have none).

    "group" keeps rows of one group together, "time" trains on the oldest, "random" deals rows out.
    """

    by: Literal["group", "time", "random"]
    train: float = Field(default=0.6, gt=0, lt=1)
    valid: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if not math.isclose(self.train + self.valid + self.test, 1, abs_tol=1e-9):
            raise BadConfig.of("split", f"{self.train:g} + {self.valid:g} + {self.test:g}", "shares that sum to 1")
        return self


class Preprocessing(Record):
    """What the graph does to its input first, with figures measured on the training split.

    Attributes:
        log_input: x becomes log(|x| + floor), the floor a thousandth of the root mean square; for amplitudes and spectra.
        normalize: "standard" subtracts the mean and divides by the standard deviation, per feature or per channel.
    """

    log_input: bool = False
    normalize: Literal["standard", "none"] = "standard"


class MLPModel(Preprocessing):
    """A multi-layer perceptron for [batch, feature]; `hidden` may be empty, which is logistic regression."""

    kind: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = (64, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class WindowEncoderModel(Preprocessing):
    """Convolutions in each window, pooled, then convolutions across windows; for [batch, window, (channel,) sample].

    Attributes:
        channels: width of each convolution in a window; `kernels` (odd) and `strides` have as many entries.
        norm: normalisation after each of them.
        window_norm: give each window zero mean and unit deviation first; its log deviation is kept as a feature.
        sequence_norm: take from each window's features their mean over the sequence: a window is held against what is usual
            for its sequence (a patient, a machine), and its score then depends on the whole sequence.
        context: width across windows; 0 pools straight into the head, so that windows do not see each other.
        context_layers: residual layers across windows, dilated 1, 2, 4, ...: a window sees 2^layers - 1 on either side.
        dropout: share of features dropped before the head and in the context.
    """

    kind: Literal["window_encoder"]
    channels: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(16, 32, 64), min_length=1)
    kernels: tuple[Annotated[int, Field(gt=0)], ...] = (9, 9, 9)
    strides: tuple[Annotated[int, Field(gt=0)], ...] = (4, 4, 4)
    norm: Literal["batch", "group", "none"] = "batch"
    window_norm: bool = False
    sequence_norm: bool = False
    context: int = Field(default=64, ge=0)
    context_layers: int = Field(default=2, ge=0, le=10)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _layers_agree(self) -> Self:
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            found = f"{len(self.channels)}, {len(self.kernels)} and {len(self.strides)}"
            raise BadConfig.of("model: lengths of channels, kernels and strides", found, "the same length, one per layer")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise BadConfig.of("model.kernels", list(self.kernels), "odd numbers")
        return self


class ImportModel(Preprocessing):
    """Anybody's `torch.nn.Module`: preprocessed x in, logits [batch, ..., label] out ([batch, 2, ...] for weighted_ce).

    Attributes:
        path: `package.module:Class`; the current folder is searched too.
        arguments: of its constructor.
        any_windows: whether it takes any number of windows.
    """

    kind: Literal["import"]
    path: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    any_windows: bool = False


def _pos_weight(value: Any) -> Any:
    # One message for the four forms, where a union would give four.
    if value in ("auto", "sqrt"):
        return value
    listed = value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(float(number) for number in listed)
    except (TypeError, ValueError):
        numbers = ()
    if numbers and all(0 < number < math.inf for number in numbers):
        return numbers if listed is value else numbers[0]
    raise ValueError("expected auto, sqrt, a positive number, or a list of positive numbers, one per label")


Positive = Annotated[float, Field(gt=0)]
PosWeight = Annotated[Literal["auto", "sqrt"] | float | tuple[float, ...], BeforeValidator(_pos_weight)]


class WeightedBCELoss(Record):
    """Binary cross-entropy whose positives weigh `pos_weight`.

    auto is negatives over positives per label, as the sampler presents them; sqrt its square root.
    """

    name: Literal["weighted_bce"]
    pos_weight: PosWeight = "auto"


class WeightedCELoss(Record):
    """Cross-entropy of two classes, for one label; `class_weight` is that of negatives, then of positives."""

    name: Literal["weighted_ce"]
    class_weight: Literal["auto"] | tuple[Positive, Positive] = "auto"


class FocalLoss(Record):
    """Focal loss (Lin 2017); `alpha` weighs positives and 1 - alpha negatives, `gamma` 0 is plain cross-entropy."""

    name: Literal["focal"]
    alpha: float = Field(default=0.25, gt=0, lt=1)
    gamma: float = Field(default=2.0, ge=0, le=10)


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


Split = Annotated[GivenSplit | SharedSplit, Field(discriminator="by")]
Model = Annotated[MLPModel | WindowEncoderModel | ImportModel, Field(discriminator="kind")]
Loss = Annotated[WeightedBCELoss | WeightedCELoss | FocalLoss, Field(discriminator="name")]


class Config(Record):
    """Everything a training run depends on, apart from the data themselves.

    Attributes:
        name: of the model that is exported.
        sampler: "weighted" draws rows that hold a positive as often as those that hold none.
        seed: of the split, the initial weights, the order of rows and the sampler.
        out: the run folder; runs/<name> when left out.
    """

    name: Name
    task: Task
    data: Data
    split: Split
    model: Model
    loss: Loss
    sampler: Literal["none", "weighted"] = "none"
    fit: Fit = Fit()
    seed: int = Field(default=0, ge=0, lt=2**32)
    out: Path | None = None

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        windows = self.task == "windows"
        if self.model.kind == ("mlp" if windows else "window_encoder"):
            wanted = "window_encoder" if windows else "mlp"
            raise BadConfig.of("model.kind", self.model.kind, f"{wanted} or import for task {self.task}")
        if self.loss.name == "weighted_ce" and self.task == "multilabel":
            raise BadConfig.of("loss.name", "weighted_ce", "weighted_bce or focal for several labels; it has two classes")
        if self.data.rate_hz is not None and not windows:
            raise BadConfig.of("data.rate_hz", self.data.rate_hz, f"no rate for task {self.task}")
        return self

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / self.name

    def digest(self) -> str:
        """SHA-256, in hex, of the settings; where data and run lie does not count."""
        settings = self.model_dump(mode="json", exclude={"out": True, "data": {"path"}})
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """The document with every default written out; `parse_config` of it gives an equal Config."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_config(path: str | Path, overrides: Sequence[str] = (), out: Path | None = None) -> Config:
    """Read a YAML file.

    `overrides` are `key.key=value`, the value in YAML, applied in order over the file; `out` is the run folder, over both.

    Raises:
        BadConfig: no such file, not YAML, an unknown key, a value out of range; the message names file, field and value.
    """
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig.of("config file", str(path), f"a readable YAML file ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise BadConfig.of(f"{path}: document", type(found).__name__, "a mapping of settings")
    for override in overrides:
        _override(found, override)
    if out is not None:
        found["out"] = str(out)
    return parse_config(found, str(path))


def parse_config(settings: Mapping[str, Any], source: str = "config") -> Config:
    """Validate a mapping; `source` names it in the BadConfig that is raised for what is wrong with it."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        cause = error.errors(include_url=False)[0].get("ctx", {}).get("error")
        if isinstance(cause, BadConfig):
            raise BadConfig(f"{source}: {cause}") from error
        raise BadConfig(f"{source}: {_as_written(first_problem(error))}") from error


def _override(settings: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise BadConfig.of("--set", text, "key.key=value, as in fit.epochs=20")
    for part in parts[:-1]:
        settings = settings.setdefault(part, {})
        if not isinstance(settings, dict):
            raise BadConfig.of(f"--set {key}", part, "a section; this one holds a value")
    try:
        settings[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadConfig.of(f"--set {key}", value, "a YAML value") from error


def _as_written(problem: str) -> str:
    # pydantic names a field of one of several kinds `model.mlp.hidden`; the file says `model.hidden`.
    kinds = "given|group|time|random|mlp|window_encoder|import|weighted_bce|weighted_ce|focal"
    return re.sub(rf"\b(model|loss|split)\.(?:{kinds})\.", r"\1.", problem)
