"""What a command line asks for, checked as a whole: it could start, and nothing has started.

Whatever the user can mend is found here, before Ray starts and before anything is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raudio.cluster.alive import check_limit
from raudio.cluster.capacity import Capacity, local_capacity
from raudio.cluster.environment import address_of
from raudio.cluster.token import answers
from raudio.config import compose, validate
from raudio.config.axes import Interval, text
from raudio.config.goal import GPU_MEMORY, Goal, goal_of
from raudio.config.samplers import READERS as OF_SAMPLERS
from raudio.config.schedulers import READERS as OF_SCHEDULERS
from raudio.config.schema import Configuration, Experiment, Search
from raudio.core.components import TASKS
from raudio.core.errors import ConfigError
from raudio.core.storage import absolute
from raudio.data.folds import folds_of, on_fold
from raudio.data.inspect import Inspection, inspect, preflight
from raudio.data.locate import SYNTH, locate
from raudio.data.manifest import Manifest
from raudio.data.pipeline import choose_feed, held_ahead
from raudio.data.resolve import resolve
from raudio.search import checks, prior, samplers
from raudio.search import space_file as spaces
from raudio.search.planner import Plan, plan
from raudio.search.prior import Prior
from raudio.search.replicates import notes as replicates_notes
from raudio.search.sampler import check_points, examples
from raudio.search.scheduler import Scheduler, grace_period
from raudio.search.space import Space
from raudio.tracking import build as trackers
from raudio.training.budget import count_epochs


@dataclass(frozen=True)
class Job:
    """A search that has been checked and could start.

    Attributes:
        configuration: resolved; its experiment is what all trials have in common.
        overrides: of the command line, which trials' experiments are composed from.
        space: what is searched; empty for a single training.
        manifest: of the dataset.
        preflight: what is odd about it, as far as its small columns tell.
        feed: "resident" or "streamed".
        store: bytes of the object store, by which the feed was chosen; None: not known yet.
        held: bytes that a streamed trial holds decoded, as `plan` takes them.
        plan: how it fits; None for a cluster that has not been reached yet.
        goal: what is optimised, and the limits.
        notes: what was decided, for the user.
        folds: that each configuration is trained on; empty where `search.folds` is not set.
        prior: what is known from earlier runs.
    """

    configuration: Configuration
    overrides: tuple[str, ...]
    space: Space
    manifest: Manifest
    preflight: Inspection
    feed: str
    store: int | None
    held: int
    plan: Plan | None
    goal: Goal
    notes: tuple[str, ...]
    folds: tuple[int, ...] = ()
    prior: Prior = field(default_factory=Prior)

    @property
    def metric(self) -> str:
        """The first objective: of which a trial has its best epoch."""
        return next(iter(self.goal.objectives))

    @property
    def mode(self) -> str:
        """Whether the metric is better as it rises ("max") or falls ("min")."""
        return self.goal.objectives[self.metric]

    @property
    def experiment(self) -> Experiment:
        """What all trials have in common."""
        return self.configuration.experiment

    def experiment_for(self, params: Mapping[str, Any]) -> Experiment:
        """The resolved experiment of a trial.

        Raises:
            ConfigError: its settings cannot work together.
        """
        return _on(compose.experiment_for(self.overrides, params), self.manifest, self.store)


def check(overrides: Sequence[str], *, single: bool = False, echo: Callable[[str], None]) -> Job:
    """Resolves and checks a command line; starts nothing.

    Args:
        overrides: of the command line.
        single: one training, without a space.
        echo: told what was decided about the data.

    Raises:
        UserError: it cannot work.
    """
    configuration, space, plain = _composed(overrides, single)
    checks.check_folder(configuration)
    job = job_on_data(configuration, plain, space, echo)
    return job if single else _with_prior(job)


def check_settings(overrides: Sequence[str], *, single: bool = False) -> Configuration:
    """What `check` finds out without the data, the run's folder and the machines: enough for a
    command line that is to run somewhere else. Arguments and errors are its.
    """
    configuration, space, plain = _composed(overrides, single)
    return _settled(configuration, plain, space)[0]


def _composed(overrides: Sequence[str], single: bool) -> tuple[Configuration, Space, list[str]]:
    """The configuration, the space and the plain overrides."""
    overrides = compose.with_absolute_paths(overrides)
    if not single:
        return spaces.resolve(overrides)
    plain, axes = compose.split(overrides)
    if axes:
        key = next(iter(axes))
        raise ConfigError(f"{key} has several values; `raudio search` tries them, train does not")
    configuration = compose.compose(plain)
    usual = Search()  # of samplers and schedulers: a training asks neither
    unread = {name: getattr(usual, name) for name in (*OF_SAMPLERS, *OF_SCHEDULERS)}
    search = dataclasses.replace(
        configuration.search,
        trials=1,
        sampler="random",
        scheduler="none",
        repeat=1,
        folds=False,
        confirm=0,
        **unread,
    )
    return dataclasses.replace(configuration, search=search), Space("none"), plain


def _with_prior(job: Job) -> Job:
    """`job`, which learns from the earlier runs that it names."""
    known = prior.read(
        job.configuration.search,
        job.space,
        job.goal,
        job.manifest.fingerprint,
        count_epochs(job.experiment.training),
    )
    return dataclasses.replace(job, prior=known, notes=(*job.notes, *known.notes))


def job_on_data(
    configuration: Configuration,
    overrides: Sequence[str],
    space: Space,
    echo: Callable[[str], None],
) -> Job:
    """The job of a configuration, checked on its dataset; errors as `check`."""
    check_limit()
    configuration, overrides, goal = _settled(configuration, overrides, space)
    search, experiment = configuration.search, configuration.experiment
    address = address_of(configuration.cluster)
    capacity = local_capacity(configuration.cluster) if address == "local" else None
    if capacity is None:  # before the data, which may take long to prepare
        answers(address)
    else:
        plan(capacity, experiment.resources, search, "resident")
    store = capacity.store if capacity is not None else None
    manifest = locate(experiment.dataset, echo)
    split = on_fold(manifest, experiment.dataset.fold)
    checks.check_data(split)
    folds = folds_of(manifest) if search.folds else ()
    if search.folds:
        checks.check_folds(experiment, space)
    for param in space.params:
        for fold in param.values if param.key == "dataset.fold" else ():
            on_fold(manifest, fold)  # refuses one that there is not
    checks.check_target(experiment, manifest)
    experiment = _on(experiment, manifest, store)
    configuration = dataclasses.replace(configuration, experiment=experiment, search=search)
    assert experiment.dataset.sample_rate is not None
    checks.check_augment(experiment.augment, experiment.dataset.sample_rate)
    found = inspect(
        split,
        sample_rate=experiment.dataset.sample_rate,
        clip_seconds=experiment.dataset.clip_seconds,
        verify=False,
    )
    feed, why = choose_feed(experiment.dataset, manifest, experiment.dataset.sample_rate, store)
    if feed == "resident" and experiment.augment.where == "stream":
        raise ConfigError(
            "augment.where=stream augments in the tasks of a streamed feed, and this search's is "
            f"resident ({why}); set dataset.feed=streamed, or augment.where=device"
        )
    held = held_ahead(experiment.dataset, manifest) if feed == "streamed" else 0
    job = Job(
        configuration=configuration,
        overrides=tuple(overrides),
        space=space,
        manifest=manifest,
        preflight=found,
        feed=feed,
        store=store,
        held=held,
        plan=(
            None
            if capacity is None
            else plan(
                capacity, experiment.resources, search, feed, held=held, folds=max(1, len(folds))
            )
        ),
        goal=goal,
        notes=(
            *preflight.notes(found),
            f"{feed} feed: {why}",
            *space.notes,
            *samplers.notes(search, space),
            *replicates_notes(search, folds),
        ),
        folds=folds,
    )
    if job.plan is not None and not job.plan.gpus and GPU_MEMORY in goal.objectives:
        raise ConfigError(
            f"search.objectives=[{', '.join(goal.objectives)}]: {GPU_MEMORY} is measured on a GPU, "
            f"and trials get none here; take cost/peak_memory, or leave it out"
        )
    note = scheduler_for(job).note  # refuses what cannot be
    return dataclasses.replace(job, notes=(*job.notes, note)) if note else job


def _settled(
    configuration: Configuration, overrides: Sequence[str], space: Space
) -> tuple[Configuration, Sequence[str], Goal]:
    """The configuration and the overrides, for any folder and with a scheduler, and what is
    optimised: all that can be said without the data and the machines."""
    search, experiment = configuration.search, configuration.experiment
    if experiment.plugins:  # trials' processes, and a later `resume`, run in other folders
        plugins = tuple(str(Path(file).expanduser().resolve()) for file in experiment.plugins)
        experiment = dataclasses.replace(experiment, plugins=plugins)
        others = [item for item in overrides if not item.startswith("plugins=")]
        overrides = [*others, compose.override("plugins", plugins)]
    tracking = trackers.with_absolute_paths(configuration.tracking)
    trackers.check(tracking)
    checks.check_replicates(search)
    if search.sampler == "grid":
        space.grid()
    elif space.constraints:
        examples(space, 1, search.seed)
    if space.constraints:
        check_points(space, search.seed)
    goal = _goal(search, experiment)
    search = _with_scheduler(search, goal)
    samplers.check(search, space)
    configuration = dataclasses.replace(
        configuration, experiment=experiment, search=search, tracking=tracking
    )
    return configuration, overrides, goal


def plan_on(job: Job, capacity: Capacity) -> Plan:
    """How a job fits on what has been reached.

    Raises:
        ConfigError: it does not.
    """
    return plan(
        capacity,
        job.experiment.resources,
        job.configuration.search,
        job.feed,
        held=job.held,
        folds=max(1, len(job.folds)),
    )


def _on(experiment: Experiment, manifest: Manifest, store: int | None) -> Experiment:
    """`experiment` resolved on its dataset, which it names so that any folder finds it again."""
    given = experiment.dataset.path
    path: str | tuple[str, ...]
    if isinstance(given, str):
        path = SYNTH if given == SYNTH else manifest.anywhere().path
    else:
        path = tuple(each if each == SYNTH else absolute(each) for each in given)
    dataset = dataclasses.replace(experiment.dataset, path=path, labels=None)
    return resolve(dataclasses.replace(experiment, dataset=dataset), manifest, store)


def _goal(search: Search, experiment: Experiment) -> Goal:
    settings = type(experiment.task)
    modes = getattr(settings, "METRICS", None) or TASKS.get(experiment.task.name).modes  # type: ignore[attr-defined]
    known = {f"valid/{name}": mode for name, mode in modes.items()}
    goal = goal_of(search, experiment.training.metric, known)
    if goal.several and search.sampler == "cmaes":
        raise ConfigError(
            f"search.sampler=cmaes has one objective, not {len(goal.objectives)}; take "
            "search.sampler=tpe, nsga2 or gp"
        )
    return goal


def _with_scheduler(search: Search, goal: Goal) -> Search:
    """`search` with its scheduler decided."""
    if search.scheduler == "auto":
        search = dataclasses.replace(search, scheduler="none" if goal.several else "asha")
        problems: list[str] = []  # what ASHA alone would have read
        validate.check_readers(search, "scheduler", OF_SCHEDULERS, problems)
        validate.raise_problems(problems)
        return search
    if goal.several and search.scheduler != "none":
        raise ConfigError(
            f"search.scheduler={search.scheduler} compares trials by one value: with the "
            f"objectives {', '.join(goal.objectives)} it would end those that are best in another; "
            "leave search.scheduler out, or give one objective and search.limits"
        )
    return search


def scheduler_for(job: Job) -> Scheduler:
    """The scheduler of a job's trials, which knows of no report yet.

    Raises:
        ConfigError: its settings cannot work.
    """
    search, epochs = job.configuration.search, count_epochs(job.experiment.training)
    grace = grace_period(search, epochs, longest_warmup(job))
    if search.scheduler == "pbt" and job.experiment.resources.distributed:
        raise ConfigError(
            f"search.scheduler=pbt trains each trial in one process, and resources.workers="
            f"{text(job.experiment.resources.workers)}; set it to 1, or search.scheduler=asha"
        )
    return Scheduler(search, job.mode, epochs, grace, job.space)


def longest_warmup(job: Job) -> float:
    """The longest warm-up that a trial of the search may have, as a share of its length."""
    params = job.space.params
    searched = [
        param.axis.high if isinstance(param.axis, Interval) else max(param.values)
        for param in params
        if param.key == "schedule.warmup"
    ]
    names = [name for param in params if param.key == "schedule" for name in param.values]
    given = [
        compose.experiment_for(job.overrides, {**job.space.groups(), "schedule": name})
        for name in ([] if searched else names)
    ] or [job.experiment]
    return max(searched or [getattr(each.schedule, "warmup", 0.0) for each in given])
