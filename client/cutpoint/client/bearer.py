"""The bearer token of a client, from a string or a file that may change."""

from pathlib import Path
from typing import Self

from cutpoint.errors import BadConfig


class Token:
    """What is sent to say who calls."""

    def __init__(self, token: str, path: Path | None) -> None:
        self._token = token
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, token: str, file: str | Path | None) -> Self | None:
        """From a string or a file; None where neither is given.

        Raises:
            BadConfig: it is not one line of visible ASCII.
        """
        if file is None:
            return cls(_checked("token", token), None) if token else None
        made = cls("", Path(file))
        made.read()
        return made

    def read(self) -> str:
        """The token as it is now: a file that was written or replaced is read again.

        Raises:
            BadConfig: the file cannot be read, or holds no token.
        """
        if self._path is None:
            return self._token
        name = f"token_file {self._path}"
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                # Kept only once it is read: threads that meet here read it twice, and none gets the old one.
                self._token = _checked(name, self._path.read_text("utf-8").strip())
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text"
            raise BadConfig.of(name, reason or "not readable", "a file with a token in it") from None
        return self._token


def _checked(name: str, token: str) -> str:
    if not token or not all("!" <= letter <= "~" for letter in token):
        raise BadConfig.of(name, f"{len(token)} characters", "a token: visible ASCII, no spaces")  # which is never shown
    return token
