"""What a calibration may ask for, and from what data: each answer is that of the maths called here with the same arrays."""

import asyncio
import hashlib
import json
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest
from bundles import linear_onnx
from cutpoint.bundle import read_bundle
from cutpoint.calibration import Plan, Policy, ScoreHistogram, Scores, fit_labels, merge_histograms
from cutpoint.client import AioClient, Client
from cutpoint.errors import BadData, BadInput, Uncalibratable
from cutpoint.server.policy.calibration import CalibrationService
from cutpoint.server.policy.collection import Collection
from cutpoint.server.policy.policies import PolicyStore
from cutpoint.server.port.transport import Call
from cutpoint.server.runs.lanes import Lanes
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import REASON_KEY, tensor_of
from processes import ServerProcess
from workplace import Workplace

LABELS = ("a", "b")


def labelled(rows: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs whose first two are the logits of a and b, and targets; a tenth is not labelled."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype(np.float32).round(2) + np.float32(0)
    y = (x[:, :2] + rng.normal(size=(rows, 2)) > 1.5).astype(np.uint8)
    y[rng.random(y.shape) < 0.1] = 255
    return x, y


X, Y = labelled()
Z = X[:, :2].copy()


def fitted(objective: str | list[str], data: Scores | ScoreHistogram | None = None, **given: Any) -> Any:
    return fit_labels(data if data is not None else Scores(Z, Y, LABELS), Plan.of(objective, **given))


def counted(
    logits: np.ndarray,
    targets: np.ndarray | None,
    labels: tuple[str, ...] = LABELS,
    groups: np.ndarray | None = None,
    **options: Any,
) -> ScoreHistogram:
    histogram = ScoreHistogram(labels, grouped=groups is not None, **options)
    histogram.update(logits, targets, groups=groups)
    return histogram


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        ("fpr_at_most=0.05", {}),
        ("min_cost=20", {}),
        ("min_cost=20@0.001", {}),
        ("max_micro_fbeta=1", {}),
        ("alert_budget=0.1", {}),
        (["max_fbeta=1", "b:recall_at_least=0.9"], {}),
        (["alert_budget=0.1", "a:fpr_at_most=0.01"], {}),
        ("max_fbeta=2", {"shrink": 4.0}),
        ("max_fbeta=1", {"calibrator": "isotonic"}),
        ("max_fbeta=1", {"calibrator": "venn_abers"}),
        ("max_fbeta=1", {"calibrator": "none"}),
        ("recall_at_least=0.8", {"delta": 0.05}),
        ("precision_at_least=0.3", {"delta": 0.1}),
        ("fpr_at_most=0.1", {"delta": 0.05, "simultaneous": True}),
        ("alert_rate_at_most=0.1", {"delta": 0.05}),
    ],
)
def test_what_is_asked_for_is_what_the_maths_gives(client: Client, fresh: str, objective: Any, given: dict[str, Any]) -> None:
    done = client.calibrate(fresh, objective, targets=Y, logits=Z, **given)
    assert done.activated
    assert done.policy.labels == fitted(objective, **given)
    assert done.policy.data is not None
    assert (done.policy.data.source, done.policy.data.rows, done.policy.data.weighted) == ("scores", len(Z), False)
    np.testing.assert_array_equal(client.score(fresh, X).decisions, X[:, :2] >= done.policy.thresholds())


def test_a_guarantee_is_recorded_and_one_that_cannot_be_given_says_how_many_it_takes(client: Client, fresh: str) -> None:
    policy = client.calibrate(fresh, "recall_at_least=0.8", targets=Y, logits=Z, delta=0.1, simultaneous=True).policy
    assert policy.guarantee is not None
    assert (policy.guarantee.delta, policy.guarantee.family, policy.guarantee.unit) == (0.1, "simultaneous", "row")
    assert [label.guarantee.delta for label in policy.labels if label.guarantee] == [0.05, 0.05]
    assert policy.delta_spent == pytest.approx(0.1)
    # With 1 - 0.999 missed at most and no miss at all, 0.999^n <= 0.05 takes 2995 positives.
    with pytest.raises(Uncalibratable, match="it takes at least 2995"):
        client.calibrate(fresh, "recall_at_least=0.999", targets=Y, logits=Z, delta=0.05)
    few = Y.copy()
    few[np.flatnonzero(few[:, 1] == 1)[13:], 1] = 0
    done = client.calibrate(fresh, "recall_at_least=0.8", targets=few, logits=Z, delta=0.05)
    assert not done.activated
    needs = done.policy.labels[1].needs
    assert needs is not None and (needs.count, needs.of) == (14, "positives")  # 0.8^14 <= 0.05 < 0.8^13


