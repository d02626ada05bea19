"""`raudio`: the table of its commands, and what becomes of an error.

A command's module is light; it imports its subject when it is called.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from raudio.cli import cluster, data
from raudio.cli.curves import curves
from raudio.cli.doctor import doctor
from raudio.cli.evaluate import evaluate
from raudio.cli.explain import explain
from raudio.cli.export import export
from raudio.cli.list_ import list_
from raudio.cli.plan import plan
from raudio.cli.predict import predict
from raudio.cli.push import push
from raudio.cli.report import report
from raudio.cli.resume import resume
from raudio.cli.search import search
from raudio.cli.serve import serve
from raudio.cli.status import status
from raudio.cli.submit import submit
from raudio.cli.track import track
from raudio.cli.train import train
from raudio.cluster.alive import check_limit
from raudio.core.errors import RaudioError, UserError
from raudio.core.secrets import without_credentials

app = typer.Typer(
    name="raudio",
    help="Finds the best audio model for your recordings: raudio search dataset.path=FOLDER",
    epilog="`raudio list settings` names everything that KEY=VALUE can set.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("search")(search)
app.command("train")(train)
app.command("plan")(plan)
app.command("resume")(resume)
app.command("status")(status)
app.command("explain")(explain)
app.command("report")(report)
app.command("track")(track)
app.command("export")(export)
app.command("curves")(curves)
app.command("push")(push)
app.command("predict")(predict)
app.command("evaluate")(evaluate)
app.command("serve")(serve)
app.add_typer(data.app, name="data")
app.command("submit", context_settings={"allow_interspersed_args": False})(submit)
app.add_typer(cluster.app, name="cluster")
app.command("list")(list_)
app.command("doctor")(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        import raudio

        print(raudio.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say it and exit")
    ] = False,
) -> None:
    check_limit()  # before any command imports Ray


def main() -> None:
    """Runs the command line: exit status 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        app()
    except RaudioError as error:
        print(f"error: {without_credentials(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
