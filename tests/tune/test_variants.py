"""What there is to try."""

import pytest
from cutpoint.bundle import Computation, Machine, Way
from cutpoint.errors import BadConfig
from cutpoint.server.runs.provider_settings import ONNXRUNTIME as SERVERS
from cutpoint.server.runs.provider_settings import ProviderSettings
from cutpoint.tune.variants import ONNXRUNTIME, PRECISIONS, computations, settings_of, ways

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"


def machine(*providers: str) -> Machine:
    return Machine(cpu="a", cores=2, onnxruntime="1.24.1", providers=providers)


def test_providers_are_called_as_the_server_calls_them() -> None:
    assert ONNXRUNTIME == SERVERS


def test_a_machine_tries_what_its_onnxruntime_has() -> None:
    assert [str(each) for each in computations(machine(CPU), "fp32")] == [
        "fp32, cpu",
        "int8 (7-bit weights), cpu",
        "int8 (8-bit weights), cpu",
    ]
    assert [str(each) for each in computations(machine(OPENVINO, CPU), "fp32")] == [
        "fp32, cpu", "int8 (7-bit weights), cpu", "int8 (8-bit weights), cpu", "fp32, openvino", "fp32, openvino in bf16",
        "int8 (7-bit weights), openvino", "int8 (8-bit weights), openvino",
    ]  # fmt: skip


def test_what_was_asked_for_is_tried_and_nothing_else() -> None:
    found = computations(machine(OPENVINO, CPU), "fp32", ["fp32", "fp16"], ["openvino"])
    assert [str(each) for each in found] == ["fp32, openvino", "fp32, openvino in f16"]


def test_a_graph_of_lower_precision_is_taken_as_it_is() -> None:
    assert [str(each) for each in computations(machine(OPENVINO, CPU), "int8")] == ["int8, cpu", "int8, openvino"]
    assert [str(each) for each in computations(machine(CPU), "fp16")] == ["fp16, cpu"]


@pytest.mark.parametrize(("precisions", "providers", "named"), [(["int4"], [], "int4"), (["fp32"], ["abacus"], "abacus")])
def test_an_unknown_name_is_refused(precisions: list[str], providers: list[str], named: str) -> None:
    with pytest.raises(BadConfig, match=named):
        computations(machine(CPU), "fp32", precisions, providers)


def test_every_computation_has_settings_that_the_server_takes() -> None:
    for computation in computations(machine(*ONNXRUNTIME.values()), "fp32", list(PRECISIONS)):
        settings = ProviderSettings.model_validate(settings_of(computation, 2))
        assert (settings.provider, settings.precision) == (computation.provider, computation.hint)


def test_lanes_one_run_on_all_cores_and_batches_are_tried_the_simplest_first() -> None:
    found = ways(Computation(), cores=2, batchable=True, wide=True)
    assert found[0] == Way(lanes=2)
    assert {Way(lanes=2, max_batch_rows=8), Way(wide=True), Way(wide=True, max_batch_rows=8)} <= set(found)
    assert all(each.lanes == 1 for each in found if each.wide) and len(set(found)) == len(found)


def test_a_graph_for_one_row_is_never_batched() -> None:
    assert ways(Computation(), cores=1, batchable=False, wide=False) == [Way(lanes=1)]
