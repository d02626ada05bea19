"""`raudio curves`: from a run to a table of learning curves."""

from __future__ import annotations

from typing import Annotated

import typer


def curves(
    run: Annotated[str, typer.Argument(help="run folder of a search without a scheduler")],
    out: Annotated[str, typer.Option(help="Parquet file to write")],
) -> None:
    """Keeps the learning curves of a run's completed trials, for searches that replay them.

    Example: raudio curves runs/fsdd --out fsdd.parquet
    """
    import sys
    from pathlib import Path

    from raudio.core.errors import RunError
    from raudio.records import find_run
    from raudio.search.curves import Curves

    found = Curves.record(find_run(run))
    try:
        found.write(Path(out))
    except OSError as error:
        raise RunError(f"cannot write {out!r}: {error.strerror or error}") from error
    print(f"{len(found.curves)} configurations, {found.epochs} epochs", file=sys.stderr)
    print(out)
