"""The metrics of several workers as those of one server."""

import numpy as np
import pytest
from calibrated import KINDS, policy_of
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.monitoring.page import Page, PageServer
from cutpoint.server.policy.policies import Active
from cutpoint.server.protocol.statistics import Statistics
from cutpoint.server.workers.merged import Merged, merge
from exposition import faults
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families


def found_in(text: str) -> dict[tuple[str, str, str], float]:
    return {
        (sample.name, sample.labels.get("label", ""), sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker(version: int, generation: int, threshold: float, rows: int) -> str:
    metrics = Metrics()
    counters = metrics.add_model("m", 1, ("label 0", "label 1"), "0", "cpu")
    active = Active(
        policy_of(KINDS[:2], (threshold, None if version == 2 else threshold), version), generation, 100.0 + generation
    )
    counters.apply(active)
    logits = np.ones((rows, 2), np.float32)
    counters.add(logits, logits >= active.thresholds, active)
    counters.outcome(0, True, True, rows)
    series = metrics.series("m")
    series.ran(Statistics("m", 1), rows, 0.003)
    return metrics.page.answer()[0].decode()


def test_counters_and_histograms_are_added() -> None:
    found = found_in(merge([worker(1, 1, 0.5, 3), worker(1, 1, 0.5, 4)]))
    assert found["cutpoint_decisions_total", "label 0", ""] == 7
    assert found["cutpoint_batch_rows_sum", "", ""] == 7
    assert found["cutpoint_inference_seconds_bucket", "", "0.005"] == 2
    assert found["cutpoint_inference_seconds_bucket", "", "0.0025"] == 0
    assert found["cutpoint_estimated_prevalence_rows", "", ""] == 7
    assert found["cutpoint_model_ready", "", ""] == 1
    assert found["cutpoint_threshold", "label 1", ""] == 0.5
    assert sum(value for (name, _, _), value in found.items() if name == "cutpoint_outcomes_total") == 7


def test_gauges_of_the_policy_are_of_the_newest_one() -> None:
    """The older policy has the higher threshold, and one for a label that the newer one leaves undecided."""
    for texts in ([worker(1, 1, 0.5, 3), worker(2, 2, -0.5, 4)], [worker(2, 2, -0.5, 4), worker(1, 1, 0.5, 3)]):
        found = found_in(merge(texts))
        assert found["cutpoint_threshold", "label 0", ""] == -0.5
        assert ("cutpoint_threshold", "label 1", "") not in found
        assert ("cutpoint_expected_recall", "label 1", "") not in found
        assert found["cutpoint_policy_version", "", ""] == 2
        assert found["cutpoint_threshold_generation", "", ""] == 2
        assert found["cutpoint_threshold_activated_timestamp_seconds", "", ""] == 102
        assert found["cutpoint_decisions_total", "label 1", ""] == 3


def test_estimates_are_weighted_by_the_rows_that_they_are_of() -> None:
    text = """# TYPE cutpoint_estimated_prevalence gauge
cutpoint_estimated_prevalence{{label="{{odd, model=\\"x\\"}}",model="m",version="1"}} {value}
# TYPE cutpoint_estimated_prevalence_rows gauge
cutpoint_estimated_prevalence_rows{{model="m",version="1"}} {rows}
"""
    silent = "\n".join(text.splitlines()[2:]).format(rows=1e6) + "\n"
    found = found_in(merge([text.format(value=0.1, rows=300), text.format(value=0.4, rows=100), silent]))
    assert found["cutpoint_estimated_prevalence", '{odd, model="x"}', ""] == pytest.approx(0.175)
    assert not any(name == "cutpoint_estimated_prevalence" for name, _, _ in found_in(merge([silent])))


def test_openmetrics_is_whole() -> None:
    text = merge([worker(1, 1, 0.5, 3), worker(1, 1, 0.5, 4)], openmetrics=True) + "# EOF\n"
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["cutpoint_decisions"].type == "counter"
    assert families["cutpoint_decisions"].documentation.startswith("Decisions made")
    assert families["cutpoint_batch_rows"].type == "histogram"


def test_the_last_trace_of_each_bucket_is_kept_where_the_page_can_say_it() -> None:
    odd = 'm # {trace_id="ab"} 1 2'
    workers = [Metrics(), Metrics()]
    for metrics, traces in zip(
        workers, ({0.01: ("aa", 5.0), 0.2: ("bb", 6.0)}, {0.01: ("cc", 4.0), 3.0: ("dd", 7.5)}), strict=True
    ):
        metrics.add_model(odd, 1, ("a",), "0", "cpu")
        for seconds, (digits, at_s) in traces.items():
            metrics.series(odd).spreads["request"].observe(seconds)
            metrics.series(odd).spreads["request"].exemplify(seconds, 16 * digits, at_s)
    servers = [PageServer(metrics.page, "127.0.0.1", 0) for metrics in workers]
    try:
        merged = Merged([f"http://127.0.0.1:{server.port}/metrics" for server in servers])
        registry = CollectorRegistry()
        registry.register(merged)
        page = Page(registry, CollectorRegistry(), [merged])
        found = page.answer("application/openmetrics-text;version=1.0.0")[0].decode()
        classic = page.answer()[0]
    finally:
        for server in servers:
            server.close()
    families = {family.name: family for family in parse_openmetrics(found)}
    (of,) = (family for name, family in families.items() if name == "cutpoint_request_seconds")
    assert families["cutpoint_decisions"].type == "counter" and families["cutpoint_model_ready"].type == "gauge"
    assert {each.labels["model"] for each in of.samples} == {odd}
    buckets = {each.labels["le"]: each for each in of.samples if each.name.endswith("_bucket")}
    assert (buckets["0.01"].value, buckets["+Inf"].value) == (2, 4)
    examples = {le: each.exemplar for le, each in buckets.items() if each.exemplar is not None}
    assert {le: (each.labels["trace_id"], each.value, float(each.timestamp)) for le, each in examples.items()} == {
        "0.01": (16 * "aa", 0.01, 5.0), "0.25": (16 * "bb", 0.2, 6.0), "5.0": (16 * "dd", 3.0, 7.5)
    }  # fmt: skip
    assert faults(classic) == "" and b"aaaa" not in classic


def test_a_model_that_one_worker_has_alone_is_there() -> None:
    found = found_in(merge([Metrics().page.answer()[0].decode(), worker(1, 1, 0.5, 4)]))
    assert found["cutpoint_decisions_total", "label 0", ""] == 4
    assert found["cutpoint_threshold", "label 0", ""] == 0.5


def test_promtool_finds_no_fault() -> None:
    assert faults(merge([worker(1, 1, 0.5, 3), worker(2, 2, -0.5, 4)]).encode()) == ""
