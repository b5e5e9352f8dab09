"""Thresholds per label from labelled scores: curves, objectives, policies."""

from .curve import Curve as Curve
from .curve import exact_curve as exact_curve
from .fit import digest_of as digest_of
from .fit import expected_at as expected_at
from .fit import fit_label as fit_label
from .fit import fit_labels as fit_labels
from .fit import refuse_probabilities as refuse_probabilities
from .interval import clopper_pearson as clopper_pearson
from .metrics import average_precision as average_precision
from .objective import OBJECTIVES as OBJECTIVES
from .objective import Infeasible as Infeasible
from .objective import Objective as Objective
from .objective import parse_objective as parse_objective
from .policy import Calibrator as Calibrator
from .policy import Counts as Counts
from .policy import Expected as Expected
from .policy import LabelPolicy as LabelPolicy
from .policy import Policy as Policy
from .policy import Rate as Rate
from .policy import probabilities as probabilities
