"""Shadows: scored beside the live version, counted under names of their own, never answered, never in the way."""

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import linear_onnx, manifest, nan_onnx, policy
from cutpoint.bundle import write_bundle, write_policy
from cutpoint.errors import BadConfig
from cutpoint.server.policy.policies import Active
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.serving.shadow import Matched, ShadowVersion
from cutpoint.server.serving.shadow_counters import ShadowCounters
from workplace import Workplace, asked, workplace

CLOCK = lambda: 0.0  # noqa: E731
RNG = np.random.default_rng(1)


def decided_bundle(
    models: Path, version: int, columns: tuple[int, ...], thresholds: dict[str, float | None], name: str = "m"
) -> Path:
    """A bundle whose logits are these features, decided at `thresholds`."""
    weights = np.zeros((4, len(columns)), np.float32)
    weights[list(columns), np.arange(len(columns))] = 1
    scratch = linear_onnx(models.parent / "scratch.onnx", weights, ["batch", 4])
    path = write_bundle(models, manifest(name, tuple(thresholds), (-1, 4), version), scratch)
    write_policy(path, policy(path, thresholds))
    return path


def shadow_samples(place: Workplace) -> dict[str, float]:
    return {name: value for name, value in place.samples().items() if name.startswith("cutpoint_shadow")}


def sample(place: Workplace, name: str, version: int = 2, policy: str = "", **more: str) -> float:
    labels = {"model": "m", "version": str(version), "policy": policy, **more}
    text = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return place.samples()[f"cutpoint_shadow_{name}_total{{{text}}}"]


def settled(place: Workplace, requests: int) -> None:
    """Wait until so many requests were scored or not, by the counters themselves."""
    while sum(value for name, value in shadow_samples(place).items() if "requests" in name) < requests:
        pass


def test_a_shadow_version_is_counted_by_itself_and_compared_label_by_label(models: Path) -> None:
    decided_bundle(models, 1, (0, 1), {"a": 0.0, "b": 0.0})
    # Its labels come in another order, one is new, and `b` decides nothing.
    decided_bundle(models, 2, (1, 2, 3), {"b": None, "a": 0.5, "c": 0.0})
    rows = RNG.normal(size=(40, 4)).astype(np.float32)
    with workplace(models, shadow=["m=2"]) as place:
        assert place.default("m") == 1
        for i in range(20):
            answer = asked(place.models.get("m"), rows[2 * i : 2 * i + 2])
            assert answer.outputs["logits"].tolist() == rows[2 * i : 2 * i + 2, :2].tolist()
            settled(place, i + 1)
        assert sample(place, "requests", outcome="scored") == 20
        assert sample(place, "decisions", label="a") == 40
        assert sample(place, "decisions", label="b") == 0
        assert sample(place, "positives", label="a") == (rows[:, 2] >= 0.5).sum()
        assert sample(place, "positives", label="c") == (rows[:, 3] >= 0).sum()
        assert sample(place, "expected_positives", label="a") == pytest.approx(4)
        assert sample(place, "expected_positives_variance", label="a") == pytest.approx(40 * 0.1 * 0.9)
        live, shadow = rows[:, 0] >= 0, rows[:, 2] >= 0.5
        assert sample(place, "disagreements", label="a", live="positive") == (live & ~shadow).sum()
        assert sample(place, "disagreements", label="a", live="negative") == (shadow & ~live).sum()
        for other in ("b", "c"):  # decided by one of them only
            assert sample(place, "disagreements", label=other, live="positive") == 0
        # A model so quick that it answers at once does so only where nobody is in its shadow.
        live_model = place.models.get("m")
        live_model.batcher.learn(1, 1e-9)
        assert not live_model.is_quick(*live_model.rows_and_kind((("x", "FP32", (1, 4)),)))
        # Nothing of it is among the live counters.
        samples = place.samples()
        assert samples['cutpoint_positives_total{label="a",model="m",version="1"}'] == live.sum()
        assert samples['cutpoint_decisions_total{label="a",model="m",version="2"}'] == 0


