"""From a run to bundles: ONNX graphs whose sigmoid is honest, how far they are from torch, what a lower precision costs."""

from .bundles import PRECISIONS as PRECISIONS
from .bundles import export_precisions as export_precisions
from .bundles import export_run as export_run
from .cost import cost_table as cost_table
from .cost import measure_cost as measure_cost
from .graph import OPSET as OPSET
from .graph import export_graph as export_graph
from .graph import load_served as load_served
from .parity import TOLERANCE as TOLERANCE
from .parity import measure_parity as measure_parity
from .parity import parity_batches as parity_batches
from .precision import lower_precision as lower_precision
