"""The Open Inference Protocol v2 but for inference: what is there, what it is like, whether it is ready."""

from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

from cutpoint.oip import inference_pb2 as oip

from ..port.health import Readiness
from ..port.rpc import Rpc, direct
from ..port.transport import Call
from ..runs.session import TensorSpec
from ..serving.models import Models
from .inference import SERVICE
from .model_config import PLATFORM, model_config
from .shared_memory import SharedMemory

# What Triton calls the parts of its protocol that are here; clients read them.
EXTENSIONS = ("binary_tensor_data", "parameters", "schedule_policy", "model_configuration", "statistics", "classification")
SHARED_MEMORY = "system_shared_memory"


class InferenceService:
    """One method per RPC that answers from memory."""

    def __init__(
        self, models: Models, readiness: Readiness, name: str, memory: SharedMemory | None, extensions: tuple[str, ...] = ()
    ) -> None:
        """Answer for `models` under the server name `name`; with regions of `memory`, where there is one."""
        self._models, self._readiness, self._name, self._memory = models, readiness, name, memory
        self._extensions = (*EXTENSIONS, *extensions, *(() if memory is None else (SHARED_MEMORY,)))
        self._version = version_of("cutpoint")  # reads files: 2 ms, once

    def rpcs(self) -> list[Rpc]:
        """These RPCs."""
        answers: dict[str, Callable[[Any, Call], Any]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
        }
        if self._memory is not None:
            answers |= {
                "SystemSharedMemoryStatus": self.memory_status,
                "SystemSharedMemoryRegister": self.memory_register,
                "SystemSharedMemoryUnregister": self.memory_unregister,
            }
        return [direct(f"/{SERVICE}/{name}", getattr(oip, f"{name}Request"), answer) for name, answer in answers.items()]

    def server_live(self, request: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:  # noqa: D102
        return oip.ServerLiveResponse(live=True)

    def server_ready(self, request: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:  # noqa: D102
        return oip.ServerReadyResponse(ready=self._readiness.ready)

    def model_ready(self, request: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:
        """False, not an error, for a model that is not there: the question has an answer."""
        served = self._models.find(request.name, request.version) is not None
        return oip.ModelReadyResponse(ready=served and self._readiness.ready)

    def server_metadata(self, request: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:  # noqa: D102
        return oip.ServerMetadataResponse(name=self._name, version=self._version, extensions=self._extensions)

    def model_metadata(self, request: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:  # noqa: D102
        model = self._models.get(request.name, request.version)
        return oip.ModelMetadataResponse(
            name=model.name,
            versions=self._models.versions(model.name),
            platform=PLATFORM,
            inputs=[_metadata(spec) for spec in model.inputs.values()],
            outputs=[_metadata(spec) for spec in model.outputs.values()],
        )

    def model_config(self, request: oip.ModelConfigRequest, call: Call) -> oip.ModelConfigResponse:
        """How it is served, as Triton's configuration says such things."""
        model = self._models.get(request.name, request.version)
        batching = model.batcher.batching
        # Clients ask for every output that is listed here: not for one that would be refused, nor for the labels' names.
        left_out = {"labels"} if model.active is not None else {"labels", "decisions"}
        config = model_config(
            model.name,
            list(model.inputs.values()),
            [spec for name, spec in model.outputs.items() if not model.labels or name not in left_out],
            max_batch_rows=batching.max_rows,
            batchable=model.batcher.batchable,
            versions=[int(version) for version in self._models.versions(model.name)],
            instances=self._models.lane_count,
            queue_delay_s=batching.delay_s,
        )
        return oip.ModelConfigResponse(config=config)

    def model_statistics(self, request: oip.ModelStatisticsRequest, call: Call) -> oip.ModelStatisticsResponse:
        """Of one version, of all versions of a model, or of all models."""
        if request.name and request.version:
            chosen = [self._models.get(request.name, request.version)]
        elif request.name:
            self._models.get(request.name)
            chosen = [self._models.get(request.name, version) for version in self._models.versions(request.name)]
        else:
            chosen = self._models.all()
        return oip.ModelStatisticsResponse(model_stats=[model.statistics.message() for model in chosen])

    def memory_status(self, request: oip.SystemSharedMemoryStatusRequest, call: Call) -> Any:  # noqa: D102
        assert self._memory is not None
        return self._memory.status(request.name)

    def memory_register(self, request: oip.SystemSharedMemoryRegisterRequest, call: Call) -> Any:  # noqa: D102
        assert self._memory is not None
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return oip.SystemSharedMemoryRegisterResponse()

    def memory_unregister(self, request: oip.SystemSharedMemoryUnregisterRequest, call: Call) -> Any:  # noqa: D102
        assert self._memory is not None
        self._memory.unregister(request.name)
        return oip.SystemSharedMemoryUnregisterResponse()


def _metadata(spec: TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
