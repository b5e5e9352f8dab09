"""Signals by the clients, and by the command, against a server."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutpoint.client import AioClient, Client, Events, SignalOpened, SignalSummary, SignalWindows
from cutpoint.client.cli import app
from cutpoint.errors import BadInput, BadRequest, ModelNotFound, NotCalibrated, Unavailable
from cutpoint.signals import EventRule, join
from processes import ENVIRONMENT, ServerProcess, cutpoint, serving
from signal_bundles import LABELS, signal_bundle, whole_recording
from typer.testing import CliRunner

WINDOW_S = 0.08


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals") / "models"
    folder.mkdir()
    signal_bundle(folder, "machine")
    signal_bundle(folder, "stereo", channels=2)
    signal_bundle(folder, "plain", thresholds=None)
    return folder


@pytest.fixture(scope="module")
def signal_server(models: Path) -> Iterator[ServerProcess]:
    with serving(models) as process:
        yield process


@pytest.fixture(scope="module")
def client(signal_server: ServerProcess) -> Iterator[Client]:
    with Client(signal_server.target) as connected:
        yield connected


def recording_of(length: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(length).normal(size=(length, channels)).astype(np.float32)


def pieces(recording: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for at in range(0, len(recording), size):
        yield recording[at : at + size]


def joined(parts: list[Any]) -> tuple[SignalOpened, np.ndarray, list[Any], SignalSummary]:
    opened, *windows, summary = parts
    assert isinstance(opened, SignalOpened) and isinstance(summary, SignalSummary)
    assert all(isinstance(each, SignalWindows) for each in windows)
    return opened, np.concatenate([each.logits for each in windows]), [e for each in windows for e in each.events], summary


@pytest.mark.parametrize(("model", "channels", "size"), [("machine", 1, 100), ("stereo", 2, 7), ("machine", 1, 500_000)])
def test_what_comes_back_is_that_of_the_whole_recording(client, models, model, channels, size):
    recording = recording_of(600_001 if size > 1000 else 2003, channels)
    chunks = pieces(recording, size) if channels > 1 else (each[:, 0] for each in pieces(recording, size))
    parts = list(client.stream_signal(model, chunks, start_s=5.0))
    opened, logits, events, summary = joined(parts)
    np.testing.assert_allclose(logits, whole_recording(models / model / "1", recording), atol=2e-6)
    assert (opened.model, opened.model_version, opened.labels, opened.context) == (model, 1, LABELS, 3)
    assert (opened.window_s, opened.rate_hz, opened.up, opened.down, opened.policy_version) == (WINDOW_S, 100, 1, 1, 1)
    assert (summary.samples, summary.windows, summary.left_over_samples) == (len(recording), len(logits), len(recording) % 8)
    assert events == []
    for part in parts[1:-1]:
        assert part.start_s == pytest.approx(5 + part.first * WINDOW_S)
        assert part.decisions.tolist() == (part.logits >= np.array([0.5, 1], np.float32)).tolist()


def test_events_whole_numbers_and_another_rate(client, models):
    counts = np.random.default_rng(3).integers(-3000, 3000, 3000).astype(np.int16)
    parts = list(
        client.stream_signal(
            "machine", [counts[:1000], counts[1000:]], scale=0.001, offset=0.5, events=Events(0.7, 0.16, 0.08), rate_hz=100
        )
    )
    _, logits, events, summary = joined(parts)
    value = counts[:, None].astype(np.float32) * np.float32(0.001) + np.float32(0.5)
    np.testing.assert_allclose(logits, whole_recording(models / "machine" / "1", value), atol=2e-6)
    wanted = join(logits, logits, np.array([0.5, 1], np.float32), EventRule(0.7, 2, 1))
    ended = [event for event in events if event.state != "opened"]
    assert [(e.number, e.label, e.state, e.first, e.count, e.peak) for e in ended] == [
        (e.number, LABELS[e.label], e.state, e.start, e.end - e.start, e.peak) for e in wanted
    ]
    assert summary.events == len(wanted) > 3
    double = list(client.stream_signal("machine", [value[:, 0]], rate_hz=200))
    assert (double[0].up, double[0].down) == (1, 2) and double[-1].windows == 187


def test_the_asynchronous_client_does_the_same(signal_server, models):
    recording = recording_of(2003)

    async def chunks() -> Any:
        for each in pieces(recording, 300):
            yield each
            await asyncio.sleep(0)

    async def both() -> list[list[Any]]:
        async with AioClient(signal_server.target) as aio:
            found = [
                [part async for part in aio.stream_signal("machine", source)] for source in (chunks(), pieces(recording, 64))
            ]
            with pytest.raises(ModelNotFound, match="nobody"):
                _ = [part async for part in aio.stream_signal("nobody", chunks())]
            with pytest.raises(RuntimeError, match="a sensor broke"):
                _ = [part async for part in aio.stream_signal("machine", breaking())]
            return found

    async def breaking() -> Any:
        yield recording
        raise RuntimeError("a sensor broke")

    for parts in asyncio.run(both()):
        _, logits, _, _ = joined(parts)
        np.testing.assert_allclose(logits, whole_recording(models / "machine" / "1", recording), atol=2e-6)


def test_windows_come_while_the_signal_goes_on(client):
    go_on = threading.Event()
    recording = recording_of(160)

    def chunks() -> Iterator[np.ndarray]:
        yield recording[:80]
        assert go_on.wait(30)
        yield recording[80:]

    parts = client.stream_signal("machine", chunks())
    assert isinstance(next(parts), SignalOpened)
    assert len(next(parts)) == 7
    go_on.set()
    assert [type(part).__name__ for part in parts] == ["SignalWindows", "SignalWindows", "SignalSummary"]


def test_leaving_the_loop_ends_the_signal(client):
    sent = threading.Event()

    def forever() -> Iterator[np.ndarray]:
        try:
            while True:
                yield np.zeros(800)
        finally:
            sent.set()

    parts = client.stream_signal("machine", forever())
    assert isinstance(next(parts), SignalOpened)
    assert len(next(parts)) == 97
    parts.close()
    assert len(list(client.stream_signal("machine", [np.zeros(800)]))) >= 3


def test_what_goes_wrong_has_its_own_class(client, signal_server):
    def broken() -> Iterator[np.ndarray]:
        yield np.zeros(80)
        raise OSError("a sensor broke")

    with pytest.raises(OSError, match="a sensor broke"):
        list(client.stream_signal("machine", broken()))
    with pytest.raises(ModelNotFound, match="'nobody' is not found"):
        list(client.stream_signal("nobody", []))
    with pytest.raises(NotCalibrated, match="no active policy"):
        list(client.stream_signal("plain", [], events=Events(), events_only=True))
    with pytest.raises(BadRequest, match="chunk 1: sample 2"):
        list(client.stream_signal("machine", [np.zeros(9), [0, 0, np.nan]]))
    with pytest.raises(BadRequest, match="channels of chunk 0 is 1; expected 2"):
        list(client.stream_signal("stereo", [np.zeros(9)]))
    for chunk, text in (
        (np.zeros((2, 2, 2)), r"float64 \[2, 2, 2\]"), (["a"], "chunk 0"), (np.zeros((3, 0)), "of 0 channels"),
        (np.zeros(3, complex), "complex128"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=text):
            list(client.stream_signal("machine", [chunk]))
    with pytest.raises(BadInput, match="chunk 1 is of 1 channels; expected as many in every chunk"):
        list(client.stream_signal("stereo", [np.zeros((3, 2)), np.zeros(3)]))
    for chunk, text in ((np.zeros(3), "whole numbers, since there is a scale"), (np.array([1 << 15]), "more than 16 bits")):
        with pytest.raises(BadInput, match=text):
            list(client.stream_signal("machine", [chunk], scale=0.1))
    for settings, text in (
        ({"rate_hz": -1}, "rate_hz"),
        ({"scale": 0.0}, "scale"),
        ({"sequence_windows": 0}, "sequence_windows"),
    ):
        with pytest.raises(BadInput, match=text):
            client.stream_signal("machine", [], **settings)
    with Client("127.0.0.1:1") as nowhere, pytest.raises(Unavailable):
        list(nowhere.stream_signal("machine", []))


# The command.


def test_a_file_is_scored_and_its_events_printed(signal_server, models, tmp_path):
    recording = recording_of(4003)
    np.save(tmp_path / "x.npy", recording[:, 0])
    done = cutpoint(
        "score", tmp_path / "x.npy", "--model", "machine", "--server", signal_server.target, "--follow", "--idle-s", 0.1,
        "--min-duration-s", 0.16, "--hysteresis", 0.7, "--out", tmp_path / "out" / "scores.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logits = whole_recording(models / "machine" / "1", recording)
    events = join(logits, logits, np.array([0.5, 1], np.float32), EventRule(0.7, 2, 0))
    lines = done.stdout.splitlines()
    assert lines[0] == "machine/1: windows of 0.08 s, scored with 3 on either side; policy 1"
    assert [line.split()[2:4] for line in lines if " ended" in line] == [
        [LABELS[e.label], "ended"] for e in events if e.state == "closed"
    ]
    assert sum(" begins" in line for line in lines) == len(events)
    assert f"500 windows, 40 s, {len(events)} events; 0.03 s at the end make no whole window" in lines
    assert lines[-1] == str(tmp_path / "out" / "scores.npz")
    with np.load(tmp_path / "out" / "scores.npz") as written:
        np.testing.assert_allclose(written["logits"], logits, atol=2e-6)
        np.testing.assert_array_equal(written["decisions"], written["logits"] >= np.array([0.5, 1], np.float32))
        assert written["label_names"].tolist() == list(LABELS)
        assert (written["start_s"], written["window_s"]) == (0, WINDOW_S)
        np.testing.assert_allclose(written["event_start_s"], [e.start * WINDOW_S for e in events])
        assert written["event_label"].tolist() == [LABELS[e.label] for e in events]
        assert set(written["policy_version"].tolist()) == {1}


def test_standard_input_by_json_lines(signal_server, models):
    recording = recording_of(805)
    done = subprocess.run(
        [sys.executable, "-m", "cutpoint.cli", "score", "-", "--model", "machine", "--server", signal_server.target, "--follow",
         "--json", "--windows", "--format", "text", "--start", "2026-01-31T12:00:00+00:00", "--label", "hiss"],
        input="\n".join(map(str, recording[:, 0].tolist())), env=ENVIRONMENT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [documents[0]["kind"], documents[-1]["kind"]] == ["opened", "summary"]
    windows = [each for each in documents if each["kind"] == "window"]
    assert [each["window"] for each in windows] == list(range(100))
    assert windows[10]["start_s"] == pytest.approx(1769860800 + 0.8)
    hiss = whole_recording(models / "machine" / "1", recording)[:, 1]
    assert [bool(each["alerts"]) for each in windows] == (hiss >= 1).tolist()
    np.testing.assert_allclose([each["scores"]["hiss"] for each in windows], 1 / (1 + np.exp(-hiss)), atol=1e-6)
    assert {each["label"] for each in documents if each["kind"] == "event"} <= {"hiss"}
    assert documents[-1]["samples"] == 805


def test_the_first_interrupt_ends_the_signal_and_everything_read_is_answered(signal_server, tmp_path):
    (tmp_path / "x.f32").write_bytes(recording_of(803).tobytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "cutpoint.cli", "score", str(tmp_path / "x.f32"), "--model", "machine", "--server",
         signal_server.target, "--follow", "--windows", "--out", str(tmp_path / "scores.npz")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        read = []
        while not read or read[-1].split()[2:3] != ["96"]:  # three windows wait for what comes after them
            read.append(process.stdout.readline())
            assert read[-1], process.communicate()
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "100 windows, 8 s" in rest and "ending: what was read is being answered" in said
    with np.load(tmp_path / "scores.npz") as written:
        assert len(written["logits"]) == 100


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--json",), "--json is given; expected --follow with it"),
        (("--follow", "--rows", "r.npy"), "--rows is given; expected none with --follow"),
        (("--follow", "--start", "yesterday"), "--start is yesterday; expected seconds, a date"),
        (("--follow", "--start", "inf"), "--start is inf"),
        (("--follow", "--channels", "0"), "channels is 0"),
        (("--follow", "--rate-hz", "33.33"), "rate_hz is 33.33; expected a rate whose ratio to 100 Hz"),
        (("--follow", "--label", "boom"), "labels is 'boom'"),
    ],
)
def test_wrong_options_are_named(signal_server, tmp_path, arguments, text):
    (tmp_path / "x.f32").write_bytes(bytes(400))
    given = ["score", str(tmp_path / "x.f32"), "--model", "machine", "--server", signal_server.target, *arguments]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, BadInput) and text in str(error), error
