"""pytriton's clients as shipped, in an environment of their own: those of models that give one answer a request."""

from collections.abc import Callable

from conformance_server import DECISIONS, LOGITS, Ask
from processes import ServerProcess

PYTRITON = "nvidia-pytriton==0.7.0"


def test_they_score_decide_load_and_are_told_what_is_wrong(
    server: ServerProcess, environment: Callable[..., str], ask: Ask
) -> None:
    found = ask(environment(PYTRITON), "pytriton_script.py", server.target)
    assert found["config"] == ["simple", 8, False, ["INPUT0", "INPUT1"]]
    assert found["batching"]
    assert found["positional"] and found["named"] and found["sample"] and found["parameters"] and found["at once"]
    assert found["wrong shape"][0] == "PyTritonClientInferenceServerError"
    assert "shape of input 'INPUT0' for model 'simple' is [2, 3]" in found["wrong shape"][1]
    # It asks for all that the configuration lists: not for `labels`.
    assert found["outputs"] == ["decisions", "logits", "scores"]
    assert found["decisions"] == [LOGITS, DECISIONS]
    assert found["text"] == ["é", "b"]
    assert found["too late"] == "PyTritonClientTimeoutError"
    assert found["unknown model"] in ("PyTritonClientModelUnavailableError", "PyTritonClientTimeoutError")
    assert found["loaded again"]
    assert (found["asyncio"], found["futures"]) == (20, 20)
