"""One set of metrics from several processes: what they count is added up, what they all know is said once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.request import Request, urlopen

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_TIMEOUT_S = 10.0
_ACCEPT = "application/openmetrics-text;version=1.0.0"
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
# What follows the value of a bucket in OpenMetrics: the trace of one of its values, the value, and when it was.
_EXAMPLE = re.compile(r"(.*) # (\{trace_id=\"[0-9a-f]+\"\} \S+ (\S+))")
_OF_VERSION = re.compile(rf"[{{,]model={_TEXT}.*[{{,]version={_TEXT}")


@dataclass
class _Family:
    """One family as it is written: its help line, its type, and its values by what stands before them in a line.

    `examples` are when each was, in seconds since 1970, and its text.
    """

    help: str = ""
    kind: str = "untyped"
    values: dict[str, float] = field(default_factory=dict)
    examples: dict[str, tuple[float, str]] = field(default_factory=dict)


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
            return merge(list(pool.map(lambda url: _text(url, openmetrics), self._urls)), openmetrics)


def merge(texts: Sequence[str], openmetrics: bool = False) -> str:
    """The families in several expositions as one.

    Args:
        texts: one of each worker, of the classic format; where `openmetrics`, they may be of that.
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
        parts.append(_written(name, found[0], values, _newest(found) if openmetrics else {}, openmetrics))
    return "".join(parts)


def _families(text: str) -> dict[str, _Family]:
    found: dict[str, _Family] = {}
    family = _Family()
    for line in text.split("\n"):
        if line.startswith("#"):
            _, what, name, rest = (*line.split(" ", 3), "", "")[:4]  # the end has no name
            if what in ("HELP", "TYPE"):
                family = found.setdefault(name, _Family())
                if what == "TYPE":
                    family.kind = rest
                else:
                    family.help = rest
        elif line:
            example = _EXAMPLE.fullmatch(line) if " # {" in line else None
            of, _, value = (line if example is None else example[1]).rpartition(" ")
            family.values[of] = float(value)
            if example is not None:
                family.examples[of] = float(example[3]), example[2]
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


def _newest(found: Sequence[_Family]) -> dict[str, tuple[float, str]]:
    examples: dict[str, tuple[float, str]] = {}
    for family in found:
        for of, example in family.examples.items():
            examples[of] = max(examples.get(of, example), example)
    return examples


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


def _written(
    name: str, family: _Family, values: Mapping[str, float], examples: Mapping[str, tuple[float, str]], openmetrics: bool
) -> str:
    kind = family.kind
    if openmetrics:
        name = name.removesuffix("_total") if kind == "counter" else name
        kind = "unknown" if kind == "untyped" else kind
    ends = {of: f" # {text}" for of, (_, text) in examples.items()}
    lines = "".join([f"{of} {floatToGoString(value)}{ends.get(of, '')}\n" for of, value in values.items()])
    help_line = f"# HELP {name} {family.help}\n" if family.help else ""
    return f"{help_line}# TYPE {name} {kind}\n{lines}"


def _text(url: str, openmetrics: bool) -> str:
    request = Request(url, headers={"Accept": _ACCEPT} if openmetrics else {})
    with urlopen(request, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text
