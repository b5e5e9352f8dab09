"""The Python client: scores, decisions, labels and the policy that decided, from arrays."""

from .aio import AioClient as AioClient
from .client import Client as Client
from .results import Calibration as Calibration
from .results import PolicySummary as PolicySummary
from .results import Scores as Scores
