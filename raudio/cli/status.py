"""`raudio status`: what a run has found so far, while it runs or afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from raudio.records import RecordReader


def status(
    run: Annotated[str, typer.Argument(help="run of a search or a training: folder or URI")],
    top: Annotated[int, typer.Option(min=1, help="at most so many trials in the table")] = 20,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="until the run ends, or Ctrl-C; with --json an object a line"),
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two looks")] = 1.0,
) -> None:
    """Shows the leaderboard of a run, live or afterwards.

    Example: raudio status runs/fsdd --top 5, or raudio status runs/fsdd --watch
    """
    from json import dumps

    from rich.console import Console

    from raudio.records import RecordReader
    from raudio.report import tables

    reader = RecordReader(_folder(run))
    console = Console(highlight=False)

    def show() -> None:
        if json:
            print(dumps(tables.as_data(run, reader.history), ensure_ascii=False), flush=True)
        else:
            _print(console, reader, run, top)

    if watch:
        try:
            _watch(reader, console, run, every, show if json else None)
        except KeyboardInterrupt:
            console.show_cursor()  # the table may just have been about to be drawn
            return
    for _ in reader.read():
        pass
    show()


def _folder(run: str) -> Path:
    """Where the run's records are, as they are now: of a run in a store a copy."""
    from raudio.records import OWNER, RECORDS, find_run

    return find_run(run, {RECORDS, OWNER}.__contains__)


def _print(console: Console, reader: RecordReader, run: str, top: int) -> None:
    from raudio.progress import headlines
    from raudio.records import RUNNING
    from raudio.report import tables

    history = reader.history
    if history.state == RUNNING:
        console.print(*(line for line in headlines(history) if line.plain), sep="\n")
        console.print()
    console.print(tables.leaderboard(history, top))
    best = history.best()
    if best is not None and best.params:
        console.print(f"\n[bold]trial {best.id}[/bold]")
        console.print(tables.configuration(best.params))
    console.print()
    console.print(tables.summary(history, run), markup=False, soft_wrap=True)


def _watch(
    reader: RecordReader,
    console: Console,
    run: str,
    every: float,
    show: Callable[[], None] | None,
) -> None:
    """Until a run ends: a table drawn over itself, or a line (or `show`) for each change."""
    import contextlib
    import time

    from rich.live import Live

    from raudio import progress
    from raudio.records import RUNNING

    history = reader.history
    drawn = show is None and progress.is_drawable(console)
    live = Live(progress.Progress(history), console=console, auto_refresh=False, transient=True)
    if drawn:
        for _ in reader.read():  # before anything is drawn
            pass
    with live if drawn else contextlib.nullcontext():
        while True:
            changed = False
            _folder(run)
            for record in reader.read():
                changed = True
                line = None if drawn or show else progress.line(history, record, run)
                if line is not None:
                    console.print(line, markup=False, soft_wrap=True)
            if history.state != RUNNING:
                return
            if drawn:
                live.refresh()
            elif show is not None and changed:
                show()
            time.sleep(every)
