"""`raudio search`: the main job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raudio.search.runner import SearchResult

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[OVERRIDES]...", help="settings as KEY=VALUE")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="show nothing while it runs")]
Json = Annotated[bool, typer.Option("--json", help="print the outcome as JSON")]


def search(overrides: Overrides = None, quiet: Quiet = False, json: Json = False) -> None:
    """Search for the best model: many trials under Optuna and ASHA; then export the best.

    Without arguments it searches on the embedded data. A setting with several values becomes part
    of the space: choice(a, b), range(start, stop, step=s), interval(low, high), tag(log,
    interval(low, high)). All settings: raudio list settings.

    Example: raudio search dataset.path=data/fsdd space=cnn_or_crnn search.trials=32
    'optimizer.lr=tag(log,interval(1e-4,1e-2))' run.dir=runs/fsdd
    """
    from raudio.search import runner

    show(runner.search(*(overrides or []), quiet=quiet), json)


def show(result: SearchResult, as_json: bool) -> None:
    """Prints what a run found, and ends with its exit status."""
    from rich.console import Console

    from raudio.report import tables

    out = Console(soft_wrap=True)
    history = result.history
    if as_json:
        import json

        data = {
            **tables.as_data(result.name, history),
            "bundle": result.bundle_name,
            "unexported": result.unexported,
        }
        typer.echo(json.dumps(data, indent=2))
    else:
        out.print(tables.leaderboard(history, top=10))
        out.print()
        out.print(tables.summary(history, result.run), highlight=False, markup=False)
        if result.best is not None and result.best.params:
            out.print("\nbest configuration")
            out.print(tables.configuration(result.best.params))
        out.print(f"\nrun     {result.name}", highlight=False, markup=False)
        if result.bundle_name is not None:
            out.print(f"bundle  {result.bundle_name}", highlight=False, markup=False)
            predict = f"predict with it:  raudio predict {result.bundle_name} FILE.wav"
            out.print(predict, highlight=False, markup=False)
        if result.unexported is not None:
            out.print(f"bundle  none: {result.unexported}", highlight=False, markup=False)
        if result.state == "stopped":
            go_on = f"go on with it:  raudio resume {result.name}"
            out.print(go_on, highlight=False, markup=False)
    raise typer.Exit({"completed": 0, "stopped": 130}.get(result.state, 1))
