"""The model repository on disk: `models/<name>/<version>/`, the layout that Triton reads too.

A bundle is a version folder with `model.onnx` and, when Cutpoint made it, `manifest.json` and `policy.json`. A folder with
only `model.onnx` (anybody's ONNX) is a bundle without a manifest. Bundles appear whole: they are written beside and renamed.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..calibration.policy import Policy
from ..errors import BadBundle, ModelNotFound
from ..validation import first_problem
from .examples import EXAMPLES_FILE, Examples, encode_examples
from .files import sha256_of, sync_folder, write_whole
from .manifest import FORMAT, MANIFEST_FILE, MODEL_FILE, POLICY_FILE, Manifest
from .profile import PROFILE_FILE

# Beside a graph and no part of it: what else is in the folder may hold its weights.
_OWN = {MODEL_FILE, MANIFEST_FILE, POLICY_FILE, EXAMPLES_FILE, PROFILE_FILE, "report.html"}


@dataclass(frozen=True)
class Bundle:
    """One version of one model, its digests checked.

    Attributes:
        digest: SHA-256 of `model.onnx` and of files beside it that hold its weights, if any; a policy is bound to it, since a
            cut means nothing on another graph.
        manifest: None for anybody's ONNX.
        policy: the policy shipped with the model, if any.
    """

    path: Path
    name: str
    version: int
    digest: str
    manifest: Manifest | None
    policy: Policy | None

    @property
    def model_path(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE


def list_versions(models: Path) -> dict[str, list[int]]:
    """Model names and their numeric versions, both sorted; BadBundle where `models` is no folder."""
    if not models.is_dir():
        raise BadBundle.of("models folder", str(models), "a folder holding <name>/<version>/model.onnx")
    found = {}
    for folder in sorted(models.iterdir()):
        if folder.is_dir() and not folder.name.startswith("."):
            versions = sorted(int(v.name) for v in folder.iterdir() if v.is_dir() and _is_version(v.name))
            if versions:
                found[folder.name] = versions
    return found


def find_bundle(path: Path) -> Path:
    """The version folder meant by `path`: a version folder itself, or a model's folder (its highest version).

    Raises:
        ModelNotFound: `path` is neither.
    """
    if (path / MODEL_FILE).is_file():
        return path
    versions = sorted((int(v.name), v) for v in path.iterdir() if _is_version(v.name)) if path.is_dir() else []
    if not versions:
        raise ModelNotFound(f"no model at {path}; expected <name>/<version>/{MODEL_FILE} or a folder of versions")
    return versions[-1][1]


def read_bundle(path: Path, with_policy: bool = True) -> Bundle:
    """Read a version folder and check every digest its manifest states.

    Args:
        path: the version folder.
        with_policy: read and check policy.json too; not for who is about to replace it.

    Raises:
        BadBundle: a file is missing, truncated, altered or of an unknown format; the message names it.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100  # not resolved: a linked folder is served under the link's name
    model = path / MODEL_FILE
    if not model.is_file():
        raise BadBundle(f"{path}: {MODEL_FILE} is missing")
    if not _is_version(path.name):
        raise BadBundle.of(f"{path}: folder name", path.name, "a version number from 1, as in models/<name>/<version>")
    manifest = _read_manifest(path / MANIFEST_FILE)
    digest = _graph_digest(path)
    if manifest is not None:
        for name, wanted in manifest.digests.items():
            file = path / name
            if Path(name).name != name or not file.is_file():
                raise BadBundle(f"{path}: {name} is named in {MANIFEST_FILE} but is not in the folder")
            found = sha256_of(file)
            if found != wanted:
                raise BadBundle(
                    f"{file} has SHA-256 {found[:12]}..., expected {wanted[:12]}... from {MANIFEST_FILE}: "
                    "the file was truncated or altered; export it again"
                )
        if manifest.digests.get(MODEL_FILE) is None:
            raise BadBundle(f"{path / MANIFEST_FILE}: digests do not include {MODEL_FILE}")
        if (manifest.name, str(manifest.version)) != (path.parent.name, path.name):
            raise BadBundle.of(
                f"{path / MANIFEST_FILE}: name and version", f"{manifest.name}/{manifest.version}",
                f"{path.parent.name}/{path.name}, as the folder is called",
            )  # fmt: skip
    policy = _read_policy(path / POLICY_FILE) if with_policy else None
    if policy is not None:
        _check_policy_fits(path, policy, digest, manifest)
    return Bundle(path, path.parent.name, int(path.name), digest, manifest, policy)