def test_only_requests_for_decisions_to_the_default_version_are_scored(models: Path) -> None:
    for version in (1, 2):
        decided_bundle(models, version, (0,), {"a": 0.0})
    x = np.ones((1, 4), np.float32)
    with workplace(models, shadow=["m=2"]) as place:
        asked(place.models.get("m"), x, ("logits", "scores"))
        asked(place.models.get("m", "2"), x)
        place.models.get("m").logits({"x": x})
        asked(place.models.get("m", "1"), x, ("decisions",))  # the default, by its number
        settled(place, 1)
        assert sample(place, "requests", outcome="scored") == 1


def test_a_stored_policy_in_the_shadow_decides_the_live_logits(models: Path) -> None:
    path = decided_bundle(models, 1, (0, 1), {"a": 0.0, "b": 0.0})
    rows = RNG.normal(size=(50, 4)).astype(np.float32)
    with workplace(models) as place:
        stored = place.store.add(policy(path, {"a": 1.0, "b": None}))
        (models / "m" / "serving.json").write_text(json.dumps({"shadow": f"policy:{stored.version}"}))
        place.look()
        for row in rows:
            assert asked(place.models.get("m"), row[None]).active.policy.version == 1
        settled(place, 50)
        of: dict[str, Any] = {"version": 1, "policy": str(stored.version)}
        assert sample(place, "positives", label="a", **of) == (rows[:, 0] >= 1).sum()
        assert sample(place, "disagreements", label="a", live="positive", **of) == ((rows[:, 0] >= 0) & (rows[:, 0] < 1)).sum()
        assert sample(place, "disagreements", label="a", live="negative", **of) == 0
        assert sample(place, "decisions", label="b", **of) == 0


