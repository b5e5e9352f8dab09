"""The log of a server: lines that programs read, as text and as JSON, of what a real server does."""

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, policy
from cutpoint.bundle import POLICY_FILE, write_whole
from cutpoint.client import Client
from cutpoint.errors import CutpointError
from cutpoint.server.monitoring.event import Event
from cutpoint.server.monitoring.log_lines import JsonLines
from cutpoint.server.policy.calibration import SERVICE
from cutpoint.v1 import calibration_pb2 as v1
from hypothesis import given
from hypothesis import strategies as st
from processes import serving

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = (np.arange(20).reshape(10, 2) > 9).astype(np.uint8)


def parsed(line: str) -> dict[str, str]:
    """A line of logfmt, read by hand: key=value, values with blanks or quotes as in JSON."""
    found, rest = {}, line
    while rest:
        key, _, rest = rest.partition("=")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end + 1 :]
        else:
            value, _, rest = rest.partition(" ")
        found[key] = value
    return found


@given(st.dictionaries(st.sampled_from("abcdef"), st.text(st.characters(blacklist_categories=["Cs"]))))
def test_a_line_is_one_line_and_gives_back_what_was_said(fields: dict[str, str]) -> None:
    line = str(Event("it", **fields))
    assert line.isprintable() and line.startswith("it")
    assert parsed(line[3:]) == fields
    record = logging.LogRecord("l", logging.INFO, "f", 1, Event("it", **fields), None, None)
    told = json.loads(JsonLines().format(record))
    assert {key: told[key] for key in fields} == fields and told["event"] == "it"


def test_values_of_all_kinds() -> None:
    event = Event("e", text="a b", none=None, yes=True, number=3, share=1 / 3, many=("a", "b c"), empty="", equals="a=b")
    assert str(event) == 'e text="a b" yes=true number=3 share=0.3333 many="a,b c" empty="" equals="a=b"'


def test_what_callers_say_is_cut() -> None:
    event = Event(
        "e", text="x" * 100_000, many=tuple("y" * 50 for _ in range(20_000)), one=["z" * 9999], number=10**30, end="ok"
    )
    record = logging.LogRecord("l", logging.INFO, "f", 1, event, None, None)
    assert len(str(event)) < 1500 and len(JsonLines().format(record)) < 1500
    found = parsed(str(event)[2:])
    assert found["text"] == "x" * 400 + "..." and found["many"].startswith("y" * 50 + ",") and found["many"].endswith("...")
    assert found["one"] == "z" * 400 + "..." and found["number"] == str(10**30) and found["end"] == "ok"
    assert parsed(str(Event("e", text="x" * 400))[2:])["text"] == "x" * 400
    assert Event("e", many=("x" * 400, "yz")).fields["many"] == ("x" * 400, "...")


def test_json_lines_of_other_records() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        record = logging.LogRecord("l", logging.ERROR, "f", 1, "said %s", ("it",), (ValueError, error, error.__traceback__))
    found = json.loads(JsonLines(worker=2).format(record))
    assert (found["message"], found["level"], found["logger"], found["worker"]) == ("said it", "ERROR", "l", 2)
    assert found["traceback"].endswith("ValueError: x")
    assert found["time"].endswith("+00:00")


def events(models: Path, read: Callable[[str], dict[str, Any]], name: str) -> list[dict[str, Any]]:
    lines = (models.parent / "server.log").read_text().splitlines()
    return [read(line) for line in lines if f" {name} " in f" {line.split(': ', 1)[-1]} " or f'"{name}"' in line]


def logfmt_of(line: str) -> dict[str, Any]:
    return parsed(line.split(": ", 1)[1].split(" ", 1)[1])


@pytest.mark.parametrize("form", ["text", "json"])
def test_calibrations_and_reloads_of_a_server_have_a_line_each(models: Path, form: str) -> None:
    linear_bundle(models, name="one")
    read = logfmt_of if form == "text" else json.loads
    with serving(models, "--model-control", "explicit", "--load", "one", "--log-format", form) as process:
        with Client(process.target) as client:
            client.calibrate("one", "max_fbeta=1", inputs=X, targets=Y, author="ann e")
            client.calibrate("one", ["recall_at_least=0.9", "b:max_fbeta=2"], inputs=X, targets=Y, activate=False)
            with pytest.raises(CutpointError):
                client.calibrate("one", "max_fbeta=1", inputs=X, targets=0 * Y)
            client.activate("one", 2)
        with grpc.insecure_channel(process.target) as channel:
            long = v1.CalibrateHeader(
                model="one", objective="no" * 50_000, author="A" * 100_000,
                label_objectives={f"{i} of many labels": "max_fbeta=1" for i in range(20_000)},
            )  # fmt: skip
            calibrate: Any = channel.stream_unary(f"/{SERVICE}/Calibrate", v1.CalibrateRequest.SerializeToString)
            with pytest.raises(grpc.RpcError):
                calibrate(iter([v1.CalibrateRequest(header=long)]), timeout=60)
        assert max(map(len, (models.parent / "server.log").read_text().splitlines())) < 2500
        assert process.process.poll() is None
        applied, stored, rejected, _ = events(models, read, "calibration")
        assert (applied["model"], str(applied["version"]), str(applied["policy"])) == ("one", "1", "1")
        assert (applied["outcome"], str(applied["labels"]), applied["author"]) == ("applied", "2", "ann e")
        assert "max_fbeta=1" in applied["objective"]
        assert (stored["outcome"], str(stored["policy"])) == ("stored", "2")
        assert rejected["outcome"] == "rejected" and "positive" in rejected["reason"] and "policy" not in rejected
        (activated,) = events(models, read, "activation")
        assert (str(activated["policy"]), str(activated["before"])) == ("2", "1")
        assert activated["made_by"] == "unknown" and "by" not in activated, "nobody said who made it, or who activates it"
        (loaded,) = events(models, read, "reload")
        assert (loaded["model"], str(loaded["version"]), loaded["outcome"], str(loaded["policy"])) == (
            "one",
            "1",
            "loaded",
            "0",
        )
        assert len(loaded["digest"]) == 12


def test_reloads_of_a_polled_repository(models: Path) -> None:
    path = linear_bundle(models, name="one")
    log = models.parent / "server.log"

    def wait_for(text: str) -> None:
        follow = subprocess.Popen(
            ["tail", "-n", "+1", "-F", str(log)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert follow.stdout is not None
        try:
            next(line for line in follow.stdout if text in line)
        finally:
            follow.kill()
            follow.wait()
            follow.stdout.close()

    with serving(models, "--model-control", "poll", "--poll-s", "0.05"):
        write_whole(path / POLICY_FILE, policy(path, {"a": 1.0, "b": 1.0}).to_json().encode())
        wait_for("reload model=one version=1 outcome=policy policy=1")
        staged = linear_bundle(models.parent / "elsewhere", name="one", version=2)
        (staged / "model.onnx").write_bytes(b"no model")
        shutil.copytree(staged, models / "one" / "2")
        wait_for("reload model=one version=2 outcome=failed reason=")
        shutil.rmtree(models / "one" / "2")
        linear_bundle(models, name="one", version=3)
        wait_for("reload model=one version=3 outcome=loaded policy=0")
        shutil.rmtree(models / "one" / "3")
        wait_for("reload model=one version=3 outcome=gone")
