"""Signals through a server against the whole recording in plain onnxruntime."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx
from cutpoint.calibration import probabilities
from cutpoint.client import Client
from cutpoint.errors import Overloaded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.app import running
from cutpoint.server.config import ServerConfig
from cutpoint.server.port.admission import Admission
from cutpoint.server.signals.service import SignalService
from cutpoint.signals import EventRule, Resampler, join
from cutpoint.v1 import signal_pb2 as v1
from cutpoint.wire import REASON_KEY
from hypothesis import given, settings
from hypothesis import strategies as st
from signal_bundles import LABELS, signal_bundle, whole_recording

from .test_signal_stream import FakeCall

QUICK = settings(max_examples=40, database=None)
METHOD = "/cutpoint.v1.SignalService/ScoreSignal"
WINDOW_S = 0.08


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("signals") / "models"
    models.mkdir()
    signal_bundle(models, "context")
    signal_bundle(models, "channels", channels=2)
    signal_bundle(models, "whole", whole=True)
    signal_bundle(models, "fixed", count=5)
    signal_bundle(models, "undecided", thresholds=(0.5, None))
    signal_bundle(models, "plain", thresholds=None, rate_hz=None, whole=True, trained=None)
    for i in range(4):
        signal_bundle(models, f"fresh-{i}")
    signal_bundle(models, "long", samples=2000)
    linear_bundle(models, name="rows")
    linear_onnx(models / "foreign" / "1" / "model.onnx", np.eye(8, 2), ["n", "w", 8])
    return models


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Any]:
    config = ServerConfig(models=repository, port=0, metrics_port=0, max_message_mib=4, lanes=2)
    with running(config) as listening:
        yield listening


@pytest.fixture(scope="module")
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_target, (("grpc.max_receive_message_length", -1),)) as connected:
        yield connected


def call(channel: grpc.Channel, requests: Iterable[v1.SignalRequest], **how: Any) -> Any:
    method = channel.stream_stream(METHOD, v1.SignalRequest.SerializeToString, v1.SignalResponse.FromString)
    return method(iter(requests), timeout=how.pop("timeout", 60), **how)


def header(model: str, **fields: Any) -> v1.SignalRequest:
    return v1.SignalRequest(header=v1.SignalHeader(model=model, **fields))


def chunks(recording: np.ndarray, sizes: Iterable[int], dtype: str = "<f4") -> Iterator[v1.SignalRequest]:
    """A recording in chunks of these sizes in turn."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= len(recording):
            return
        yield v1.SignalRequest(chunk=recording[at : at + size].astype(dtype).tobytes())
        at += size


