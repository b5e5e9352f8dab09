"""What a version's folder looks like from outside: enough to see that it changed, without reading it."""

from collections.abc import Collection
from pathlib import Path

# By file: size, time of the last change, inode.
Fingerprint = dict[str, tuple[int, int, int]]
# What nothing that is served depends on.
_IGNORED = ("report.html",)


def fingerprint(folder: Path) -> Fingerprint:
    """Of the files of a folder, hidden ones left out; empty where there is no folder."""
    found: Fingerprint = {}
    try:
        for file in folder.iterdir():
            if file.name.startswith(".") or file.name in _IGNORED:
                continue
            stat = file.stat()
            found[file.name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError:  # taken away while it was looked at: the next look sees what is left
        return {}
    return found


def differ_only_in(a: Fingerprint, b: Fingerprint, names: Collection[str]) -> bool:
    """Whether all that two fingerprints differ in are files of these names."""
    return all(a.get(name) == b.get(name) for name in (a.keys() | b.keys()) - set(names))