@pytest.mark.parametrize("kind", ["integers", "text"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_groups_are_integers_or_text(client: Client, fresh: str, kind: str, chunks: int) -> None:
    rng = np.random.default_rng(1)
    x, y = labelled(1500 * chunks)  # of inputs, 1024 rows are sent at a time
    codes = rng.integers(0, 200, len(x)) * 7 - 300
    groups = codes if kind == "integers" else np.array([f"machine é{code}" for code in codes])
    done = client.calibrate(fresh, "recall_at_least=0.7", targets=y, inputs=x, groups=groups, delta=0.1, by_group=True)
    data = Scores(x[:, :2], y, LABELS, groups=groups)
    assert done.policy.labels == fitted("recall_at_least=0.7", data, delta=0.1, by_group=True)
    assert done.policy.data is not None and done.policy.data.groups == len(set(codes))
    assert done.policy.data_digest == data.digest()
    assert [label.guarantee.unit for label in done.policy.labels if label.guarantee] == ["group"] * 2
    rows = fitted("recall_at_least=0.7", Scores(x[:, :2], y, LABELS), delta=0.1)
    assert [label.guarantee.counted for label in rows] != [label.guarantee.counted for label in done.policy.labels]


def test_groups_and_weights_are_given_for_each_window_or_for_each_sequence(client: Client) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 6, 5)).astype(np.float32)
    y = (x[..., :3] + rng.normal(size=(300, 6, 3)) > 2).astype(np.uint8)
    machines = np.array([f"m{i}" for i in rng.integers(0, 100, 300)])
    calls = [
        {"groups": machines},
        {"groups": np.repeat(machines[:, None], 6, axis=1)},
    ]
    wanted = fitted("max_fbeta=1", Scores(x[..., :3], y, ("a", "b", "c"), groups=machines))
    for by in ("inputs", "logits"):
        for given in calls:
            data: dict[str, Any] = {by: x if by == "inputs" else x[..., :3]}
            assert client.calibrate("windows", "max_fbeta=1", targets=y, **data, **given).policy.labels == wanted
    weights = rng.random(300)
    weighed = fitted("max_fbeta=1", Scores(x[..., :3], y, ("a", "b", "c"), weights=weights))
    for given in ({"weights": weights}, {"weights": np.repeat(weights[:, None], 6, axis=1)}):
        policy = client.calibrate("windows", "max_fbeta=1", targets=y, inputs=x, **given).policy
        assert policy.labels == weighed
        assert policy.data is not None and policy.data.weighted


def test_weights_count_for_as_many_rows(client: Client, fresh: str) -> None:
    weights = np.random.default_rng(4).integers(0, 4, len(Z))
    done = client.calibrate(fresh, "recall_at_least=0.9", targets=Y, logits=Z, weights=weights, calibrator="none")
    times = fitted("recall_at_least=0.9", Scores(np.repeat(Z, weights, 0), np.repeat(Y, weights, 0), LABELS))
    assert [label.threshold for label in done.policy.labels] == [label.threshold for label in times]
    assert done.policy.labels == fitted("recall_at_least=0.9", Scores(Z, Y, LABELS, weights=weights), calibrator="none")


def test_without_classes_an_alert_rate_is_kept(client: Client, fresh: str) -> None:
    done = client.calibrate(fresh, "alert_rate_at_most=0.02", logits=Z)
    assert done.policy.labels == fitted("alert_rate_at_most=0.02", Scores(Z, None, LABELS))
    assert done.policy.data is not None and not done.policy.data.labelled
    decisions = client.score(fresh, X).decisions
    assert decisions is not None and (decisions.sum(axis=0) == 12).all()  # 2 % of 600, no ties there
    again = client.calibrate(fresh, "alert_rate_at_most=0.02", inputs=X)
    assert again.policy.labels == done.policy.labels


