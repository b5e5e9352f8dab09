"""Labelled data on disk: read by the trainer, calibration and the client."""

from .arrays import read_arrays as read_arrays
from .dataset import KEYS as KEYS
from .dataset import SPARSE_KEYS as SPARSE_KEYS
from .dataset import SPLITS as SPLITS
from .dataset import UNLABELLED as UNLABELLED
from .dataset import Dataset as Dataset
from .dataset import read_dataset as read_dataset
from .dataset import read_row_indices as read_row_indices
from .dataset import row_indices as row_indices
from .dataset import target_codes as target_codes
from .sparse import Rows as Rows
from .sparse import SparseRows as SparseRows
from .sparse import as_rows as as_rows