def test_a_shadow_comes_changes_and_goes_with_the_file(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    for version in (1, 2, 3):
        decided_bundle(models, version, (0,), {"a": 0.0})
    file = models / "m" / "serving.json"
    file.write_text('{"default": 1, "shadow": 2}')
    x = np.ones((1, 4), np.float32)
    with workplace(models) as place:
        asked(place.models.get("m"), x)
        settled(place, 1)
        file.write_text('{"default": 1, "shadow": 3, "shadow_share": 1.0}')
        place.look()
        assert {name.split("version=")[1][:3] for name in shadow_samples(place)} == {'"3"'}
        for content, text in [
            ('{"default": 1, "shadow": 7}', "version 7 is not served"),
            ('{"default": 1, "shadow": 1}', "version 1 is the default: it cannot be in its own shadow"),
            ('{"default": 1, "shadow": "policy:9"}', "has no policy 9"),
        ]:
            file.write_text(content)
            place.look(2)
            assert shadow_samples(place) == {}
            assert sum(text in record.message for record in caplog.records) == 1, text
            asked(place.models.get("m"), x)
        file.write_text('{"default": 1, "shadow": "3"}')
        place.look()
        assert place.default("m") == 1
        file.write_text('{"default": 2, "shadow": 1}')
        place.look()
        asked(place.models.get("m"), x)
        settled(place, 1)
        assert sample(place, "requests", version=1, outcome="scored") == 1
        # Switched: what was live before has no shadow any more.
        asked(place.models.get("m", "1"), x)
        assert place.models.get("m", "1").shadow is None
    assert len(place.lanes._queues) == 0


def test_a_shadow_that_cannot_take_what_the_live_one_takes_is_none(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    decided_bundle(models, 1, (0,), {"a": 0.0})
    scratch = linear_onnx(models.parent / "wide.onnx", np.ones((5, 1)), ["batch", 5])
    write_bundle(models, manifest("m", ("a",), (-1, 5), 2), scratch)
    decided_bundle(models, 3, (0,), {"other": 0.0})
    for version, text in ((2, "version 2 does not take the inputs of version 1"), (3, "version 3 has no label of version 1")):
        with workplace(models, shadow=[f"m={version}"], pin=["m=1"]) as place:
            assert place.models.get("m").shadow is None
        assert text in caplog.text


def test_a_shadow_that_fails_is_counted_and_hurts_nobody(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    scratch = linear_onnx(models.parent / "one.onnx", np.ones((1, 1)), ["batch", 1])
    for version in (1, 2):
        path = write_bundle(models, manifest("m", ("a",), (-1, 1), version), scratch)
        if version == 2:
            break
        write_policy(path, policy(path, {"a": 0.0}))
    nan_onnx(models.parent / "nan.onnx")
    path = write_bundle(models, manifest("m", ("a",), (-1, 1), 3), models.parent / "nan.onnx")
    write_policy(path, policy(path, {"a": 0.0}))
    x = np.float32([[-1]])
    for version, text in ((2, "it has no active policy"), (3, "it answered NaN")):
        with workplace(models, shadow=[f"m={version}"], pin=["m=1"]) as place:
            for i in range(3):
                assert asked(place.models.get("m"), x).outputs["decisions"].tolist() == [[False]]
                settled(place, i + 1)
            assert sample(place, "requests", version=version, outcome="failed") == 3
        assert caplog.text.count(text) == 1


@pytest.mark.parametrize("text", ["m", "m=", "m=x", "m=policy:", "m=policy:0", "m=1@", "m=1@2", "m=1@-1", "m=1@nan", "=1"])
def test_a_shadow_of_the_command_line_that_is_none_is_refused(models: Path, text: str) -> None:
    decided_bundle(models, 1, (0,), {"a": 0.0})
    with pytest.raises(ValueError, match=r"shadow is|model name is"), workplace(models, shadow=[text]):
        pass


def test_a_share_is_drawn_and_a_missing_version_stops_the_start(models: Path) -> None:
    for version in (1, 2):
        decided_bundle(models, version, (0,), {"a": 0.0})
    with workplace(models, shadow=["m=2@0.25"]) as place:
        shadow = place.models.get("m").shadow
        draws = iter([0.0, 0.3, 0.2, 0.25])
        shadow._draw = lambda: next(draws)
        for _ in range(4):
            asked(place.models.get("m"), np.ones((1, 4), np.float32))
        settled(place, 2)
        assert sample(place, "requests", outcome="scored") == 2
    with pytest.raises(BadConfig, match="shadow is m=3"), workplace(models, shadow=["m=3"], model_control="none"):
        pass


class Held:
    """A session that waits until it is told to go on."""

    inputs = outputs = ()

    def __init__(self) -> None:
        self.started, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        self.seen.append(inputs["x"].copy())
        self.started.release()
        assert self.permits.acquire(timeout=60)
        return {"logits": inputs["x"]}


class LiveQueue:
    """Live work: runs that wait for a permit."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes, self.waiting = lanes, 0
        self.started, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        lanes.add(self)

    def due_s(self) -> float | None:
        return 0.0 if self.waiting else None

    def take(self, now_s: float) -> Any:
        if not self.waiting:
            return None
        self.waiting -= 1
        return self.run

    def run(self, *, alone: bool) -> None:
        self.started.release()
        assert self.permits.acquire(timeout=60)

    def give(self, count: int) -> None:
        with self.lanes.changed:
            self.waiting += count
            self.lanes.changed.notify_all()

    def close(self) -> None:
        pass


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(2, CLOCK)
    yield made
    made.close(60)


def shadow_on(lanes: Lanes, session: Held, path: Path) -> tuple[ShadowVersion, ShadowCounters]:
    counters = ShadowCounters("m", 2, "", ("a",))
    active = Active(policy(path, {"a": 0.0}), 1, 0.0).prepared()
    matched = Matched.of(("a",), ("a",))
    return ShadowVersion(session, lambda: active, matched, counters, lanes), counters


def outcomes(counters: ShadowCounters) -> tuple[int, int, int]:
    return tuple(counters.snapshot()[2].values())  # type: ignore[return-value]


def test_it_runs_one_at_a_time_where_a_lane_stays_free_and_drops_what_would_wait_long(lanes: Lanes, models: Path) -> None:
    path = decided_bundle(models, 1, (0,), {"a": 0.0})
    session, live = Held(), LiveQueue(lanes)
    shadow, counters = shadow_on(lanes, session, path)
    x = np.ones((1, 1), np.float32)

    def offer() -> bool:
        kept = shadow.keep({"x": x}, 1)
        if kept is not None:
            shadow.score(kept, x, None, None)
        return kept is not None

    live.give(1)
    assert live.started.acquire(timeout=60)
    taken = [offer() for _ in range(6)]  # a lane is free, but it would be the last one
    assert taken == [True] * 4 + [False] * 2
    assert outcomes(counters) == (0, 2, 0)
    assert session.seen == []
    live.permits.release()
    assert session.started.acquire(timeout=60)
    live.give(1)  # the other lane is there for it
    assert live.started.acquire(timeout=60)
    live.permits.release()
    session.permits.release(4)
    while outcomes(counters) != (4, 2, 0):
        pass
    assert lanes.running <= 1


def test_what_waits_in_the_shadow_makes_no_live_run_share_its_cores(lanes: Lanes, models: Path) -> None:
    path = decided_bundle(models, 1, (0,), {"a": 0.0})
    session = Held()
    shadow, _ = shadow_on(lanes, session, path)
    session.permits.release()
    with lanes.changed:
        x = np.ones((1, 1), np.float32)
        shadow.score({"x": x}, x, None, None)
        assert shadow.due_s() is None
        assert not lanes.others_wait(shadow)


def test_memory_that_a_client_may_write_to_is_copied_before_it_is_answered(lanes: Lanes, models: Path) -> None:
    path = decided_bundle(models, 1, (0,), {"a": 0.0})
    session = Held()
    shadow, counters = shadow_on(lanes, session, path)
    region = bytearray(np.float32([[3]]).tobytes())
    x = np.frombuffer(memoryview(region).toreadonly(), np.float32).reshape(1, 1)
    kept = shadow.keep({"x": x}, 1)
    assert kept is not None
    region[:] = np.float32([[-3]]).tobytes()
    shadow.score(kept, x, None, None)
    own = np.frombuffer(np.float32([[4]]).tobytes(), np.float32).reshape(1, 1)
    again = shadow.keep({"x": own}, 1)
    assert again is not None
    assert again["x"] is own
    session.permits.release(1)
    while outcomes(counters) != (1, 0, 0):
        pass
    assert session.seen[0].tolist() == [[3]]


def test_large_requests_do_not_pile_up(lanes: Lanes, models: Path) -> None:
    path = decided_bundle(models, 1, (0,), {"a": 0.0})
    session = Held()
    shadow, counters = shadow_on(lanes, session, path)
    live = LiveQueue(lanes)
    live.give(2)
    for _ in range(2):
        assert live.started.acquire(timeout=60)
    large = np.zeros((10 << 20, 1), np.float32)
    kept = shadow.keep({"x": large}, len(large))
    assert kept is not None
    shadow.score(kept, large, None, None)
    assert shadow.keep({"x": large}, len(large)) is None
    shadow.close()
    assert outcomes(counters) == (0, 2, 0)
    assert shadow.keep({"x": large[:1]}, 1) is None
    live.permits.release(2)


class FewLanes:
    """Lanes in a state that a test says."""

    def __init__(self, count: int, running: int, others: bool) -> None:
        self.count, self.running, self.others = count, running, others
        self.changed = threading.Condition()

    def add(self, queue: Any) -> None:
        pass

    def wake(self) -> None:
        pass

    def others_wait(self, queue: Any) -> bool:
        return self.others


@pytest.mark.parametrize(
    ("count", "running", "others", "runs"),
    [
        (1, 0, False, True),
        (1, 0, True, False),
        (2, 0, False, True),
        (2, 1, False, False),
        (2, 0, True, False),
        (4, 2, False, True),
    ],
)
def test_a_shadow_runs_only_where_nobody_waits_and_a_lane_stays_free(
    models: Path, count: int, running: int, others: bool, runs: bool
) -> None:
    path = decided_bundle(models, 1, (0,), {"a": 0.0})
    session = Held()
    shadow, counters = shadow_on(FewLanes(count, running, others), session, path)  # type: ignore[arg-type]
    x = np.ones((1, 1), np.float32)
    for _ in range(2):
        shadow.score({"x": x}, x, None, None)
    run = shadow.take(0.0)
    assert (run is not None) == runs
    if run is not None:
        assert shadow.take(0.0) is None  # one at a time
        session.permits.release()
        run(alone=True)
        assert shadow.take(0.0) is not None
        assert outcomes(counters) == (1, 0, 0)
