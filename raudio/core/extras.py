"""Optional dependencies: imported when needed, with one clear message when missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from raudio.core.errors import MissingExtraError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports `module`, or says which extra brings it.

    Raises:
        MissingExtraError: `module` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module!r}, which is not installed: "
            f"pip install 'raudio[{extra}]'"
        ) from error
