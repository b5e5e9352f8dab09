"""Series come when a model is loaded, at zero, and go when it is unloaded; counts go on over reloads, apart by version."""

import re
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from bundles import linear_bundle, nan_onnx, policy
from cutpoint.bundle import write_policy
from cutpoint.client import Client
from cutpoint.errors import BadRequest, BadScores
from cutpoint.server import running
from cutpoint.server.config import server_config
from processes import serving
from workplace import Workplace, asked, workplace

X = np.array([[2.0, -2.0, 0, 0], [2.0, 2.0, 0, 0], [-2.0, -2.0, 0, 0]], np.float32)
# Of the process itself: they move by themselves.
_OWN = re.compile(r"process_|python_")


def calibrated(models: Path, name: str = "linear", version: int = 1, threshold: float = 0.0) -> Path:
    path = linear_bundle(models, name=name, version=version)
    write_policy(path, policy(path, {"a": threshold, "b": threshold}))
    return path


def samples(place: Workplace) -> dict[str, float]:
    return {name: value for name, value in place.samples().items() if not _OWN.match(name)}


def of(place: Workplace, name: str, label: str = "a", version: int = 1) -> float:
    return place.samples()[f'{name}{{label="{label}",model="linear",version="{version}"}}']


def test_series_come_at_zero_and_go_with_the_model(models: Path) -> None:
    calibrated(models)
    with workplace(models, model_control="explicit") as place:
        before = samples(place)
        place.catalogue.load("linear")
        loaded = samples(place)
        families = {re.split("[{ ]", name)[0] for name in loaded.keys() - before.keys()}
        moved = {name for name, value in loaded.items() if value and name not in before}
        assert {re.split("[{ ]", name)[0] for name in moved} == {
            "cutpoint_model_ready", "cutpoint_model_info", "cutpoint_model_loads_total", "cutpoint_policy_version",
            "cutpoint_threshold_generation", "cutpoint_threshold_activated_timestamp_seconds", "cutpoint_expected_prevalence",
            "cutpoint_expected_positive_rate", "cutpoint_expected_positive_rate_rse", "cutpoint_expected_recall",
            "cutpoint_expected_false_positive_rate", "cutpoint_expected_precision",
        }  # fmt: skip
        for stage in ("decode", "queue", "inference", "answer", "request", "calibration"):
            assert f"cutpoint_{stage}_seconds_bucket" in families
        for counter in (
            "decisions", "positives", "expected_positives", "expected_positives_variance", "expected_positives_standard_error",
            "promised_recall", "promised_false_positive_rate", "promised_decisions", "probability", "alerted_probability",
            "outcomes", "outcomes_unmatched", "invalid_scores", "calibrations",
        ):  # fmt: skip
            assert f"cutpoint_{counter}_total" in families
        assert len([name for name in loaded if name.startswith("cutpoint_outcomes_total")]) == 4 * 2
        assert {name for name in loaded if name.startswith("cutpoint_invalid_scores_total")} == {
            f'cutpoint_invalid_scores_total{{model="linear",reason="{reason}",version="1"}}' for reason in ("nan", "infinite")
        }
        model = place.models.get("linear")
        for _ in range(3):
            asked(model, X)
        outcomes = place.metrics.outcomes
        outcomes.counted("linear", 1, 0, True, False, 1)
        outcomes.recallable("linear", 1, 1, False, 2.5)
        outcomes.unmatched("linear", "conflict", 3)
        outcomes.pool_rows = lambda: {("linear", 1): 17}
        place.metrics.count_calibration("linear", "applied", 0.1)
        used = samples(place)
        assert used.keys() == loaded.keys(), "what is counted later starts no series"
        assert used['cutpoint_outcomes_total{actual="negative",label="a",model="linear",predicted="positive",version="1"}'] == 1
        assert used['cutpoint_outcomes_unmatched_total{model="linear",reason="conflict"}'] == 3
        assert used['cutpoint_outcome_pool_rows{model="linear",version="1"}'] == 17
        assert [of(place, "cutpoint_positives_total", label) for label in "ab"] == [6, 3]
        place.catalogue.unload("linear")
        asked(model, X)  # somebody who found it before
        place.metrics.count_calibration("linear", "applied", 0.1)
        outcomes.unmatched("linear", "conflict", 1)
        place.metrics.count_invalid("linear", 1, "nan", 1)
        outcomes.counted("linear", 1, 0, True, False, 1)
        assert samples(place) == before, "nothing brings a series back"
        place.catalogue.load("linear")
        assert samples(place).keys() == loaded.keys()
        assert of(place, "cutpoint_decisions_total") == 0


def test_a_version_that_cannot_be_served_leaves_nothing_behind(models: Path) -> None:
    path = calibrated(models, "broken")
    (path / "model.onnx").write_bytes(b"no model")
    with workplace(models, model_control="explicit") as place:
        before = samples(place)
        with pytest.raises(BadRequest):
            place.catalogue.load("broken")
        failed = samples(place)
        assert {name: failed[name] for name in failed.keys() - before.keys()} == {
            'cutpoint_model_loads_total{model="broken",outcome="failed"}': 1,
            'cutpoint_model_ready{model="broken",version="1"}': 0,
        }
        place.catalogue.unload("broken")
        assert samples(place) == before


