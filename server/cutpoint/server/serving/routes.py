"""Who answers requests that name no version: what the files and the command line say, and what there is."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from cutpoint.errors import BadBundle, BadConfig

from .complaints import Complaints
from .routing import Routing, merged, read_routing, routed
from .served import ServedModel


class Routes:
    """The routing of every model of a repository; the last good one where a file is wrong."""

    def __init__(self, folder: Path, pins: Iterable[str], shadows: Iterable[str], complaints: Complaints) -> None:
        """Nothing is read yet.

        Args:
            folder: the repository.
            pins: of the command line, NAME=VERSION.
            shadows: of the command line, see `routed`.
            complaints: told of what is wrong with a file.

        Raises:
            BadConfig: a pin or a shadow is wrong.
        """
        self._folder, self._complaints = folder, complaints
        self._flags = routed(pins, shadows)
        self._good: dict[str, Routing] = {}

    def read(self, name: str) -> Routing:
        """The routing of a model now."""
        flags, of = self._flags.get(name, {}), f"{name}: routing"
        try:
            routing = merged(read_routing(self._folder / name), flags)
        except BadBundle as error:
            known = self._good.get(name)
            self._complaints.say(of, f"{error}; {'the last good one stays' if known else 'it is ignored'}")
            return known if known is not None else merged(Routing(), flags)
        self._complaints.say(of, "")
        self._good[name] = routing
        return routing

    def default(self, name: str, versions: Mapping[int, ServedModel], routing: Routing, before: int | None) -> int | None:
        """Which of `versions` answers who names none; `before` is the one that did. None: nobody does."""
        problem, found = "", routing.default
        if routing.default is None:
            others = {number: model for number, model in versions.items() if number != routing.shadow_version} or versions
            # Where there are versions that decide, one that cannot would only refuse who asks for decisions.
            decide = [number for number, model in others.items() if model.active is not None]
            found = max(decide or others, default=None)
        elif routing.default not in versions:
            found = before if before in versions else None
            if versions:
                said = (
                    f"version {found} stays the default" if found is not None else "requests that name no version are refused"
                )
                problem = f"version {routing.default}, to which it is pinned, is not served; {said}"
        self._complaints.say(f"{name}: default", problem)
        return found

    def check(self, served: Mapping[str, Iterable[int]]) -> None:
        """BadConfig where the command line names a version that is not among those served, of the models given."""
        for name, versions in served.items():
            routing = merged(Routing(), self._flags.get(name, {}))
            for option, version in (("pin", routing.default), ("shadow", routing.shadow_version)):
                if version is not None and version not in versions:
                    raise BadConfig.of(
                        option, f"{name}={version}", f"a version that is served: {sorted(versions) or 'none is'}"
                    )
            if routing.shadow_version is not None and set(versions) == {routing.shadow_version}:
                raise BadConfig.of(
                    "shadow", f"{name}={routing.shadow_version}, the only version", "one beside the version that answers"
                )

    @property
    def named(self) -> list[str]:
        """The models that the command line names."""
        return list(self._flags)
