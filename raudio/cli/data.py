"""`raudio data`: make, check, download and synthesise datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from raudio.cli.augment import augment

app = typer.Typer(
    help="Make, check, download and synthesise datasets.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

app.command()(augment)


def _column(role: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{role}-column", metavar="NAME", help=f"column of the label file: {what}"
    )
    return option


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(help="folder of audio, tars or lhotse manifests; or a .tar; may be a URI"),
    ],
    out: Annotated[
        str, typer.Option(help="folder of the new dataset, may be a URI; must not exist")
    ],
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="CSV, TSV, JSONL or Parquet, may be a URI"),
    ] = None,
    file_column: Annotated[str | None, _column("file", "the recording's path")] = None,
    label_column: Annotated[str | None, _column("label", "its class or classes")] = None,
    label_separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="stands between several labels of a clip")
    ] = None,
    start_column: Annotated[
        str | None, _column("start", "second where a clip begins in its recording")
    ] = None,
    end_column: Annotated[str | None, _column("end", "second where it ends")] = None,
    onset_column: Annotated[
        str | None, _column("onset", "second where an event begins; a clip is a recording")
    ] = None,
    offset_column: Annotated[str | None, _column("offset", "second where it ends")] = None,
    split_column: Annotated[
        str | None, _column("split", "train, valid or test; 'none' makes splits anew")
    ] = None,
    group_column: Annotated[
        str | None, _column("group", "what must not straddle splits; 'none' for nothing")
    ] = None,
    splits: Annotated[
        str, typer.Option(metavar="T/V/T", help="shares, where splits are not predefined")
    ] = "80/10/10",
    split_by: Annotated[
        str, typer.Option(help="random (stratified), or time: oldest in train, newest in test")
    ] = "random",
    time_column: Annotated[
        str | None, _column("time", "when it was recorded, for --split-by time")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", help="folds instead: the last is test, one valid")
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="splits may share groups or recordings")
    ] = False,
    format: Annotated[
        str, typer.Option(help="of the stored audio: flac, wav, or source (files as they are)")
    ] = "flac",
    sample_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="resample to; none: each file's own")
    ] = None,
    shard_mb: Annotated[int, typer.Option(metavar="MB", help="of audio a shard, roughly")] = 64,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="leave out files that can't be used, and list them")
    ] = False,
    seed: Annotated[int, typer.Option(help="of splits and order")] = 0,
    licence: Annotated[str, typer.Option(help="of the recordings, such as CC-BY-4.0")] = "",
    workers: Annotated[
        int | None, typer.Option(min=1, help="shards at a time; none: one a CPU. Same result")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="where to work: 'local' starts Ray on this machine, 'auto' or HOST:PORT is a Ray "
            "cluster; none: threads, and Ray from 256 MB of recordings",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Makes a dataset from recordings and their labels.

    Labels come from a label file; else SOURCE is a folder for each class, a Hugging Face
    AudioFolder, WebDataset tars, or lhotse manifests or Shar. The columns of a label file are
    recognised by usual names (file, label, split, speaker, ...) where options don't name them: with
    start and end a row is a part of a recording, with onset and offset an event in one.

    What is finished stays when it is interrupted or stops at files that can't be used: the same
    command goes on from there. S3 is reached as the usual AWS_* variables say.

    Example: raudio data prepare recordings --labels recordings/labels.csv --out data/birds
    """
    from json import dumps

    from raudio.data.executors import LARGE, Execution
    from raudio.data.prepare import Options
    from raudio.data.prepare import prepare as make
    from raudio.data.splits import Shares

    named = {
        "file": file_column,
        "label": label_column,
        "start": start_column,
        "end": end_column,
        "onset": onset_column,
        "offset": offset_column,
        "split": split_column,
        "group": group_column,
        "time": time_column,
    }
    with progress_bar("preparing") as progress:
        manifest = make(
            source,
            out,
            labels=labels,
            columns={role: column for role, column in named.items() if column is not None},
            label_separator=label_separator,
            options=Options(
                shares=Shares.parse(splits),
                split_by=split_by,
                folds=folds,
                allow_leaks=allow_leaks,
                format=format,
                sample_rate=sample_rate,
                shard_mb=shard_mb,
                skip_bad=skip_bad,
                seed=seed,
                licence=licence,
            ),
            execution=Execution(
                workers=workers,
                session=lambda: _ray(address),
                ray_from=0 if address else LARGE,
            ),
            echo=_echo,
            progress=progress,
        )
    for skipped in manifest.skipped:
        _echo(f"skipped {skipped.file}: {skipped.reason}")
    if json:
        print(dumps({"path": manifest.path, **manifest.to_mapping()}, ensure_ascii=False))
    else:
        _summary(manifest.path, manifest.clips, manifest.seconds, len(manifest.labels))


