"""The page of /metrics: the same as prometheus_client writes, folded where labels are too many, whole over HTTP."""

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import numpy as np
import pytest
from cutpoint.calibration import Calibrator, Counts, LabelPolicy, Policy, expected_at
from cutpoint.server.monitoring.accounting import ModelCounters
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.monitoring.page import PageServer
from cutpoint.server.policy.policies import Active
from cutpoint.server.protocol.statistics import Statistics
from exposition import faults
from processes import ROOT
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import binomtest

ODD = 'a "quoted" \\ back\nslash é'
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counted(metrics: Metrics, labels: tuple[str, ...], undecided: tuple[int, ...] = (), version: int = 1) -> ModelCounters:
    """A model whose label i expects i + 1 alerts of 100 rows; three rows were decided, of which every one alerts."""
    parts = []
    for i, label in enumerate(labels):
        counts = Counts(positives=40, negatives=60, tp=1, fp=i % 50)
        has = i not in undecided
        parts.append(
            LabelPolicy(
                label=label,
                objective=("precision_at_least=0.25", "recall_at_least=0.5", "max_fbeta=1")[i % 3],
                status="OK" if has else "INFEASIBLE",
                threshold=0.0 if has else None,
                counts=counts,
                expected=expected_at(counts) if has else None,
                calibrator=Calibrator(),
            )
        )
    policy = Policy(
        model="m", model_version=version, model_digest="0", created="", author="", data_digest="0", labels=tuple(parts)
    )
    counters = metrics.add_model("m", version, labels, "0", "cpu")
    active = Active(policy, 1, 12.5).prepared()
    counters.apply(active)
    logits = np.ones((3, len(labels)), np.float32)
    counters.add(logits, logits >= active.thresholds, active)
    counters.outcome(0, True, False, 2)
    counters.outcome(len(labels) - 1, True, False, 5)
    return counters


def samples(text: bytes, openmetrics: bool = False) -> Samples:
    parse = parse_openmetrics if openmetrics else text_string_to_metric_families
    found = [
        (each.name, tuple(sorted(each.labels.items())), each.value)
        for family in parse(text.decode())
        for each in family.samples
    ]
    by_key = {(name, labels): value for name, labels, value in found}
    assert len(by_key) == len(found), "a series twice"
    return by_key


def of_label(found: Samples, name: str) -> dict[str, float]:
    return {dict(labels)["label"]: value for (sample, labels), value in found.items() if sample == name}


def test_the_page_is_what_prometheus_client_writes() -> None:
    metrics = Metrics(clock=lambda: 0.0)
    counted(metrics, ("a", ODD, "c"), undecided=(2,))
    counted(metrics, ("a",), version=12)
    theirs = {"": generate_latest, OPENMETRICS: generate_openmetrics}
    for accept, generate in theirs.items():
        ours, content_type = metrics.page.answer(accept)
        theirs_of, ours_of = (samples(text, bool(accept)) for text in (generate(metrics.registry), ours))
        moving = {key for key in ours_of if key[0].startswith("process_")}
        assert {key: value for key, value in ours_of.items() if key not in moving} == {
            key: value for key, value in theirs_of.items() if key not in moving
        }
        heads = [
            sorted(line for line in text.decode().splitlines() if line[:1] == "#")
            for text in (generate(metrics.registry), ours)
        ]
        assert heads[0] == heads[1]
        assert content_type.startswith(accept.partition(";")[0] or "text/plain; version=0.0.4")
    assert ours.endswith(b"\n# EOF\n") and ours.count(b"# EOF") == 1


def test_promtool_finds_no_fault_in_a_page_with_everything() -> None:
    metrics = Metrics(most_labels=3)
    counters = counted(metrics, ("a", ODD, "c", "d"), undecided=(1,))
    active = counters.active
    assert active is not None
    logits = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    counters.add(logits, logits >= active.thresholds, active)
    series = metrics.series("m")
    statistics = Statistics("m", 1)
    series.answered(statistics, 3, 0.0002, 0.0, 0.001, 0.0001, 0.002)
    series.waited(0.0)
    series.ran(statistics, 3, 0.001)
    text = metrics.page.answer()[0]
    assert b"cutpoint_estimated_prevalence{" in text
    assert faults(text) == ""


