"""`raudio plan`: what a search would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from raudio.search.job import Job
    from raudio.search.pacing import Pacing
    from raudio.search.planner import Plan
    from raudio.search.space import Space

#: Trials that are drawn as examples.
EXAMPLES = 3


def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, as for `raudio search`")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Resolves, checks and prints what `raudio search` would run and how it fits; starts nothing.

    A cluster is asked what it has, and what its autoscaler may add.

    Example: raudio plan dataset.path=data/fsdd space=cnn_or_crnn search.trials=16
    """
    from json import dumps

    from rich.console import Console

    from raudio.search.job import check
    from raudio.search.pacing import pacing
    from raudio.search.sampler import examples as drawn

    errors = Console(stderr=True, highlight=False, markup=False)
    job = check(overrides or [], echo=lambda line: errors.print(line, soft_wrap=True))
    if job.plan is None:
        job = _reached(job, errors)
    examples = drawn(job.space, EXAMPLES, job.configuration.search.seed)
    proposal = pacing(job)
    if json:
        print(dumps(_data(job, examples, proposal), ensure_ascii=False))
    else:
        _print(job, examples, proposal)


def _reached(job: Job, errors: Console) -> Job:
    """`job` as it fits on its cluster, which is only looked at."""
    import dataclasses
    import tempfile
    from pathlib import Path

    from raudio.cluster.session import session
    from raudio.search.job import plan_on

    with (
        tempfile.TemporaryDirectory(prefix="raudio-plan-") as folder,
        session(job.configuration.cluster, Path(folder) / "ray.log") as capacity,
    ):
        if capacity.growth.note:
            errors.print(capacity.growth.note, soft_wrap=True)
        return dataclasses.replace(job, plan=plan_on(job, capacity))


def _data(job: Job, examples: list[dict[str, Any]], proposal: Pacing | None) -> dict[str, Any]:
    import dataclasses

    from raudio.config.validate import to_mapping

    return {
        "configuration": to_mapping(job.configuration),
        "space": {"name": job.space.name, **job.space.to_mapping(), "size": job.space.size()},
        "examples": examples,
        "plan": None if job.plan is None else dataclasses.asdict(job.plan),
        "dataset": job.manifest.path,
        "feed": job.feed,
        "metric": job.metric,
        "mode": job.mode,
        "objectives": dict(job.goal.objectives),
        "limits": list(job.goal.limits),
        "notes": list(job.notes),
        "checkpoints": None if proposal is None else dataclasses.asdict(proposal),
    }


def _print(job: Job, examples: list[dict[str, Any]], proposal: Pacing | None) -> None:
    from rich.console import Console

    from raudio.config.axes import text
    from raudio.config.validate import dump_yaml
    from raudio.core.errors import ConfigError
    from raudio.search.planner import trials_in_all
    from raudio.search.space import MOST_CELLS
    from raudio.training.budget import count_epochs

    console = Console(highlight=False)
    console.print("[bold]What all trials have in common[/bold] (the first choice of each group)")
    console.print(dump_yaml(job.experiment), markup=False)
    console.print(f"[bold]Space {job.space.name}[/bold]: {_count(job.space)}")
    rows = job.space.describe()
    width = max((len(key) for key, _, _ in rows), default=0)
    for key, axis, condition in rows:
        line = f"  {key:<{width}}  {axis}" + (f"  when {condition}" if condition else "")
        console.print(line, markup=False, soft_wrap=True)
    for constraint in job.space.constraints:
        console.print(f"  where {constraint}", markup=False, soft_wrap=True)
    for point in job.space.points:
        line = "  ".join(f"{key}={text(value)}" for key, value in point.items())
        console.print(f"  first {line}", markup=False, soft_wrap=True)
    console.print(f"\n[bold]{len(examples)} trials as they may be drawn[/bold]")
    for params in examples:
        line = "  ".join(f"{key}={text(value)}" for key, value in params.items())
        try:
            job.experiment_for(params)
        except ConfigError as error:  # a space may allow settings that can't work together
            line += f"  (this trial would fail: {error})"
        console.print(f"- {line}", markup=False, soft_wrap=True)
    search, fit = job.configuration.search, job.plan
    assert fit is not None
    wanted = trials_in_all(search)
    if search.sampler == "grid":
        wanted = min(wanted or MOST_CELLS, len(job.space.grid()))
    limits = {
        "time_budget": search.time_budget,
        "epochs_budget": search.epochs_budget,
        "cost_budget": search.cost_budget,
        "target": search.target,
        "patience": search.patience,
    }
    given = [f"search.{name}={value}" for name, value in limits.items() if value is not None]
    trials = "trials" if wanted is None else f"{wanted} trial{'' if wanted == 1 else 's'}"
    trials += f" (until {' or '.join(given)})" if given else ""
    epochs = count_epochs(job.experiment.training)
    console.print(
        f"\n[bold]Search[/bold]: {trials} of up to {epochs} epoch{'' if epochs == 1 else 's'} by "
        f"{search.sampler}, "
        + f"{_at_once(fit)}, "
        + f"scheduler {search.scheduler}, "
        + ", ".join(f"{mode} {metric}" for metric, mode in job.goal.objectives.items())
        + (f" where {' and '.join(job.goal.limits)}" if job.goal.limits else ""),
        soft_wrap=True,
    )
    console.print(_table(fit))
    for note in job.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    if proposal is not None:
        console.print(f"- {proposal}", markup=False, soft_wrap=True)


def _at_once(fit: Plan) -> str:
    if fit.most == fit.slots:
        return f"{fit.slots} at once"
    return f"{fit.slots} at once on what is there, {fit.most} when it has grown"


def _table(fit: Plan) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("What", "How much", "Why"):
        table.add_column(column)
    for row in fit.rows:
        table.add_row(row.what, row.amount, row.why)
    return table


def _count(space: Space) -> str:
    """How many different trials there are, and how many more without the constraints."""
    size, cells = space.size(), space.cells()
    if cells is None:
        return "endless different trials"
    if size is None:
        return f"up to {cells} different trials"
    count = f"{size} different trial{'' if size == 1 else 's'}"
    return count if size == cells else f"{count} (of {cells}; the others break a constraint)"
