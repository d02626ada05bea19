"""`raudio predict`: labels for recordings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

#: Takes one result of `Predictor.stream`.
Sink: TypeAlias = Callable[[dict[str, Any]], None]


def predict(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    files: Annotated[list[str], typer.Argument(help="recordings, or folders of them")],
    out: Annotated[
        Path | None, typer.Option(help="write to this .csv or .jsonl file instead")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="windows computed at once")] = 64,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
) -> None:
    """Predicts for recordings of any format, rate, channel count and length.

    A recording that can't be used is reported, the others go on; the exit status is then 1.

    Example: raudio predict bundles/fsdd recordings/ --out labels.csv
    """
    import sys

    recordings = _recordings(files)
    _check_out(out)
    from raudio.config.validate import use_plugins
    from raudio.export.predictor import load

    use_plugins(plugin or ())
    predictor = load(bundle, device)
    failed = 0
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if out is not None:
            sinks.append(stack.enter_context(_file_sink(out, predictor.labels)))
        if json:
            sinks.append(_print_json)
        elif out is None:
            sinks.append(_table(recordings, predictor.labels))
        for result in predictor.stream(recordings, batch_size=batch_size):
            if "error" in result:
                failed += 1
                print(f"error: {result['error']}", file=sys.stderr)
            for sink in sinks:
                sink(result)
    if out is not None:
        print(f"{len(recordings) - failed} predictions in {out}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(recordings)} recordings could not be used", file=sys.stderr)
        raise typer.Exit(1)


def _recordings(files: list[str]) -> list[str]:
    """The recordings named, and those in the folders named, in order.

    A file that isn't there is left in, to be reported when its turn comes; when there is nothing
    else, the command was given something wrong.

    Raises:
        DataError: nothing of what was named is there, or the folders hold no audio.
    """
    from raudio.core.errors import DataError, closest
    from raudio.data.sources import AUDIO_SUFFIXES

    found: list[str] = []
    for name in files:
        path = Path(name)
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
            found += sorted(str(p) for p in inside if p.is_file())
        else:
            found.append(name)
    if not found:
        raise DataError(
            f"no audio in {', '.join(files)}: no file ends in {', '.join(sorted(AUDIO_SUFFIXES))}"
        )
    if not any(Path(name).exists() for name in found):
        parent = Path(found[0]).parent
        near = closest(found[0], map(str, parent.iterdir())) if parent.is_dir() else ""
        raise DataError(f"no such file: {found[0]!r}{near}; give recordings or folders of them")
    return found


def _check_out(out: Path | None) -> None:
    from raudio.core.errors import ConfigError

    if out is None:
        return
    if out.suffix.lower() not in (".csv", ".jsonl"):
        raise ConfigError(f"--out {str(out)!r}: give a name that ends in .csv or .jsonl")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}")


def _print_json(result: dict[str, Any]) -> None:
    from json import dumps

    print(dumps(result, ensure_ascii=False), flush=True)


def _table(recordings: list[str], labels: tuple[str, ...]) -> Sink:
    """Prints one line a recording as it is scored, under a head; aligned, also through a pipe."""
    file_width = max(4, min(60, max(map(len, recordings))))
    label_width = max(5, *map(len, labels))
    print(f"{'file':<{file_width}}  {'label':<{label_width}}  score  next")

    def line(result: dict[str, Any]) -> None:
        if "error" in result:
            return
        second = sorted(result["scores"].items(), key=lambda item: -item[1])[1:2]
        rest = "".join(f"{label} {score:.3f}" for label, score in second)
        print(
            f"{result['file']:<{file_width}}  {result['label']:<{label_width}}  "
            f"{result['score']:.3f}  {rest}".rstrip(),
            flush=True,
        )

    return line


@contextmanager
def _file_sink(path: Path, labels: tuple[str, ...]) -> Iterator[Sink]:
    """Writes each result as it comes, so that an interruption loses none that is there."""
    import csv
    from json import dumps

    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix.lower() == ".jsonl":
            yield lambda result: print(dumps(result, ensure_ascii=False), file=file)
            return
        columns = ["file", "label", "score", "error", *(f"score_{label}" for label in labels)]
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()

        def row(result: dict[str, Any]) -> None:
            scores = {f"score_{k}": v for k, v in result.get("scores", {}).items()}
            writer.writerow({k: v for k, v in result.items() if k != "scores"} | scores)

        yield row
