"""What is compared: a file of seeds and of settings to change, as one configuration for each run and seed.

    seeds: [0, 1, 2]                       # of the initial weights and of everything drawn in training
    baseline: bce                          # the others are held against it; the first run when left out
    runs:
      bce: {loss: {name: weighted_bce, pos_weight: 1}}
      focal: {loss: {name: focal}}
      sampled: {sampler: weighted}

A section that says which kind it is (`name`, `kind`) replaces the section of the configuration; of any other the given keys are
changed. Every run has the same data and the same split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from cutpoint.bundle.manifest import Name
from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, ValidationError

from ..config import Config, parse_config

# What all runs share, and so cannot be changed by one of them.
SHARED: Final = ("name", "task", "data", "split", "seed", "out")
_KINDS: Final = ("name", "kind")

Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Document(Record):
    """The file."""

    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    baseline: Name | None = None
    runs: dict[Name, dict[str, Any] | None] = Field(min_length=1)


@dataclass(frozen=True)
class ComparePlan:
    """What is to be compared.

    Attributes:
        changes: of each run, as written.
        configs: one for each run and seed, with its own run folder; all split alike.
    """

    out: Path
    seeds: tuple[int, ...]
    baseline: str
    changes: Mapping[str, Mapping[str, Any]]
    configs: Mapping[tuple[str, int], Config]

    @property
    def runs(self) -> tuple[str, ...]:
        """Their names, as written but for the baseline, which is first."""
        return (self.baseline, *(name for name in self.changes if name != self.baseline))


def read_plan(path: Path, config: Config) -> ComparePlan:
    """Read the file and make every configuration, so that a wrong one is found before anything trains.

    Args:
        path: of the YAML file.
        config: what the runs change; they are written under its run folder, as <run>-<seed>.

    Raises:
        BadConfig: no such file, not YAML, an unknown key, a change that all runs must share, several devices, or settings
            that are wrong; the message names file, run and setting.
    """
    document = _read(path)
    names = list(document.runs)
    baseline = document.baseline or names[0]
    if baseline not in document.runs:
        raise BadConfig.of(f"{path}: baseline", baseline, f"one of the runs, {', '.join(names)}")
    if len(set(document.seeds)) != len(document.seeds):
        raise BadConfig.of(f"{path}: seeds", list(document.seeds), "different seeds")
    out = config.run_path
    changes = {name: change or {} for name, change in document.runs.items()}
    configs = {
        (name, seed): _changed(config, change, f"{path}: runs.{name}", seed, out / f"{name}-{seed}")
        for seed in document.seeds
        for name, change in changes.items()
    }
    return ComparePlan(out, document.seeds, baseline, changes, configs)


def _read(path: Path) -> _Document:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfig.of("--compare", str(path), f"a readable YAML file ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise BadConfig.of(f"{path}: document", type(found).__name__, "a mapping with runs, and perhaps seeds and baseline")
    try:
        return _Document.model_validate(found)
    except ValidationError as error:
        raise BadConfig(f"{path}: {first_problem(error)}") from error


def _changed(config: Config, change: Mapping[str, Any], source: str, seed: int, out: Path) -> Config:
    for key in SHARED:
        if key in change:
            raise BadConfig.of(f"{source}.{key}", change[key], f"no {key}: all runs share it, from the configuration")
    settings = config.model_dump(mode="json")
    if settings["split"]["by"] != "given" and settings["split"]["seed"] is None:
        settings["split"]["seed"] = config.seed  # every seed splits alike
    changed = parse_config(_merged(settings, change) | {"seed": seed, "out": str(out)}, source)
    if changed.fit.devices > 1:
        expected = "1, here or in the configuration: a comparison trains in one process"
        raise BadConfig.of(f"{source}.fit.devices", changed.fit.devices, expected)
    return changed


def _merged(settings: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for key, value in change.items():
        before = merged.get(key)
        part = isinstance(before, dict) and isinstance(value, dict) and not any(kind in value for kind in _KINDS)
        merged[key] = _merged(before or {}, value) if part else value
    return merged
