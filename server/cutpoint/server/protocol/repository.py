"""RepositoryIndex, RepositoryModelLoad and RepositoryModelUnload, as Triton has them."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from cutpoint.errors import BadRequest, Unavailable
from cutpoint.oip import inference_pb2 as oip

from ..port.rpc import Rpc, pooled
from ..port.transport import Call
from ..serving.catalogue import Catalogue
from ..serving.names import check_model_name
from .inference import SERVICE

# What Triton calls them among its extensions.
EXTENSIONS = ("model_repository", "model_repository(unload_dependents)")
_REFUSED = {
    "poll": "explicit model load / unload is not allowed if polling is enabled",
    "none": "explicit model load / unload is not allowed: this server serves what was there at its start; see --model-control",
}


class RepositoryService:
    """One method per RPC; all of them may read the disk."""

    def __init__(self, catalogue: Catalogue, control: str) -> None:
        """Load into and unload from `catalogue`, where `control` is "explicit"."""
        self._catalogue, self._control = catalogue, control

    def rpcs(self, pool: Executor) -> list[Rpc]:
        """These RPCs, answered in threads of `pool`."""
        answers: dict[str, Callable[[Any, Call], Any]] = {
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }
        return [pooled(f"/{SERVICE}/{name}", getattr(oip, f"{name}Request"), each, pool) for name, each in answers.items()]

    def index(self, request: oip.RepositoryIndexRequest, call: Call) -> oip.RepositoryIndexResponse:
        """Every version, or those that are ready."""
        if request.repository_name:
            raise BadRequest.of("repository_name", f"'{request.repository_name}'", "empty: there is one repository here")
        response = oip.RepositoryIndexResponse()
        for name, version, state in self._catalogue.index():
            if state.name == "READY" or not request.ready:
                response.models.add(name=name, version=str(version), state=state.name, reason=state.reason)
        return response

    def load(self, request: oip.RepositoryModelLoadRequest, call: Call) -> oip.RepositoryModelLoadResponse:
        """Serve every version that is on disk; answered when they are served."""
        name = self._name(request)
        for parameter in sorted(request.parameters):
            raise BadRequest.of(
                f"parameter '{parameter}' of load",
                "given",
                "none: what is loaded, and how, is what the repository's folder says",
            )
        self._catalogue.load(name)
        return oip.RepositoryModelLoadResponse()

    def unload(self, request: oip.RepositoryModelUnloadRequest, call: Call) -> oip.RepositoryModelUnloadResponse:
        """Serve it no more: the next request does not find it, those accepted are answered."""
        name = self._name(request)
        for parameter in sorted(request.parameters):
            if parameter != "unload_dependents":  # no model depends on another here
                raise BadRequest.of(f"parameter '{parameter}' of unload", "given", "none but unload_dependents")
        self._catalogue.unload(name)
        return oip.RepositoryModelUnloadResponse()

    def _name(self, request: Any) -> str:
        """The model's name: where field 2 is empty it is field 1, as in kserve's own message."""
        if self._control != "explicit":
            raise Unavailable(_REFUSED[self._control])
        return check_model_name(request.model_name or request.repository_name)
