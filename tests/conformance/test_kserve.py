"""kserve's InferenceGRPCClient as shipped, in an environment of its own."""

from collections.abc import Callable
from typing import Any

import pytest
from authority import Authority, needs_openssl
from conformance_server import DECISIONS, LOGITS, Ask
from processes import ServerProcess

KSERVE = "kserve==0.21.0"


@pytest.fixture(scope="module")
def python(environment: Callable[..., str]) -> str:
    return environment(KSERVE)


def check(found: dict[str, Any]) -> None:
    assert found["states"] == [True, True]
    assert found["models"] == [True, False]
    assert found["raw"] and found["typed"] and found["headers"] and found["parameters"]
    assert found["response"] == ["seven", "simple", "1"]
    assert found["many"] == 50
    assert found["decisions"] == [LOGITS, DECISIONS]
    assert found["policy"] == 1
    assert found["text"] == ["é", ""]
    assert found["wrong shape"][0] == "INVALID_ARGUMENT"
    assert "shape of input 'x'" in found["wrong shape"][1]
    # Not UNAVAILABLE, which it would send again, twice.
    assert found["unknown model"] == ["NOT_FOUND", "Request for unknown model: 'none' is not found"]
    assert found["too late"] == "DEADLINE_EXCEEDED"


def test_it_scores_decides_and_is_told_what_is_wrong(server: ServerProcess, python: str, ask: Ask) -> None:
    check(ask(python, "kserve_script.py", server.target))


@needs_openssl
def test_it_does_so_over_tls(secured: ServerProcess, authority: Authority, python: str, ask: Ask) -> None:
    check(ask(python, "kserve_script.py", secured.target, authority.root.cert))
