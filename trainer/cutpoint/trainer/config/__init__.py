"""The training configuration: one frozen, validated tree; a file a section."""

from .data import Data as Data
from .data import GivenSplit as GivenSplit
from .data import SharedSplit as SharedSplit
from .document import Config as Config
from .document import Model as Model
from .document import parse_config as parse_config
from .document import read_config as read_config
from .fit import Fit as Fit
from .loss import FocalLoss as FocalLoss
from .loss import Loss as Loss
from .loss import WeightedBCELoss as WeightedBCELoss
from .loss import WeightedCELoss as WeightedCELoss
from .model import ImportModel as ImportModel
from .model import MLPModel as MLPModel
from .model import Preprocessing as Preprocessing
from .sampler import Sampler as Sampler
from .windows import WindowEncoderModel as WindowEncoderModel
