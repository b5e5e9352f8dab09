"""One set of metrics from several processes: what they count is added up, what they all know is said once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.request import urlopen

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_TIMEOUT_S = 10.0
_COUNTED = ("counter", "histogram", "summary")
# Gauges of things that each worker has for itself. A gauge that is neither here nor below is of something that they share, and
# the largest is newest.
_ADDED = {
    "cutpoint_queue_rows", "cutpoint_inflight_requests", "cutpoint_estimated_prevalence_rows", "process_resident_memory_bytes",
    "process_virtual_memory_bytes", "process_open_fds", "process_max_fds",
}  # fmt: skip
# Gauges of the active policy: while the workers take up another one, those of whoever has it already.
_OF_POLICY = re.compile(r"cutpoint_(threshold|expected_|target_|policy_version)")
_GENERATION = "cutpoint_threshold_generation"
# Each worker estimates from what it saw: together they are the mean over the rows that each of them saw.
_PREVALENCE, _PREVALENCE_ROWS = "cutpoint_estimated_prevalence", "cutpoint_estimated_prevalence_rows"
_TEXT = r'"((?:[^"\\]|\\.)*)"'
_OF_VERSION = re.compile(rf"[{{,]model={_TEXT}.*[{{,]version={_TEXT}")


@dataclass
class _Family:
    """One family as it is written: its help line, its type, and its values by what stands before them in a line."""

    help: str = ""
    kind: str = "untyped"
    values: dict[str, float] = field(default_factory=dict)


Families = Mapping[str, _Family]


class Merged(Collector):
    """Reads /metrics of every worker at each scrape; nothing where one cannot be read: a sum without it would be a drop."""

    def __init__(self, urls: Sequence[str]) -> None:
        """`urls` are the workers' own /metrics."""
        self._urls = tuple(urls)

    def collect(self) -> Iterable[Metric]:
        """All families of all workers."""
        return text_string_to_metric_families(self.text(False))

    def text(self, openmetrics: bool) -> str:
        """The same as text."""
        with ThreadPoolExecutor(len(self._urls)) as pool:
            return merge(list(pool.map(_text, self._urls)), openmetrics)


def merge(texts: Sequence[str], openmetrics: bool = False) -> str:
    """The families in several expositions of the classic format as one.

    Args:
        texts: one of each worker.
        openmetrics: give OpenMetrics, without its end, instead of the classic format.
    """
    every = [_families(text) for text in texts]
    names = dict.fromkeys(name for families in every for name in families)
    generations = [_by_version(families, _GENERATION) for families in every]
    agreed = all(each == generations[0] for each in generations)
    parts = []
    for name in names:
        found = [families[name] for families in every if name in families]
        if name == _PREVALENCE:
            values = _weighted(every)
        elif not agreed and _OF_POLICY.match(name):
            values = _of_newest(every, generations, name)
        elif found[0].kind in _COUNTED or name in _ADDED:
            values = _added(found)
        else:
            values = _largest(found)
        parts.append(_written(name, found[0], values, openmetrics))
    return "".join(parts)


def _families(text: str) -> dict[str, _Family]:
    found: dict[str, _Family] = {}
    family = _Family()
    for line in text.split("\n"):
        if line.startswith("#"):
            _, what, name, rest = (*line.split(" ", 3), "")[:4]
            if what in ("HELP", "TYPE"):
                family = found.setdefault(name, _Family())
                if what == "TYPE":
                    family.kind = rest
                else:
                    family.help = rest
        elif line:
            of, _, value = line.rpartition(" ")
            family.values[of] = float(value)
    return found


def _added(found: Sequence[_Family]) -> dict[str, float]:
    values = dict(found[0].values)
    for family in found[1:]:
        for of, value in family.values.items():
            values[of] = values.get(of, 0.0) + value
    return values


def _largest(found: Sequence[_Family]) -> dict[str, float]:
    values = dict(found[0].values)
    for family in found[1:]:
        for of, value in family.values.items():
            values[of] = max(values.get(of, value), value)
    return values


def _of_newest(every: Sequence[Families], generations: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    newest: dict[str, float] = {}
    for generation in generations:
        for version, number in generation.items():
            newest[version] = max(newest.get(version, number), number)
    values: dict[str, float] = {}
    for families, generation in zip(every, generations, strict=True):
        for of, value in families[name].values.items() if name in families else ():
            version = _version(of)
            if generation.get(version) == newest.get(version):
                values.setdefault(of, value)
    return values


def _weighted(every: Sequence[Families]) -> dict[str, float]:
    sums: dict[str, tuple[float, float]] = {}
    for families in every:
        rows = _by_version(families, _PREVALENCE_ROWS)
        for of, value in families[_PREVALENCE].values.items() if _PREVALENCE in families else ():
            weight = rows.get(_version(of), 0.0)
            total, weights = sums.get(of, (0.0, 0.0))
            sums[of] = total + weight * value, weights + weight
    return {of: total / weights for of, (total, weights) in sums.items() if weights > 0}


def _by_version(families: Families, name: str) -> dict[str, float]:
    return {_version(of): value for of, value in families[name].values.items()} if name in families else {}


def _version(of: str) -> str:
    """The model and version in a sample's labels, as one text; empty where it has none."""
    found = _OF_VERSION.search(of)
    return "" if found is None else f'{found[1]}"{found[2]}'


def _written(name: str, family: _Family, values: Mapping[str, float], openmetrics: bool) -> str:
    kind = family.kind
    if openmetrics:
        name = name.removesuffix("_total") if kind == "counter" else name
        kind = "unknown" if kind == "untyped" else kind
    lines = "".join([f"{of} {floatToGoString(value)}\n" for of, value in values.items()])
    help_line = f"# HELP {name} {family.help}\n" if family.help else ""
    return f"{help_line}# TYPE {name} {kind}\n{lines}"


def _text(url: str) -> str:
    with urlopen(url, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text
