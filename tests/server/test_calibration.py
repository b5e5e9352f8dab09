"""Calibrating a live server: the next answer is decided by the new thresholds, and what is decided is exactly what they say."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint.calibration import Plan, Policy, Scores, fit_labels
from cutpoint.client import Client
from cutpoint.errors import Conflict, PolicyNotFound
from cutpoint.server.policy.calibration import SERVICE, CalibrationService
from cutpoint.server.policy.policies import Active, PolicyStore
from cutpoint.server.port.rpc import handlers
from cutpoint.server.port.transport import Call
from cutpoint.server.runs.lanes import Lanes
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import tensor_of
from transports import Served, serving
from workplace import Workplace


def labelled(rows: int = 300, seed: int = 0, features: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets of labels a and b that the first two features tell imperfectly; a tenth is not labelled."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype(np.float32).round(2) + np.float32(0)  # no -0.0: MatMul makes it 0.0
    y = (x[:, :2] + rng.normal(size=(rows, 2)) > 1.5).astype(np.uint8)
    y[rng.random(y.shape) < 0.1] = 255
    return x, y


def test_before_any_calibration_there_are_scores_and_no_decisions(client: Client, fresh: str) -> None:
    x, _ = labelled()
    scores = client.score(fresh, x)
    assert (scores.decisions, scores.policy_version, scores.labels) == (None, None, ("a", "b"))
    np.testing.assert_array_equal(scores.logits, x[:, :2])


@pytest.mark.parametrize(
    "objective", ["max_fbeta=1", "recall_at_least=0.9", "precision_at_least=0.5", "alert_rate_at_most=0.05"]
)
@pytest.mark.parametrize("by", ["inputs", "logits"])
def test_the_next_answer_is_decided_by_the_new_thresholds(client: Client, fresh: str, objective: str, by: str) -> None:
    x, y = labelled()
    data: dict[str, Any] = {"inputs": x} if by == "inputs" else {"logits": x[:, :2]}
    done = client.calibrate(fresh, objective, targets=y, author="ann", **data)
    assert done.activated
    assert done.policy.labels == fit_labels(Scores(x[:, :2], y, ("a", "b")), Plan.of(objective))
    assert (done.policy.version, done.policy.author, done.policy.parent, done.policy.model) == (1, "ann", None, fresh)
    assert done.policy.data_digest == Scores(x[:, :2], y, ("a", "b")).digest()
    scores = client.score(fresh, x)
    assert (scores.policy_version, scores.undecided_labels) == (1, 0)
    np.testing.assert_array_equal(scores.decisions, x[:, :2] >= done.policy.thresholds())
    for i, label in enumerate(done.policy.labels):
        alerts = scores.decisions[:, i] & (y[:, i] != 255)  # type: ignore[index]
        assert (alerts & (y[:, i] == 1)).sum() == label.counts.tp
        assert (alerts & (y[:, i] == 0)).sum() == label.counts.fp


def test_a_decision_at_the_threshold_is_positive_and_one_float_below_is_not(client: Client, fresh: str) -> None:
    x, y = labelled()
    thresholds = client.calibrate(fresh, "max_fbeta=1", targets=y, inputs=x).policy.thresholds()
    edge = np.zeros((3, 4), np.float32)
    edge[0, :2] = thresholds
    edge[1, :2] = np.nextafter(thresholds, np.float32(-np.inf))
    edge[2, :2] = np.nextafter(thresholds, np.float32(np.inf))
    decisions = client.score(fresh, edge).decisions
    assert decisions is not None
    assert decisions.tolist() == [[True, True], [False, False], [True, True]]


@pytest.mark.parametrize("by", ["inputs", "logits"])
def test_several_chunks_are_one_calibration(client: Client, fresh: str, by: str) -> None:
    x, y = labelled(5000)  # the client sends at most 1024 rows at a time
    data: dict[str, Any] = {"inputs": x} if by == "inputs" else {"logits": x[:, :2]}
    done = client.calibrate(fresh, "recall_at_least=0.8", targets=y, **data)
    assert done.policy.labels == fit_labels(Scores(x[:, :2], y, ("a", "b")), Plan.of("recall_at_least=0.8"))
    assert sum(label.counts.rows for label in done.policy.labels) == (y != 255).sum()


def test_windows_are_calibrated_and_decided_window_by_window(client: Client) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 6, 5)).astype(np.float32)
    y = (x[..., :3] > 1).astype(np.uint8)
    y[0] = 255
    done = client.calibrate("windows", "max_fbeta=1", targets=y, inputs=x)
    again = client.calibrate("windows", "max_fbeta=1", targets=y, logits=x[..., :3])
    assert again.policy.labels == done.policy.labels
    assert done.policy.labels[0].counts.rows == 19 * 6
    for windows in (6, 1, 9):  # any number of windows
        some = rng.normal(size=(4, windows, 5)).astype(np.float32)
        scores = client.score("windows", some)
        assert scores.decisions is not None and scores.decisions.shape == (4, windows, 3)
        np.testing.assert_array_equal(scores.decisions, some[..., :3] >= done.policy.thresholds())


def test_what_cannot_be_met_is_stored_and_not_activated_unless_that_is_allowed(client: Client, fresh: str) -> None:
    x, y = labelled()
    client.calibrate(fresh, "max_fbeta=1", targets=y, inputs=x)
    y[:, 1] = 0
    done = client.calibrate(fresh, "recall_at_least=0.9", targets=y, inputs=x)
    assert not done.activated
    assert [label.status for label in done.policy.labels] == ["OK", "INSUFFICIENT"]
    assert (done.policy.version, done.policy.parent) == (2, 1)
    assert client.score(fresh, x).policy_version == 1
    lines = client.policies(fresh)
    assert [(line.version, line.active, line.undecided_labels) for line in lines] == [(2, False, 1), (1, True, 0)]
    allowed = client.calibrate(fresh, "recall_at_least=0.9", targets=y, inputs=x, allow_undecided=True)
    assert allowed.activated
    scores = client.score(fresh, np.full((3, 4), 1e30, np.float32))
    assert (scores.policy_version, scores.undecided_labels) == (3, 1)
    assert scores.decisions is not None
    assert scores.decisions.tolist() == [[True, False]] * 3, "a label without a threshold never fires"


def test_a_calibration_may_be_stored_only(client: Client, fresh: str) -> None:
    x, y = labelled()
    done = client.calibrate(fresh, "max_fbeta=1", targets=y, inputs=x, activate=False)
    assert (done.activated, done.policy.version) == (False, 1)
    assert client.score(fresh, x).decisions is None
    assert client.policy(fresh, 1) == done.policy
    with pytest.raises(PolicyNotFound, match="has no active policy"):
        client.policy(fresh)
    assert client.activate(fresh, 1, expected_active=0) == 0
    assert client.policy(fresh) == done.policy


def test_activation_is_compare_and_set_and_rolls_back(client: Client, fresh: str) -> None:
    x, y = labelled()
    first = client.calibrate(fresh, "max_fbeta=1", targets=y, inputs=x).policy
    second = client.calibrate(fresh, "recall_at_least=0.99", targets=y, inputs=x).policy
    assert (second.version, second.parent) == (2, 1)
    before = client.score(fresh, x)
    with pytest.raises(Conflict, match=rf"policy 2 of {fresh}/1 is active, not 1 as the caller expected"):
        client.activate(fresh, 1, expected_active=1)
    with pytest.raises(Conflict):
        client.activate(fresh, 1, expected_active=0)
    assert client.score(fresh, x).policy_version == 2
    assert client.activate(fresh, 1, expected_active=2) == 2
    back = client.score(fresh, x)
    assert back.policy_version == 1
    np.testing.assert_array_equal(back.decisions, x[:, :2] >= first.thresholds())
    assert client.activate(fresh, 2) == 1
    np.testing.assert_array_equal(client.score(fresh, x).decisions, before.decisions)
    with pytest.raises(PolicyNotFound, match=f"model {fresh}/1 has no policy 3"):
        client.activate(fresh, 3)
    assert [line.version for line in client.policies(fresh)] == [2, 1]


def test_a_foreign_model_can_be_calibrated_too(client: Client) -> None:
    x, y = labelled(features=3)
    assert client.score("foreign", x).decisions is None
    done = client.calibrate("foreign", "max_fbeta=1", targets=y, inputs=x)
    assert [label.label for label in done.policy.labels] == ["0", "1"]
    np.testing.assert_array_equal(client.score("foreign", x).decisions, x[:, :2] >= done.policy.thresholds())


def test_minus_infinity_is_a_score_and_never_a_threshold(client: Client) -> None:
    x = np.array([[0.0], [0.0], [1.0], [2.0], [4.0]], np.float32)  # logits: -inf, -inf, 0, ...
    y = np.array([[0], [1], [0], [1], [1]])
    done = client.calibrate("log", "precision_at_least=0.9", targets=y, inputs=x)
    assert done.policy.labels[0].counts.tp == 2
    decisions = client.score("log", x).decisions
    assert decisions is not None and decisions[:, 0].tolist() == [False, False, False, True, True]


def test_policies_of_versions_are_apart(client: Client) -> None:
    x, y = labelled()
    client.calibrate("versions", "max_fbeta=1", targets=y, inputs=x, version="1")
    assert client.score("versions", x).policy_version is None
    assert client.score("versions", x, version="1").policy_version == 1
    newest = client.calibrate("versions", "max_fbeta=1", targets=y[:, :1], inputs=x)
    assert (newest.policy.model_version, newest.policy.version) == (12, 2)  # numbered over all versions of the model
    with pytest.raises(PolicyNotFound):
        client.activate("versions", 1, version="12")


class AnyCall:
    """What a calibration needs to know of its call."""

    caller = ""


class Calibrating:
    """A calibration service with its model, in this process."""

    def __init__(self, models: Path, store: PolicyStore) -> None:
        linear_bundle(models)
        self.lanes = Lanes(1, time.perf_counter)
        place = Workplace(models, store, self.lanes)
        place.catalogue.start()
        self.model, self.metrics = place.models.get("linear"), place.metrics
        self.service = CalibrationService(place.models, store, place.metrics, 16, now_s=lambda: 0.0)

    def requests(self) -> Iterator[v1.CalibrateRequest]:
        x, y = labelled()
        yield v1.CalibrateRequest(header=v1.CalibrateHeader(model="linear", objective="max_fbeta=1", activate=True))
        chunk = v1.LabelledChunk(logits=tensor_of(x[:, :2].copy()), targets=tensor_of(y))
        yield v1.CalibrateRequest(chunk=chunk)

    @contextmanager
    def served(self) -> Iterator[tuple[Served, Callable[..., Any]]]:
        """Its Calibrate behind a transport; on leaving, all calls have been worked off."""
        with ThreadPoolExecutor(4) as pool:
            rpcs = handlers({rpc.method: rpc for rpc in self.service.rpcs(pool)}, self.metrics, lambda call: None)
            with serving(rpcs) as (served, channel):
                yield served, channel.stream_unary(f"/{SERVICE}/Calibrate", lambda each: each.SerializeToString())


class HeldStore(PolicyStore):
    """A store that holds every change until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def add_and_activate(self, policy: Policy, now_s: float, *, shipped: bool = False) -> Active:
        self.reached.set()
        assert self.go_on.wait(60)
        return super().add_and_activate(policy, now_s, shipped=shipped)


