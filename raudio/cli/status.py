"""`raudio status`: what a run has found so far, while it runs or afterwards."""

from __future__ import annotations

from typing import Annotated

import typer


def status(
    run: Annotated[str, typer.Argument(help="run folder of a search or a training")],
    top: Annotated[int, typer.Option(min=1, help="at most so many trials in the table")] = 20,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
) -> None:
    """Shows the leaderboard of a run, live or afterwards.

    Example: raudio status runs/fsdd --top 5
    """
    from json import dumps

    from rich.console import Console

    from raudio.core.storage import local_run
    from raudio.records import read_history
    from raudio.report import tables

    history = read_history(local_run(run))
    if json:
        print(dumps(tables.as_data(run, history), ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(tables.leaderboard(history, top))
    best = history.best()
    if best is not None and best.params:
        console.print(f"\n[bold]trial {best.id}[/bold]")
        console.print(tables.configuration(best.params))
    console.print()
    console.print(tables.summary(history), markup=False, soft_wrap=True)
