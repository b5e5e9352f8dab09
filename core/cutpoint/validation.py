"""The base of every JSON or YAML record, and one line for what is wrong with one."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """A frozen object without unknown keys; NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: Exception) -> str:
    """One line for a person: of a pydantic ValidationError the field, the value and what was expected."""
    if not isinstance(error, ValidationError):
        return str(error)
    # A misspelt key is both unknown and missing: the unknown ones explain the missing ones, so they come first.
    order = {"extra_forbidden": 0, "missing": 1}
    found = sorted(error.errors(include_url=False), key=lambda each: order.get(each["type"], 2))
    shown = [_one_problem(each) for each in found[: 3 if found[0]["type"] in order else 1]]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f" (and {more} more)" if more else "")


def _one_problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"]) or "document"
    if problem["type"] == "extra_forbidden":
        return f"{name} is not a known key"
    if problem["type"] == "missing":
        return f"{name} is missing"
    if not problem["loc"]:  # of the whole: which settings do not go together is said in words
        return str(problem["msg"]).removeprefix("Value error, ")
    value = repr(problem["input"])
    value = value[:100] + "..." if len(value) > 100 else value
    return f"{name} is {value}: {problem['msg']}"