def test_a_caller_who_leaves_during_the_commit_does_not_part_memory_from_disk(models: Path, tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "state")
    place = Calibrating(models, store)
    with place.served() as (served, calibrate):
        call = calibrate.future(place.requests())
        assert store.reached.wait(60)
        call.cancel()
        while served.transport._calls:
            pass
        assert store.active("linear", 1) is None and place.model.active is None
        store.go_on.set()
    active = store.active("linear", 1)
    assert active is not None and active.policy.version == 1
    assert place.model.active == active
    place.lanes.close(60)
    store.close()


def test_a_caller_who_leaves_before_the_end_of_its_data_changes_nothing(models: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "state")
    place = Calibrating(models, store)
    sent = threading.Event()

    def requests() -> Iterator[v1.CalibrateRequest]:
        yield from place.requests()
        sent.set()
        threading.Event().wait(60)

    with place.served() as (served, calibrate):
        for _ in range(20):
            sent.clear()
            call = calibrate.future(requests())
            assert sent.wait(60)
            call.cancel()
        while served.transport._calls:
            pass
    assert store.list("linear", 1) == [] and place.model.active is None
    place.lanes.close(60)
    store.close()


def test_of_two_calibrations_at_a_time_one_loses_and_stores_nothing(models: Path, tmp_path: Path) -> None:
    store = HeldStore(tmp_path / "state")
    place = Calibrating(models, store)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(place.service.calibrate, place.requests(), cast(Call, AnyCall())) for _ in range(2)]
        assert store.reached.wait(60)
        store.go_on.set()
        wait(calls, 60)
    # Both may read "none is active" before either commits, or one may come wholly after the other.
    errors = [call.exception() for call in calls]
    assert all(error is None or isinstance(error, Conflict) for error in errors)
    assert len(store.list("linear", 1)) == errors.count(None) >= 1
    assert place.model.active == store.active("linear", 1)
    place.lanes.close(60)
    store.close()
