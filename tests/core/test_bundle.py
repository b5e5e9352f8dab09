"""The model repository: written whole, read with every digest checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, manifest, policy
from cutpoint.bundle import (
    Examples,
    Manifest,
    find_bundle,
    list_versions,
    mix_rows,
    next_version,
    read_bundle,
    read_examples,
    sha256_of,
    write_bundle,
    write_policy,
)
from cutpoint.bundle import files as files_module
from cutpoint.errors import BadBundle, ModelNotFound
from pydantic import ValidationError


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_written_is_read(models: Path) -> None:
    path = linear_bundle(models)
    assert path == models / "linear" / "1"
    bundle = read_bundle(path)
    assert (bundle.name, bundle.version, bundle.policy) == ("linear", 1, None)
    assert bundle.manifest is not None
    assert bundle.manifest.labels == ("a", "b")
    assert bundle.digest == sha256_of(path / "model.onnx") == bundle.manifest.digests["model.onnx"]
    assert bundle.model_path == path / "model.onnx"
    assert everything(models) == ["linear/1/manifest.json", "linear/1/model.onnx"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_a_policy_ships_with_the_model(models: Path) -> None:
    path = linear_bundle(models)
    made = policy(path, {"a": 0.5, "b": None})
    assert write_policy(path, made) == path / "policy.json"
    assert read_bundle(path).policy == made
    again = policy(path, {"a": 1.5, "b": 0.0})
    write_policy(path, again)
    assert read_bundle(path).policy == again
    assert everything(models) == ["linear/1/manifest.json", "linear/1/model.onnx", "linear/1/policy.json"]


def test_versions_count_up_and_are_listed_sorted(models: Path) -> None:
    assert next_version(models, "linear") == 1
    for version in (1, 2, 10):
        linear_bundle(models, version=version)
    linear_bundle(models, name="another")
    (models / "linear" / "01").mkdir()
    (models / "linear" / "0").mkdir()
    (models / "linear" / "notes").mkdir()
    (models / ".hidden" / "1").mkdir(parents=True)
    (models / "empty").mkdir()
    (models / "README").touch()
    assert list_versions(models) == {"another": [1], "linear": [1, 2, 10]}
    assert next_version(models, "linear") == 11
    assert find_bundle(models / "linear") == models / "linear" / "10"
    assert find_bundle(models / "linear" / "2") == models / "linear" / "2"


def test_a_path_without_a_model_is_not_found(models: Path) -> None:
    for path in (models, models / "none", models / "linear" / "1"):
        with pytest.raises(ModelNotFound, match=r"no model at"):
            find_bundle(path)
    with pytest.raises(BadBundle, match=r"models folder is .*nowhere"):
        list_versions(models / "nowhere")


def test_an_existing_version_is_never_overwritten(models: Path) -> None:
    path = linear_bundle(models)
    before = (path / "model.onnx").read_bytes()
    with pytest.raises(BadBundle, match=r"versions are never overwritten"):
        linear_bundle(models, labels=("other",))
    assert (path / "model.onnx").read_bytes() == before


def test_anybodys_onnx_is_a_bundle_without_a_manifest(models: Path) -> None:
    linear_onnx(models / "foreign" / "3" / "model.onnx", np.eye(2), ["n", 2])
    bundle = read_bundle(models / "foreign" / "3")
    assert (bundle.name, bundle.version, bundle.manifest, bundle.policy) == ("foreign", 3, None, None)


def test_a_truncated_model_is_named_with_both_digests(models: Path) -> None:
    path = linear_bundle(models)
    whole = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(whole[:-1])
    with pytest.raises(BadBundle, match=r"model.onnx has SHA-256 \w{12}\.\.\., expected \w{12}.*truncated or altered"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"format": 3}, r"^\S*manifest.json: format is 3; expected 1 or 2, those that this version reads$"),
        ({"format": None}, "manifest.json: format is None; expected 1 or 2"),
        ({"labels": []}, "manifest.json: labels is"),
        ({"labels": ["a", "a"]}, "manifest.json: labels is"),
        ({"task": "regression"}, "manifest.json: task is 'regression'"),
        ({"surprise": 1}, "manifest.json: surprise is not a known key"),
        ({"digests": {}}, "manifest.json: digests do not include model.onnx"),
        ({"digests": {"model.onnx": "0", "extra.bin": "0"}}, "model.onnx has SHA-256"),
        ({"digests": {"extra.bin": "0"}}, "extra.bin is named in manifest.json but is not in the folder"),
        ({"digests": {"../1/model.onnx": "0"}}, "is named in manifest.json but is not in the folder"),
        ({"name": "other"}, "manifest.json: name and version is other/1; expected linear/1"),
        ({"version": 2}, "manifest.json: name and version is linear/2; expected linear/1"),
        ({"name": "../../x"}, "manifest.json: name is"),
    ],
)
def test_an_altered_manifest_is_named_with_what_is_wrong(models: Path, fields: dict[str, Any], text: str) -> None:
    path = linear_bundle(models)
    change(path / "manifest.json", **fields)
    with pytest.raises(BadBundle, match=text):
        read_bundle(path)


@pytest.mark.parametrize("name", ["manifest.json", "policy.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_truncated_document_is_named(models: Path, name: str, content: bytes) -> None:
    path = linear_bundle(models)
    (path / name).write_bytes(content)
    with pytest.raises(BadBundle, match=name):
        read_bundle(path)


def test_a_missing_model_and_a_wrong_folder_name_are_named(models: Path) -> None:
    path = linear_bundle(models)
    wrong = path.rename(path.parent / "v1")
    with pytest.raises(BadBundle, match=r"folder name is v1; expected a version number from 1"):
        read_bundle(wrong)
    (wrong / "model.onnx").unlink()
    with pytest.raises(BadBundle, match=r"v1: model.onnx is missing"):
        read_bundle(wrong)
    with pytest.raises(BadBundle, match=r"model.onnx is missing"):
        read_bundle(models / "none" / "1")


def test_a_policy_of_another_graph_is_refused_both_ways(models: Path) -> None:
    path = linear_bundle(models)
    other = linear_bundle(models, name="other", features=5)
    foreign = policy(other, {"a": 0.5, "b": 0.5})
    with pytest.raises(BadBundle, match=r"policy.json was made for another graph \(SHA-256 \w{12}"):
        write_policy(path, foreign)
    assert not (path / "policy.json").exists()
    (path / "policy.json").write_text(foreign.to_json())
    with pytest.raises(BadBundle, match=r"policy.json was made for another graph"):
        read_bundle(path)
    own = policy(path, {"a": 0.5, "b": 0.5})
    write_policy(path, own)  # the advice, to calibrate this one, can be followed
    assert read_bundle(path).policy == own


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": "other"}, "policy.json: model and version is other/1; expected linear/1"),
        ({"model_version": 2}, "policy.json: model and version is linear/2; expected linear/1"),
    ],
)
def test_a_policy_of_another_name_is_refused(models: Path, fields: dict[str, Any], text: str) -> None:
    path = linear_bundle(models)
    with pytest.raises(BadBundle, match=text):
        write_policy(path, policy(path, {"a": 0.5, "b": 0.5}).model_copy(update=fields))


def test_a_policy_of_other_labels_is_refused(models: Path) -> None:
    path = linear_bundle(models)
    for labels in ({"a": 0.5}, {"b": 0.5, "a": 0.5}, {"a": 0.5, "c": 0.5}):
        with pytest.raises(BadBundle, match=r"policy.json: labels is .*; expected \['a', 'b'\], as in the manifest"):
            write_policy(path, policy(path, labels))


def test_a_policy_of_an_unknown_format_is_named(models: Path) -> None:
    path = linear_bundle(models)
    write_policy(path, policy(path, {"a": 0.5, "b": 0.5}))
    change(path / "policy.json", format=7)
    with pytest.raises(BadBundle, match=r"policy.json: format is 7"):
        read_bundle(path)


def test_when_writing_fails_nothing_is_left(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(models, manifest("linear", ("a",), (-1, 4)), tmp_path / "no.onnx")
    assert everything(models) == [] and list_versions(models) == {}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    model = linear_onnx(tmp_path / "m.onnx", np.eye(4, 1), ["n", 4])
    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"):
        write_bundle(models, manifest("linear", ("a",), (-1, 4)), model)
    assert everything(models) == [] and list_versions(models) == {}
    monkeypatch.undo()
    path = write_bundle(models, manifest("linear", ("a",), (-1, 4)), model)
    first = policy(path, {"a": 0.5})
    write_policy(path, first)
    monkeypatch.setattr(files_module.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"):
        write_policy(path, policy(path, {"a": 0.75}))
    assert read_bundle(path).policy == first
    assert everything(models) == ["linear/1/manifest.json", "linear/1/model.onnx", "linear/1/policy.json"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a\n", "é", "a" * 101])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"name"):
        manifest(name, ("a",), (-1, 4))


def test_a_manifest_reads_back_equal(models: Path) -> None:
    found = read_bundle(linear_bundle(models, windows=True)).manifest
    assert found is not None
    assert Manifest.model_validate_json(found.model_dump_json()) == found


def test_a_copied_bundle_serves_under_its_own_name_only(models: Path) -> None:
    path = linear_bundle(models)
    shutil.copytree(path, models / "copy" / "1")
    with pytest.raises(BadBundle, match=r"name and version is linear/1; expected copy/1"):
        read_bundle(models / "copy" / "1")


def test_a_manifest_of_format_1_is_read(models: Path) -> None:
    path = linear_bundle(models)
    document = json.loads((path / "manifest.json").read_text())
    for new in ("origin", "precision", "cost"):
        del document[new]
    document |= {"format": 1, "loss": {"name": "focal", "alpha": 0.25, "gamma": 2.0}}
    document["priors"] = [
        {key: prior[key] for key in ("rate", "sampled_rate", "pos_weight", "shift")} for prior in document["priors"]
    ]
    (path / "manifest.json").write_text(json.dumps(document))
    manifest = read_bundle(path).manifest
    assert manifest is not None and manifest.loss is not None
    assert (manifest.format, manifest.origin, manifest.precision) == (2, "trained", "fp32")
    assert manifest.loss.parameters == {"alpha": 0.25, "gamma": 2.0}
    assert {prior.undone for prior in manifest.priors} == {"closed_form"}


def test_examples_are_whole_with_the_bundle_and_no_part_of_its_graph(models: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    scratch = linear_onnx(models.parent / "scratch.onnx", np.eye(4, 2), ["batch", 4])
    path = write_bundle(models, manifest("linear", ("a", "b"), (-1, 4)), scratch, Examples(x, x[:, :2]))
    bundle = read_bundle(path)
    assert bundle.manifest is not None
    assert sorted(bundle.manifest.digests) == ["examples.npz", "model.onnx"]
    assert bundle.digest == sha256_of(path / "model.onnx")
    found = read_examples(path)
    assert found is not None
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.logits, x[:, :2])
    (path / "profile.json").write_text("{}")
    assert read_bundle(path).digest == bundle.digest
    data = (path / "examples.npz").read_bytes()
    (path / "examples.npz").write_bytes(data[:-1])
    with pytest.raises(BadBundle, match=r"examples\.npz has SHA-256"):
        read_bundle(path)
    with pytest.raises(BadBundle, match=r"examples\.npz cannot be read"):
        read_examples(path)
    (path / "examples.npz").unlink()
    assert read_examples(path) is None
    with pytest.raises(BadBundle, match=r"examples\.npz is named in manifest\.json but is not in the folder"):
        read_bundle(path)


def test_examples_are_never_unpickled(models: Path) -> None:
    path = linear_bundle(models)
    np.savez(path / "examples.npz", x=np.array([{"a": 1}], dtype=object), logits=np.zeros((1, 2), np.float32))
    with pytest.raises(BadBundle, match=r"examples\.npz cannot be read: .*pickle"):
        read_examples(path)


def test_mixed_rows_have_every_value_of_some_row_at_its_place_and_are_no_row() -> None:
    x = np.random.default_rng(2).normal(size=(50, 6, 7)).astype(np.float32)
    mixed = mix_rows(x)
    assert (mixed.shape, mixed.dtype) == ((4, 6, 7), np.float32)
    assert (mixed[:, None] == x[None]).any(axis=1).all()
    assert not (mixed[:, None] == x[None]).all(axis=(2, 3)).any()
    np.testing.assert_array_equal(mixed, mix_rows(x))
    assert len(mix_rows(np.zeros((3, 1 << 20), np.float32))) == 1
    np.testing.assert_array_equal(mix_rows(x[:1]), np.repeat(x[:1], 4, axis=0))