def write_bundle(
    models: Path,
    manifest: Manifest,
    model: Path,
    examples: Examples | None = None,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write `models/<name>/<version>/` whole and return it; `manifest.digests` is filled in here.

    Args:
        models: the model repository; made when missing.
        manifest: says which name and version.
        model: the ONNX file, copied.
        examples: recorded for whoever loads it.
        beside: text by file name: what may change while the model is the same, so that no digest is kept of it.

    Raises:
        BadBundle: that version exists already; versions are never overwritten.
    """
    target = models / manifest.name / str(manifest.version)
    if target.exists():
        raise BadBundle.of("version", f"{target} (exists)", "a new version; versions are never overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{manifest.version}.", dir=target.parent))
    try:
        shutil.copyfile(model, staging / MODEL_FILE)
        if examples is not None:
            (staging / EXAMPLES_FILE).write_bytes(encode_examples(examples))
        digests = {file.name: sha256_of(file) for file in sorted(staging.iterdir())}
        for name, text in beside.items():
            (staging / name).write_text(text, encoding="utf-8")
        complete = manifest.model_copy(update={"digests": digests})
        write_whole(staging / MANIFEST_FILE, complete.model_dump_json(indent=1).encode() + b"\n")
        staging.chmod(0o755)
        os.rename(staging, target)  # noqa: PTH104  # Path.rename would replace an empty folder as well, and says less
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return target


def write_policy(path: Path, policy: Policy) -> Path:
    """Put `policy` into the bundle at `path` as the one shipped with the model."""
    bundle = read_bundle(path, with_policy=False)
    _check_policy_fits(bundle.path, policy, bundle.digest, bundle.manifest)
    file = bundle.path / POLICY_FILE
    write_whole(file, policy.to_json().encode())
    return file


def next_version(models: Path, name: str) -> int:
    """One above the highest version of `name`, from 1."""
    folder = models / name
    versions = [int(v.name) for v in folder.iterdir() if _is_version(v.name)] if folder.is_dir() else []
    return max(versions, default=0) + 1


def _is_version(name: str) -> bool:
    return name.isdecimal() and name == str(int(name)) and int(name) > 0


def _graph_digest(path: Path) -> str:
    """SHA-256 of `model.onnx`; with files beside it, which may hold its weights, of the digests of all of them."""
    others = sorted(f for f in path.iterdir() if f.is_file() and f.name not in _OWN and not f.name.startswith("."))
    own = sha256_of(path / MODEL_FILE)
    if not others:
        return own
    lines = [f"{MODEL_FILE} {own}", *(f"{file.name} {sha256_of(file)}" for file in others)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read_manifest(path: Path) -> Manifest | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadBundle(f"{path}: {error}") from error
    if isinstance(found, dict) and found.get("format") not in (1, FORMAT):
        raise BadBundle.of(f"{path}: format", found.get("format"), f"1 or {FORMAT}, those that this version reads")
    try:
        return Manifest.model_validate(found)
    except ValueError as error:
        raise BadBundle(f"{path}: {first_problem(error)}") from error


def _read_policy(path: Path) -> Policy | None:
    if not path.exists():
        return None
    try:
        return Policy.from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadBundle(f"{path}: {first_problem(error)}") from error


def _check_policy_fits(path: Path, policy: Policy, digest: str, manifest: Manifest | None) -> None:
    if policy.model_digest != digest:
        raise BadBundle(
            f"{path / POLICY_FILE} was made for another graph (SHA-256 {policy.model_digest[:12]}..., "
            f"{MODEL_FILE} has {digest[:12]}...); calibrate this one"
        )
    if (policy.model, str(policy.model_version)) != (path.parent.name, path.name):
        raise BadBundle.of(
            f"{path / POLICY_FILE}: model and version", f"{policy.model}/{policy.model_version}",
            f"{path.parent.name}/{path.name}, as the folder is called",
        )  # fmt: skip
    names = tuple(label.label for label in policy.labels)
    if manifest is not None and names != manifest.labels:
        raise BadBundle.of(f"{path / POLICY_FILE}: labels", list(names), f"{list(manifest.labels)}, as in the manifest")
