"""The hand-written half of the wire: arrays to messages and back, errors to status codes and back."""

from .status import REASON_KEY as REASON_KEY
from .status import REASON_PARAMETER as REASON_PARAMETER
from .status import STATUS as STATUS
from .status import error_of as error_of
from .status import status_of as status_of
from .tensors import DATATYPES as DATATYPES
from .tensors import SharedSlice as SharedSlice
from .tensors import array_of as array_of
from .tensors import check_counts as check_counts
from .tensors import datatype_of as datatype_of
from .tensors import decode_inputs as decode_inputs
from .tensors import decode_outputs as decode_outputs
from .tensors import encode_input as encode_input
from .tensors import encode_raw as encode_raw
from .tensors import shared_slice as shared_slice
from .tensors import tensor_of as tensor_of
