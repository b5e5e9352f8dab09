"""Whether the server is ready: one switch, read by grpc.health.v1 and by ServerReady alike."""

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import aio as health


class Readiness:
    """Off until everything is loaded, and off again before the server stops taking requests."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """Report for the server as a whole and for each of `services`."""
        self.servicer = health.HealthServicer()
        self.ready = False
        self._services = (OVERALL_HEALTH, *services)

    async def set(self, ready: bool) -> None:
        """Turn readiness on or off and tell whoever watches."""
        self.ready = ready
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)
