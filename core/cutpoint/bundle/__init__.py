"""The model repository on disk."""

from .files import sha256_of as sha256_of
from .files import write_whole as write_whole
from .manifest import FORMAT as FORMAT
from .manifest import MANIFEST_FILE as MANIFEST_FILE
from .manifest import MODEL_FILE as MODEL_FILE
from .manifest import POLICY_FILE as POLICY_FILE
from .manifest import Input as Input
from .manifest import LabelCost as LabelCost
from .manifest import LabelPrior as LabelPrior
from .manifest import Loss as Loss
from .manifest import Manifest as Manifest
from .manifest import Parity as Parity
from .manifest import Precision as Precision
from .manifest import PrecisionCost as PrecisionCost
from .manifest import Provenance as Provenance
from .manifest import Task as Task
from .manifest import Windows as Windows
from .repository import Bundle as Bundle
from .repository import find_bundle as find_bundle
from .repository import list_versions as list_versions
from .repository import next_version as next_version
from .repository import read_bundle as read_bundle
from .repository import write_bundle as write_bundle
from .repository import write_policy as write_policy