def test_histograms_of_shards_are_one_histogram_of_all(client: Client, fresh: str) -> None:
    parts = [slice(0, 100), slice(100, 450), slice(450, 600)]
    shards = [counted(Z[part], Y[part]).to_bytes() for part in parts]
    done = client.calibrate(fresh, "recall_at_least=0.8", histograms=shards)
    whole = counted(Z, Y)
    assert done.activated
    assert done.policy.labels == fitted("recall_at_least=0.8", whole)
    assert done.policy.data_digest == whole.digest()
    assert done.policy.data is not None
    assert (done.policy.data.source, done.policy.data.step, done.policy.data.rows) == ("histogram", 2**-8, whole.rows)
    reverse = client.calibrate(fresh, "recall_at_least=0.8", histograms=shards[::-1])
    assert reverse.policy.data_digest == whole.digest()
    grouped = [counted(Z[part], Y[part], groups=np.arange(600)[part] // 5) for part in parts]
    sure = client.calibrate(
        fresh, "recall_at_least=0.7", histograms=[each.to_bytes() for each in grouped], delta=0.1, by_group=True
    )
    assert sure.policy.labels == fitted("recall_at_least=0.7", merge_histograms(grouped), delta=0.1, by_group=True)
    with pytest.raises(BadData, match="groups is not given"):
        client.calibrate(fresh, "recall_at_least=0.7", histograms=shards, delta=0.1, by_group=True)


@pytest.mark.parametrize("kind", ["plain", "weights", "no classes"])
def test_more_than_fits_is_counted(client: Client, fresh: str, kind: str) -> None:
    """The server holds 4 MiB of scores; here come more, in float32 of 24 bits, so that bins hold several."""
    rows = 400_000
    rng = np.random.default_rng(5)
    z = rng.normal(-2, 2, size=(rows, 2)).astype(np.float32)
    y = (z + rng.normal(size=z.shape) > 3).astype(np.uint8)
    y[rng.random(y.shape) < 0.05] = 255
    targets, weights = (None if kind == "no classes" else y), (rng.random(rows) if kind == "weights" else None)
    objective = "alert_rate_at_most=0.01" if kind == "no classes" else "recall_at_least=0.9"
    done = client.calibrate(fresh, objective, targets=targets, logits=z, weights=weights)
    assert done.policy.data is not None and (done.policy.data.source, done.policy.data.step) == ("histogram", 2**-8)
    local = ScoreHistogram(LABELS, weighted=weights is not None, labelled=targets is not None)
    local.update(z, targets, weights)
    if weights is None:
        assert done.policy.labels == fitted(objective, local)
        assert done.policy.data_digest == local.digest()
    exact = fitted(objective, Scores(z, targets, LABELS, weights=weights))
    for i, (label, wanted) in enumerate(zip(done.policy.labels, exact, strict=True)):
        assert label.threshold is not None and wanted.threshold is not None
        assert abs(label.threshold - wanted.threshold) <= 2**-8
        if weights is None:
            alerts = z[:, i] >= np.float32(label.threshold)
            known = (y[:, i] == 1, y[:, i] == 0) if targets is not None else (alerts & False, alerts | True)
            found = (label.counts.tp, label.counts.fp if targets is not None else label.counts.unlabelled_alerts)
            assert found == ((alerts & known[0]).sum(), (alerts & known[1]).sum())


def test_more_than_fits_with_groups_is_refused_by_name(client: Client, fresh: str) -> None:
    z = np.random.default_rng(6).normal(size=(200_000, 2)).astype(np.float32)
    y = (z > 2).astype(np.uint8)
    with pytest.raises(BadData, match=r"labelled scores with groups is over 2 MiB; expected at most half of --max-calibration"):
        client.calibrate(fresh, "max_fbeta=1", targets=y, logits=z, groups=np.arange(200_000) // 9)
    assert client.policies(fresh) == []


def forged(**changes: Any) -> bytes:
    """A histogram whose header says something else, with a digest that fits."""
    data = counted(Z, Y).to_bytes()
    begin = data.index(b"\n") + 1
    end = begin + 4 + int.from_bytes(data[begin : begin + 4], "little")
    header = json.loads(data[begin + 4 : end]) | changes
    counts = header.pop("counts", data[end:-32])
    text = json.dumps(header).encode()
    body = data[:begin] + len(text).to_bytes(4, "little") + text + counts
    return body + hashlib.sha256(body).digest()


BOMB = zlib.compress(bytes(200 << 20), 9)  # 200 KB
GRID = {"limit": 32, "bits": 16, "first": -(32 << 16) - 1, "width": 2 * (32 << 16) + 2, "dtype": "<i8"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "histogram is 0 bytes that begin otherwise"),
        (b"garbage" * 1000, "histogram is 7000 bytes that begin otherwise"),
        (b"cutpoint-histogram\n", "histogram is damaged"),
        (b"cutpoint-histogram\n\xff\xff\xff\xff" + b"x" * 100, "histogram is damaged"),
        (counted(Z, Y).to_bytes()[:-1], "histogram is damaged"),
        (
            counted(Z, Y, ("b", "a")).to_bytes(),
            "histogram labels is ['b', 'a'], 2 in all; expected ['a', 'b'], 2 in all, in that order",
        ),
        (
            counted(np.tile(Z, 2), np.tile(Y, 2), ("a", "b", "c", "d")).to_bytes(),
            "histogram labels is ['a', 'b', 'c', 'd'], 4 in all",
        ),
        (forged(labels=[str(i) for i in range(1 << 17)], **GRID, counts=BOMB), "histogram header is "),
        (forged(labels=[0, 1], **GRID, counts=BOMB), "histogram header: labels.0 is 0"),
        (forged(**GRID, counts=BOMB), "histogram grid is limit 32, bits 16: 64 MiB for 2 labels; expected at most 2 MiB"),
        (forged(bits=1 << 40, counts=BOMB), "histogram header: bits is 1099511627776"),
        (forged(limit=10**300, counts=BOMB), "histogram header: limit is 1000"),
        (forged(limit=-1, counts=BOMB), "histogram header: limit is -1"),
        (forged(width=1 << 60, counts=BOMB), "histogram window is bins"),
        (forged(width=100, counts=BOMB), "histogram counts is more or fewer counts"),
        (forged(width=-3, counts=BOMB), "histogram header: width is -3"),
        (forged(limit="32", counts=BOMB), "histogram header: limit is '32'"),
        (forged(labels=None), "histogram header: labels is None"),
        (forged(format=99), "histogram format is 99"),
        (forged(dtype="|O"), "histogram header: dtype is '|O'"),
    ],
)
def test_a_hostile_histogram_is_refused_before_it_is_unpacked(
    channel: grpc.Channel, server: ServerProcess, data: bytes, text: str
) -> None:
    header = v1.CalibrateHeader(model="uncalibrated", objective="max_fbeta=1", activate=True)
    requests = [v1.CalibrateRequest(header=header), v1.CalibrateRequest(chunk=v1.LabelledChunk(histogram=data))]
    method = channel.stream_unary(
        "/cutpoint.v1.CalibrationService/Calibrate",
        v1.CalibrateRequest.SerializeToString, v1.CalibrateResponse.FromString,
    )  # fmt: skip
    held = memory(server.process.pid, "VmHWM")
    with pytest.raises(grpc.RpcError) as refused:
        method(iter(requests), timeout=30)
    error: Any = refused.value
    assert (error.code(), dict(error.trailing_metadata())[REASON_KEY]) == (grpc.StatusCode.INVALID_ARGUMENT, "bad_request")
    assert error.details().startswith("chunk 0: histogram ") and text in error.details(), error.details()
    assert memory(server.process.pid, "VmHWM") - held < 50 << 20


def memory(pid: int, what: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(what)


def test_names_of_groups_take_the_room_of_their_letters() -> None:
    collection = Collection(LABELS, 64 << 20)
    names = np.array([b"x" * (1 << 20), *(str(i).encode() for i in range(10_000)), b"0", b"0\0"], object)
    z = np.zeros((len(names), 2), np.float32)
    collection.add("chunk 0", z, np.zeros(z.shape, np.uint8), None, names)  # as an array of text it would be 10 GB
    data = collection.data()
    assert isinstance(data, Scores) and data.groups is not None
    assert data.group_count == 10_002  # b"0" twice; b"0\0" is another
    sorted_names = sorted(set(names))
    assert [sorted_names[code] for code in data.groups] == names.tolist()
    tight = Collection(LABELS, 2 << 20)
    with pytest.raises(BadData, match="over 1 MiB"):
        tight.add("chunk 0", z, np.zeros(z.shape, np.uint8), None, names)


def test_many_small_chunks_are_counted_too() -> None:
    collection = Collection(LABELS, 1 << 20)
    for i in range(1000):  # 10 bytes each, and the objects that hold them
        collection.add(f"chunk {i}", Z[i % 600, None], Y[i % 600, None], None, None)
    data = collection.data()
    assert isinstance(data, ScoreHistogram)
    assert data == counted(Z[np.arange(1000) % 600], Y[np.arange(1000) % 600])


def test_what_is_wrong_in_a_counted_chunk_is_named_with_it() -> None:
    collection = Collection(LABELS, 1 << 10)
    collection.add("chunk 0", Z[:9], Y[:9], None, None)
    with pytest.raises(BadData, match=r"chunk 1: scores of label 'b' is NaN in 2 entries"):
        collection.add("chunk 1", np.where([True, False], Z[:2], np.float32(np.nan)), Y[:2] * 0, None, None)


@pytest.mark.parametrize("calibrator", ["platt", "beta", "isotonic", "none"])
def test_scores_are_the_active_policys_probabilities(client: Client, fresh: str, calibrator: str) -> None:
    before = client.score(fresh, X)
    plain = 1 / (1 + np.exp(-Z.astype(np.float64)))
    np.testing.assert_allclose(before.scores, plain, rtol=1e-6)
    first = client.calibrate(fresh, "max_fbeta=1", targets=Y, logits=Z, calibrator=calibrator).policy
    assert {label.calibrator.kind for label in first.labels} == {calibrator}
    many = np.tile(X, (60, 1))  # enough to be worked out beside the event loop
    for x in (X, X[:1], many):
        found = client.score(fresh, x)
        assert found.policy_version == 1
        odds = np.stack([label.calibrator.log_odds(x[:, i]) for i, label in enumerate(first.labels)], axis=1)
        np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-odds)), rtol=1e-5)
        np.testing.assert_array_equal(found.scores, first.probability_map()(x[:, :2]))
        np.testing.assert_array_equal(found.decisions, x[:, :2] >= first.thresholds())
    second = client.calibrate(fresh, "max_fbeta=1", targets=1 - (Z > 1).astype(np.uint8), logits=-Z, calibrator="beta").policy
    np.testing.assert_array_equal(client.score(fresh, X).scores, second.probability_map()(Z))
    client.activate(fresh, 1)
    np.testing.assert_array_equal(client.score(fresh, X).scores, first.probability_map()(Z))


