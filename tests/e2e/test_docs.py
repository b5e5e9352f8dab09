"""The documents say what is: settings of training.md and losses.md with their defaults, snippets of calibration.md, links."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from cutpoint.trainer.config import Config, parse_config
from processes import ENVIRONMENT, ROOT
from pydantic import BaseModel

TEXT = (ROOT / "docs/training.md").read_text()
LOSSES = (ROOT / "docs/losses.md").read_text()
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
        "model": {"kind": "window_encoder"}, "out": "runs/mine",
    }  # fmt: skip
    assert whole == parse_config(needed)
    assert parse_config({key: value for key, value in needed.items() if key != "out"}).run_path == Path("runs/mine")
    del needed["data"]["rate_hz"]
    for block in (block for block in BLOCKS[1:] if "fit" in block):
        model = block["model"] if block["model"]["kind"] == "import" else {"kind": block["model"]["kind"]}
        rows = needed | {"task": "binary", "model": model}
        assert parse_config(rows | block) == parse_config(rows)


@pytest.mark.parametrize("text", re.findall(r"`(\{(?:name|kind): [^`]*\})` \|", LOSSES))
def test_the_losses_and_samplers_written_are_with_their_defaults(text: str) -> None:
    found = yaml.safe_load(text)
    part, key = ("loss", "name") if "name" in found else ("sampler", "kind")
    needed = {
        "name": "mine",
        "task": "binary",
        "data": {"path": "mine.npz"},
        "split": {"by": "random"},
        "model": {"kind": "mlp"},
    }
    assert parse_config(needed | {part: found}) == parse_config(needed | {part: {key: found[key]}})
    assert set(getattr(parse_config(needed | {part: found}), part).model_dump()) == set(found)


def test_every_loss_and_sampler_is_in_the_tables() -> None:
    named = set(re.findall(r"`\{(?:name|kind): (\w+)", LOSSES)) | {"none"}
    assert named == {kind for field in ("loss", "sampler") for kind in _kinds(field)}


def _kinds(field: str) -> set[str]:
    schema = Config.model_json_schema()
    return set(schema["properties"][field]["discriminator"]["mapping"])


def test_every_setting_is_described() -> None:
    missing = [name for name in _names(Config) if not re.search(rf"\b{name}\b", TEXT + LOSSES)]
    assert not missing


def _names(model: type[BaseModel]) -> set[str]:
    found = set(model.model_fields)
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _names(part)
    return found


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_to_a_file_or_a_heading_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http:", "https:")):
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
            assert not heading or heading in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, link


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
