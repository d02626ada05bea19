"""`raudio explain`: which settings decided, where the good values are, what to search next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from raudio.report.explain import Explanation


def explain(
    run: Annotated[str, typer.Argument(help="run folder of a search")],
    top: Annotated[int, typer.Option(min=1, help="at most so many settings and pairs")] = 10,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
    out: Annotated[
        str | None, typer.Option(help="file for the space to search next, for space=FILE")
    ] = None,
) -> None:
    """Says which settings decided, where the good values are, and what to search next.

    A setting's importance is its share in whether a trial is among the best quarter (PED-ANOVA),
    beside what chance alone would give it.

    Example: raudio explain runs/fsdd --out next.yaml
    """
    from json import dumps

    import yaml

    from raudio.core.errors import RunError
    from raudio.core.storage import write_atomic
    from raudio.report.explain import explain as explained
    from raudio.report.run import read_run

    found = explained(read_run(run))
    if out is not None:
        if not found.next.space:
            raise RunError(f"--out {out!r}: nothing to search next is clear; {found.verdict}")
        try:
            write_atomic(out, yaml.safe_dump(found.next.space, sort_keys=False))
        except OSError as error:
            raise RunError(f"cannot write {out!r}: {error.strerror or error}") from error
    if json:
        print(dumps(_data(found), ensure_ascii=False))
    else:
        _print(found, top, out)


def _data(found: Explanation) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)


def _print(found: Explanation, top: int, out: str | None) -> None:
    import yaml
    from rich.console import Console
    from rich.table import Table

    from raudio.core.units import format_value
    from raudio.report.values import Values

    console = Console(highlight=False, soft_wrap=True)

    def title(text: str) -> None:
        console.print(f"\n[bold]{text}[/bold]")

    def table(*columns: str) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            made.add_column(column)
        return made

    def span(reach: tuple[float, float] | None) -> str:
        return "-" if reach is None else " to ".join(format_value(float(end)) for end in reach)

    def best(one: Values) -> str:
        if one.everywhere is not None:
            return f"{span(one.best)} of {span(one.everywhere)}"
        ranked = sorted(one.counts.items(), key=lambda item: -item[1][1] / item[1][0])
        return ", ".join(f"{value} ({chosen}/{of})" for value, (of, chosen) in ranked)

    console.print(found.verdict, markup=False)
    ranges = {one.setting: one for one in found.values}
    rows = table("setting", "importance", "by chance", "trials", "good values")
    for importance in found.importances[:top]:
        one = ranges[importance.setting]
        clear = importance.share > importance.chance
        rows.add_row(
            importance.setting,
            f"{importance.share:.0%}",
            f"up to {importance.chance:.0%}",
            str(one.trials),
            best(one),
            style=None if clear else "dim",
        )
    if found.importances:
        title("What decides")
        console.print(rows)
    strong = [one for one in found.interactions if one.share > one.chance][:top]
    if strong:
        title("What acts together")
        rows = table("settings", "beyond their own", "by chance", "trials")
        for pair in strong:
            rows.add_row(
                " and ".join(pair.settings),
                f"{pair.share:.0%}",
                f"up to {pair.chance:.0%}",
                str(pair.trials),
            )
        console.print(rows)
    if found.next.changes:
        title("What to search next")
        for change in found.next.changes:
            line = f"{change.setting}: {change.after}  (was {change.before}; {change.reason})"
            console.print(line, markup=False)
        file = out or "next.yaml"
        if out is None:
            console.print(f"\n# {file}: --out writes it")
            console.print(yaml.safe_dump(found.next.space, sort_keys=False).rstrip(), markup=False)
        console.print(f"\n{found.command.replace('space=NEXT', f'space={file}')}", markup=False)
