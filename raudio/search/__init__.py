"""The search: many trials under a sampler, a scheduler and a budget.

The package can be called: `raudio.search("search.trials=16")` is `raudio.search.runner.search`.
Python binds the name `raudio.search` to this package as soon as anything in it is imported, so a
function of that name could not stay beside it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *overrides: str, **groups: Any) -> Any:
        from raudio.search.runner import search

        return search(*overrides, **groups)


sys.modules[__name__].__class__ = _CallablePackage
