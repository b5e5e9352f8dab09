"""The Open Inference Protocol v2 but for inference: what is there, what it is like, whether it is ready."""

from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any

from cutpoint.errors import ModelNotFound
from cutpoint.oip import inference_pb2 as oip

from .health import Readiness
from .inference import SERVICE
from .models import Models
from .rpc import Rpc, direct
from .session import TensorSpec
from .transport import Call

EXTENSIONS = ("binary_tensor_data",)


class InferenceService:
    """One method per RPC of the standard that answers from memory."""

    def __init__(self, models: Models, readiness: Readiness, name: str) -> None:
        """Answer for `models` under the server name `name`."""
        self._models, self._readiness, self._name = models, readiness, name

    def rpcs(self) -> list[Rpc]:
        """These RPCs."""
        answers: dict[str, Callable[[Any, Call], Any]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
        }
        return [direct(f"/{SERVICE}/{name}", getattr(oip, f"{name}Request"), answer) for name, answer in answers.items()]

    def server_live(self, request: oip.ServerLiveRequest, call: Call) -> oip.ServerLiveResponse:  # noqa: D102
        return oip.ServerLiveResponse(live=True)

    def server_ready(self, request: oip.ServerReadyRequest, call: Call) -> oip.ServerReadyResponse:  # noqa: D102
        return oip.ServerReadyResponse(ready=self._readiness.ready)

    def model_ready(self, request: oip.ModelReadyRequest, call: Call) -> oip.ModelReadyResponse:
        """False, not an error, for a model that is not there: the question has an answer."""
        try:
            self._models.get(request.name, request.version)
        except ModelNotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=self._readiness.ready)

    def server_metadata(self, request: oip.ServerMetadataRequest, call: Call) -> oip.ServerMetadataResponse:  # noqa: D102
        return oip.ServerMetadataResponse(name=self._name, version=version_of("cutpoint"), extensions=EXTENSIONS)

    def model_metadata(self, request: oip.ModelMetadataRequest, call: Call) -> oip.ModelMetadataResponse:  # noqa: D102
        model = self._models.get(request.name, request.version)
        return oip.ModelMetadataResponse(
            name=model.name,
            versions=self._models.versions(model.name),
            platform="onnxruntime_onnx",
            inputs=[_metadata(spec) for spec in model.inputs.values()],
            outputs=[_metadata(spec) for spec in model.outputs.values()],
        )


def _metadata(spec: TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
