"""The one door for anybody's own module."""

import importlib
import sys
from pathlib import Path

from cutpoint.errors import BadConfig
from torch import nn

from ..config import ImportModel


def import_model(settings: ImportModel) -> nn.Module:
    """Make the module that `settings` name; BadConfig where it cannot be imported or built."""
    module, _, name = settings.path.partition(":")
    # A console script does not search the current folder, as `python -m` does; last, so that it hides nothing.
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        model = getattr(importlib.import_module(module), name)(**settings.arguments)
    except Exception as error:  # whatever somebody else's module raises
        problem = f"{type(error).__name__}: {error}"
        raise BadConfig.of(
            "model.path", settings.path, f"an importable class that takes model.arguments ({problem})"
        ) from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise BadConfig.of("model.path", settings.path, f"a torch.nn.Module; it makes a {type(model).__name__}")
    return model