def recording_of(length: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(length).normal(size=(length, channels)).astype(np.float32)


class Scored:
    """All responses of one signal, checked for order."""

    def __init__(self, responses: Iterable[v1.SignalResponse]) -> None:
        found = list(responses)
        assert [each.WhichOneof("part") for each in (found[0], found[-1])] == ["opened", "summary"]
        self.opened, self.summary = found[0].opened, found[-1].summary
        results = [each.results for each in found[1:-1]]
        self.labels = list(self.opened.labels)
        self.logits, self.scores = (self._joined(results, name, "<f4") for name in ("logits", "scores"))
        self.decisions = self._joined(results, "decisions", "?")
        self.policies = [each.policy_version for each in results for _ in range(each.count)]
        self.events = [event for each in results for event in each.events]
        at = 0
        for each in results:
            if each.count:
                assert each.first == at
                at += each.count
        self.starts = [each.start_s + i * self.opened.window_s for each in results for i in range(each.count)]

    def _joined(self, results: list[Any], name: str, dtype: str) -> np.ndarray:
        return np.frombuffer(b"".join(getattr(each, name) for each in results), dtype).reshape(-1, len(self.labels))


SIZES = st.lists(st.integers(1, 700), min_size=1, max_size=4)


@QUICK
@given(st.sampled_from(["context", "channels", "whole", "fixed"]), st.integers(0, 1500), SIZES, st.booleans())
def test_any_chunks_give_the_whole_recording(repository, channel, model, length, sizes, at_once):
    recording = recording_of(length, 2 if model == "channels" else 1)
    sizes = [max(length, 1)] if at_once else sizes
    found = Scored(call(channel, [header(model), *chunks(recording, sizes)]))
    sequence = {"whole": 12, "fixed": 5}.get(model)
    wanted = whole_recording(repository / model / "1", recording, sequence)
    np.testing.assert_allclose(found.logits, wanted, atol=2e-6)
    np.testing.assert_allclose(found.scores, probabilities(found.logits), atol=1e-6)
    np.testing.assert_array_equal(found.decisions, found.logits >= np.array([0.5, 1], np.float32))
    assert set(found.policies) <= {1}
    np.testing.assert_allclose(found.starts, np.arange(len(wanted)) * WINDOW_S, atol=1e-9)
    summary, opened = found.summary, found.opened
    assert (summary.samples, summary.windows, summary.left_over_samples) == (length, len(wanted), length - 8 * len(wanted))
    assert (opened.model, opened.model_version, tuple(opened.labels)) == (model, "1", LABELS)
    assert (opened.window_samples, opened.rate_hz, opened.resampled_up, opened.resampled_down) == (8, 100, 1, 1)
    assert (opened.context if opened.HasField("context") else None, opened.sequence_windows) == (
        (None, sequence) if sequence else (3, 0)
    )


@pytest.mark.parametrize("model", ["context", "whole"])
def test_one_sample_at_a_time(repository, channel, model):
    recording = recording_of(421)
    found = Scored(call(channel, [header(model), *chunks(recording, [1])]))
    np.testing.assert_allclose(
        found.logits, whole_recording(repository / model / "1", recording, 12 if model == "whole" else None), atol=2e-6
    )


def test_megabytes_in_one_chunk(repository, channel):
    recording = recording_of(900_000)
    found = Scored(call(channel, [header("long", rate_hz=0), *chunks(recording, [900_000])]))
    np.testing.assert_allclose(found.logits, whole_recording(repository / "long" / "1", recording), atol=1e-5)
    assert len(found.logits) == 450


@settings(max_examples=20, database=None)
@given(st.integers(1, 1500), SIZES, st.sampled_from([40.0, 150.0, 1000.0, 99.0]))
def test_another_rate_is_resampled(repository, channel, length, sizes, rate_hz):
    recording = recording_of(length)
    found = Scored(call(channel, [header("context", rate_hz=rate_hz), *chunks(recording, sizes)]))
    resampler = Resampler(rate_hz, 100)
    resampled = np.concatenate([resampler.push(recording), resampler.finish()])
    np.testing.assert_allclose(found.logits, whole_recording(repository / "context" / "1", resampled), atol=1e-5)
    assert (found.opened.resampled_up, found.opened.resampled_down) == (resampler.up, resampler.down)
    assert found.summary.samples == length
    assert found.summary.left_over_samples == len(resampled) - 8 * len(found.logits)


def test_whole_numbers_with_a_scale(repository, channel):
    counts = np.random.default_rng(0).integers(-3000, 3000, (500, 1)).astype(np.int16)
    ask = header("context", datatype="INT16", scale=0.001, offset=0.25)
    found = Scored(call(channel, [ask, *chunks(counts, [77], "<i2")]))
    value = counts.astype(np.float32) * np.float32(0.001) + np.float32(0.25)
    np.testing.assert_allclose(found.logits, whole_recording(repository / "context" / "1", value), atol=2e-6)


@QUICK
@given(st.integers(0, 2000), SIZES, st.floats(0, 2), st.floats(0, 0.4), st.floats(0, 0.4))
def test_events_are_those_of_the_whole_recording(repository, channel, length, sizes, hysteresis, least_s, gap_s):
    recording = recording_of(length)
    events = v1.SignalEvents(hysteresis=hysteresis, min_duration_s=least_s, join_gap_s=gap_s)
    found = Scored(call(channel, [header("context", start_s=1000.0, events=events), *chunks(recording, sizes)]))
    rule = EventRule.of_seconds(WINDOW_S, hysteresis, least_s, gap_s)
    wanted = join(found.logits, found.scores, np.array([0.5, 1], np.float32), rule)
    states = {v1.SignalEvent.STATE_CLOSED: "closed", v1.SignalEvent.STATE_CUT: "cut"}
    ended = [event for event in found.events if event.state in states]
    assert [(e.number, LABELS.index(e.label), states[e.state], e.first, e.first + e.count, e.peak) for e in ended] == [
        (e.number, e.label, e.state, e.start, e.end, e.peak) for e in wanted
    ]
    for event in ended:
        times = (event.start_s, event.end_s, event.peak_s)
        windows = (event.first, event.first + event.count, event.peak)
        np.testing.assert_allclose(times, 1000 + np.array(windows) * WINDOW_S, atol=1e-9)
        assert event.policy_version == 1
    assert len(found.events) == 2 * len(wanted)
    assert found.summary.events == len(wanted)


def test_events_only_and_some_labels(channel):
    recording = recording_of(4000)
    everything = Scored(call(channel, [header("context", events=v1.SignalEvents()), *chunks(recording, [640])]))
    one = Scored(call(channel, [header("context", labels=["hiss"]), *chunks(recording, [640])]))
    assert one.labels == ["hiss"]
    np.testing.assert_allclose(one.logits[:, 0], everything.logits[:, 1], atol=2e-6)
    quiet = Scored(
        call(
            channel, [header("context", labels=["hiss"], events=v1.SignalEvents(), events_only=True), *chunks(recording, [640])]
        )
    )
    assert len(quiet.logits) == 0 and quiet.summary.windows == 500
    assert [(e.first, e.count, e.state) for e in quiet.events] == [
        (e.first, e.count, e.state) for e in everything.events if e.label == "hiss"
    ]
    assert quiet.events


def test_labels_without_a_threshold_make_no_events_and_models_without_a_policy_none_at_all(channel):
    recording = recording_of(2000)
    found = Scored(call(channel, [header("undecided", events=v1.SignalEvents()), *chunks(recording, [640])]))
    assert {event.label for event in found.events} == {"thump"}
    assert not found.decisions[:, 1].any()
    ask = header("plain", rate_hz=50, sequence_windows=4, events=v1.SignalEvents())
    plain = Scored(call(channel, [ask, *chunks(recording, [640])]))
    assert len(plain.logits) == 250 and len(plain.decisions) == 0 and set(plain.policies) == {0} and not plain.events
    assert (plain.opened.policy_version, found.opened.policy_version) == (0, 1)
    assert plain.opened.window_s == pytest.approx(0.16)


class Fed:
    """Requests that a test hands out one by one, as a sensor would."""

    def __init__(self) -> None:
        self._ready = threading.Semaphore(0)
        self._items: list[Any] = []
        self.taken = 0

    def give(self, *requests: v1.SignalRequest | None) -> None:
        for each in requests:
            self._items.append(each)
            self._ready.release()

    def __iter__(self) -> Iterator[v1.SignalRequest]:
        while True:
            self._ready.acquire()
            item = self._items.pop(0)
            if item is None:
                return
            self.taken += 1
            yield item


def chunk(recording: np.ndarray) -> v1.SignalRequest:
    return v1.SignalRequest(chunk=recording.astype("<f4").tobytes())


def test_a_window_is_answered_while_the_signal_goes_on_and_another_policy_decides_from_the_next_block(server, channel):
    fed = Fed()
    fed.give(header("fresh-0", events=v1.SignalEvents()))
    responses = call(channel, fed)
    assert next(responses).opened.model == "fresh-0"
    recording = recording_of(20 * 8)
    fed.give(chunk(recording[: 10 * 8]))
    first = next(responses).results
    assert (first.first, first.count, first.policy_version) == (0, 7, 1)  # three windows of context are missing
    with Client(server.grpc_target) as client:
        made = client.calibrate("fresh-0", "alert_rate_at_most=0.1", logits=np.full((50, 2), -99.0) + np.arange(50)[:, None])
        assert made.activated
    fed.give(chunk(recording[10 * 8 :]))
    second = next(responses).results
    assert (second.first, second.count, second.policy_version) == (7, 10, made.policy.version)
    assert np.frombuffer(second.decisions, "?").all()  # every logit is above a threshold near -55
    assert {(event.label, event.policy_version) for event in second.events if event.state == v1.SignalEvent.STATE_OPENED} <= {
        ("thump", made.policy.version), ("hiss", made.policy.version),
    }  # fmt: skip
    fed.give(None)
    last = list(responses)
    assert last[0].results.first == 17 and last[-1].summary.windows == 20


def counted(server: Any, model: str) -> tuple[float, float]:
    from urllib.request import urlopen

    with urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    of = [line for line in lines if f'model="{model}"' in line and 'label="thump"' in line]
    value = lambda name: float(next(line for line in of if line.startswith(name)).rsplit(" ", 1)[1])  # noqa: E731
    return value("cutpoint_decisions_total"), value("cutpoint_positives_total")


def test_each_window_is_counted_once_as_live_traffic(server, channel):
    recording = recording_of(3003)
    found = Scored(call(channel, [header("fresh-1", labels=["hiss"]), *chunks(recording, [100])]))
    assert len(found.logits) == 375
    wanted = Scored(call(channel, [header("context"), *chunks(recording, [100])])).decisions[:, 0].sum()
    assert counted(server, "fresh-1") == (375, wanted)


@pytest.mark.parametrize(
    ("requests", "code", "text"),
    [
        ([], "INVALID_ARGUMENT", "signal is without a message; expected a header, then chunks"),
        ([chunk(np.zeros(3))], "INVALID_ARGUMENT", "first signal message is chunk; expected a header"),
        ([v1.SignalRequest()], "INVALID_ARGUMENT", "first signal message is empty"),
        ([header("context"), header("context")], "INVALID_ARGUMENT", "signal message is header; expected a chunk"),
        ([header("none")], "NOT_FOUND", "'none' is not found"),
        ([header("context", model_version="9")], "NOT_FOUND", "version 9 is not found"),
        ([header("rows")], "INVALID_ARGUMENT", "of task multilabel; expected one of windows"),
        ([header("foreign")], "INVALID_ARGUMENT", "'foreign' is without a manifest"),
        ([header("plain", rate_hz=5)], "INVALID_ARGUMENT", "sequence_windows is not given"),
        ([header("plain", sequence_windows=4)], "INVALID_ARGUMENT", "rate_hz is 0; expected the rate of the signal"),
        ([header("plain", sequence_windows=4, rate_hz=-1)], "INVALID_ARGUMENT", "rate_hz is -1"),
        (
            [header("plain", sequence_windows=1 << 20, rate_hz=1)],
            "INVALID_ARGUMENT",
            "sequence_windows is 1048576, 33554432 bytes at a time; expected at most 4194304",
        ),
        (
            [header("plain", sequence_windows=4, rate_hz=1, events=v1.SignalEvents(), events_only=True)],
            "FAILED_PRECONDITION",
            "no active policy",
        ),
        ([header("fixed", sequence_windows=4)], "INVALID_ARGUMENT", "sequence_windows is 4; expected 5"),
        ([header("context", channels=2)], "INVALID_ARGUMENT", "channels is 2; expected 1"),
        ([header("context", rate_hz=float("nan"))], "INVALID_ARGUMENT", "rate_hz is nan"),
        ([header("context", rate_hz=99.99)], "INVALID_ARGUMENT", "rate_hz is 99.99"),
        ([header("context", datatype="FP16")], "INVALID_ARGUMENT", "datatype is FP16; expected FP32 or INT16"),
        ([header("context", scale=2)], "INVALID_ARGUMENT", "scale and offset"),
        ([header("context", datatype="INT16", scale=float("inf"))], "INVALID_ARGUMENT", "not finite"),
        ([header("context", start_s=float("nan"))], "INVALID_ARGUMENT", "not finite"),
        ([header("context", labels=["boom"])], "INVALID_ARGUMENT", "labels is 'boom'"),
        ([header("context", labels=["hiss", "hiss"])], "INVALID_ARGUMENT", "labels is one twice"),
        ([header("context", events_only=True)], "INVALID_ARGUMENT", "events_only is true"),
        ([header("context", events=v1.SignalEvents(hysteresis=-1))], "INVALID_ARGUMENT", "hysteresis is -1"),
        ([header("context", events=v1.SignalEvents(join_gap_s=float("inf")))], "INVALID_ARGUMENT", "join_gap_s is inf"),
        (
            [header("channels"), v1.SignalRequest(chunk=bytes(16), channels=1)],
            "INVALID_ARGUMENT",
            "channels of chunk 0 is 1; expected 2, as model 'channels' takes",
        ),
        ([header("context"), v1.SignalRequest(chunk=b"12345")], "INVALID_ARGUMENT", "chunk 0 is 5 bytes; expected a multiple"),
        (
            [header("channels"), chunk(np.zeros(20)), chunk(np.array([0, 0, 1, np.nan]))],
            "INVALID_ARGUMENT",
            "chunk 1: sample 1, channel 1 (11 of the signal) is nan; expected a finite number",
        ),
        ([header("context"), chunk(np.array([np.inf]))], "INVALID_ARGUMENT", "chunk 0: sample 0 (0 of the signal) is inf"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(channel, requests, code, text):
    responses = call(channel, requests)
    with pytest.raises(grpc.RpcError) as caught:
        list(responses)
    assert (caught.value.code().name, text in caught.value.details()) == (code, True), caught.value.details()
    assert dict(caught.value.trailing_metadata())[REASON_KEY]


def test_windows_before_a_fault_are_answered(channel):
    recording = recording_of(800)
    responses = call(channel, [header("context"), chunk(recording), chunk(np.array([np.nan])), chunk(recording)])
    found = []
    with pytest.raises(grpc.RpcError, match="chunk 1: sample 0"):
        found.extend(each for each in responses)
    assert sum(each.results.count for each in found) == 97


def test_bytes_that_are_no_message(channel):
    method = channel.stream_stream(METHOD, lambda data: data, lambda data: data)
    with pytest.raises(grpc.RpcError, match="no such message"):
        list(method(iter([b"\xff\xff"]), timeout=30))


def test_a_sender_that_is_faster_than_the_reader_is_held_back(channel):
    """64 KiB a chunk, without end: what is on its way fits flow-control windows, not memory."""
    far_ahead, taken = threading.Event(), itertools.count()
    part = chunk(recording_of(1 << 14))

    def forever() -> Iterator[v1.SignalRequest]:
        yield header("context")
        while True:
            if next(taken) >= 512:
                far_ahead.set()
            yield part

    responses = call(channel, forever())
    next(responses)
    windows = [next(responses).results.count for _ in range(3)]
    # Unless it is held back, 32 MiB take it half a second.
    assert not far_ahead.wait(3)
    assert windows[0] == 2048 - 3
    responses.cancel()


def test_signals_beside_each_other_do_not_mix(repository, channel):
    recordings = [recording_of(3000 + i) for i in range(8)]
    streams = [call(channel, [header("context"), *chunks(each, [300 + 7 * i])]) for i, each in enumerate(recordings)]
    found = [Scored(stream) for stream in streams]
    for each, recording in zip(found, recordings, strict=True):
        np.testing.assert_allclose(each.logits, whole_recording(repository / "context" / "1", recording), atol=2e-6)


def test_who_leaves_is_forgotten_and_others_are_answered(channel):
    for _ in range(20):
        fed = Fed()
        fed.give(header("context"), chunk(recording_of(800)))
        responses = call(channel, fed)
        assert next(responses).opened.model == "context"
        responses.cancel()
        fed.give(None)
    assert len(Scored(call(channel, [header("context"), chunk(recording_of(800))])).logits) == 100


def test_a_stopping_server_answers_what_it_read_and_says_so(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    signal_bundle(models, "context")
    fed = Fed()
    with running(ServerConfig(models=models, port=0, metrics_port=0)) as listening:
        connected = grpc.insecure_channel(listening.grpc_target)
        fed.give(header("context"), chunk(recording_of(800)))
        responses = call(connected, fed)
        assert next(responses).opened.model == "context"
        assert next(responses).results.count == 97
    with pytest.raises(grpc.RpcError, match="the server is stopping"):
        next(responses)
    fed.give(None)
    connected.close()


def test_a_model_that_is_unloaded_ends_its_signals(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    signal_bundle(models, "context")
    fed = Fed()
    config = ServerConfig(models=models, port=0, metrics_port=0, model_control="explicit", load=("context",))
    with running(config) as listening, grpc.insecure_channel(listening.grpc_target) as connected:
        fed.give(header("context"), chunk(recording_of(800)))
        responses = call(connected, fed)
        assert next(responses).opened.model == "context"
        assert next(responses).results.count == 97
        unload = connected.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelUnload",
            oip.RepositoryModelUnloadRequest.SerializeToString,
            oip.RepositoryModelUnloadResponse.FromString,
        )
        unload(oip.RepositoryModelUnloadRequest(model_name="context"), timeout=30)
        fed.give(chunk(recording_of(8)))
        with pytest.raises(grpc.RpcError, match="version 1 was taken out of service; begin again"):
            next(responses)
        fed.give(None)


def test_more_signals_than_may_be_are_refused():
    admission = Admission(10, 1 << 20, 1 << 20)
    service = SignalService(None, admission, None, 1 << 20, most_signals=2)  # type: ignore[arg-type]
    (rpc,) = service.rpcs()
    open_ones = [FakeCall(), FakeCall()]
    for each in open_ones:
        rpc.handle(each)  # type: ignore[arg-type]
    with pytest.raises(Overloaded, match="2 signals are being scored"):
        rpc.handle(FakeCall())  # type: ignore[arg-type]
    open_ones[0].leave()
    rpc.handle(FakeCall())  # type: ignore[arg-type]


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, 100.0, 50.0, 1e-300, -1.0])
COUNTS = st.integers(0, (1 << 32) - 1) | st.integers(0, 9)
HEADERS = st.builds(
    v1.SignalHeader,
    model=st.sampled_from(["context", "whole", "fixed", "channels", "plain", "rows", "foreign", "", "../x"]),
    model_version=st.sampled_from(["", "1", "0", "-1", "a"]),
    rate_hz=NUMBERS,
    channels=COUNTS,
    datatype=st.sampled_from(["", "FP32", "INT16", "FP64", "BYTES"]),
    scale=NUMBERS,
    offset=NUMBERS,
    start_s=NUMBERS,
    sequence_windows=COUNTS,
    labels=st.lists(st.sampled_from(["hiss", "thump", "", "x"]), max_size=3),
    events=st.none() | st.builds(v1.SignalEvents, hysteresis=NUMBERS, min_duration_s=NUMBERS, join_gap_s=NUMBERS),
    events_only=st.booleans(),
)
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}


@settings(max_examples=300, database=None)
@given(HEADERS, st.lists(st.binary(max_size=300), max_size=3), COUNTS)
def test_no_header_and_no_chunk_is_an_internal_error(channel, asked, sent, channels):
    requests = [v1.SignalRequest(header=asked), *(v1.SignalRequest(chunk=each, channels=channels % 4) for each in sent)]
    try:
        assert list(call(channel, requests))[-1].WhichOneof("part") == "summary"
    except grpc.RpcError as error:
        assert error.code() in REFUSED, (error.code(), error.details())


@settings(max_examples=200, database=None)
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_no_bytes_are_an_internal_error(channel, messages):
    method = channel.stream_stream(METHOD, lambda data: data, v1.SignalResponse.FromString)
    with pytest.raises(grpc.RpcError) as caught:
        list(method(iter(messages), timeout=30))
    assert caught.value.code() in REFUSED, caught.value.details()
