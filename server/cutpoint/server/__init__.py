"""The server: Open Inference Protocol v2 over gRPC, decisions by calibrated thresholds, Prometheus metrics."""

from .app import Listening as Listening
from .app import running as running
from .app import serve as serve
from .config import ServerConfig as ServerConfig
from .config import server_config as server_config
