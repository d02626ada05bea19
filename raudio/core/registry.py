"""Registries: plain tables from a component's name to the place of its class, filled lazily.

Built-in components are listed as `module:attribute`, so that naming them imports nothing; a user's
own are added by the decorator that `Registry.register` returns, from a plugin file named by the
setting `plugins`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from raudio.core.errors import ConfigError, unknown

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Components of one kind, by name.

    Args:
        kind: what is registered, in the singular, as messages say it ("model").
        builtin: name to (`module:attribute`, one line of description).
    """

    def __init__(self, kind: str, builtin: Mapping[str, tuple[str, str]]) -> None:
        self.kind = kind
        self._lazy = {name: place for name, (place, _) in builtin.items()}
        self._about = {name: about for name, (_, about) in builtin.items()}
        self._loaded: dict[str, Callable[..., Any]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._about

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return sorted(self._about)

    def about(self, name: str) -> str:
        """The one line that `raudio list` prints for `name`."""
        return self._about[name]

    def get(self, name: str) -> Callable[..., Any]:
        """The class or function registered as `name`; its module is imported when first asked for.

        Raises:
            ConfigError: `name` is not registered.
        """
        if name not in self:
            raise ConfigError(unknown(self.kind, name, self.names()))
        if name not in self._loaded:
            module, _, attribute = self._lazy[name].partition(":")
            self._loaded[name] = getattr(importlib.import_module(module), attribute)
        return self._loaded[name]

    def register(self, name: str, about: str = "") -> Callable[[T], T]:
        """Decorator that adds a user's own component.

        Raises:
            ConfigError: the name is taken by another component.
        """

        def add(component: T) -> T:
            known = self._loaded.get(name)
            if name in self and (known is None or _place(known) != _place(component)):
                raise ConfigError(
                    f"{self.kind} {name!r} is registered already; choose another name"
                )
            self._loaded[name] = component
            self._about[name] = about or (component.__doc__ or "").strip().partition("\n")[0]
            return component

        return add


def _place(component: Callable[..., Any]) -> tuple[str, str]:
    """Where a component is defined: a cell of a notebook, run again, defines the same one anew."""
    return component.__module__, component.__qualname__


#: Names of the plugins' files that were imported.
_loaded: set[str] = set()
#: Plugins of the driver's machine: whole path there -> source.
_shipped: dict[str, str] = {}


def ship(plugins: Mapping[str, str]) -> None:
    """Has `load_plugins` import these, by their whole paths, whatever files there are here."""
    _shipped.update(plugins)


class _Shipped(importlib.abc.ExecutionLoader):
    """Imports a plugin from its source; tracebacks show its lines."""

    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_source(self, fullname: str) -> str:
        return self._source


def load_plugins(plugins: Iterable[str]) -> None:
    """Imports each plugin, a path to a Python file, so that its decorators run; once per process.

    One that is missing is no error where another file of its name was imported before.

    Raises:
        ConfigError: a file does not exist.
    """
    for plugin in plugins:
        path = Path(plugin).expanduser().resolve()
        source = _shipped.get(plugin)
        if source is None and not path.is_file():
            if path.name in _loaded:  # a run from another machine, and the user's own copy
                continue
            raise ConfigError(
                f"plugins: no such file {plugin!r}; give the path of a Python file (for a run of "
                f"another machine: `raudio resume RUN plugins=FILE`, `raudio export RUN --plugin "
                f"FILE`)"
            )
        # By its path: two files may have one name.
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        name = f"raudio_plugin_{path.stem}_{digest}"
        if name in sys.modules:
            continue
        loader = None if source is None else _Shipped(str(path), source)
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
            _loaded.add(path.name)
        except BaseException:
            del sys.modules[name]
            raise
