"""A server's page of metrics, fetched over HTTP."""

import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

from ..errors import BadConfig

_LARGEST_BYTES = 256 << 20
_ACCEPT = "text/plain;version=0.0.4"


def page_url(text: str) -> str:
    """The address of a page: a URL, or HOST:PORT alone, of a page that is called /metrics.

    Raises:
        BadConfig: it is neither.
    """
    try:
        url = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        wrong = url.scheme not in ("http", "https") or not url.hostname or url.port == 0
    except ValueError:  # a port that is no number, half an IPv6 address
        wrong = True
    if wrong or any(not each.isprintable() or each.isspace() for each in text):
        raise BadConfig.of("URL", text, "http://HOST:PORT/metrics, or HOST:PORT")
    return urllib.parse.urlunsplit(url._replace(path="/metrics" if url.path in ("", "/") else url.path))


class Pages:
    """Fetches the pages of several servers at a time."""

    def __init__(self, urls: Sequence[str], timeout_s: float) -> None:
        """Wait `timeout_s` for each, from its first byte to its last."""
        self._urls, self._timeout_s = tuple(urls), timeout_s
        self._asked: dict[str, tuple[threading.Thread, list[str | OSError]]] = {}
        # As Prometheus does it: what is scraped is not behind the proxy that a browser here would use.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetch(self) -> list[str | OSError]:
        """The text of every page, or why it did not come."""
        until_s = time.monotonic() + self._timeout_s
        for url in self._urls:
            if url not in self._asked:  # one that was given up may still be at it, a byte a second
                into: list[str | OSError] = []
                # A daemon: whoever has seen enough does not wait for a server that hangs.
                thread = threading.Thread(target=lambda url=url, into=into: into.append(self._fetch(url)), daemon=True)
                self._asked[url] = (thread, into)
                thread.start()
        found: list[str | OSError] = []
        for url in self._urls:
            thread, into = self._asked[url]
            thread.join(max(0.0, until_s - time.monotonic()))
            if into:
                del self._asked[url]
            late = not into or isinstance(into[0], TimeoutError)
            found.append(OSError(f"no answer within {self._timeout_s:g} s") if late else into[0])
        return found

    def _fetch(self, url: str) -> str | OSError:
        try:
            with self._opener.open(urllib.request.Request(url, headers={"Accept": _ACCEPT}), timeout=self._timeout_s) as answer:
                page: bytes = answer.read(_LARGEST_BYTES + 1)
            if len(page) > _LARGEST_BYTES:
                return OSError(f"its page is larger than {_LARGEST_BYTES >> 20} MiB")
            return page.decode()
        except urllib.error.HTTPError as error:
            error.close()
            return OSError(f"HTTP {error.code}")
        except urllib.error.URLError as error:
            reason = error.reason
            if isinstance(reason, TimeoutError):
                return reason
            return OSError(reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason))
        except TimeoutError as error:
            return error
        except http.client.RemoteDisconnected:
            return OSError("it closed the connection without an answer")
        except http.client.BadStatusLine:  # of gRPC it would be bytes that steer the terminal
            return OSError("not an HTTP answer; /metrics is on --metrics-port (8002)")
        except (OSError, ValueError, http.client.HTTPException) as error:
            return OSError(str(error) or type(error).__name__)