def test_promises_are_those_of_the_policy() -> None:
    metrics = Metrics()
    counted(metrics, ("a", "b", "c", "d"), undecided=(3,))
    found = samples(metrics.page.answer()[0])
    assert of_label(found, "cutpoint_expected_recall") == {label: pytest.approx(1 / 40) for label in "abc"}
    assert of_label(found, "cutpoint_expected_false_positive_rate") == {"a": 0, "b": 1 / 60, "c": 2 / 60}
    assert of_label(found, "cutpoint_expected_precision") == {"a": 1, "b": 1 / 2, "c": pytest.approx(1 / 3)}
    assert of_label(found, "cutpoint_expected_prevalence") == dict.fromkeys("abc", 0.4)
    assert of_label(found, "cutpoint_target_precision") == {"a": 0.25}
    assert of_label(found, "cutpoint_target_recall") == {"b": 0.5}
    assert of_label(found, "cutpoint_estimated_prevalence") == {}, "three rows say nothing"
    assert found["cutpoint_estimated_prevalence_rows", (("model", "m"), ("version", "1"))] == 3


def test_labels_beyond_the_most_are_one() -> None:
    names = tuple(f"label {i}" for i in range(10))
    metrics = Metrics(most_labels=4)
    counted(metrics, names, undecided=(0, 5))
    found = samples(metrics.page.answer()[0])
    kept = ["label 0", "label 1", "label 2", "__other__"]
    decisions = of_label(found, "cutpoint_decisions_total")
    assert list(decisions) == kept and list(decisions.values()) == [0, 3, 3, 18]
    assert list(of_label(found, "cutpoint_probability_total").values()) == pytest.approx([0, 2.1932, 2.1932, 13.159], abs=1e-3)
    expected = of_label(found, "cutpoint_expected_positive_rate")
    folded = [(i + 1) / 100 for i in (3, 4, 6, 7, 8, 9)]
    assert expected == {"label 1": 0.02, "label 2": 0.03, "__other__": pytest.approx(np.mean(folded))}
    totals = of_label(found, "cutpoint_expected_positives_total")
    assert totals["__other__"] / decisions["__other__"] == pytest.approx(expected["__other__"]), "the mean over decisions"
    intervals = [binomtest(round(100 * rate), 100).proportion_ci(method="exact") for rate in folded]
    errors = [(each.high - each.low) / 2 / 1.96 for each in intervals]
    assert of_label(found, "cutpoint_expected_positive_rate_rse")["__other__"] == pytest.approx(
        sum(errors) / sum(folded), rel=1e-4
    )
    error = of_label(found, "cutpoint_expected_positives_standard_error_total")["__other__"]
    assert error == pytest.approx(3 * sum(errors), rel=1e-4), "as if the errors were one and the same"
    rates = ("promised_recall_total", "promised_false_positive_rate_total")
    for name in (*rates, "threshold", "expected_recall", "expected_precision", "expected_prevalence", "target_precision"):
        assert "__other__" not in of_label(found, f"cutpoint_{name}")
    outcomes = {labels: value for (name, labels), value in found.items() if name == "cutpoint_outcomes_total"}
    assert len(outcomes) == 4 * len(kept) and sum(outcomes.values()) == 7
    assert found["cutpoint_folded_labels", (("model", "m"), ("version", "1"))] == 7


def test_as_many_labels_as_may_be_are_not_folded() -> None:
    metrics = Metrics(most_labels=3)
    counted(metrics, ("a", "b", "c"))
    found = samples(metrics.page.answer()[0])
    assert list(of_label(found, "cutpoint_decisions_total")) == ["a", "b", "c"]
    assert found["cutpoint_folded_labels", (("model", "m"), ("version", "1"))] == 0
    one = Metrics(most_labels=1)
    counted(one, ("a", "b"))
    assert list(of_label(samples(one.page.answer()[0]), "cutpoint_decisions_total")) == ["__other__"]


