"""Reports of outcomes: arrays and files to messages, and what comes back."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutpoint.client import AioClient, Client, FromOutcomes, Outcomes, Reported
from cutpoint.client.outcome_commands import outcomes_app, seconds, time_range
from cutpoint.client.outcome_files import _COLUMNS, read_outcomes
from cutpoint.client.outcomes import Asked
from cutpoint.errors import BadConfig, BadData, BadInput, BadRequest
from cutpoint.v1 import outcome_pb2 as v1
from processes import ENVIRONMENT, ROOT, ServerProcess, cutpoint

ALL = Asked("m", "2", "all", None, False)
X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, :2] > 0.5).astype(np.uint8)


def messages(**given: Any) -> list[v1.Outcome]:
    return [outcome for message, _ in ALL.messages(Outcomes(**given)) for outcome in message.outcomes]


def test_rows_of_a_request_are_counted_from_0() -> None:
    found = messages(targets=[1, 0, -1, np.nan, 1], request_id="r", labels=["a"])
    assert [(each.requested.request_id, each.requested.row, list(each.positive), list(each.negative)) for each in found] == [
        ("r", 0, ["a"], []), ("r", 1, [], ["a"]), ("r", 4, ["a"], []),
    ]  # fmt: skip
    assert not any(each.requested.HasField("window") for each in found)
    (message, rows), *_ = ALL.messages(Outcomes([1, -1, 0], request_id="r"))
    assert (message.model, message.model_version, message.sampling, rows) == ("m", "2", v1.SAMPLING_ALL, [0, 2])
    assert [each.targets for each in message.outcomes] == [b"\1", b"\0"]


def test_several_requests_have_their_first_rows_unless_others_are_given() -> None:
    found = messages(targets=[[1, 0], [255, 1]], request_id=["r", "s"])
    assert [(each.requested.request_id, each.requested.row, each.targets) for each in found] == [
        ("r", 0, b"\1\0"), ("s", 0, b"\xff\1"),
    ]  # fmt: skip
    assert [each.requested.row for each in messages(targets=[1, 1], request_id=["r", "s"], rows=[5, 6])] == [5, 6]


def test_whole_rows_of_windows() -> None:
    targets = np.array([[[1], [0]], [[-1], [1]]])
    found = messages(targets=targets, request_id="r", rows=[3, 7])
    assert [(each.requested.row, each.requested.window, each.targets) for each in found] == [
        (3, 0, b"\1"), (3, 1, b"\0"), (7, 1, b"\1"),
    ]  # fmt: skip
    assert [each.requested.row for each in messages(targets=targets, request_id="r")] == [0, 0, 1]
    assert [each.requested.row for each in messages(targets=[1, 1], request_id="r", windows=[0, 1])] == [0, 0]


def test_decisions_of_ones_own() -> None:
    found = messages(targets=[1, 0], keys=["x", "y"], logits=[0.5, np.nan], policy_version=3, times_s=[10, 20])
    assert [(each.scored.key, each.scored.policy_version, each.scored.time_s) for each in found] == [("x", 3, 10), ("y", 3, 20)]
    assert list(found[0].scored.logits) == [0.5] and np.isnan(found[1].scored.logits[0])
    assert messages(targets=[1], keys="x", logits=[1], times_s=5.0)[0].scored.time_s == 5


def test_many_are_sent_in_parts() -> None:
    parts = list(ALL.messages(Outcomes(np.ones(2500), request_id="r")))
    assert [len(message.outcomes) for message, _ in parts] == [1000, 1000, 500]
    assert [rows[0] for _, rows in parts] == [0, 1000, 2000]
    wide = list(
        ALL.messages(Outcomes(np.ones((1000, 20_000)), keys=[f"{i}" for i in range(1000)], logits=np.ones((1000, 20_000))))
    )
    assert max(message.ByteSize() for message, _ in wide) < 5 << 20
    reported = Reported()
    reported.add(v1.ReportOutcomesResponse(taken=1, unmatched=[v1.Unmatched(outcome=2, reason="x", text="t")]), [5, 6, 9])
    assert reported.unmatched[0].row == 9
    assert list(ALL.messages(Outcomes([-1, -1], request_id="r"))) == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"targets": [1, 2]}, r"targets\[1\] is 2; expected 0, 1"),
        ({"targets": []}, "targets is empty"),
        ({"targets": 1}, r"targets is \[\]; expected \[outcome\]"),
        ({"targets": np.ones((1, 1, 1, 1))}, r"targets is \[1, 1, 1, 1\]"),
        ({"targets": np.ones((1, 2, 3)), "rows": [1, 2]}, "rows is 2 of them; expected 1, one for each row of the targets"),
        ({"targets": np.ones((2, 2)), "labels": ["a"]}, r"targets is \[2, 2\]; expected \[outcome, 1\]"),
        ({"request_id": None}, "request_id and keys is not given"),
        ({"keys": ["k"]}, "request_id and keys is both given"),
        ({"request_id": ""}, "request_id is empty"),
        ({"request_id": ["r", "s"]}, "request_id is 2 of them; expected 1, one for each outcome"),
        ({"rows": [1, 2]}, "rows is 2 of them; expected 1"),
        ({"rows": [-1]}, "rows is int64"),
        ({"rows": [0.5]}, "rows is float64"),
        ({"windows": [1, 2]}, "windows is 2 of them"),
        ({"logits": [1.0]}, "logits is given; expected none beside request_id"),
        ({"policy_version": 1}, "policy_version is given; expected none beside request_id"),
        ({"request_id": None, "keys": ["k"]}, "logits is not given"),
        ({"request_id": None, "keys": ["k"], "logits": [1.0], "rows": [1]}, "rows is given; expected none beside keys"),
        ({"request_id": None, "keys": ["k", "l"], "logits": [1.0]}, "keys and logits is 2 keys and logits"),
        (
            {"request_id": None, "keys": ["k"], "logits": [1.0], "policy_version": 1 << 32},
            "policy_version is 4294967296; expected 0 for the one",
        ),
        ({"request_id": None, "keys": [""], "logits": [1.0]}, "keys is empty"),
        ({"request_id": None, "keys": ["k"], "logits": [1.0], "times_s": [1, 2]}, r"times_s is \[2\]"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_sent(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        ALL.messages(Outcomes(**{"targets": [1], "request_id": "r", **given}))


@pytest.mark.parametrize(
    ("sampling", "probability", "text"),
    [
        ("some", None, "sampling is 'some'; expected one of unknown, all, alerted, random, alerted_and_random"),
        ("random", None, "probability is not given; expected 1e-06 to 1, with sampling random"),
        ("alerted_and_random", 0, "probability is 0; expected"), ("random", float("nan"), "probability is nan"),
        ("all", 0.5, "probability is 0.5; expected none, with sampling all"),
    ],
)  # fmt: skip
def test_the_sampling_has_to_be_said(sampling: Any, probability: Any, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        Asked("m", "", sampling, probability, False)


CSV = """request_id,row,window,key,logit,policy_version,time_s,label,outcome
r,0,,,,,,a,1
r,1,,,,,,a,negative
s,,,,,,,b,-1
t,,4,,,,,b,
,,,k,0.5,,,a,1
,,,l,-0.5,2,7,a,0
"""
JSONL = """{"request_id": "r", "positive": ["a"], "negative": ["b"]}

