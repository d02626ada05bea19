"""`raudio report`: a run as one HTML page, or in a few lines of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[list[str], typer.Argument(help="run folder; further ones are compared with it")],
    out: Annotated[
        str | None, typer.Option(help="file to write; if left out report.html in the run")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="run folders to compare it with")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="a summary for a pull request, to standard output")
    ] = False,
    clips: Annotated[
        int, typer.Option(min=0, max=50, help="players and spectrograms of so many wrong clips")
    ] = 0,
) -> None:
    """Writes what a run found as one HTML page, which needs nothing else; prints the file's name.

    Example: raudio report runs/fsdd --compare runs/earlier
    """
    from raudio.core.errors import RunError
    from raudio.core.storage import join, write_atomic
    from raudio.report.markdown import summarise
    from raudio.report.page import page
    from raudio.report.run import read_run

    first, *others = [read_run(name) for name in (*run, *(compare or ()))]
    if markdown:
        content = summarise(first, others)
        if out is None:
            print(content, end="")
            return
    else:
        content = page(first, others, clips=clips)
    place = join(first.name, "report.html") if out is None else out
    if Path(place).is_dir():
        raise RunError(f"--out {place!r} is a folder; give a file, such as {place}/report.html")
    try:
        write_atomic(place, content.encode())
    except OSError as error:
        raise RunError(f"cannot write {place!r}: {error.strerror or error}; give --out") from error
    print(place)
