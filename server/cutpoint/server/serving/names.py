"""Names from the wire, checked before they are used for anything but a look-up in a dictionary."""

import re
from typing import Final

from cutpoint.errors import BadRequest

# The manifest's own pattern (`cutpoint.bundle.manifest.Name`): no separator, no leading dot, so nothing that leaves its folder.
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
# 18 digits fit int64 and are far below the length at which Python refuses to make an integer.
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def check_model_name(name: str) -> str:
    """`name` itself, where it is one that a model may have; only then may it become part of a path.

    Raises:
        BadRequest: empty, longer than 100 characters, or with a character other than letters, digits, `_`, `.` and `-`.
    """
    if not _MODEL.fullmatch(name):
        raise BadRequest.of(
            "model name", name or "empty", "1 to 100 letters, digits, '_', '.' or '-', a letter or a digit first"
        )
    return name


def check_model_version(version: str) -> int:
    """The number that `version` says.

    Raises:
        BadRequest: not a decimal number from 1 without leading zeros, of at most 18 digits.
    """
    if not _VERSION.fullmatch(version):
        raise BadRequest.of("model version", version or "empty", "a decimal number from 1, of at most 18 digits")
    return int(version)
