"""The training configuration: one frozen tree, read from YAML, overridden from the command line.

    name: bearing                        # of the model
    task: windows                        # binary | multilabel | windows
    data: {path: data/bearing.npz}       # relative to where the command runs
    split: {by: group, train: 0.6, valid: 0.2, test: 0.2}
    model: {kind: window_encoder, channels: [16, 32], kernels: [9, 9], strides: [4, 4]}
    loss: {name: weighted_bce, pos_weight: auto}
    sampler: none                        # none | weighted | label_set | repeat_factor | over | under
    fit: {epochs: 20, batch_size: 8, learning_rate: 0.001}
    seed: 0

Every key that is left out has the default written below; an unknown key is an error.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import yaml
from cutpoint.bundle.manifest import Name, Task
from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, ValidationError, model_validator

from .data import Data, Split
from .fit import DEFAULTS_OF, Fit
from .loss import Loss, WeightedBCELoss
from .model import ImportModel, MLPModel
from .sampler import NoSampler, Sampler
from .windows import WindowEncoderModel

Model = Annotated[MLPModel | WindowEncoderModel | ImportModel, Field(discriminator="kind")]


class Config(Record):
    """Everything a training run depends on, apart from the data themselves.

    Attributes:
        name: of the model that is exported.
        sampler: which training rows an epoch sees, and how often; a word, or a mapping with a `kind`.
        seed: of the split, the initial weights, the order of rows and the sampler.
        out: the run folder; runs/<name> when left out.
    """

    name: Name
    task: Task
    data: Data
    split: Split
    model: Model
    loss: Loss = WeightedBCELoss(name="weighted_bce")
    sampler: Sampler = NoSampler()
    fit: Fit = Fit()
    seed: int = Field(default=0, ge=0, lt=2**32)
    out: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _fit_by_model(cls, document: Any) -> Any:
        """Fill what is left out of `fit` by the kind of model; whatever is malformed is left for the fields to refuse."""
        if not isinstance(document, Mapping):
            return document
        model, fit = document.get("model"), document.get("fit", {})
        kind = model.get("kind") if isinstance(model, Mapping) else None
        if not isinstance(kind, str) or not isinstance(fit, Mapping):
            return document
        return {**document, "fit": {**DEFAULTS_OF.get(kind, {}), **fit}}

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        windows = self.task == "windows"
        if self.model.kind == ("mlp" if windows else "window_encoder"):
            wanted = "window_encoder" if windows else "mlp"
            raise BadConfig.of("model.kind", self.model.kind, f"{wanted} or import for task {self.task}")
        if self.task == "multilabel" and self.loss.two_class:
            wanted = "a loss of labels, such as weighted_bce or focal; this one is of two classes of one label"
            raise BadConfig.of("loss.name", self.loss.name, wanted)
        if self.task == "binary":
            for field, value in self.loss:
                if isinstance(value, tuple) and len(value) != (2 if field == "class_weight" else 1):
                    raise BadConfig.of(f"loss.{field}", list(value), "a number; task binary has one label")
        if self.data.rate_hz is not None and not windows:
            raise BadConfig.of("data.rate_hz", self.data.rate_hz, f"no rate for task {self.task}")
        return self

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return self.out or Path("runs") / self.name

    def digest(self) -> str:
        """SHA-256, in hex, of the settings; not of where data and run lie, on what it is trained, and what is logged."""
        elsewhere: dict[str, Any] = {"out": True, "data": {"path"}, "fit": {"accelerator", "devices", "log"}}
        settings = self.model_dump(mode="json", exclude=elsewhere)
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
    return re.sub(rf"\b(model|loss|split|sampler)\.(?:{'|'.join(_kinds(Config))})\.", r"\1.", problem)


def _kinds(record: type[Record]) -> list[str]:
    """What chooses among the kinds of every section that has kinds: "mlp", "focal", "group", ..."""
    found: list[str] = []
    for field in record.model_fields.values():
        for kind in get_args(field.annotation):
            if field.discriminator and isinstance(field.discriminator, str):
                found += [str(name) for name in get_args(kind.model_fields[field.discriminator].annotation)]
    return found
