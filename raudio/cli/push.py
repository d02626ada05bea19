"""`raudio push`: a bundle to where others can load it from."""

from __future__ import annotations

from typing import Annotated

import typer


def push(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    to: Annotated[str, typer.Argument(help="hf://org/name[@branch], or a new folder of a store")],
    private: Annotated[bool, typer.Option(help="make a new repository private")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
) -> None:
    """Copies a bundle to the Hugging Face Hub, or to a store, having checked it.

    It is loaded from there by the same name: raudio predict hf://org/name FILES

    Example: raudio push bundles/fsdd hf://me/fsdd --private
    """
    from raudio.config.validate import use_plugins
    from raudio.export.remote import push as send

    use_plugins(plugin or ())
    print(send(bundle, to, private=private))