def test_the_previous_policy_is_the_one_that_is_active(client: Client, fresh: str) -> None:
    first = client.calibrate(fresh, "recall_at_least=0.9", targets=Y, logits=Z).policy
    client.calibrate(fresh, "precision_at_least=0.6", targets=Y, logits=Z, activate=False)
    few = Y.copy()
    few[:, 1][few[:, 1] == 1] = 0
    none = client.calibrate(fresh, "recall_at_least=0.8", targets=few, logits=Z).policy
    assert none.labels[1].status == "INSUFFICIENT"
    done = client.calibrate(fresh, "recall_at_least=0.8", targets=few, logits=Z, fallback="previous")
    assert done.activated
    assert done.policy.parent == 1
    assert (done.policy.labels[1].status, done.policy.labels[1].threshold) == ("FALLBACK", first.labels[1].threshold)
    assert done.policy.labels[0] == none.labels[0]
    assert done.policy.labels == fit_labels(Scores(Z, few, LABELS), Plan.of("recall_at_least=0.8", fallback="previous"), first)
    pooled = client.calibrate(fresh, "max_fbeta=1", targets=few, logits=Z, fallback="pooled").policy
    assert pooled.labels == fitted("max_fbeta=1", Scores(Z, few, LABELS), fallback="pooled")
    assert pooled.labels[1].status == "FALLBACK"


