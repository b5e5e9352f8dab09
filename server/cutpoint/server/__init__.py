"""The server: Open Inference Protocol v2 over gRPC, decisions by calibrated thresholds, Prometheus metrics."""

import os

# C-core reads this once, when grpc is first imported; where that was before, all works as well and takes more of the cores. The
# thread that serves then reads the sockets itself; by default others do, and each message is handed over twice.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

from .app import Listening as Listening
from .app import running as running
from .app import serve as serve
from .config import ServerConfig as ServerConfig
from .config import server_config as server_config
