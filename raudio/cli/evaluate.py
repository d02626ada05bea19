"""`raudio evaluate`: how good a bundle is on a split of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer

#: Of the tables where there is no terminal.
_WIDTH = 120


def evaluate(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    dataset: Annotated[str, typer.Argument(help="dataset, or a plain folder of audio")],
    split: Annotated[str, typer.Option(help="train, valid, test, or all of them")] = "test",
    labels: Annotated[
        str | None, typer.Option(help="label file of a plain folder of audio")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="measure each value of it by itself; repeatable"),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="also under noise, codecs and the like")
    ] = False,
    draws: Annotated[int, typer.Option(min=2, help="of the bootstrap, for intervals")] = 1000,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="write it as a page that needs nothing else")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=0, max=50, help="wrong clips to hear and see in the page")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one")] = "auto",
    format: Annotated[
        str | None, typer.Option(help="of those in the bundle: safetensors, onnx, torch-export")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="windows computed at once")] = 64,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
) -> None:
    """Measures a bundle on a split that is labelled: metrics with intervals, classes, groups,
    calibration, the most wrong clips.

    Example: raudio evaluate bundles/fsdd data/fsdd --split test
    """
    import os
    import sys
    from json import dumps

    from rich.console import Console

    from raudio.cli.data import progress_bar
    from raudio.config.validate import use_plugins
    from raudio.core.errors import ConfigError, RunError
    from raudio.core.storage import write_atomic
    from raudio.export.evaluate import evaluate as measure
    from raudio.report.evaluation import tables

    if clips and html is None:
        raise ConfigError(f"--clips {clips} is for the page: give --html FILE too")
    if html is not None and os.path.isdir(html):
        raise RunError(f"--html {html!r} is a folder; give a file, such as {html}/evaluation.html")
    use_plugins(plugin or ())
    with progress_bar("scoring") as progress:
        result = measure(
            bundle,
            dataset,
            split,
            labels=labels,
            by=by or (),
            robustness=robustness,
            draws=draws,
            device=device,
            format=format,
            batch_size=batch_size,
            echo=lambda line: print(line, file=sys.stderr),
            progress=progress,
        )
    if json:
        print(dumps(result, ensure_ascii=False))
    else:
        console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
        for place, table in enumerate(tables(result)):
            console.print(*([""] if place else []), table, sep="\n")
    if html is not None:
        from raudio.report.evaluation_page import page

        content = page(result, labels=labels, clips=clips)
        try:
            write_atomic(html, content.encode())
        except OSError as error:
            raise RunError(f"cannot write {html!r}: {error.strerror or error}") from error
        print(html, file=sys.stderr)
