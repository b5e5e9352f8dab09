"""Where one worker is among the others."""

from cutpoint.validation import Record


class Place(Record):
    """What a worker is told beside its settings.

    Attributes:
        number: from 0.
        port: the port that all of them listen on; the system shares out connections.
        sockets: a Unix socket for each worker, in the order of their numbers, by which the others reach it.
    """

    number: int
    port: int
    sockets: tuple[str, ...]

    @property
    def address(self) -> str:
        """Where the others reach this one, as gRPC writes it."""
        return f"unix:{self.sockets[self.number]}"
