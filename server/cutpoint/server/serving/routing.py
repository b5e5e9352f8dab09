"""Which version of a model answers who names none, and what is scored in its shadow: `serving.json` in the model's folder.

    {"default": 3, "shadow": 4, "shadow_share": 0.5}

All three keys may be left out. `default` is the version that answers requests without one; the highest that has a policy
otherwise, but never the shadow. `shadow` is a version, or a stored policy of the default version ("policy:7"). The file is read
whenever the model is looked at, so one rename of a new file over it switches; the command line (--pin, --shadow) is before it.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

from cutpoint.errors import BadBundle, BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, StringConstraints, ValidationError

from .names import check_model_name

SERVING_FILE: Final = "serving.json"
_POLICY: Final = "policy:"

Version = Annotated[int, Field(ge=1, strict=True)]
Shadowed = Version | Annotated[str, StringConstraints(pattern=r"^policy:[1-9][0-9]{0,17}$")]


class Routing(Record):
    """Who answers and who is only counted.

    Attributes:
        default: the version for requests that name none; None for the highest in service that has a policy.
        shadow: a version, or "policy:N" for the default version's logits decided by its stored policy N; None for none.
        shadow_share: of the requests that are scored in the shadow too, 0 to 1.
    """

    default: Version | None = None
    shadow: Shadowed | None = None
    shadow_share: float = Field(default=1.0, ge=0, le=1)

    @property
    def shadow_version(self) -> int | None:
        """The version in the shadow, if it is one."""
        return self.shadow if isinstance(self.shadow, int) else None

    @property
    def shadow_policy(self) -> int | None:
        """The policy in the shadow, if it is one."""
        return int(self.shadow.removeprefix(_POLICY)) if isinstance(self.shadow, str) else None


def read_routing(folder: Path) -> Routing:
    """What `serving.json` in a model's folder says; nothing, where there is none.

    Raises:
        BadBundle: it cannot be read or is wrong; the message names the key.
    """
    file = folder / SERVING_FILE
    try:
        return Routing.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return Routing()
    except ValidationError as error:
        raise BadBundle(f"{file}: {first_problem(error)}") from None
    except (OSError, ValueError) as error:
        raise BadBundle(f"{file}: {error}") from None


def routed(pins: Iterable[str], shadows: Iterable[str]) -> dict[str, dict[str, object]]:
    """The keys of `serving.json` that the command line sets, by model.

    Args:
        pins: of the form NAME=VERSION.
        shadows: of the form NAME=VERSION or NAME=policy:N, and @SHARE behind it.

    Raises:
        BadConfig: one has another form, or a model is named twice.
    """
    found: dict[str, dict[str, object]] = {}
    for text in pins:
        name, value = _split("pin", text, r"[1-9][0-9]{0,17}", "NAME=VERSION, as in ecg=3")
        _set(found, "pin", name, {"default": int(value)})
    for text in shadows:
        expected = "NAME=VERSION or NAME=policy:N, and @SHARE of 0 to 1 behind it, as in ecg=4 or ecg=policy:7@0.1"
        name, value = _split("shadow", text, r"(policy:)?[1-9][0-9]{0,17}(@(0|1|0?\.[0-9]+|1\.0+))?", expected)
        target, _, share = value.partition("@")
        given: dict[str, object] = {"shadow": target if target.startswith(_POLICY) else int(target)}
        _set(found, "shadow", name, given | ({"shadow_share": float(share)} if share else {}))
    return found


def merged(file: Routing, flags: dict[str, object]) -> Routing:
    """The file's routing with what the command line sets in its place."""
    return Routing.model_validate(file.model_dump(exclude_unset=True) | flags)


def _split(option: str, text: str, pattern: str, expected: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not re.fullmatch(pattern, value, re.ASCII):
        raise BadConfig.of(option, text, expected)
    return check_model_name(name), value


def _set(found: dict[str, dict[str, object]], option: str, name: str, given: dict[str, object]) -> None:
    known = found.setdefault(name, {})
    if known.keys() & given.keys():
        raise BadConfig.of(option, f"given twice for '{name}'", "once for a model")
    known.update(given)
