"""The base of every JSON or YAML record, and one line for what is wrong with one."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """A frozen object without unknown keys; NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_problem(error: Exception) -> str:
    """One line for a person: of a pydantic ValidationError the field, the value and what was expected."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "document"
    value = repr(first["input"])
    value = value[:100] + "..." if len(value) > 100 else value
    more = error.error_count() - 1
    return f"{name} is {value}: {first['msg']}" + (f" (and {more} more)" if more else "")
