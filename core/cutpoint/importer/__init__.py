"""ONNX from elsewhere (scikit-learn, XGBoost, LightGBM by their converters, any torch export) as a bundle."""

from .bring import import_model as import_model
from .source import Output as Output
from .source import Scores as Scores
from .source import Source as Source
from .source import read_source as read_source
