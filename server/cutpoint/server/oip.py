"""The Open Inference Protocol v2: `/inference.GRPCInferenceService/...`."""

from importlib.metadata import version as version_of
from typing import Any

import grpc
from cutpoint.errors import ModelNotFound
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import datatype_of, decode_inputs, encode_raw

from .health import Readiness
from .models import Answer, Models, ServedModel, off_loop
from .session import TensorSpec

SERVICE = "inference.GRPCInferenceService"


class InferenceService:
    """One method per RPC of the standard; thin: message to arrays, the model, arrays to message."""

    def __init__(self, models: Models, readiness: Readiness, name: str) -> None:
        """Answer for `models` under the server name `name`."""
        self._models, self._readiness, self._name = models, readiness, name

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Any) -> oip.ServerLiveResponse:  # noqa: D102
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Any) -> oip.ServerReadyResponse:  # noqa: D102
        return oip.ServerReadyResponse(ready=self._readiness.ready)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:
        """False, not an error, for a model that is not there: the question has an answer."""
        try:
            self._models.get(request.name, request.version)
        except ModelNotFound:
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse(ready=self._readiness.ready)

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Any) -> oip.ServerMetadataResponse:  # noqa: D102
        return oip.ServerMetadataResponse(name=self._name, version=version_of("cutpoint"), extensions=["binary_tensor_data"])

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:  # noqa: D102
        model = self._models.get(request.name, request.version)
        return oip.ModelMetadataResponse(
            name=model.name,
            versions=self._models.versions(model.name),
            platform="onnxruntime_onnx",
            inputs=[_metadata(spec) for spec in model.inputs.values()],
            outputs=[_metadata(spec) for spec in model.outputs.values()],
        )

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        """Outputs in the order asked for, always raw; `policy_version` says what decided."""
        model = self._models.get(request.model_name, request.model_version)
        wanted = [output.name for output in request.outputs]
        model.check_declared({tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in request.inputs}, wanted)
        arrays = await off_loop(request.ByteSize(), decode_inputs, request)
        answer = await model.infer(arrays, wanted)
        return _response(request.id, model, answer)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service as gRPC registers it; written out because its messages live in a pool of their own."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    getattr(self, method),
                    getattr(oip, f"{method}Request").FromString,
                    getattr(oip, f"{method}Response").SerializeToString,
                )
                for method in (m.name for m in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)
            },
        )


def _metadata(spec: TensorSpec) -> oip.ModelMetadataResponse.TensorMetadata:
    return oip.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _response(request_id: str, model: ServedModel, answer: Answer) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request_id)
    if answer.active is not None:
        response.parameters["policy_version"].int64_param = answer.active.policy.version
        if undecided := int((~answer.active.decides).sum()):
            response.parameters["undecided_labels"].int64_param = undecided
    for name, array in answer.outputs.items():
        response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        response.raw_output_contents.append(encode_raw(array))
    return response
