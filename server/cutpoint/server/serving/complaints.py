"""What is wrong again and again, said once."""

import logging

log = logging.getLogger("cutpoint.server")


class Complaints:
    """Problems by what they are of; one is logged when it comes and when it changes, not at every look."""

    def __init__(self) -> None:
        """None yet."""
        self._said: dict[str, str] = {}

    def say(self, of: str, problem: str) -> None:
        """`of` has this problem now; empty for none."""
        if not problem:
            self._said.pop(of, None)
        elif self._said.get(of) != problem:
            self._said[of] = problem
            log.error("%s: %s", of, problem)
