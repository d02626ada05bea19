"""`raudio resume`: goes on with a run."""

from __future__ import annotations

from typing import Annotated

import typer

from raudio.cli.search import Json, Overrides, Quiet, show


def resume(
    run: Annotated[str, typer.Argument(help="run folder", metavar="RUN")],
    overrides: Overrides = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a run that was interrupted, or give it a larger budget.

    Finished trials are not run again; the others go on from their last checkpoints. The budget
    (search.trials, search.time_budget, ...) may change, and so may how often trials save
    (training.checkpoint_every); what changes a result may not.

    Example: raudio resume runs/fsdd search.trials=64
    """
    from raudio.search import runner

    show(runner.resume(run, *(overrides or []), quiet=quiet), json)
