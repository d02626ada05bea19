"""`raudio list`: what there is to choose from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raudio.config.setting import Setting


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="what to list; left out: the kinds there are")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file with your own components")
    ] = None,
) -> None:
    """Lists models, front ends, augmentations, tasks, spaces, settings, ..., one line each.

    Example: raudio list models
    """
    from json import dumps

    from raudio.config import validate
    from raudio.core.errors import ConfigError, unknown

    validate.use_plugins(plugin or [])
    tables = _tables()
    if kind is None:
        rows = {
            name: ", ".join(list(entries)[:6]) + (", ..." if len(entries) > 6 else "")
            for name, entries in tables.items()
        }
    elif kind in tables or f"{kind}s" in tables:
        kind = kind if kind in tables else f"{kind}s"
        rows = tables[kind] | (_adapters() if kind == "augmentations" else {})
    else:
        raise ConfigError(unknown("kind", kind, tables))
    if json:
        print(dumps(rows, ensure_ascii=False))
        return
    width = max((len(name) for name in rows), default=0)
    for name, about in rows.items():
        print(f"{name:<{width}}  {about}".rstrip())


def _adapters() -> dict[str, str]:
    """The kinds of steps that the installed adapters give -> one line; imports them."""
    from raudio.config import adapters
    from raudio.core import extras

    return {
        kind: (cls.__doc__ or "").strip().partition("\n")[0]
        for package in adapters.EXTRAS
        if extras.installed(package)
        for kind, cls in adapters.catalogue(package).items()
    }


def _tables() -> dict[str, dict[str, str]]:
    """Kind -> name -> one line."""
    from raudio.config import chain, compose, schema, validate
    from raudio.config.samplers import SAMPLERS
    from raudio.config.schedulers import SCHEDULERS
    from raudio.data import recipe
    from raudio.search import space_yaml

    tables = {
        f"{registry.kind}s": {name: registry.about(name) for name in registry.names()}
        for registry in schema.REGISTRIES.values()
    }
    tables = {kind.replace(" ", "-"): rows for kind, rows in tables.items()}
    tables["augment-presets"] = {name: f"augment={name}" for name in compose.options("augment")}
    tables["spaces"] = space_yaml.names()
    tables["recipes"] = recipe.names()
    tables["samplers"] = SAMPLERS
    tables["schedulers"] = SCHEDULERS
    tables["settings"] = {
        f"{setting.key} ({section}={variant})" if variant else setting.key: _line(setting)
        for section, variant in [
            ("", ""),
            *((group, name) for group, found in schema.VARIANTS.items() for name in found),
        ]
        for setting in validate.settings({section: variant} if variant else {}).values()
        if not variant or setting.key.startswith(f"{section}.")
    } | {key: _line(setting) for key, setting in chain.placeholders().items()}
    return tables


def _line(setting: Setting) -> str:
    from dataclasses import MISSING

    from raudio.config.axes import text

    default = "" if setting.default is MISSING else f"; default {text(setting.default)}"
    return f"{setting.meta.help} [{setting.allowed}{default}]"
