"""tritonclient as shipped, beyond plain calls: callbacks, cancelling, deadlines, streams, compression, classes, control."""

import sys
from typing import Any

import pytest
from conformance_server import DECISIONS, LOGITS, Ask
from processes import ServerProcess

NOT_FOUND = ["StatusCode.NOT_FOUND", "Request for unknown model: 'none' is not found"]


@pytest.fixture(scope="module")
def found(server: ServerProcess, ask: Ask) -> dict[str, Any]:
    return ask(sys.executable, "triton_client_script.py", server.target)


def test_answers_and_errors_come_by_callback(found: dict[str, Any]) -> None:
    assert found["async"] == 50
    assert found["async error"] == NOT_FOUND


def test_what_is_cancelled_or_too_late_is_told_so_and_others_are_answered(found: dict[str, Any]) -> None:
    assert found["cancelled"] == found["stream cancelled"] == "StatusCode.CANCELLED"
    assert found["after it"]
    assert found["async too late"] == found["stream too late"] == "StatusCode.DEADLINE_EXCEEDED"
    assert found["too late"] == ["StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded"]
    assert found["in time"]


def test_requests_may_be_compressed_and_have_headers_parameters_and_priorities(found: dict[str, Any]) -> None:
    assert found["compressed"] == [True, True]
    assert found["unknown compression"]  # tritonclient warns and sends it as it is
    assert found["parameters"] and found["headers"] and found["keepalive"] and found["channel arguments"]
    assert found["stream"] == [True, "9"]
    assert "reserved parameter" in found["reserved parameter"][1]


def test_sequences_of_requests_are_refused_and_not_answered_as_if_they_were_single(found: dict[str, Any]) -> None:
    assert found["sequence"][0] == "StatusCode.INVALID_ARGUMENT"
    assert "sequence_id" in found["sequence"][1]


def test_the_configuration_says_how_a_model_is_served(found: dict[str, Any]) -> None:
    assert found["config"] == {
        "max_batch_size": 8,
        "input": [["INPUT0", "TYPE_INT32", ["16"]], ["INPUT1", "TYPE_INT32", ["16"]]],
        "output": ["OUTPUT0", "OUTPUT1"],
        "batching": True,
    }
    assert found["config of linear"] == ["logits", "scores", "decisions"]


def test_statistics_count_rows_runs_and_requests(found: dict[str, Any]) -> None:
    assert found["statistics"] == [2, 1, 1, True]
    assert found["statistics of all"] == ["linear", "simple", "simple_int8", "simple_string", "slow", "text"]


def test_models_are_listed_unloaded_and_loaded(found: dict[str, Any]) -> None:
    names = ("linear", "simple", "simple_int8", "simple_string", "slow", "text")
    assert found["index"] == [[name, "1", "READY"] for name in names]
    gone = ["StatusCode.NOT_FOUND", "Request for unknown model: 'text' has no available versions"]
    assert found["unloaded"] == [False, gone]
    assert found["loaded"]


def test_outputs_come_as_classes_text_and_decisions(found: dict[str, Any]) -> None:
    assert found["classes"] == [["18:15", "17:14"], ["34:15", "33:14"]]
    assert found["labels"] == [["3.000000:1:b"], ["1.000000:1:b"]]
    assert found["decisions"] == [LOGITS, DECISIONS]
    assert found["strings"] == [True, True]
    assert found["used twice"]
    assert found["as json"] == "7"


def test_all_of_it_works_by_asyncio(found: dict[str, Any]) -> None:
    assert found["aio"] == {
        "states": [True, True, True], "name": "triton", "inputs": ["INPUT0", "INPUT1"], "config": "simple",
        "statistics": "simple", "index": 6, "many": 50, "gzip": True, "stream": [True, [NOT_FOUND[1]], 99],
        "too late": "StatusCode.DEADLINE_EXCEEDED", "cancelled": True, "after it": True,
    }  # fmt: skip
