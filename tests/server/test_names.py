"""Names from the wire cannot leave their folder."""

import re
from pathlib import Path

import pytest
from cutpoint.bundle.manifest import Manifest
from cutpoint.errors import BadRequest
from cutpoint.server.serving.names import check_model_name, check_model_version
from hypothesis import example, given
from hypothesis import strategies as st

NASTY = (
    "", ".", "..", "../x", "a/b", "a\\b", "/etc", "a\0b", "a\n", "\na", " a", "a ", ".hidden", "-a", "_a", "a" * 101, "ä",
    "a\u2024b", "ａ", "٣", "a\u202eb", "C:", "a:b", "a*", "~", "$HOME", "a%2fb",
)  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_a_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="model name is "):
        check_model_name(name)


@given(st.text() | st.sampled_from(NASTY).flatmap(lambda bad: st.text(max_size=3).map(lambda more: bad + more)))
@example("a.b-c_D9")
def test_what_passes_stays_in_its_folder(name: str) -> None:
    try:
        assert check_model_name(name) == name
    except BadRequest:
        return
    root = Path("/models")
    assert (root / name).resolve().parent == root
    assert name.isascii()
    assert name.isprintable()


@given(st.text(alphabet="aZ9_.-/\n", max_size=5))
def test_it_is_the_manifests_pattern(name: str) -> None:
    pattern = next(each.pattern for each in Manifest.model_fields["name"].metadata if getattr(each, "pattern", None))
    wanted = re.fullmatch(pattern.removesuffix("$"), name) is not None
    try:
        check_model_name(name)
    except BadRequest:
        assert not wanted
    else:
        assert wanted


@pytest.mark.parametrize(
    "version", ["", "0", "01", "-1", "+1", "1.0", " 1", "1\n", "1_0", "٣", "²", "0x1", "1e3", "9" * 19, "9" * 5000]
)
def test_a_version_that_is_no_decimal_number_is_refused(version: str) -> None:
    with pytest.raises(BadRequest, match="model version is "):
        check_model_version(version)


@given(st.integers(1, 10**18 - 1))
def test_a_version_is_its_number(version: int) -> None:
    assert check_model_version(str(version)) == version


@given(st.text())
def test_a_version_is_a_number_or_refused(version: str) -> None:
    try:
        number = check_model_version(version)
    except BadRequest:
        return
    assert str(number) == version
