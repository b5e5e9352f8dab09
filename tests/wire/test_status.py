"""The one table between errors and status codes: complete, and the way back gives the same class."""

import re

import grpc
import pytest
from cutpoint import errors
from cutpoint.wire import REASON_KEY, STATUS, error_of, status_of


def subclasses(kind: type[errors.CutpointError]) -> list[type[errors.CutpointError]]:
    return [found for child in kind.__subclasses__() for found in (child, *subclasses(child))]


ALL = [kind for kind in subclasses(errors.CutpointError) if kind.__module__ == "cutpoint.errors"]


def test_every_error_has_a_row_and_nothing_else() -> None:
    assert set(STATUS) == set(ALL)


def test_reasons_are_unique_stable_words() -> None:
    reasons = [kind.reason for kind in (errors.CutpointError, *ALL)]
    assert len(set(reasons)) == len(reasons)
    for kind in ALL:
        assert re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower().removesuffix("_error") == kind.reason


@pytest.mark.parametrize("kind", ALL)
def test_an_error_comes_back_as_the_same_class(kind: type[errors.CutpointError]) -> None:
    error = kind("what, and what was expected")
    code = status_of(error)
    back = error_of(code, str(error), (("other", "x"), (REASON_KEY, error.reason)))
    assert type(back) is kind
    assert str(back) == "what, and what was expected"


def test_only_what_a_retry_mends_is_unavailable() -> None:
    assert [kind for kind, code in STATUS.items() if code is grpc.StatusCode.UNAVAILABLE] == [errors.Unavailable]
    assert STATUS[errors.Overloaded] is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_class_without_a_row_takes_its_parents() -> None:
    class Special(errors.ModelNotFound):
        pass

    assert status_of(Special()) is grpc.StatusCode.NOT_FOUND
    for foreign in (ValueError(), KeyError(), errors.CutpointError()):
        assert status_of(foreign) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_a_code_without_a_reason_is_one_of_ours(code: grpc.StatusCode) -> None:
    for metadata in (None, (), ((REASON_KEY, "from_the_future"),), ((REASON_KEY, b"bytes"),)):
        error = error_of(code, None, metadata)
        assert isinstance(error, errors.CutpointError)
        assert str(error) == f"{code.name}: no details"
        if type(error) is not errors.CutpointError:
            assert STATUS[type(error)] is code


def test_the_tree_drawn_in_the_module_is_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for kind in ALL:
        assert f"-- {kind.__name__}" in drawn
    assert drawn.count("-- ") == len(ALL)


def test_a_message_names_the_thing_the_value_and_what_was_expected() -> None:
    assert str(errors.BadInput.of("size", 3, "2")) == "size is 3; expected 2"
    assert len(str(errors.BadInput.of("size", "x" * 10_000, "2"))) < 300
    assert isinstance(errors.BadRequest("x"), ValueError)


def test_a_message_over_the_limit_is_no_overload() -> None:
    text = "SERVER: Received message larger than max (5242885 vs. 4194304)"
    error = error_of(grpc.StatusCode.RESOURCE_EXHAUSTED, text, ())
    assert type(error) is errors.BadRequest  # retrying it later would fail again
    assert "send fewer rows at a time" in str(error)
