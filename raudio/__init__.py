"""raudio finds the best audio model for your recordings.

    import raudio

    result = raudio.search("dataset.path=data/fsdd", "search.trials=16")
    raudio.load("bundles/fsdd").predict("x.wav")

    @raudio.register.model("mine")
    class Mine(torch.nn.Module): ...

Everything is imported when first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raudio import register
    from raudio.export.predictor import load
    from raudio.search.runner import search, train

try:
    __version__ = version("raudio")
except PackageNotFoundError:  # a clone that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "load", "register", "search", "train"]

_PLACES = {
    "load": ("raudio.export.predictor", "load"),
    "train": ("raudio.search.runner", "train"),
}


def __getattr__(name: str) -> Any:
    if name in ("register", "search"):  # modules; `raudio.search` can also be called
        return importlib.import_module(f"raudio.{name}")
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'raudio' has no attribute {name!r}")