@app.command()
def inspect(
    dataset: Annotated[
        str, typer.Argument(help="dataset (folder or URI), a plain folder of audio, or 'synth'")
    ],
    clip_seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.001, help="length to pad and cut to; none: a search's"),
    ] = None,
    fold: Annotated[
        int | None, typer.Option(help="fold that is valid; none: the splits as prepared")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="also write a page with the worst clips to listen to"),
    ] = None,
) -> None:
    """Says what a dataset holds and what is wrong with it, the worst first.

    Lengths, levels, silence, noise, sample rates, classes; recordings and groups in two splits;
    classes that the recorder gives away. Exit status 0, also with warnings; 1 when there are
    errors.

    Example: raudio data inspect data/birds --html birds.html
    """
    from json import dumps

    from rich.console import Console

    from raudio.config.schema import Dataset
    from raudio.core.errors import DataError
    from raudio.core.storage import write_atomic
    from raudio.data.folds import on_fold
    from raudio.data.inspect import inspect as look
    from raudio.data.inspect.html import page
    from raudio.data.inspect.text import render
    from raudio.data.locate import locate

    with progress_bar("preparing") as progress:
        manifest = locate(Dataset(path=dataset), _echo, progress)
    manifest = on_fold(manifest, fold)
    found = look(manifest, clip_seconds=clip_seconds)
    if html is not None:
        try:
            write_atomic(html, page(found, manifest))
        except OSError as error:
            raise DataError(f"--html {html!r} cannot be written: {error.strerror}") from error
        _echo(f"page {html}")
    if json:
        print(dumps(found.to_mapping(), ensure_ascii=False))
    else:
        Console(highlight=False).print(render(found), soft_wrap=True)
    if found.errors:
        raise typer.Exit(1)


@app.command()
def synth(
    out: Annotated[str, typer.Argument(help="folder of the new dataset; must not exist")],
    clips: Annotated[int | None, typer.Option(min=1, help="in all; none: 1200")] = None,
    seed: Annotated[int, typer.Option(help="another seed, other sounds")] = 0,
) -> None:
    """Makes the embedded data set: ten classes of synthetic sounds with known answers.

    Example: raudio data synth data/synth --clips 2400
    """
    from raudio.data.synth import CLIPS
    from raudio.data.synth import synth as make

    with progress_bar("making") as progress:
        manifest = make(out, clips or CLIPS, seed, echo=_echo, progress=progress)
    _summary(manifest.path, manifest.clips, manifest.seconds, len(manifest.labels))


@app.command()
def fetch(
    name: Annotated[
        str | None, typer.Argument(help="data set, or a recipe of your own (FILE.yaml)")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="folder of the new dataset; none: data/NAME")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="what there is; also without NAME")] = False,
    mirror: Annotated[
        str | None,
        typer.Option(metavar="URL|FOLDER", help="where the archives are, by their file names"),
    ] = None,
    checksum: Annotated[
        list[str] | None,
        typer.Option(metavar="[FILE=]SHA256", help="of an archive, instead of the recipe's"),
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="DIR", help="for archives; none: raudio's cache")
    ] = None,
    drop_archives: Annotated[
        bool, typer.Option("--drop-archives", help="remove them when the dataset is made")
    ] = False,
    format: Annotated[str, typer.Option(help="of the stored audio; see `prepare`")] = "flac",
    sample_rate: Annotated[
        int | None, typer.Option(metavar="HZ", help="resample to; none: each file's own")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="list files that can't be used instead of stopping")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Downloads a public data set, verifies it, and makes a dataset with its official splits.

    After an interruption the same command goes on where it stopped. Licences differ: see the list.

    Example: raudio data fetch esc50 --out data/esc50
    """
    from json import dumps

    from raudio.data import recipe
    from raudio.data.fetch import fetch as make
    from raudio.data.prepare import Options

    if name is None or list_:
        rows = recipe.names()
        width = max(map(len, rows))
        print(dumps(rows) if json else "\n".join(f"{n:<{width}}  {rows[n]}" for n in rows))
        return
    manifest = make(
        name,
        out,
        mirror=mirror,
        checksums=checksum or (),
        cache=cache,
        drop_archives=drop_archives,
        options=Options(format=format, sample_rate=sample_rate, skip_bad=skip_bad),
        echo=_echo,
        stage=progress_bar,
    )
    for skipped in manifest.skipped:
        _echo(f"skipped {skipped.file}: {skipped.reason}")
    if json:
        print(dumps({"path": manifest.path, **manifest.to_mapping()}, ensure_ascii=False))
    else:
        _summary(manifest.path, manifest.clips, manifest.seconds, len(manifest.labels))


def _summary(path: str, clips: int, seconds: float, classes: int) -> None:
    from raudio.core.units import format_seconds

    print(f"{path}: {clips} clips, {format_seconds(seconds)}, {classes} classes")
    print(f"next: raudio data inspect {path}   or: raudio search dataset.path={path}")


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A quiet Ray session for the length of a `with` block."""
    import tempfile

    from raudio.cluster.session import session
    from raudio.config.schema import Cluster

    with (
        tempfile.TemporaryDirectory() as folder,
        session(Cluster(address=address), Path(folder, "ray.log")),
    ):
        yield


def _echo(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, shown only to a person and gone at the end."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None, visible=False)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield update