def test_counts_go_on_over_a_reload_and_are_apart_by_version(models: Path) -> None:
    path = calibrated(models)
    with workplace(models) as place:
        asked(place.models.get("linear"), X)
        before = place.models.get("linear")
        (path / "model.onnx").touch()
        place.look(3)
        after = place.models.get("linear")
        assert after is not before
        asked(before, X)
        asked(after, X)
        assert of(place, "cutpoint_decisions_total") == 9
        assert of(place, "cutpoint_positives_total") == 6
        probability = of(place, "cutpoint_probability_total")
        assert probability == pytest.approx(3 * (1 / (1 + np.exp(-X[:, 0]))).sum(), rel=1e-5)
        calibrated(models, version=2, threshold=9.0)
        place.look(3)
        assert place.default() == 2
        for version in ("1", "2", "2"):
            asked(place.models.get("linear", version), X)
        assert [of(place, "cutpoint_decisions_total", version=version) for version in (1, 2)] == [12, 6]
        assert [of(place, "cutpoint_positives_total", version=version) for version in (1, 2)] == [8, 0]
        assert [of(place, "cutpoint_threshold", version=version) for version in (1, 2)] == [0, 9]
        found = place.samples()
        assert found['cutpoint_inference_seconds_count{model="linear"}'] == 6, "of all versions together"


def test_infinite_logits_are_counted_and_decided(models: Path) -> None:
    nan_onnx(models / "log" / "1" / "model.onnx")
    with workplace(models) as place:
        model = place.models.get("log")
        x = np.array([[0.0], [1.0], [0.0]], np.float32)
        assert asked(model, x).outputs["logits"].tolist() == [[-np.inf], [0], [-np.inf]]
        with pytest.raises(BadScores):
            asked(model, np.array([[-1.0], [0.0]], np.float32))
        found = place.samples()
        name = 'cutpoint_invalid_scores_total{{model="log",reason="{}",version="1"}}'
        assert [found[name.format(reason)] for reason in ("infinite", "nan")] == [3, 1]


def test_stages_are_timed_once_a_request(models: Path) -> None:
    calibrated(models)
    before_s = sys.getswitchinterval()
    with running(server_config(models=models, port=0, metrics_port=0, lanes=1)) as at:
        assert sys.getswitchinterval() < before_s
        with Client(at.grpc_target) as client:
            for rows in (1, 3, 200):
                client.score("linear", np.repeat(X[:1], rows, axis=0))
            with pytest.raises(BadRequest):
                client.score("linear", X[:, :2])
        with urlopen(at.metrics_url, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    assert sys.getswitchinterval() == before_s, "whoever embeds a server has its interpreter back"
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}
    total = found['cutpoint_request_seconds_sum{model="linear"}']
    for stage in ("decode", "queue", "answer", "request"):
        assert found[f'cutpoint_{stage}_seconds_count{{model="linear"}}'] == 3, stage
        assert 0 <= found[f'cutpoint_{stage}_seconds_sum{{model="linear"}}'] <= total
    parts = [found[f'cutpoint_{stage}_seconds_sum{{model="linear"}}'] for stage in ("decode", "queue", "inference", "answer")]
    assert sum(parts) == pytest.approx(total), "the stages are all of it: no two requests shared a run"
    assert found['cutpoint_batch_rows_sum{model="linear"}'] == 204
    bounds = [name for name in found if name.startswith("cutpoint_request_seconds_bucket{le=")]
    assert '{le="0.0001"' in bounds[0] and '{le="10.0"' in bounds[-2] and '{le="+Inf"' in bounds[-1]


def test_without_accounting_the_log_says_so_and_nothing_is_counted(models: Path) -> None:
    calibrated(models)
    with serving(models, "--no-accounting") as server, Client(server.target) as client:
        assert client.score("linear", X).decisions is not None
        found = server.metrics()
    assert found['cutpoint_decisions_total{label="a",model="linear",version="1"}'] == 0
    assert found['cutpoint_request_seconds_count{model="linear"}'] == 0
    assert found['cutpoint_threshold{label="a",model="linear",version="1"}'] == 0
    handled = [value for name, value in found.items() if name.startswith("grpc_server_handled_total") and "ModelInfer" in name]
    assert handled == [1]
    assert "decisions are not counted and stages not timed: --no-accounting" in (models.parent / "server.log").read_text()


def test_the_most_labels_are_an_option(models: Path) -> None:
    path = linear_bundle(models, labels=("a", "b", "c", "d"))
    write_policy(path, policy(path, dict.fromkeys("abcd", 0.0)))
    with serving(models, "--max-metric-labels", 2, "--workers", 2) as server, Client(server.target) as client:
        client.score("linear", X)
        found = server.metrics()
    assert found['cutpoint_decisions_total{label="a",model="linear",version="1"}'] == 3
    assert found['cutpoint_decisions_total{label="__other__",model="linear",version="1"}'] == 9
    assert found['cutpoint_folded_labels{model="linear",version="1"}'] == 3
    assert not any('label="b"' in name for name in found)
