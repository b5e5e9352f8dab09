"""How good a model is on rows it has not seen: figures, a picture of a sequence, and the page of a model."""

from .evaluation import Evaluation as Evaluation
from .evaluation import LabelEvaluation as LabelEvaluation
from .evaluation import evaluate_bundle as evaluate_bundle
from .evaluation import evaluation_table as evaluation_table
from .page import REPORT_FILE as REPORT_FILE
from .page import model_html as model_html
from .page import write_model_report as write_model_report
from .sequence import plot_sequence as plot_sequence
