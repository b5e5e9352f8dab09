"""How a model is run here: by its profile where that was measured on a machine like this one, or else by the server's settings.

An option that was given on the command line goes before both. Whatever wins over what is logged.
"""

import logging
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
from cutpoint.bundle import Machine, Profile

from ..config import ServerConfig
from ..runs.batcher import Batching
from ..runs.provider_settings import ONNXRUNTIME, ProviderSettings, provider_settings, settings_of

log = logging.getLogger("cutpoint.server")


@dataclass(frozen=True)
class Running:
    """How a model is run.

    Attributes:
        provider: what computes.
        batching: how requests share runs.
        wide: whether a run that has the machine to itself takes all cores; None where nobody has measured it.
        shares: whether requests share runs up to `batching.max_rows`; None where that is to be found out.
    """

    provider: ProviderSettings
    batching: Batching
    wide: bool | None = None
    shares: bool | None = True


# Of a core: handing a run to a lane and getting the interpreter back takes about as much. With few cores, which threads that
# wait for each other also keep busy, it takes more, and a lane that could run beside gains less.
_QUICK_S, _QUICK_ON_FEW_S, _FEW = 100e-6, 300e-6, 2
# On a GPU at a time, each: one computes while another's rows are copied. More of them would only be smaller ones.
_GPU_RUNS = 2


def this_machine() -> Machine:
    """What this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpu=_cpu(), cores=cores, onnxruntime=ort.__version__, providers=tuple(ort.get_available_providers()))


def _quick_s(provider: str, lanes: int) -> float:
    if provider != "cpu":
        return 0.0
    return _QUICK_ON_FEW_S if lanes <= _FEW else _QUICK_S


def running_of(config: ServerConfig, model: str, profile: Profile | None) -> Running:
    """How `model` is to be run.

    Args:
        config: the server's settings; those that were given, and not left at their defaults, go before the profile.
        model: its name and version, for the log.
        profile: of its bundle, or None.
    """
    provider = provider_settings(provider=config.provider, lanes=config.lane_count, **settings_of(config.provider_option))
    own = Running(
        provider,
        Batching(
            max_rows=config.max_batch_rows, max_waiting_rows=config.max_waiting_rows, delay_s=config.queue_delay_ms / 1e3,
            sizes=provider.batch_sizes, quick_s=_quick_s(config.provider, config.lane_count),
            max_running=_GPU_RUNS * len(provider.instances) if provider.on_gpu and not config.lanes else 0,
        ),
        shares=None if provider.on_cpu and not (provider.batch_sizes or "max_batch_rows" in config.model_fields_set) else True,
    )  # fmt: skip
    if profile is None:
        return own
    other = _other(config, profile)
    if other:
        log.warning("%s: its profile is not used: %s", model, other)
        if profile.computation.hint != "f32" or profile.computation.provider != own.provider.provider:
            log.warning(
                "%s: its thresholds were chosen on logits of %s; %s gives others: calibrate here, or look at its positive rate",
                model, profile.computation, own.provider.provider,
            )  # fmt: skip
        return own
    return _profiled(config, own, model, profile)


def _other(config: ServerConfig, profile: Profile) -> str:
    """Why a profile says nothing about this server; empty where it does."""
    here, there, wanted = this_machine(), profile.machine, profile.computation.provider
    if "provider" in config.model_fields_set and config.provider != wanted:
        return f"it is for the provider {wanted}, and --provider {config.provider} was given"
    if ONNXRUNTIME[wanted] not in here.providers:
        return f"it is for the provider {wanted}, which onnxruntime {here.onnxruntime} has not here"
    if here.cores != there.cores:
        return f"it was measured on {there.cores} cores, here are {here.cores}; `cutpoint tune` measures this machine"
    return ""


def _profiled(config: ServerConfig, own: Running, model: str, profile: Profile) -> Running:
    here, there, way = this_machine(), profile.machine, profile.way
    for name, a, b in (("cpu", there.cpu, here.cpu), ("onnxruntime", there.onnxruntime, here.onnxruntime)):
        if a != b:
            log.info(
                "%s: its profile was measured with %s %s, here is %s", model, name, getattr(there, name), getattr(here, name)
            )
    lanes = _preferred(config, model, "lanes", way.lanes)
    rows = _preferred(config, model, "max_batch_rows", way.max_batch_rows)
    delay_ms = _preferred(config, model, "queue_delay_ms", way.queue_delay_ms)
    if lanes > config.lane_count:
        log.info("%s: its profile is for %d lanes, the server has %d", model, lanes, config.lane_count)
        lanes = config.lane_count
    provider = own.provider.model_copy(
        update={
            "provider": profile.computation.provider,
            "precision": profile.computation.hint,
            "lanes": lanes,
            "wide_threads": profile.wide_threads,
            "batch_sizes": profile.batch_sizes,
        }
    )
    batching = replace(
        own.batching,
        max_rows=rows,
        max_running=0 if lanes == config.lane_count else lanes,
        delay_s=delay_ms / 1e3,
        sizes=profile.batch_sizes,
        wide=way.wide,
        quick_s=_quick_s(profile.computation.provider, config.lane_count),
    )
    log.info(
        "%s: run as its profile says: %s; %s; %d core(s) for a run alone",
        model, profile.computation, way, profile.wide_threads,
    )  # fmt: skip
    return Running(provider, batching, profile.wide_threads > 1)


def _preferred(config: ServerConfig, model: str, name: str, profiled: Any) -> Any:
    """A setting that was given, or else the profile's."""
    given = getattr(config, name)
    if name not in config.model_fields_set or given == profiled or (name == "lanes" and not given):
        return profiled
    log.info("%s: --%s %s was given and goes before its profile's %s", model, name.replace("_", "-"), given, profiled)
    return given


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"
