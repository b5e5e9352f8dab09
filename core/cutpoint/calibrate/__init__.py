"""Calibrate offline: from a file of scores, from histograms, or from a model and its data, into a policy."""

from .files import read_histogram as read_histogram
from .files import read_scores as read_scores
from .ship import calibrate_bundle as calibrate_bundle
from .ship import make_policy as make_policy
