"""What there is to try on a machine: computations, and ways to share it when many callers wait."""

from collections.abc import Sequence
from typing import Any, Literal

from ..bundle import Computation, Hint, Machine, Precision, Provider, Way
from ..errors import BadConfig

ONNXRUNTIME: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider", "openvino": "OpenVINOExecutionProvider", "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip
PRECISIONS: dict[str, tuple[Precision, Hint]] = {
    "fp32": ("fp32", "f32"), "int8": ("int8", "f32"), "bf16": ("fp32", "bf16"), "fp16": ("fp32", "f16"),
}  # fmt: skip
_HINTS: dict[Provider, tuple[Hint, ...]] = {
    "cpu": ("f32",), "openvino": ("f32", "bf16", "f16"), "cuda": ("f32",), "tensorrt": ("f32", "bf16", "f16"),
}  # fmt: skip
_INTEGER: tuple[Provider, ...] = ("cpu", "openvino")  # that run a quantised graph in integers
_ON_CORES: tuple[Provider, ...] = ("cpu", "openvino")
_BATCHES = (1, 8, 32)
_DEVICE_BATCHES = (1, 8, 32, 128)
_DELAY_MS = 1.0
WEIGHT_BITS: tuple[Literal[7, 8] | None, ...] = (7, 8)


def computations(
    machine: Machine, source: Precision, precisions: Sequence[str] = ("fp32", "int8", "bf16"), providers: Sequence[str] = ()
) -> list[Computation]:
    """What `machine` may compute the model by, the simplest first.

    Args:
        machine: where.
        source: precision of the model's graph; only a float32 graph has others made of it.
        precisions: of fp32, int8, bf16 and fp16; the last two are computed in by a provider that can.
        providers: names; empty for all that this onnxruntime has.

    Raises:
        BadConfig: an unknown precision or provider.
    """
    for name in precisions:
        if name not in PRECISIONS:
            raise BadConfig.of("--precision", name, f"one of {', '.join(PRECISIONS)}")
    for name in providers:
        if name not in ONNXRUNTIME:
            raise BadConfig.of("--provider", name, f"one of {', '.join(ONNXRUNTIME)}")
    found = []
    for provider, called in ONNXRUNTIME.items():
        if called not in machine.providers or (providers and provider not in providers):
            continue
        for name in precisions:
            graph, hint = PRECISIONS[name]
            graph = source if graph == "fp32" else graph
            fits = source == "fp32" or (graph == source and hint == "f32")
            if fits and hint in _HINTS[provider] and (graph != "int8" or source == "int8" or provider in _INTEGER):
                bits = WEIGHT_BITS if graph != source else (None,)
                found += [Computation(graph=graph, provider=provider, hint=hint, weight_bits=each) for each in bits]
    return sorted(dict.fromkeys(found), key=complexity)


def complexity(computation: Computation) -> tuple[bool, int, int, int]:
    """By which the simpler of two is smaller: float32 and the default provider first."""
    graphs: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
    hints: tuple[Hint, ...] = ("f32", "bf16", "f16")
    return (
        computation.provider != "cpu",
        graphs.index(computation.graph),
        hints.index(computation.hint),
        computation.weight_bits or 0,
    )


def ways(computation: Computation, cores: int, batchable: bool, wide: bool) -> list[Way]:
    """How runs may share the machine, the simplest first: a run a request on a core each.

    Args:
        computation: by what.
        cores: of the machine.
        batchable: whether the graph takes any number of rows.
        wide: whether there are runs on all cores.
    """
    on_cores = computation.provider in _ON_CORES
    batches = (1,) if not batchable else _BATCHES if on_cores else _DEVICE_BATCHES
    lanes = {cores} if on_cores else {1, 2}
    if on_cores and cores >= 4:
        lanes.add(cores // 2)
    found = [Way(lanes=count, max_batch_rows=rows) for rows in batches for count in sorted(lanes, reverse=on_cores)]
    if wide:
        found += [Way(wide=True, max_batch_rows=rows) for rows in batches]
    if batchable:
        found.append(Way(lanes=max(lanes), max_batch_rows=_BATCHES[-1], queue_delay_ms=_DELAY_MS))
    return found


def settings_of(computation: Computation, cores: int) -> dict[str, Any]:
    """The server's `ProviderSettings` of a computation, as a document."""
    settings: dict[str, Any] = {"provider": computation.provider, "precision": computation.hint}
    if computation.provider in _ON_CORES:
        settings |= {"lanes": cores, "wide_threads": cores}
    return settings
