"""Which training rows an epoch sees, in which order, and how often each is expected."""

from .draws import build_order as build_order
from .order import Order as Order
