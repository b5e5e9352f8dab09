"""The lines of the server's log: text, or an object of JSON each."""

import datetime
import json
import logging
from typing import Any, Literal

from .event import Event

LogFormat = Literal["text", "json"]


class JsonLines(logging.Formatter):
    """A record as one object on one line: time, level, logger, and `event` with its fields, or `message`."""

    def __init__(self, worker: int | None = None) -> None:
        """Of this worker, where there are several."""
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The object; a field that is called like one of ours goes before it."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name}
        if self._worker is not None:
            line["worker"] = self._worker
        if isinstance(record.msg, Event):
            line |= {"event": record.msg.name, **record.msg.fields}
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def begin_log(form: LogFormat, worker: int | None = None) -> None:
    """Write the log of this process to standard error from now on; of this worker, where there are several."""
    said_by = "" if worker is None else f"worker {worker}: "
    text = logging.Formatter(f"%(asctime)s %(levelname)s %(name)s: {said_by}%(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(worker) if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
