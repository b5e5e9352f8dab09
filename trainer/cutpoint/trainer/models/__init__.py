"""The models that ship with the trainer, and the one door for anybody's own."""

from .mlp import MLP as MLP
from .network import Network as Network
from .network import build_network as build_network
from .windows import WindowEncoder as WindowEncoder
