"""The page that Prometheus reads, over HTTP: its classic text or OpenMetrics, as the scraper asks, compressed where it may be.

What has a series for every label writes its own text, see `per_label`; the rest is prometheus_client's.
"""

import gzip
import socket
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_END = b"# EOF\n"
# A page of ten thousand lines takes 6 ms so, and 30 ms at the usual level, for a tenth less.
_LEVEL = 1


class Written(Protocol):
    """A collector that writes its own text."""

    def text(self, openmetrics: bool) -> str:
        """Its families: OpenMetrics 1.0 without its end, or the classic format."""
        ...


class Page:
    """What /metrics answers."""

    def __init__(self, registry: CollectorRegistry, rest: CollectorRegistry, written: Sequence[Written]) -> None:
        """Of `registry`, whose collectors are those of `rest` and the `written` ones."""
        self._registry, self._rest, self._written = registry, rest, tuple(written)

    def answer(self, accept: str = "", names: Sequence[str] = ()) -> tuple[bytes, str]:
        """The page and its content type.

        Args:
            accept: the header.
            names: of the samples wanted; none for all.
        """
        try:
            encoder, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # of a version that is no number
            encoder, content_type = choose_encoder("")
        if names:
            return encoder(_Some(self._registry, names)), content_type
        openmetrics = content_type.startswith("application/openmetrics-text")
        rest = encoder(self._rest)
        own = "".join(each.text(openmetrics) for each in self._written).encode()
        return (rest.removesuffix(_END) + own + _END if openmetrics else rest + own), content_type


class _Some(Collector):
    """The samples of some names."""

    def __init__(self, registry: CollectorRegistry, names: Sequence[str]) -> None:
        self._registry, self._names = registry, frozenset(names)

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.name in self._names]
            if metric.samples:
                yield metric


class PageServer:
    """Answers a page in threads of its own until it is closed."""

    def __init__(self, page: Page, host: str, port: int) -> None:
        """Listen on `host` and `port`, 0 for any free one.

        Raises:
            OSError: it cannot be bound.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]

        class Server(ThreadingWSGIServer):
            address_family = found[0]

        self._server = make_server(str(found[4][0]), port, _application(page), Server, handler_class=_Quiet)
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet(WSGIRequestHandler):
    disable_nagle_algorithm = True  # the head goes out before the page, which would wait 40 ms for its acknowledgement

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


def _application(page: Page) -> Any:
    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            allowed = environ["REQUEST_METHOD"] == "OPTIONS"
            start("200 OK" if allowed else "405 Method Not Allowed", [("Allow", "OPTIONS,GET")])
            return [b""]
        names = parse_qs(environ.get("QUERY_STRING", "")).get("name[]", [])
        body, content_type = page.answer(environ.get("HTTP_ACCEPT", ""), names)
        headers = [("Content-Type", content_type)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            body = gzip.compress(body, _LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start("200 OK", headers)
        return [body]

    return answer
