"""`raudio export`: from a run to a bundle."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(help="run folder of a search or a training")],
    out: Annotated[str, typer.Option(help="folder of the bundle, must be new")],
    trial: Annotated[str | None, typer.Option(help="id of a trial; if left out the best")] = None,
) -> None:
    """Writes a run's best trial, or the one you name, as a bundle to predict with.

    Example: raudio export runs/fsdd --out bundles/fsdd
    """
    import sys

    from raudio.export.bundle import read_bundle
    from raudio.export.make import export as write

    path = write(run, out, trial)
    metrics = read_bundle(path).metrics
    print(
        f"trial {metrics['trial']}, epoch {metrics['epoch']}: "
        f"{metrics['metric']} {metrics['value']:.4g}; predict with: raudio predict {path} FILES",
        file=sys.stderr,
    )
    print(path)
