"""/metrics against counts made with numpy, and against promtool."""

from urllib.request import urlopen

import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.calibration import Policy
from cutpoint.client import Client
from cutpoint.errors import CutpointError
from cutpoint.server.monitoring.accounting import ModelCounters
from cutpoint.server.policy.policies import Active
from exposition import faults
from processes import ServerProcess
from scipy.stats import binomtest

LABELS = 512


def of(name: str, model: str, label: str) -> str:
    return f'{name}{{label="{label}",model="{model}",version="1"}}'


def scored(client: Client, x: np.ndarray) -> np.ndarray:
    decisions = client.score("many", x).decisions
    assert decisions is not None
    return decisions


def test_512_labels_are_counted_exactly_across_policies(server: ServerProcess, client: Client) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 64)).astype(np.float32)
    logits = x[:, np.arange(LABELS) % 64]
    y = (logits + rng.normal(size=logits.shape) > 2.5).astype(np.uint8)
    y[:, 7] = 0  # gets no threshold where labels are needed
    fields = (
        "decisions", "positives", "expected_positives", "expected_positives_variance", "expected_positives_standard_error",
        "promised_recall", "promised_false_positive_rate", "promised_decisions",
    )  # fmt: skip
    wanted = {field: np.zeros(LABELS) for field in fields}
    found = server.metrics()
    for i in range(LABELS):
        assert all(found[of(f"cutpoint_{field}_total", "many", f"label {i}")] == 0 for field in fields), "series start at 0"
    made: Policy | None = None
    for objective in ("recall_at_least=0.8", "alert_rate_at_most=0.1"):
        made = client.calibrate("many", objective, targets=y, logits=logits, allow_undecided=True).policy
        rates, decides = np.nan_to_num(made.expected_rates()), ~np.isnan(made.thresholds())
        expected = [label.expected if label.threshold is not None else None for label in made.labels]
        errors = [0.0 if each is None else (each.alert_rate.high - each.alert_rate.low) / (2 * 1.959964) for each in expected]
        promised = np.array(
            [[each.recall.value, each.fpr.value, 1] if each and each.recall and each.fpr else [0, 0, 0] for each in expected]
        ).T
        assert promised[2].sum() == LABELS - 1, "label 7 has no recall"
        for rows in (1, 37, 200):
            decisions = scored(client, x[:rows])
            wanted["decisions"] += rows * decides
            wanted["positives"] += decisions.sum(axis=0)
            wanted["expected_positives"] += rows * rates
            wanted["expected_positives_variance"] += rows * rates * (1 - rates)
            wanted["expected_positives_standard_error"] += rows * np.array(errors)
            for field, each in zip(fields[5:], promised, strict=True):
                wanted[field] += rows * each
    assert made is not None
    found = server.metrics()
    for field in fields:
        values = [found[of(f"cutpoint_{field}_total", "many", f"label {i}")] for i in range(LABELS)]
        np.testing.assert_allclose(values, wanted[field], rtol=1e-12)
    for i, label in enumerate(made.labels):
        assert label.threshold is not None and label.expected is not None
        rate, rows = label.expected.alert_rate.value, label.counts.rows
        assert found[of("cutpoint_threshold", "many", label.label)] == label.threshold
        assert found[of("cutpoint_expected_positive_rate", "many", label.label)] == rate
        rse = found[of("cutpoint_expected_positive_rate_rse", "many", label.label)]
        interval = binomtest(round(rate * rows), rows).proportion_ci(method="exact")
        assert rse == pytest.approx((interval.high - interval.low) / (2 * 1.96 * rate), rel=1e-4)
        assert decides[i]
    assert found['cutpoint_policy_version{model="many",version="1"}'] == made.version
    assert found['cutpoint_threshold_generation{model="many",version="1"}'] == 2


def test_an_undecided_label_is_counted_nowhere_and_has_no_threshold(server: ServerProcess, client: Client, fresh: str) -> None:
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    y = np.zeros((10, 2), np.uint8)
    y[5:, 0] = 1
    client.calibrate(fresh, "max_fbeta=1", targets=y, inputs=x, allow_undecided=True)
    client.score(fresh, x)
    found = server.metrics()
    assert [found[of("cutpoint_decisions_total", fresh, label)] for label in "ab"] == [10, 0]
    assert [found[of("cutpoint_positives_total", fresh, label)] for label in "ab"] == [5, 0]
    assert of("cutpoint_threshold", fresh, "a") in found
    for gauge in ("cutpoint_threshold", "cutpoint_expected_positive_rate", "cutpoint_expected_positive_rate_rse"):
        assert of(gauge, fresh, "b") not in found