{"request_id": "r", "row": 1, "negative": ["a"]}
{"key": "k", "logits": [1, null], "targets": [1, null], "policy_version": 2, "time_s": 7.5}
{"request_id": 12, "label": "b", "outcome": true}
"""


def sent(path: Path) -> list[v1.Outcome]:
    """The outcomes in a file as they are sent."""
    read = [message for each in read_outcomes(path) for message, _ in ALL.messages(each.outcomes)]
    return [outcome for message in read for outcome in message.outcomes]


def test_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text(CSV)
    found = sent(tmp_path / "o.csv")  # without those that are not known
    assert [outcome.WhichOneof("decision") for outcome in found] == ["requested", "requested", "scored", "scored"]
    places = [each.places for each in read_outcomes(tmp_path / "o.csv")]
    assert [[place.rpartition(":")[2] for place in some] for some in places] == [["2", "3"], ["4"], ["5"], ["6"], ["7"]]
    first, second, third, last = found
    assert (first.requested.row, list(first.positive), second.requested.row, list(second.negative)) == (0, ["a"], 1, ["a"])
    assert (third.scored.key, list(third.scored.logits), list(third.positive)) == ("k", [0.5], ["a"])
    assert (last.scored.policy_version, last.scored.time_s) == (2, 7)


def test_json_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text(JSONL)
    found = sent(tmp_path / "o.jsonl")
    said = [
        (each.requested.request_id, each.requested.row, list(each.positive), list(each.negative))
        for each in found
        if each.HasField("requested")
    ]
    assert sorted(said) == [("12", 0, ["b"], []), ("r", 0, [], ["b"]), ("r", 0, ["a"], []), ("r", 1, [], ["a"])]
    (scored,) = [each for each in found if each.HasField("scored")]
    assert (scored.targets, scored.scored.logits[0], scored.scored.time_s) == (b"\1\xff", 1, 7.5)


def test_outcomes_may_be_written_as_tables_write_numbers(tmp_path: Path) -> None:
    """A column that lacks some of its values is one of floats, in pandas."""
    (tmp_path / "o.csv").write_text("request_id,row,outcome\nr,0.0,1.0\nr,1.0,\nr,2.0,0.0\nr,3,-1.0\nr,4,nan\n")
    (tmp_path / "o.jsonl").write_text(
        '{"request_id": "r", "outcome": 1.0}\n{"request_id": "r", "row": 2.0, "outcome": 0.0}\n'
        '{"request_id": "r", "row": 3, "outcome": NaN}\n'
    )
    for name in ("o.csv", "o.jsonl"):
        assert [(each.requested.row, each.targets) for each in sent(tmp_path / name)] == [(0, b"\1"), (2, b"\0")]


def test_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", x=X, y=Y, label_names=["a", "b"])
    (found,) = read_outcomes(tmp_path / "o.npz", "monday")
    assert (found.outcomes.request_id, found.outcomes.labels, found.places[3]) == (
        "monday",
        ["a", "b"],
        f"{tmp_path}/o.npz: row 3",
    )
    np.savez(
        tmp_path / "k.npz",
        y=Y[:, 0],
        key=[f"k{i}" for i in range(60)],
        logits=X[:, 0],
        time_s=np.arange(60.0),
        policy_version=3,
    )
    (kept,) = read_outcomes(tmp_path / "k.npz")
    assert (len(messages(**vars(kept.outcomes))), kept.outcomes.policy_version) == (60, 3)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, values in (("y", Y), ("request_id", np.array([f"r{i}" for i in range(60)]))):
        np.save(folder / f"{name}.npy", values)
    assert len(messages(**vars(read_outcomes(folder)[0].outcomes))) == 60


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("o.txt", "", r"outcome file is .*o.txt; expected .csv, .jsonl, .npz, or a folder"),
        ("o.csv", "", "o.csv, which is empty; expected at least one outcome"),
        ("o.csv", "request_id;row;outcome\nr;0;1\n", "first line 'request_id;row;outcome' is divided by ';'; expected commas"),
        ("o.csv", "request_id\toutcome\nr\t1\n", r"is divided by '\\t'; expected commas between columns"),
        ("o.csv", "request_id,outcome\n", "which is empty; expected at least one outcome"),
        ("o.csv", "request_id,result\nr,1\n", "columns request_id, result is 'result' among them; expected some of request_id"),
        ("o.csv", "request_id,row\nr,1\n", "is no outcome"),
        ("o.csv", "request_id,outcome\nr,1\nr,maybe\n", r"o.csv:3: outcome is 'maybe'; expected 1, 0, or -1"),
        ("o.csv", "request_id,outcome\nr\n", r"o.csv:2 is of another number of columns"),
        ("o.csv", "request_id,outcome\nr,1,2\n", r"o.csv:2 is of another number of columns"),
        ("o.csv", "request_id,row,outcome\nr,-1,1\n", r"o.csv:2: row is '-1'; expected a whole number from 0"),
        ("o.csv", "request_id,row,outcome\nr,x,1\n", r"o.csv:2: row is 'x'; expected a whole number from 0"),
        ("o.csv", "request_id,outcome\n,1\n", r"o.csv:2: request_id and key is neither; expected one of them"),
        ("o.csv", "request_id,key,logit,outcome\nr,k,1,1\n", r"request_id and key is both"),
        ("o.csv", "key,outcome\nk,1\n", r"o.csv:2: logit is not given"),
        ("o.csv", "key,logit,outcome\nk,x,1\n", r"o.csv:2: logit is 'x'; expected a number"),
        ("o.csv", b"request_id,outcome\n\xff,1\n", "text in UTF-8"),
        ("o.jsonl", "{", r"o.jsonl:1 is no JSON"),
        ("o.jsonl", "[]", r"o.jsonl:1 is list; expected an object"),
        ("o.jsonl", '{"request_id": "r"}', r"o.jsonl:1 is no outcome; expected one of outcome, targets"),
        ("o.jsonl", '{"request_id": "r", "outcome": 1, "positive": ["a"]}', "is outcome, positive; expected one of"),
        ("o.jsonl", '{"request_id": "r", "positive": "a"}', "positive is 'a'; expected a list of labels"),
        ("o.jsonl", '{"request_id": "r", "positive": []}', "is without labels"),
        ("o.jsonl", '{"request_id": "r", "targets": 1}', "targets is 1; expected a list"),
        ("o.jsonl", '{"request_id": "r", "row": 1.5, "outcome": 1}', r"row is 1.5; expected a whole number from 0"),
        ("o.jsonl", '{"request_id": ["r"], "outcome": 1}', r"request_id is \['r'\]; expected text"),
        ("o.jsonl", '{"request_id": "r", "result": 1}', r"o.jsonl:1: field is 'result'; expected some of"),
        ("o.csv", "request_id,outcome\nr,0.5\n", r"o.csv:2: outcome is '0.5'; expected 1, 0, or -1"),
        ("o.csv", "request_id,outcome\nr,inf\n", r"o.csv:2: outcome is 'inf'; expected 1, 0, or -1"),
        ("o.jsonl", '{"request_id": "r", "outcome": 2.0}', r"o.jsonl:1: outcome is 2.0; expected 1, 0, or -1"),
        ("o.jsonl", '{"request_id": "r", "row": Infinity, "outcome": 1}', r"o.jsonl:1: row is inf; expected a whole number"),
        ("o.jsonl", '{"request_id": "r", "row": NaN, "outcome": 1}', r"o.jsonl:1: row is nan; expected a whole number"),
        ("o.jsonl", '{"request_id": "r", "row": true, "outcome": 1}', r"o.jsonl:1: row is True; expected a whole number"),
        ("o.jsonl", '{"request_id": "r", "row": [1], "outcome": 1}', r"o.jsonl:1: row is \[1\]; expected a whole number"),
        ("o.csv", "request_id,row,outcome\nr,4294967296,1\n", r"o.csv:2: row is '4294967296'; expected .* to 4294967295"),
        ("o.jsonl", '{"request_id": "r", "window": 4294967296, "outcome": 1}', r"window is 4294967296; expected .* 4294967295"),
        (
            "o.csv",
            "key,logit,policy_version,outcome\nk,1,4294967296,1\n",
            r"o.csv:2: policy_version is '4294967296'; expected a whole number from 0 to 4294967295",
        ),
        ("o.jsonl", '{"key": "k", "logits": 5, "outcome": 1}', r"o.jsonl:1: logits is 5; expected a list, one for each label"),
        ("o.jsonl", '{"key": "k", "logit": 1, "time_s": 1e300, "outcome": 1}', r"time_s is 1e\+300; expected seconds since"),
        ("o.jsonl", '{"key": "k", "logit": 1, "time_s": NaN, "outcome": 1}', r"time_s is nan; expected seconds since 1970"),
        ("o.csv", f"request_id,outcome\nr,1\n{'r' * 1001},1\n", "o.csv:3: request_id is 1001 bytes; expected 1 to 1000"),
        ("o.csv", "key,logit,outcome\nk,1,1\nl,nan,1\n", "o.csv:3: logit is NaN; expected a number, for a label with an"),
        ("o.csv", "key,logit,time_s,outcome\nk,1,99999999999,1\n", "time_s is 99999999999; expected .*; it is 1000000 now"),
        ("o.csv", "key,logit,time_s,outcome\nk,1,1e6,1\nk,1,1086401,1\n", "o.csv:3: time_s is 1086401; expected seconds since"),
        ("o.jsonl", '{"request_id": "r", "positive": ["a"], "negative": ["a"]}', "positive and negative is 'a'; expected each"),
        (
            "o.jsonl",
            '{"key": "k", "logits": [1, 2], "targets": [1]}',
            "targets and logits is 1 and 2; expected as many of both",
        ),
        ("o.npz", b"nothing", "an .npz of arrays without pickles"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, name: str, content: str | bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadData, match=text):
        read_outcomes(tmp_path / name, now_s=lambda: 1e6)


def test_arrays_without_y_or_ids_are_refused(tmp_path: Path) -> None:
    for y, shape in ((np.array(1), r"\[\]"), (np.zeros((0, 0)), r"\[0, 0\]")):
        np.savez(tmp_path / "o.npz", y=y)
        with pytest.raises(BadData, match=rf"o.npz: y is of shape {shape}; expected \[outcome\]"):
            read_outcomes(tmp_path / "o.npz", "r")
    np.savez(tmp_path / "o.npz", x=X)
    with pytest.raises(BadData, match="keys is no y; expected y, what became of each"):
        read_outcomes(tmp_path / "o.npz")
    np.savez(tmp_path / "o.npz", y=Y)
    with pytest.raises(BadData, match="request_id is not given; expected in the file or as --request-id"):
        read_outcomes(tmp_path / "o.npz")


@pytest.mark.parametrize(
    ("version", "text"), [([1, 2], r"policy_version is int64 \[2\]; expected one whole number"), (1.5, "float64")]
)
def test_a_policy_version_is_one_number(tmp_path: Path, version: Any, text: str) -> None:
    np.savez(tmp_path / "k.npz", y=Y[:2, 0], key=["k", "l"], logits=X[:2, 0], policy_version=version)
    with pytest.raises(BadData, match=text):
        read_outcomes(tmp_path / "k.npz")


def test_times_are_read_as_people_write_them() -> None:
    assert seconds("since", "") is None
    assert seconds("since", "1970-01-02") == 86_400
    assert seconds("since", "1970-01-01T01:00+01:00") == 0
    with pytest.raises(BadConfig, match="--since is yesterday"):
        seconds("since", "yesterday")
    assert time_range("1970-01-02", "") == (86_400, None)
    with pytest.raises(BadConfig, match="--until is 2026-01-01; expected a time after --since, 2026-02-01"):
        time_range("2026-02-01", "2026-01-01")


def test_the_round_by_commands(client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path) -> None:
    at = ("--server", client_server.target)
    np.savez(tmp_path / "mine.npz", x=X, y=Y, label_names=["a", "b"])
    client.calibrate(fresh, "max_fbeta=1", inputs=X, targets=Y)

    def run(*arguments: object, code: int = 0) -> str:
        done = cutpoint(*arguments, *at)
        assert done.returncode == code, done.stderr
        return done.stdout

    run("score", tmp_path / "mine.npz", "--model", fresh, "--request-id", "monday")
    report = ("outcomes", "report", tmp_path / "mine.npz", "--model", fresh, "--request-id", "monday", "--sampling", "all")
    assert run(*report).startswith("60 outcomes taken, 0 known before, 0 corrected, 0 fit no decision")
    assert run(*report).startswith("0 outcomes taken, 60 known before")
    summary = run("outcomes", "summary", fresh)
    assert "outcomes of 60 rows" in summary and "1.000 (" in summary
    (tmp_path / "more.csv").write_text(
        f"request_id,row,label,outcome\nmonday,99,a,1\ntuesday,0,a,1\nmonday,1,a,{1 - Y[1, 0]}\n"
    )
    failed = run("outcomes", "report", tmp_path / "more.csv", "--model", fresh, "--sampling", "all", code=1)
    assert failed.splitlines() == [
        "0 outcomes taken, 0 known before, 0 corrected, 3 fit no decision",
        "  conflict: 1", "  no_such_row: 1", "  unknown_request: 1",
        f"{tmp_path}/more.csv:2: row 99 of request 'monday', which had 60",
        f"{tmp_path}/more.csv:3: no decision is kept for request 'tuesday'",
        f"{tmp_path}/more.csv:4: label 'a' is known otherwise; `replace` corrects it",
    ]  # fmt: skip
    (tmp_path / "one.jsonl").write_text(json.dumps({"request_id": "monday", "row": 1, "targets": (1 - Y[1]).tolist()}))
    replaced = run("outcomes", "report", tmp_path / "one.jsonl", "--model", fresh, "--sampling", "all", "--replace")
    assert replaced.startswith("0 outcomes taken, 0 known before, 1 corrected")
    quiet = int(np.flatnonzero(~client.score(fresh, X).decisions.any(axis=1))[0])  # type: ignore[union-attr]
    (tmp_path / "quiet.csv").write_text(f"request_id,row,label,outcome\nmonday,{quiet},a,{Y[quiet, 0]}\n")
    failed = run("outcomes", "report", tmp_path / "quiet.csv", "--model", fresh, "--sampling", "alerted", code=1)
    assert failed.splitlines() == [
        "0 outcomes taken, 0 known before, 0 corrected, 1 fit no decision", "  not_alerted: 1",
        f"{tmp_path}/quiet.csv:2: row {quiet} of request 'monday' did not alert; with sampling alerted only alerts are taken",
    ]  # fmt: skip
    made = run("policy", "calibrate", fresh, "recall_at_least=0.5", "--from-outcomes", "--since", "2020-01-01")
    assert f"policy 2 of {fresh} is active" in made
    assert client.policy(fresh).data.source == "outcomes"  # type: ignore[union-attr]


def test_a_summary_says_why_there_is_no_recall(client: Client, client_server: ServerProcess, fresh: str) -> None:
    client.calibrate(fresh, "max_fbeta=1", inputs=X, targets=Y)
    client.report_outcomes(fresh, [[1, 0]], keys=["k"], logits=[[9, 9]], sampling="alerted")
    done = cutpoint("outcomes", "summary", fresh, "--server", client_server.target)
    assert "a: no recall: no positive outcome is of a review that has seen what did not alert" in done.stdout
    assert "b: no recall: no outcome was positive" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("outcomes", "summary", "none"), "error: Request for unknown model: 'none' is not found"),
        (("outcomes", "summary", "many", "--since", "x"), "error: --since is x; expected a time"),
        (
            ("policy", "calibrate", "many", "max_fbeta=1", "--since", "2020-01-01"),
            "--since, --until and --any-sampling is given",
        ),
        (
            ("policy", "calibrate", "many", "max_fbeta=1", "--from-outcomes", "--data", "x.npz"),
            "--from-outcomes is given beside",
        ),
    ],
)
def test_errors_are_one_line(client_server: ServerProcess, arguments: tuple[str, ...], text: str) -> None:
    done = cutpoint(*arguments, "--server", client_server.target)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1


def test_every_command_has_an_example() -> None:
    for command in outcomes_app.registered_commands:
        assert command.epilog and command.epilog.startswith("Example: cutpoint outcomes ")


def test_asyncio(client_server: ServerProcess, fresh: str) -> None:
    async def batches() -> AsyncIterator[Outcomes]:
        for i in range(0, 60, 20):
            yield Outcomes(Y[i : i + 20], request_id="r", rows=range(i, i + 20))

    async def work() -> None:
        async with AioClient(client_server.target) as client:
            await client.calibrate(fresh, "max_fbeta=1", inputs=X, targets=Y)
            await client.score(fresh, X, request_id="r")
            done = await client.report_outcomes(fresh, Y[:40], request_id="r", sampling="all")
            assert done.taken == 40
            found = [each async for each in client.stream_outcomes(fresh, batches(), sampling="all")]
            assert [(each.taken, each.repeated) for each in found] == [(0, 20), (0, 20), (20, 0)]
            one_label = [Outcomes([1, 1], keys=["k", "l"], logits=[[1, 1]] * 2)]
            async for _ in client.stream_outcomes(fresh, one_label, sampling="all"):
                pass

    with pytest.raises(BadInput, match=r"outcomes\[0\]: targets of 1 labels"):
        asyncio.run(work())

    async def rest() -> None:
        async with AioClient(client_server.target) as client:
            assert (await client.outcome_summary(fresh)).rows == 60
            made = await client.calibrate(fresh, "max_fbeta=1", from_outcomes=FromOutcomes(), activate=False)
            assert made.policy.data is not None and made.policy.data.rows == 60

    asyncio.run(rest())


def test_what_the_batches_of_a_stream_raise_is_raised_here(client: Client, fresh: str) -> None:
    def failing(error: Exception) -> Iterator[Outcomes]:
        yield Outcomes([[1, 1]], keys=["k"], logits=[[1, 1]])
        raise error

    stream = client.stream_outcomes(fresh, failing(LookupError("no more")), sampling="all")
    with pytest.raises(LookupError, match="no more"):
        list(stream)
    for wrong, text in ((Outcomes([1]), "request_id and keys is not given"), (Outcomes([-1], request_id="r"), "all not known")):
        with pytest.raises(BadInput, match=text):
            list(client.stream_outcomes(fresh, [wrong], sampling="all"))
    large = Outcomes(np.ones((2500, 2)), keys=[f"{i}" for i in range(2500)], logits=np.ones((2500, 2)))
    (done,) = client.stream_outcomes(fresh, [large], sampling="all")
    assert (done.taken, done.unmatched) == (2500, [])


def test_errors_say_where_among_many(client: Client, fresh: str) -> None:
    logits = np.ones((1500, 2))
    keys = [f"{i}" for i in range(1400)] + ["x" * 2000] + [f"{i}" for i in range(1401, 1500)]
    said = r"outcomes\[1400\].scored.key is 2000 bytes; expected 1 to 1000 bytes of text; 1000 before it are kept, and may be"
    with pytest.raises(BadRequest, match=said):
        client.report_outcomes(fresh, np.ones((1500, 2)), keys=keys, logits=logits, sampling="all")
    assert client.outcome_summary(fresh).rows == 1000


def test_a_file_that_is_refused_in_the_midst_says_where_and_what_is_kept(
    client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path
) -> None:
    lines = [f"k{i},1,{'b' if i % 2 else 'a'},1" for i in range(10)]
    (tmp_path / "big.csv").write_text("\n".join(["key,logit,label,outcome", *lines]))
    report = (
        "outcomes",
        "report",
        tmp_path / "big.csv",
        "--model",
        fresh,
        "--sampling",
        "all",
        "--server",
        client_server.target,
    )
    done = cutpoint(*report)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/big.csv:2: logits is 1 numbers; expected 2, one for each label of {fresh}/1\n"
    rows = [{"key": f"k{i}", "logits": [1, 1], "targets": [1, 1]} for i in range(1500)] + [
        {"key": "wrong", "logits": [1, 1], "targets": [1, 1], "policy_version": 9}
    ]
    (tmp_path / "big.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = cutpoint("outcomes", "report", tmp_path / "big.jsonl", *report[3:])
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/big.jsonl:1501: policy_version is 9; expected a policy that decided")
    assert done.stderr.endswith("; 1500 others of the file are kept, and may be reported again\n")
    assert client.outcome_summary(fresh).rows == 1500


def test_a_line_without_a_row_is_of_a_request_that_had_one(
    client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path
) -> None:
    client.score(fresh, X[:1], request_id="one")
    client.score(fresh, X[:20], request_id="many")
    (tmp_path / "o.csv").write_text("request_id,label,outcome\none,a,1\nmany,a,1\n")
    done = cutpoint(
        "outcomes", "report", tmp_path / "o.csv", "--model", fresh, "--sampling", "all", "--server", client_server.target
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "1 outcomes taken, 0 known before, 0 corrected, 1 fit no decision",
        "  row_not_given: 1",
        f"{tmp_path}/o.csv:3: the row of request 'many' is not given, which had 20; expected 0 to 19",
    ]


def test_the_files_on_the_page_are_read(tmp_path: Path) -> None:
    text = (ROOT / "docs/outcomes.md").read_text()
    for name, form, rows in (("o.csv", "csv", [3, 17]), ("o.jsonl", "json", [3, 17])):
        (sample,) = re.findall(rf"```{form}\n(.*?)```", text, re.DOTALL)
        (tmp_path / name).write_text(sample)
        found = sent(tmp_path / name)
        assert [each.requested.row for each in found if each.HasField("requested")] == rows
    assert found[-1].scored.key == "claim 81"
    for name in (*_COLUMNS, "positive", "negative", "targets", "logits", "y", "label_names"):
        assert f"`{name}`" in text.split("## Files")[1].split("## ")[0], name


def test_the_commands_of_the_runbook_run(client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path) -> None:
    """Alerts alone give no threshold; with some of the rest they do."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = (x[:, :2] + rng.normal(size=(400, 2)) > 1.5).astype(np.uint8)
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    decisions = client.score(fresh, x, request_id="r").decisions
    assert decisions is not None
    alerts = decisions.any(axis=1)
    for name, rows in (("alerts.csv", np.flatnonzero(alerts)), ("alerts_and_some.csv", np.flatnonzero(alerts | (x[:, 3] > 1)))):
        lines = [f"r,{row},{label},{y[row, i]}" for i, label in enumerate("ab") for row in rows]
        (tmp_path / name).write_text("\n".join(["request_id,row,label,outcome", *lines]))

    def run(command: str) -> subprocess.CompletedProcess[str]:
        words = [fresh if word == "mine" else word for word in command.split()]
        return cutpoint(*words[1:], "--server", client_server.target, cwd=tmp_path)

    part = (ROOT / "docs/alerts.md").read_text().split("### CutpointPositiveRateHigh")[1].split("###")[0]
    first, second = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL))
    for command in first:
        assert run(command).returncode == 0, command
    report, calibrate = second
    refused = run(calibrate)
    assert refused.returncode == 2 and "sampling" in refused.stderr
    assert run(report).returncode == 0
    done = run(calibrate)
    assert done.returncode == 0 and f"policy 2 of {fresh} is stored, not active" in done.stdout, done.stderr


def test_the_page_on_outcomes_runs(client: Client, client_server: ServerProcess, fresh: str, tmp_path: Path) -> None:
    text = (ROOT / "docs/outcomes.md").read_text()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype(np.float32)
    y = (x[:, :2] + rng.normal(size=(600, 2)) > 1.5).astype(np.uint8)
    y[599, 0] = 0
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    (tmp_path / "reviewed.csv").write_text("request_id,row,label,outcome\ntuesday,599,a,0\n")
    client.calibrate(fresh, "max_fbeta=1", inputs=x, targets=y)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = program.replace("127.0.0.1:8001", client_server.target).replace('"mine"', f'"{fresh}"')
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "3 0 []" and done.stdout.splitlines()[-1] == "outcomes 500"
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for command in commands.splitlines():
        words = [fresh if word == "mine" else word for word in command.split()]
        ran = cutpoint(*words[1:], "--server", client_server.target, cwd=tmp_path)
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    assert client.outcome_summary(fresh).rows == 1100
