"""Our reader of the text format against prometheus_client's, and against lines that are none."""

import math

import numpy as np
import pytest
from cutpoint.errors import BadData
from cutpoint.watch.exposition import Reader, Series
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)


def by_client(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def by_us(page: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    reader = Reader()
    return {
        (each.name, each.labels): value
        for each, value in zip((reader.read(page), reader.series)[1], reader.read(page), strict=True)
    }


@given(st.dictionaries(st.tuples(TEXT, TEXT), st.floats(allow_nan=False), max_size=8))
def test_what_the_client_writes_is_read_as_the_client_reads_it(values: dict[tuple[str, str], float]) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("cutpoint_g", "A gauge\nof two lines \\ here.", ("model", "label"), registry=registry)
    counter = Counter("cutpoint_c", "A counter.", ("model", "label"), registry=registry)
    histogram = Histogram("cutpoint_h", "A histogram.", ("model",), registry=registry)
    for (model, label), value in values.items():
        gauge.labels(model, label).set(value)
        counter.labels(model, label).inc(abs(value) if math.isfinite(value) else 1)
        histogram.labels(model).observe(1.5)
    page = generate_latest(registry).decode()
    assert by_us(page) == by_client(page)


@pytest.mark.parametrize(
    "page",
    [
        "a 1\n",
        "a{} 1\n",
        'a{b="c"} 1e3\nb +Inf\nc -Inf\n',
        'a{b="c",} 1\n',
        'a { b = "c" , d = "e" } 2\n',
        'a{b="}"} 1\na{b="{ x=\\"1\\" }"} 2\n',
        'a{b="c"} 1 1700000000000\n',
        'a{b="c d"}\t3\n',
        "# HELP a b\n# TYPE a counter\n\n   \n# anything\na_total 5\n",
        'a{b="\\\\n"} 1\na{b="\\n"} 2\na{b="\\\\"} 3\n',
        'a{b="\u2028"} 1\n',
    ],
)
def test_what_may_be_written_otherwise(page: str) -> None:
    assert by_us(page) == by_client(page)


@pytest.mark.parametrize(
    "line",
    [
        "a", "a{} ", "a{b} 1", 'a{b="c} 1', 'a{b="c"', 'a{b="c"}1x', 'a{b="c"} one', 'a{b="c",b="d"} 1', "1a 2", "{} 1",
        'a{b="\\x"} 1', 'a{b="c"} 1 2 3', 'a{b="c"} 1 x', 'a{b="c"d="e"} 1', "a 1_0", "<html> 404", "a infinity", "a-b 1",
    ],
)  # fmt: skip
def test_what_is_none_of_the_format_is_said_with_its_line(line: str) -> None:
    with pytest.raises(BadData, match="line 2 of the page of metrics"):
        Reader().read(f"good 1\n{line}\n")


def test_a_series_twice_is_refused() -> None:
    with pytest.raises(BadData, match=r"a_total twice"):
        Reader().read('a_total{b="1",c="2"} 1\na_total{c="2",b="1"} 1\n')


def test_only_what_is_wanted_is_kept_and_places_stay() -> None:
    reader = Reader(lambda name: name.startswith("w"))
    assert reader.read('w{l="1"} 1\nother 5\n').tolist() == [1]
    np.testing.assert_array_equal(reader.read('w{l="2"} 2\n'), [np.nan, 2])
    assert reader.read('w{l="2"} 3 1700000000000\nw{l="1"} 4\n').tolist() == [4, 3]
    assert reader.series == [Series("w", (("l", "1"),)), Series("w", (("l", "2"),))]
    assert reader.series[0].label("l") == "1" and reader.series[0].label("none") == ""
