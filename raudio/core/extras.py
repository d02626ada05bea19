"""Optional dependencies: imported when asked for, and one clear message when one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from raudio.core.errors import ConfigError


def installed(module: str) -> bool:
    """Whether the top-level `module` can be imported; nothing is."""
    return importlib.util.find_spec(module) is not None


def require(module: str, extra: str) -> ModuleType:
    """The module, imported.

    Args:
        module: its name.
        extra: of raudio's optional dependencies, the one that installs it.

    Raises:
        ConfigError: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} cannot be imported ({error}); pip install 'raudio[{extra}]'"
        ) from error
