"""The documents say what is: every setting of docs/training.md with its default, every snippet of docs/calibration.md."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cutpoint.trainer.config import Config, Fit, parse_config
from processes import ENVIRONMENT, ROOT
from pydantic import BaseModel

TEXT = (ROOT / "docs/training.md").read_text()
BLOCKS: list[dict[str, Any]] = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


@pytest.mark.parametrize("block", BLOCKS[1:], ids=str)
def test_every_block_is_accepted_in_place_of_the_first_ones_part(block: dict[str, Any]) -> None:
    task = {"mlp": "binary"}.get(block.get("model", {}).get("kind"), BLOCKS[0]["task"])
    whole = BLOCKS[0] | block | {"task": task}
    if task != "windows":
        whole |= {"data": {"path": "mine.npz"}}
    config = parse_config(whole)
    for part, settings in block.items():
        written = config.model_dump(mode="json")[part]
        assert {name: written[name] for name in settings} == settings


def test_the_defaults_written_are_the_defaults() -> None:
    whole = parse_config(BLOCKS[0])
    needed: dict[str, Any] = {
        "name": "mine", "task": "windows", "data": {"path": "mine.npz", "rate_hz": 360}, "split": {"by": "group"},
        "model": {"kind": "window_encoder"}, "loss": {"name": "weighted_bce"}, "out": "runs/mine",
    }  # fmt: skip
    assert whole == parse_config(needed)
    assert whole.fit == Fit()
    assert parse_config({key: value for key, value in needed.items() if key != "out"}).run_path == Path("runs/mine")


def test_every_setting_is_described() -> None:
    missing = [name for name in _names(Config) if not re.search(rf"\b{name}\b", TEXT)]
    assert not missing


def _names(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _names(part)
    return found


def test_the_changelog_begins_with_the_packages_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == version


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "docs/calibration.md").read_text(), re.DOTALL))
def test_the_snippets_on_calibration_run(block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
