"""`raudio predict`: labels for recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from raudio.cluster.capacity import Capacity
    from raudio.export.predictor import Options, Result
    from raudio.export.recordings import Recording

#: Takes one result.
Sink: TypeAlias = Callable[["Result"], None]


def predict(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUTS...",
            help="recordings, folders of them, datasets, quoted patterns ('calls/**/2024*.wav'), "
            "URIs of these; - is standard input, one recording",
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="names further inputs, one a line; -: standard input"),
    ] = None,
    recursive: Annotated[
        bool, typer.Option(help="also what is in the folders of a folder, at any depth")
    ] = True,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="a result for each part of so many seconds"),
    ] = None,
    stride: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="from one part to the next; without it, the window"),
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", help="give the K highest scores alone")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="SCORE", help="no label where its score is lower")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="write to this .csv, .jsonl or .parquet instead, or go on with it"
        ),
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="also write the vectors before the model's head, .parquet"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one")] = "auto",
    format: Annotated[
        str | None,
        typer.Option(help="what computes: safetensors (PyTorch), or onnx or torch-export if there"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="windows computed at once; none: 64, fewer if long")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="threads that decode ahead; 0: none does")
    ] = 1,
    ray: Annotated[
        bool, typer.Option("--ray", help="compute with Ray: a process a CPU, or a GPU")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="of --ray: local starts Ray here, auto or HOST:PORT is a cluster; none: in a Ray "
            "job the job's cluster, else local"
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
) -> None:
    """Predicts for recordings of any format, rate, channel count and length.

    A recording that can't be used is reported, the others go on; the exit status is then 1. The
    same command goes on with an --out that is there: only what is not in it is computed, and what
    could not be used is tried again.

    Example: raudio predict bundles/fsdd recordings/ --out labels.csv
    """
    import sys

    from raudio.config.validate import use_plugins
    from raudio.core.errors import ConfigError
    from raudio.export.recordings import STDIN, name_of

    with ExitStack() as stack:
        if ray and STDIN in (inputs or ()):
            raise ConfigError("--ray: standard input (-) can't be read on other machines; save it")
        if ray:
            _check_answers(address)  # before anything is written
        recordings = _recordings(inputs or [], files_from, recursive, stack)
        use_plugins(plugin or ())
        from raudio.export.outputs import Embeddings, Output, check_out
        from raudio.export.predictor import Options, load

        options = Options(
            window=window,
            stride=stride,
            top=top,
            threshold=threshold,
            embeddings=embeddings is not None,
        )
        out_file = None if out is None else check_out("--out", out)
        vectors_file = None
        if embeddings is not None:
            vectors_file = check_out("--embeddings", embeddings, (".parquet",))
        # With --ray the others compute, and this process needs no device.
        predictor = load(bundle, "cpu" if ray else device, format)
        options = predictor.resolved(options)
        begun = predictor.told(options)
        sinks: list[Sink] = []
        left = recordings
        if vectors_file is not None:
            vectors = Embeddings(vectors_file, begun, options)
            sinks.append(stack.enter_context(vectors).write)
        if out_file is not None:
            output = stack.enter_context(Output(out_file, begun, predictor.labels, options))
            sinks.append(output.write)
            if vectors_file is None:  # which are written whole, or not at all
                left = [each for each in recordings if name_of(each) not in output.done]
            if output.done:
                print(f"{len(output.done)} recordings are in {out} already", file=sys.stderr)
        if json:
            sinks.append(_print_json)
        elif out is None:
            sinks.append(_table(recordings, predictor.labels, options))
        failed: set[int] = set()
        results: Iterator[Result]
        if ray and left:
            from raudio.distribute import results as by_ray

            capacity = stack.enter_context(_session(address, plugin or ()))
            results = by_ray(
                predictor,
                left,
                options,
                cpus=capacity.cpus,
                gpus=capacity.gpus,
                device=device,
                batch_size=batch_size,
                workers=workers,
                plugins=plugin or (),
            )
        else:
            results = predictor.results(
                left, options=options, batch_size=batch_size, workers=workers
            )
        with _progress(len(left)) as show:
            for result in results:
                show(result)
                if result.error is not None:
                    failed.add(result.position)
                    print(f"error: {result.error}", file=sys.stderr)
                for sink in sinks:
                    sink(result)
    for file in filter(None, (out, embeddings)):
        print(f"{len(recordings) - len(failed)} recordings in {file}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(recordings)} recordings could not be used", file=sys.stderr)
        raise typer.Exit(1)


def _recordings(
    inputs: list[str], files_from: str | None, recursive: bool, stack: ExitStack
) -> list[Recording]:
    """What is to be predicted for; standard input is copied to a file of the stack's.

    Raises:
        ConfigError: nothing is named, or standard input is to be two things.
        DataError: as `raudio.export.inputs.find`, or the list cannot be read.
    """
    import sys
    import tempfile

    from raudio.core.errors import ConfigError, DataError
    from raudio.export.inputs import find, listed, read_stdin
    from raudio.export.recordings import STDIN, name_of

    if not inputs and files_from is None:
        raise ConfigError("there are no INPUTS; give recordings, folders of them, or --files-from")
    if files_from == STDIN and STDIN in inputs:
        raise ConfigError("standard input can't be a recording (-) and the list of --files-from")
    if files_from == STDIN:
        inputs = inputs + listed(sys.stdin)
    elif files_from is not None:
        try:
            with open(files_from, encoding="utf-8") as lines:
                inputs = inputs + listed(lines)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--files-from {files_from!r} cannot be read: {error}") from error
        if not inputs:
            raise DataError(f"--files-from {files_from!r} names nothing")
    found = find(inputs, recursive=recursive)
    if STDIN in inputs:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="raudio-"))
        heard = read_stdin(Path(folder, "stdin"))
        found = [heard if name_of(each) == STDIN else each for each in found]
    return found


def _check_answers(address: str | None) -> None:
    """Refuses a cluster that does not answer."""
    from raudio.cluster.environment import address_of
    from raudio.cluster.token import answers
    from raudio.config.schema import Cluster

    where = address_of(Cluster(address=address))
    if where != "local":
        answers(where)


@contextmanager
def _session(address: str | None, plugins: Sequence[str]) -> Iterator[Capacity]:
    """A quiet Ray session for the length of a `with` block, and what the nodes offer."""
    import tempfile

    from raudio.cluster.session import session
    from raudio.config.schema import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="raudio-") as folder,
        session(Cluster(address=address), Path(folder, "ray.log"), plugins=plugins) as capacity,
    ):
        yield capacity


@contextmanager
def _progress(recordings: int) -> Iterator[Sink]:
    """A line on stderr, shown only to a person and gone at the end: recordings and hours done, and
    how much faster than real time."""
    import sys
    import time

    from raudio.core.units import format_seconds

    if not sys.stderr.isatty():
        yield lambda result: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("recordings  {task.fields[heard]}"),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a pipe or a file gets what is for it
    )
    begun, seconds, last = time.monotonic(), 0.0, (-1, 0.0)
    with bar:
        task = bar.add_task("", total=recordings, heard="")

        def show(result: Result) -> None:
            nonlocal seconds, last
            seconds += result.seconds - (last[1] if last[0] == result.position else 0.0)
            last = result.position, result.seconds
            speed = seconds / max(1e-9, time.monotonic() - begun)
            heard = f"{format_seconds(seconds)} of audio, {speed:.0f} times real time"
            bar.update(task, completed=result.position, heard=heard)

        yield show


def _print_json(result: Result) -> None:
    from json import dumps

    print(dumps(result.mapping(), ensure_ascii=False), flush=True)


def _table(recordings: list[Recording], labels: tuple[str, ...], options: Options) -> Sink:
    """Prints one line a result as it is there, under a head; aligned, also through a pipe."""
    from raudio.export.recordings import name_of

    names = [name_of(each) or "" for each in recordings]
    file_width = max(4, min(60, max(map(len, names))))
    label_width = max(5, *map(len, labels))
    times = f"{'start':>9}  {'end':>9}  " if options.windowed else ""
    print(f"{'file':<{file_width}}  {times}{'label':<{label_width}}  score  next")

    def line(result: Result) -> None:
        if result.error is not None or result.prediction is None:
            return
        found = result.prediction
        others = sorted(found["scores"].items(), key=lambda item: -item[1])
        rest = "  ".join(f"{label} {score:.3f}" for label, score in others[1 : options.top or 2])
        part = "".join(f"{time:>9.2f}  " for time in result.part or ())
        print(
            f"{result.name or '':<{file_width}}  {part}{found['label'] or '-':<{label_width}}  "
            f"{found['score']:.3f}  {rest}".rstrip(),
            flush=True,
        )

    return line
