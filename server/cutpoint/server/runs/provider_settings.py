"""What a provider is told: one record, from names and values."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from cutpoint.errors import BadConfig
from cutpoint.validation import Record, first_problem
from pydantic import Field, ValidationError, model_validator

ProviderName = Literal["cpu", "cuda", "tensorrt", "openvino"]
ONNXRUNTIME: dict[ProviderName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
_FIRST_DEVICE: dict[ProviderName, str] = {"cpu": "", "cuda": "0", "tensorrt": "0", "openvino": "CPU"}
_PRECISIONS: dict[ProviderName, tuple[str, ...]] = {
    "cpu": ("f32",),
    "cuda": ("f32",),
    "tensorrt": ("f32", "bf16", "f16"),
    "openvino": ("f32", "bf16", "f16"),
}


_SHRINK_MIB = 16.0
# What a person may set by name; the others follow from the server's own settings or a profile.
_LISTS = {"devices", "batch_sizes"}
_OPTIONS = {*_LISTS, "precision", "tf32", "gpu_memory_mib", "shrink_above_mib", "cuda_graphs", "engine_cache"}


class ProviderSettings(Record):
    """What computes, on what, and how exactly.

    Attributes:
        provider: onnxruntime's execution provider.
        devices: an instance of the model on each: numbers of GPUs for cuda and tensorrt ("0", "1"), OpenVINO's names for
            openvino ("CPU", "GPU.0"); empty for the first GPU, or OpenVINO's CPU.
        precision: what openvino and tensorrt may compute a float32 graph in. Other than f32 it moves scores: calibrate with it.
        lanes: runs at a time that are to be computed side by side on openvino's CPU, one core each.
        wide_threads: cores of a run that has the machine to itself, on a CPU; 0 for all, 1 for no such runs.
        tf32: whether cuda may round float32 factors to 10 bits of mantissa. For tensorrt onnxruntime has no such option.
        gpu_memory_mib: what the arena of cuda may take of a device; 0 for all.
        shrink_above_mib: a run with larger inputs gives the memory that it took back to the system, which costs a CPU about
            an eighth of the run's time and a GPU nearly as much as the run; 0 for never. None for 16, and never on a GPU.
        batch_sizes: numbers of rows that runs are padded to, increasing: tensorrt builds its engine for them, cuda captures a
            graph of each.
        cuda_graphs: whether cuda captures graphs. All nodes must run on it, and every input but its rows be of a fixed size.
        engine_cache: folder of tensorrt's built engines; without it every start builds them anew, which takes minutes.
    """

    provider: ProviderName = "cpu"
    devices: tuple[str, ...] = ()
    precision: Literal["f32", "bf16", "f16"] = "f32"
    lanes: int = Field(default=1, ge=1, le=1024)
    wide_threads: int = Field(default=0, ge=0, le=1024)
    tf32: bool = False
    gpu_memory_mib: int = Field(default=0, ge=0)
    shrink_above_mib: float | None = Field(default=None, ge=0)
    batch_sizes: tuple[int, ...] = ()
    cuda_graphs: bool = False
    engine_cache: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.precision not in _PRECISIONS[self.provider]:
            raise ValueError(
                f"precision {self.precision} is for openvino and tensorrt; a bundle can hold a {self.precision} graph"
            )
        if self.devices and self.provider == "cpu":
            raise ValueError(f"devices {list(self.devices)} are of cuda, tensorrt or openvino; the provider is cpu")
        if self.provider in ("cuda", "tensorrt") and not all(device.isdecimal() for device in self.devices):
            raise ValueError(f"devices are {list(self.devices)}; expected numbers of GPUs, 0 and up")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"devices are {list(self.devices)}; expected each once")
        if any(a >= b for a, b in zip((0, *self.batch_sizes), self.batch_sizes, strict=False)):
            raise ValueError(f"batch_sizes are {list(self.batch_sizes)}; expected 1 or more, increasing")
        if self.cuda_graphs and (self.provider != "cuda" or not self.batch_sizes):
            raise ValueError("cuda_graphs need the provider cuda and batch_sizes")
        if self.cuda_graphs and self.shrink_above_mib:
            raise ValueError(
                "cuda_graphs keep the memory that they were recorded with; shrink_above_mib must be 0 or not given"
            )
        return self

    @property
    def instances(self) -> tuple[str, ...]:
        """The devices, the default one where none was named."""
        return self.devices or (_FIRST_DEVICE[self.provider],)

    @property
    def on_cpu(self) -> bool:
        """Whether runs take cores, which lanes and wide runs share out."""
        return self.provider == "cpu" or (self.provider == "openvino" and self.instances == ("CPU",))

    @property
    def on_gpu(self) -> bool:
        """Whether runs use CUDA."""
        return self.provider in ("cuda", "tensorrt")

    @property
    def shrinks_above(self) -> float:
        """Bytes of inputs above which a run gives its memory back; infinite for never."""
        mib = self.shrink_above_mib if self.shrink_above_mib is not None else 0.0 if self.on_gpu else _SHRINK_MIB
        return mib * 2**20 or float("inf")

    @property
    def wide_cores(self) -> int:
        """Cores of a run that has the machine to itself."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.wide_threads or cores


def provider_settings(**settings: Any) -> ProviderSettings:
    """ProviderSettings from settings of which None means "not given"; BadConfig naming the first that is wrong."""
    try:
        return ProviderSettings.model_validate({name: value for name, value in settings.items() if value is not None})
    except ValidationError as error:
        raise BadConfig(f"provider: {first_problem(error)}") from None


def settings_of(options: Iterable[str]) -> dict[str, Any]:
    """Settings by name, from "name=value" each; lists are separated by commas. BadConfig for a name that is none of them."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in _OPTIONS or name in found:
            raise BadConfig.of("provider_option", option, f"NAME=VALUE, each name once, of {', '.join(sorted(_OPTIONS))}")
        found[name] = tuple(value.split(",")) if name in _LISTS else value
    return found
