"""One set of metrics from several processes: what they count is added up, what they all know is said once."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_TIMEOUT_S = 10.0
# Gauges of things that each worker has for itself; any other gauge is of something that they share, and the largest is newest.
_ADDED = {
    "cutpoint_queue_rows", "cutpoint_inflight_requests", "process_resident_memory_bytes", "process_virtual_memory_bytes",
    "process_open_fds", "process_max_fds",
}  # fmt: skip


class Merged(Collector):
    """Reads /metrics of every worker at each scrape."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls` are the workers' own /metrics."""
        self._urls = tuple(urls)

    def collect(self) -> Iterable[Metric]:
        """All families of all workers; nothing where one of them cannot be read, since a sum without it would be a drop."""
        with ThreadPoolExecutor(len(self._urls)) as pool:
            texts = list(pool.map(_text, self._urls))
        return merge(texts)


def merge(texts: Sequence[str]) -> list[Metric]:
    """The families in several expositions as one: counters and histograms added, gauges by their kind."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into = values.setdefault(family.name, {})
            added = family.type in ("counter", "histogram", "summary") or family.name in _ADDED
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = into.get(key)
                into[key] = sample.value if before is None else before + sample.value if added else max(before, sample.value)
    for name, found in values.items():
        families[name].samples = [Sample(sample, dict(labels), value) for (sample, labels), value in found.items()]
    return list(families.values())


def _text(url: str) -> str:
    with urlopen(url, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text
