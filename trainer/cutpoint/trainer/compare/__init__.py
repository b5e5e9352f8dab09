"""Several losses, samplers or other settings, with several seeds, on the same split: which one is worth it on these data."""

from .files import comparison_html as comparison_html
from .files import write_comparison as write_comparison
from .outcome import Comparison as Comparison
from .plan import ComparePlan as ComparePlan
from .plan import read_plan as read_plan
from .table import comparison_table as comparison_table
from .table import labels_table as labels_table
from .train import train_and_compare as train_and_compare