def test_a_label_of_the_folds_name_is_in_the_fold() -> None:
    metrics = Metrics(most_labels=3)
    counted(metrics, ("__other__", "b"))
    found = of_label(samples(metrics.page.answer()[0]), "cutpoint_decisions_total")
    assert found == {"b": 3, "__other__": 3}


def test_the_number_of_lines_does_not_grow() -> None:
    metrics = Metrics(clock=lambda: 0.0)
    counters = counted(metrics, ("a", "b"))
    active = counters.active
    assert active is not None
    rng = np.random.default_rng(0)
    lines = set()
    for _ in range(20):
        logits = rng.normal(size=(5000, 2)).astype(np.float32)
        counters.add(logits, logits >= active.thresholds, active)
        text = metrics.page.answer()[0].decode()
        lines.add(tuple(line.rpartition(" ")[0] for line in text.splitlines()))
    assert len(lines) == 1


@contextmanager
def served(metrics: Metrics) -> Iterator[HTTPConnection]:
    server = PageServer(metrics.page, "127.0.0.1", 0)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()
        server.close()


def test_over_http_as_the_scraper_asks() -> None:
    metrics = Metrics()
    counted(metrics, ("a", "b"))

    def ask(path: str = "/metrics", method: str = "GET", **headers: str) -> tuple[int, bytes, str]:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, body, answer.headers.get("Content-Type", "")

    with served(metrics) as connection:
        status, plain, kind = ask()
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        status, zipped, kind = ask(Accept=OPENMETRICS, Accept_Encoding="gzip")
        assert status == 200 and kind.startswith("application/openmetrics-text; version=1.0.0")
        assert {name for name, _ in samples(plain)} == {name for name, _ in samples(zipped, True)}
        some = samples(ask("/metrics?name[]=cutpoint_decisions_total&name[]=cutpoint_build_info")[1])
        assert {name for name, _ in some} == {"cutpoint_decisions_total", "cutpoint_build_info"}
        assert ask(method="POST")[0] == 405
        assert ask(method="OPTIONS")[:2] == (200, b"")
    with pytest.raises(OSError, match="refused"):
        connection.connect()


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["x", "1.x", "", "1.0.0é", "-", "1.0.0-rc1"])
def test_a_version_that_is_none_gets_a_page(kind: str, version: str) -> None:
    metrics = Metrics()
    body, content_type = metrics.page.answer(f"{kind};version={version}, */*;q=0.1")
    assert b"cutpoint_build_info{" in body
    assert body.endswith(b"# EOF\n") == content_type.startswith("application/openmetrics-text")


def test_a_port_that_is_taken_is_said() -> None:
    metrics = Metrics()
    with served(metrics) as connection, pytest.raises(OSError, match="in use"):
        PageServer(metrics.page, "127.0.0.1", connection.port)


def test_the_document_lists_every_metric_as_it_is() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \|(?: ([a-z_, ]+))? \|", text, re.MULTILINE)
    written = {name: (kind, tuple(labels.split(", ")) if labels else ()) for name, kind, labels in rows}
    assert len(written) == len(rows)
    metrics = Metrics(clock=lambda: 0.0)
    counted(metrics, ("a", "b"))
    metrics.loads.labels("m", "loaded")
    for family, more in ((metrics.started, ()), (metrics.handling, ()), (metrics.handled, ("OK",))):
        family.labels("unary", "service", "method", *more)
    found = {}
    for family in metrics.registry.collect():
        if family.name.startswith(("process_", "python_", "cutpoint_shadow_")):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        found[name] = (family.type, labels)
    # There is too little to estimate it from.
    found["cutpoint_estimated_prevalence"] = ("gauge", {"model", "version", "label"})
    assert {name: (kind, set(labels)) for name, (kind, labels) in written.items()} == found
