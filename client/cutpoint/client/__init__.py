"""The Python client: scores, decisions, labels and the policy that decided, from arrays."""

from .aio import AioClient as AioClient
from .client import Client as Client
from .connection import Connection as Connection
from .outcomes import FromOutcomes as FromOutcomes
from .outcomes import LabelOutcomes as LabelOutcomes
from .outcomes import Outcomes as Outcomes
from .outcomes import OutcomeSummary as OutcomeSummary
from .outcomes import Reported as Reported
from .outcomes import UnmatchedOutcome as UnmatchedOutcome
from .results import Calibration as Calibration
from .results import PolicySummary as PolicySummary
from .results import Scores as Scores
from .retry import Retried as Retried
from .retry import Retry as Retry
from .signals import Events as Events
from .signals import SignalEvent as SignalEvent
from .signals import SignalOpened as SignalOpened
from .signals import SignalSummary as SignalSummary
from .signals import SignalWindows as SignalWindows
