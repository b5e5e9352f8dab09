"""profile.json: read back as it was written, refused where it is of another graph, and no part of the graph's digest."""

from pathlib import Path

import pytest
from bundles import linear_bundle
from cutpoint.bundle import PROFILE_FILE, Computation, Way, read_bundle, read_profile, write_bundle
from cutpoint.errors import BadBundle
from profiles import profile


def test_a_bundle_without_one_has_none(tmp_path: Path) -> None:
    path = linear_bundle(tmp_path / "models")
    assert read_profile(path, read_bundle(path).digest) is None


def test_a_profile_is_read_as_it_was_written_and_changes_no_digest(tmp_path: Path) -> None:
    path = linear_bundle(tmp_path / "models")
    before = read_bundle(path).digest
    made = profile(before, Computation(provider="openvino", hint="bf16"), Way(lanes=2, max_batch_rows=8), wide_threads=2)
    (path / PROFILE_FILE).write_text(made.to_json())
    assert read_bundle(path).digest == before
    assert read_profile(path, before) == made


def test_a_bundle_is_written_with_what_lies_beside_its_graph(tmp_path: Path) -> None:
    source = read_bundle(linear_bundle(tmp_path / "models"))
    assert source.manifest is not None
    made = profile(source.digest)
    path = write_bundle(tmp_path / "more", source.manifest, source.model_path, beside={PROFILE_FILE: made.to_json()})
    assert read_profile(path, read_bundle(path).digest) == made
    assert PROFILE_FILE not in (read_bundle(path).manifest or source.manifest).digests


def test_a_profile_of_another_graph_is_refused(tmp_path: Path) -> None:
    path = linear_bundle(tmp_path / "models")
    (path / PROFILE_FILE).write_text(profile("0" * 64).to_json())
    with pytest.raises(BadBundle, match=r"profile\.json was measured for another graph .*000000"):
        read_profile(path, read_bundle(path).digest)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "profile.json: "),
        ('{"format": 9}', "format is 9"),
        ('{"format": 1}', "is missing"),
        ("[]", "profile.json: "),
    ],
)
def test_a_damaged_profile_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = linear_bundle(tmp_path / "models")
    (path / PROFILE_FILE).write_text(text)
    with pytest.raises(BadBundle, match=said):
        read_profile(path, "0")
