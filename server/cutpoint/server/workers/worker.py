"""One worker: `python -m cutpoint.server.workers.worker`, told by the supervisor what to serve and when to stop.

The first line of its standard input is a JSON document {config, place}; when that input ends, for whatever reason, it stops.
When it is ready it prints one line, the URL of its own /metrics.
"""

import json
import signal
import sys
import threading

from cutpoint.errors import CutpointError

from ..app import running, wait_for
from ..config import ServerConfig
from ..monitoring.log_lines import begin_log
from .place import Place


def main() -> int:
    """Serve until the supervisor closes the input or a SIGTERM comes; 2 where that cannot be, said in one line."""
    told = json.loads(sys.stdin.readline())
    config, place = ServerConfig.model_validate(told["config"]), Place.model_validate(told["place"])
    begin_log(config.log_format, place.number)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal it reaches the supervisor too, who says when
    threading.Thread(target=_until_end, args=(stop,), daemon=True).start()
    try:
        with running(config, place) as at:
            print(at.metrics_url, flush=True)
            wait_for(stop)
    except (CutpointError, OSError) as error:
        print(f"error: {error}", flush=True)
        return 2
    return 0


def _until_end(stop: threading.Event) -> None:
    while sys.stdin.read(1 << 10):
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