def test_requests_runs_and_calibrations_are_counted(server: ServerProcess, client: Client, fresh: str) -> None:
    handled = 'grpc_server_handled_total{grpc_code="%s",grpc_method="%s",grpc_service="%s",grpc_type="%s"}'
    oip, v1 = "inference.GRPCInferenceService", "cutpoint.v1.CalibrationService"
    series = {
        "ok": handled % ("OK", "ModelInfer", oip, "unary"),
        "bad": handled % ("InvalidArgument", "ModelInfer", oip, "unary"),
        "missing": handled % ("NotFound", "ModelInfer", oip, "unary"),
        "calibrated": handled % ("OK", "Calibrate", v1, "client_stream"),
        "runs": f'cutpoint_batch_rows_count{{model="{fresh}"}}',
        "rows": f'cutpoint_batch_rows_sum{{model="{fresh}"}}',
        "queued": f'cutpoint_queue_seconds_count{{model="{fresh}"}}',
        "ran": f'cutpoint_inference_seconds_count{{model="{fresh}"}}',
        **{
            outcome: f'cutpoint_calibrations_total{{model="{fresh}",outcome="{outcome}"}}'
            for outcome in ("applied", "stored", "rejected", "failed")
        },
    }
    before = server.metrics()
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = np.array([[0, 1], [1, 0], [1, 1]])
    client.score(fresh, x)
    client.score(fresh, x[:1])
    for model, bad in ((fresh, x[:, :2]), ("none", x)):
        with pytest.raises(CutpointError):
            client.score(model, bad)
    client.calibrate(fresh, "max_fbeta=1", targets=y, logits=x[:, :2])
    client.calibrate(fresh, "max_fbeta=1", targets=y, logits=x[:, :2], activate=False)
    with pytest.raises(CutpointError):
        client.calibrate(fresh, "max_fbeta=1", targets=0 * y, logits=x[:, :2])
    after = server.metrics()
    assert {name: after[key] - before.get(key, 0) for name, key in series.items()} == {
        "ok": 2, "bad": 1, "missing": 1, "calibrated": 2, "runs": 2, "rows": 4, "queued": 2, "ran": 2,
        "applied": 1, "stored": 1, "rejected": 1, "failed": 0,
    }  # fmt: skip
    assert after[f'cutpoint_inflight_requests{{model="{fresh}"}}'] == 0
    assert after[f'cutpoint_queue_rows{{model="{fresh}",version="1"}}'] == 0
    assert after[f'cutpoint_model_ready{{model="{fresh}",version="1"}}'] == 1


def test_nan_scores_are_counted(server: ServerProcess, client: Client) -> None:
    name = 'cutpoint_invalid_scores_total{model="log",reason="nan",version="1"}'
    before = server.metrics()[name]
    with pytest.raises(CutpointError, match="answered NaN"):
        client.score("log", np.array([[-1.0], [1.0], [-2.0]]))
    assert server.metrics()[name] == before + 2


def test_promtool_finds_no_fault(server: ServerProcess) -> None:
    with urlopen(server.metrics_url, timeout=30) as answer:
        assert faults(answer.read()) == ""


def test_an_older_generation_never_replaces_a_newer_one(models: object, tmp_path: object) -> None:
    path = linear_bundle(models)  # type: ignore[arg-type]
    counters = ModelCounters("linear", 1, ("a", "b"))
    new, old = (Active(policy(path, {"a": t, "b": t}), generation, 0.0) for t, generation in ((2.0, 5), (1.0, 4)))
    counters.apply(new)
    counters.apply(old)
    counters.apply(None)
    assert counters.active is new
    assert counters.snapshot().promises[0].tolist() == [2.0, 2.0]
    counters.add(
        np.array([[1.5, 0.5]], np.float32), np.array([[True, False]]), old
    )  # decided before the change, counted after it
    assert counters.snapshot().sums[:3].tolist() == [[1, 1], [1, 0], [0.1, 0.1]]
