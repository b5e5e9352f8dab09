"""Training in several processes: which of them this one is."""

from collections.abc import Mapping
from dataclasses import dataclass

from cutpoint.errors import BadConfig


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is; alone by default.

    Attributes:
        rank: from 0; the first one prints and writes.
        world: how many there are in all.
        local_world: how many on this machine.
        together: whether a launcher started all of them; where not, the first one starts the others, and only to train.
    """

    rank: int = 0
    world: int = 1
    local_world: int = 1
    together: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0


ALONE = Processes()


def processes_of(environment: Mapping[str, str]) -> Processes:
    """What torchrun says in the environment of each process that it starts (or Lightning, for `fit.devices`).

    Raises:
        BadConfig: a variable of theirs is no number.
    """
    if "LOCAL_RANK" not in environment:
        return ALONE
    found = {}
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        value = environment.get(name)
        if value is not None and not value.isdecimal():
            raise BadConfig.of(f"environment variable {name}", value, "a number, as torchrun sets it")
        found[name] = None if value is None else int(value)
    world = found["WORLD_SIZE"] or 1
    rank = found["LOCAL_RANK"] if found["RANK"] is None else found["RANK"]
    together = world > 1 and found["RANK"] is not None  # Lightning does not set it
    return Processes(rank or 0, world, found["LOCAL_WORLD_SIZE"] or world, together)