def test_a_policy_of_another_graph_is_no_previous_one(models: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path / "state")
    few = Y.copy()
    few[:, 1][few[:, 1] == 1] = 0

    def calibrated(targets: np.ndarray, **given: Any) -> Policy:
        lanes = Lanes(1, time.perf_counter)
        place = Workplace(models, store, lanes)
        place.catalogue.start()
        service = CalibrationService(place.models, store, place.metrics, 16, now_s=lambda: 0.0)
        header = v1.CalibrateHeader(model="m", objective="recall_at_least=0.8", activate=True, allow_undecided=True, **given)

        requests = [
            v1.CalibrateRequest(header=header),
            v1.CalibrateRequest(chunk=v1.LabelledChunk(logits=tensor_of(Z), targets=tensor_of(targets))),
        ]
        response = service.calibrate(iter(requests), cast(Call, SimpleNamespace(caller="")))
        lanes.close(60)
        return Policy.from_json(response.policy.document)

    linear_onnx(models / "m" / "1" / "model.onnx", np.eye(3, 2), ["n", 3])
    first = calibrated(Y)
    assert calibrated(few, fallback="previous").labels[1].status == "FALLBACK"
    linear_onnx(models / "m" / "1" / "model.onnx", 100 * np.eye(3, 2), ["n", 3])
    assert read_bundle(models / "m" / "1").digest != first.model_digest
    after = calibrated(few, fallback="previous")
    assert (after.labels[1].status, after.labels[1].threshold) == ("INSUFFICIENT", None)
    assert after.parent == 2  # the active one in the store, whatever graph it is of
    store.close()


def test_a_label_that_is_not_there_is_refused_before_any_data_are_read(channel: grpc.Channel) -> None:
    refused = threading.Event()

    def requests() -> Any:
        header = v1.CalibrateHeader(model="uncalibrated", objective="max_fbeta=1", label_objectives={"c": "max_fbeta=1"})
        yield v1.CalibrateRequest(header=header)
        assert refused.wait(30), "the header alone is enough to refuse"

    method = channel.stream_unary(
        "/cutpoint.v1.CalibrationService/Calibrate",
        v1.CalibrateRequest.SerializeToString, v1.CalibrateResponse.FromString,
    )  # fmt: skip
    call = method.future(requests(), timeout=60)
    call.add_done_callback(lambda _: refused.set())
    assert "objectives for labels is ['c']; expected labels among ['a', 'b']" in str(call.exception(timeout=60).details())


def test_the_asynchronous_client_takes_the_same(client: Client, server: ServerProcess, fresh: str) -> None:
    groups = np.array([f"g{i // 3}" for i in range(len(Z))])
    shards = [counted(Z[:200], Y[:200]).to_bytes(), counted(Z[200:], Y[200:]).to_bytes()]
    calls: list[tuple[Any, dict[str, Any]]] = [
        (
            ["recall_at_least=0.8", "b:fpr_at_most=0.1"],
            {"targets": Y, "logits": Z, "groups": groups, "delta": 0.1, "by_group": True},
        ),
        ("max_fbeta=1", {"targets": Y, "inputs": X, "weights": np.arange(len(Z)), "calibrator": "platt", "shrink": 4.0}),
        ("alert_rate_at_most=0.1", {"logits": Z}),
        ("min_cost=9", {"histograms": shards, "fallback": "pooled", "min_positives": 3}),
    ]  # fmt: skip
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ("max_fbeta=1", {"logits": Z}),
        (["max_fbeta=1", "c:max_fbeta=1"], {"targets": Y, "logits": Z}),
        ("max_fbeta=1", {"histograms": [b"nothing"]}),
        ("recall_at_least=0.9999", {"targets": Y, "logits": Z, "delta": 0.01}),
    ]

    async def scene() -> tuple[list[Any], list[Any]]:
        async with AioClient(server.target) as other:
            done = [await other.calibrate(fresh, objective, **given) for objective, given in calls]
            failed = []
            for objective, given in wrong:
                with pytest.raises(BadInput) as refused:
                    await other.calibrate(fresh, objective, **given)
                failed.append(refused.value)
            return done, failed

    done, failed = asyncio.run(scene())
    for (objective, given), found in zip(calls, done, strict=True):
        same = client.calibrate(fresh, objective, **given)
        assert same.policy.labels == found.policy.labels
        assert (same.policy.data, same.policy.guarantee) == (found.policy.data, found.policy.guarantee)
    for (objective, given), error in zip(wrong, failed, strict=True):
        with pytest.raises(type(error)) as refused:
            client.calibrate(fresh, objective, **given)
        assert str(refused.value) == str(error)
