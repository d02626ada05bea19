"""A search from its command line to its bundle: check everything, start Ray, run trials, export.

Whatever the user can mend is found before Ray starts and before anything is written.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

import raudio
from raudio.cluster.session import local_capacity, session
from raudio.config import chain, compose, validate
from raudio.config.adapters import is_adapter
from raudio.config.axes import Interval
from raudio.config.schema import Augment, Configuration, Experiment
from raudio.config.signature import signature
from raudio.core import machine
from raudio.core.components import TASKS
from raudio.core.errors import ConfigError, DataError, RunError, unknown
from raudio.core.storage import absolute, local_run, write_atomic
from raudio.core.units import parse_seconds
from raudio.data.clips import stored_tables
from raudio.data.inspect import Inspection, inspect, preflight
from raudio.data.kept import room_for_decoded
from raudio.data.locate import SYNTH, locate
from raudio.data.manifest import Manifest
from raudio.data.pipeline import check_resident, choose_feed, materialise
from raudio.data.resolve import resolve
from raudio.records import (
    DATASET_JSON,
    ENVIRONMENT_JSON,
    JOURNAL,
    PREFLIGHT_JSON,
    RECORDS,
    SEARCH_YAML,
    SPACE_YAML,
    History,
    RecordWriter,
    RunLock,
    TrialHistory,
    check_run,
    read_history,
    read_records,
)
from raudio.search import space as spaces
from raudio.search.engine import Engine
from raudio.search.live import Display
from raudio.search.planner import Plan, plan
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler, grace_period
from raudio.search.space import Space
from raudio.training.budget import count_epochs
from raudio.training.worker import Data

LOG = "ray.log"
BUNDLE = "bundle"

#: Augmentations that take recordings from a `source`.
_WITH_SOURCE = ("background", "reverb")

#: Settings of a recorded search that `resume` may change: the budget, and where it runs.
RESUMABLE = (
    "search.trials",
    "search.time_budget",
    "search.concurrency",
    "search.keep",
    "search.max_failures",
    "run.export",
    "cluster.address",
    "cluster.cpus",
)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        run: the run folder.
        history: all trials.
        best: the best trial; None when none has a value.
        bundle: the exported best trial; None when there is none, or `run.export=false`.
        state: completed, stopped (by the user) or failed.
    """

    run: Path
    history: History
    best: TrialHistory | None
    bundle: Path | None
    state: str


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
        plan: how it fits; None for a cluster that has not been reached yet.
        metric, mode: what is optimised.
        notes: what was decided, for the user.
    """

    configuration: Configuration
    overrides: tuple[str, ...]
    space: Space
    manifest: Manifest
    preflight: Inspection
    feed: str
    store: int | None
    plan: Plan | None
    metric: str
    mode: str
    notes: tuple[str, ...]

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


# --- the three ways in -------------------------------------------------------------------------


def search(*overrides: str, quiet: bool = False, **groups: Any) -> SearchResult:
    """Searches for the best model: `raudio search` from Python.

    Args:
        overrides: as on the command line, such as "search.trials=32" or
            "optimizer.lr=tag(log, interval(1e-4, 1e-2))".
        quiet: shows nothing.
        groups: the same as mappings: `search={"trials": 32}`, `space="cnn_or_crnn"`.

    Raises:
        UserError: the configuration, the space or the data cannot work; nothing was started.
    """
    return _new([*overrides, *_as_overrides(groups)], quiet=quiet, single=False)


def train(*overrides: str, quiet: bool = False, **groups: Any) -> SearchResult:
    """Trains one experiment: `raudio train` from Python; arguments as `search`."""
    return _new([*overrides, *_as_overrides(groups)], quiet=quiet, single=True)


def resume(run: str | Path, *overrides: str, quiet: bool = False) -> SearchResult:
    """Goes on with a run that was interrupted, or whose budget is to be larger.

    Args:
        run: the run folder, which may have been moved.
        overrides: of the settings in `RESUMABLE`.
        quiet: shows nothing.

    Raises:
        RunError: not a run folder, or in use.
        ConfigError: an override of another setting.
    """
    folder = check_run(local_run(run))
    job = _recorded(folder, overrides)
    return _run(job, folder, quiet=quiet, resumed=True)


def _new(overrides: Sequence[str], *, quiet: bool, single: bool) -> SearchResult:
    display = _display(quiet)
    job = check(overrides, single=single, echo=display.say)
    folder = local_run(job.configuration.run.dir or _default_folder())
    _make_run(job, folder)
    return _run(job, folder, quiet=quiet, resumed=False)


def _as_overrides(groups: Mapping[str, Any]) -> list[str]:
    found = []
    for group, value in groups.items():
        if isinstance(value, Mapping):
            found += _as_overrides({f"{group}.{name}": inner for name, inner in value.items()})
        else:
            found.append(f"{group}={'null' if value is None else value}")
    return found


# --- checking ----------------------------------------------------------------------------------


def check(overrides: Sequence[str], *, single: bool = False, echo: Callable[[str], None]) -> Job:
    """Resolves and checks a command line; starts nothing.

    Args:
        overrides: of the command line.
        single: one training, without a space.
        echo: told what was decided about the data.

    Raises:
        UserError: it cannot work.
    """
    overrides = compose.with_absolute_paths(overrides)
    if single:
        plain, axes = compose.split(overrides)
        if axes:
            key = next(iter(axes))
            raise ConfigError(
                f"{key} has several values; `raudio search` tries them, train does not"
            )
        configuration, space = compose.compose(plain), Space("none")
        configuration = dataclasses.replace(
            configuration,
            search=dataclasses.replace(
                configuration.search, trials=1, sampler="random", scheduler="none"
            ),
        )
    else:
        configuration, space, plain = spaces.resolve(overrides)
    _check_folder(configuration.run.dir)
    return _job(configuration, plain, space, echo)


def _job(
    configuration: Configuration,
    overrides: Sequence[str],
    space: Space,
    echo: Callable[[str], None],
) -> Job:
    search, experiment = configuration.search, configuration.experiment
    if experiment.plugins:  # trials' processes, and a later `resume`, run in other folders
        plugins = tuple(str(Path(file).expanduser().resolve()) for file in experiment.plugins)
        experiment = dataclasses.replace(experiment, plugins=plugins)
        others = [item for item in overrides if not item.startswith("plugins=")]
        overrides = [*others, compose.override("plugins", plugins)]
    if search.sampler == "grid":
        space.grid()
    metric, mode = _metric(experiment)
    local = configuration.cluster.address == "local"
    capacity = local_capacity(configuration.cluster) if local else None
    if capacity is not None:  # before the data, which may take long to prepare
        plan(capacity, experiment.resources, search, "resident")
    store = capacity.store if capacity is not None else None
    manifest = locate(experiment.dataset, echo)
    _check_data(manifest)
    _check_target(experiment, manifest)
    experiment = _on(experiment, manifest, store)
    configuration = dataclasses.replace(configuration, experiment=experiment)
    assert experiment.dataset.sample_rate is not None
    _check_augment(experiment.augment, experiment.dataset.sample_rate)
    found = inspect(
        manifest,
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
    return Job(
        configuration=configuration,
        overrides=tuple(overrides),
        space=space,
        manifest=manifest,
        preflight=found,
        feed=feed,
        store=store,
        plan=(None if capacity is None else plan(capacity, experiment.resources, search, feed)),
        metric=metric,
        mode=mode,
        notes=(*preflight.notes(found), f"{feed} feed: {why}", *space.notes),
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


def _check_folder(folder: str | None) -> None:
    if folder is not None and local_run(folder).exists():
        raise RunError(
            f"run.dir={folder!r} exists already; give another folder, or go on with that run: "
            f"raudio resume {folder}"
        )


def _metric(experiment: Experiment) -> tuple[str, str]:
    """What is optimised, and which way it is better."""
    settings = type(experiment.task)
    modes = getattr(settings, "METRICS", None) or TASKS.get(experiment.task.name).modes  # type: ignore[attr-defined]
    known = {f"valid/{name}": mode for name, mode in modes.items()}
    metric = experiment.training.metric or next(iter(known))
    if metric not in known:
        raise ConfigError(f"training.metric={metric!r}: {unknown('metric', metric, known)}")
    return metric, known[metric]


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


def _check_augment(augment: Augment, sample_rate: int) -> None:
    """Whether augmentations find their recordings, which trials read, and libraries take their
    settings. What is imported imports torch, which takes the driver seconds: only where needed."""
    own = {
        f"augment.{kind}": {"kind": kind, **vars(getattr(augment, kind))} for kind in _WITH_SOURCE
    }
    for name, step in {**own, **dict(chain.steps(augment.chain))}.items():
        kind = step["kind"]
        if kind in _WITH_SOURCE and step["source"] is not None:
            from raudio.audio.augment.sounds import sound_files

            sound_files(step["source"], name=name)
        elif is_adapter(kind):
            from raudio.audio.adapters import build_adapter

            for key in chain.PATHS:
                if step.get(key) is not None and not Path(step[key]).exists():
                    raise ConfigError(
                        f"{name}.{key}={step[key]!r} does not exist; give a folder or file of audio"
                    )
            given = {key: value for key, value in step.items() if key not in ("kind", "weight")}
            try:
                build_adapter(kind, given, sample_rate)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error


def _check_data(manifest: Manifest) -> None:
    for split in ("train", "valid"):
        if split not in manifest.splits or not manifest.splits[split].clips:
            raise DataError(
                f"dataset {manifest.path!r} has no clips in split {split!r}; a search trains on "
                "train and compares on valid: prepare it again with both"
            )
    if len(manifest.labels) < 2:
        raise DataError(
            f"dataset {manifest.path!r} has {len(manifest.labels)} class "
            f"({', '.join(manifest.labels)}); there is nothing to tell apart: add another"
        )


def _check_target(experiment: Experiment, manifest: Manifest) -> None:
    """Whether every clip has what the task learns; a task that names no column checks by itself."""
    column = getattr(experiment.task, "TARGET", None)
    if column is None:
        return
    for table in stored_tables(manifest):
        if not table[column].null_count:
            continue
        has = "several labels a clip" if "labels" in table.column_names else "events"
        raise ConfigError(
            f"task={experiment.task.name} needs one label a clip, and dataset {manifest.path!r} "
            f"has {has}: prepare it from a table that gives each clip one label"
        )


# --- the run folder ----------------------------------------------------------------------------


def _default_folder() -> str:
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder, number = Path("runs") / stamp, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stamp}-{number}"
    return str(folder)


def _make_run(job: Job, folder: Path) -> None:
    """What a run says of itself, before anything has happened in it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"run.dir={str(folder)!r} exists already; give another folder") from error
    except OSError as error:
        raise RunError(f"run.dir={str(folder)!r} cannot be made: {error.strerror}") from error
    _write_search(job, folder)
    write_atomic(folder / SPACE_YAML, yaml.safe_dump(job.space.to_mapping(), sort_keys=False))
    write_atomic(folder / DATASET_JSON, job.manifest.to_json())
    write_atomic(folder / PREFLIGHT_JSON, preflight.to_json(job.preflight))
    write_atomic(folder / ENVIRONMENT_JSON, json.dumps(_environment(), indent=2) + "\n")


def _write_search(job: Job, folder: Path) -> None:
    """What `_recorded` reads; written anew by a session that changes the budget, so that the next
    one knows it."""
    recorded = {
        "overrides": list(job.overrides),
        "single": not job.space.params,
        "configuration": validate.to_mapping(job.configuration),
    }
    write_atomic(folder / SEARCH_YAML, yaml.safe_dump(recorded, sort_keys=False))


def _recorded(folder: Path, overrides: Sequence[str]) -> Job:
    """The job of a run folder, with a changed budget."""
    plain, axes = compose.split(overrides)
    changed = compose.values_of(plain)
    for key in (*changed, *axes):
        if key not in RESUMABLE:
            raise ConfigError(
                f"{key} cannot change when a run goes on: {unknown('setting', key, RESUMABLE)}"
            )
    for key, axis in axes.items():
        raise ConfigError(f"{key}={axis} has several values; a run goes on with one")
    path = folder / SEARCH_YAML
    try:
        recorded = yaml.safe_load(path.read_text())
        mapping, given, single = (recorded[key] for key in ("configuration", "overrides", "single"))
        for key, value in changed.items():
            group, _, name = key.partition(".")
            mapping[group][name] = value
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise RunError(f"{str(path)!r} is missing or damaged; this run cannot go on") from error
    if single and "search.trials" in changed:
        raise ConfigError(
            f"search.trials={changed['search.trials']}: {str(folder)!r} has nothing to search, and "
            "a further trial would be the same; `raudio search` makes a run with a space"
        )
    configuration = validate.configuration_from(mapping, plugins=True)
    space = Space("none") if single else Space.load(str(folder / SPACE_YAML), overrides=given)
    job = _job(configuration, given, space, lambda text: None)
    if job.manifest.fingerprint != Manifest.read(str(folder)).fingerprint:
        raise RunError(
            f"dataset {job.manifest.path!r} has changed since run {str(folder)!r} started; its "
            "trials could not be compared with new ones: start a new search"
        )
    return job


def _environment() -> dict[str, Any]:
    """Versions, commit and hardware; no environment variables, which may hold secrets."""
    packages = ("ray", "torch", "torchaudio", "optuna", "hydra-core", "pyarrow", "numpy")
    return {
        "raudio": raudio.__version__,
        "commit": _commit(Path(raudio.__file__).parents[1]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": machine.cpus(),
        "memory_bytes": machine.memory_bytes(),
        "gpus": machine.gpus(),
        "command": sys.argv,
    }


def _commit(clone: Path) -> str | None:
    """The commit that a clone of raudio is at; None where raudio was installed, perhaps inside
    another project's clone, or where there is no git."""
    if not (clone / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None


# --- running -----------------------------------------------------------------------------------


def _display(quiet: bool, epochs: int = 0) -> Display:
    return Display(Console(stderr=True), epochs, quiet=quiet)


def _run(job: Job, folder: Path, *, quiet: bool, resumed: bool) -> SearchResult:
    configuration, experiment = job.configuration, job.experiment
    epochs = count_epochs(experiment.training)
    with RunLock(folder), _display(quiet, epochs) as display:
        if resumed:
            _write_search(job, folder)
        past = list(read_records(folder)) if resumed else []
        history = read_history(folder) if resumed else History()
        for note in job.notes:
            display.say(note)
        display.say(f"run {folder}")
        with RecordWriter(folder / RECORDS) as records:
            budget = configuration.search.time_budget
            engine = Engine(
                folder,
                configuration.search,
                sampler=Sampler(job.space, configuration.search, job.mode, folder / JOURNAL),
                scheduler=Scheduler(
                    configuration.search,
                    job.mode,
                    epochs,
                    grace_period(configuration.search, epochs, longest_warmup(job)),
                ),
                experiment_for=job.experiment_for,
                signature=lambda trained: signature(trained, job.manifest.fingerprint),
                records=records,
                history=history,
                past=past,
                time_budget=None if budget is None else parse_seconds(budget),
                watch=display.watch,
            )
            engine.begin(raudio.__version__, job.metric, job.mode)
            state: str = "failed"
            reason: str | None = "the driver was ended by an error"
            try:
                state, reason = _trials(job, folder, engine, display)
            except KeyboardInterrupt:
                state, reason = "stopped", "interrupted"
                display.say(f"interrupted; go on with it: raudio resume {folder}")
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise
            finally:
                engine.close(state, reason)
        if state == "failed":
            display.say(f"the search stopped: {reason}")
        bundle = _export(job, folder, state, display)
    return SearchResult(folder, engine.history, engine.history.best(), bundle, state)


def _trials(job: Job, folder: Path, engine: Engine, display: Display) -> tuple[str, str | None]:
    """Starts Ray and the feed, and runs the engine's trials; how the search ended, and why."""
    if engine.exhausted:
        return "completed", None
    configuration, experiment = job.configuration, job.experiment
    started = time.monotonic()
    distributed = experiment.resources.workers > 1
    import ray  # noqa: F401 - whole, before another thread imports parts of it

    # Ray's start waits for other processes; in that time the driver imports what comes next.
    imports = threading.Thread(target=import_module, args=("raudio.search.tune",), daemon=True)
    imports.start()
    with session(configuration.cluster, folder / LOG, dashboard=distributed) as capacity:
        imports.join()  # two threads can't import parts of one package: each finds halves of it
        from ray import tune

        from raudio.search.trial import open_trial, run_trial
        from raudio.search.tune import run_trials

        fit = plan(capacity, experiment.resources, configuration.search, job.feed)
        ray_seconds = time.monotonic() - started
        data = Data(job.manifest.anywhere(), None)
        if job.feed == "resident":
            settings = experiment.dataset
            assert settings.sample_rate is not None
            if capacity.store is not None:
                check_resident(settings, job.manifest, settings.sample_rate, capacity.store)
            refs = materialise(
                job.manifest,
                sample_rate=settings.sample_rate,
                precision=settings.precision,  # type: ignore[arg-type]
                cache_limit=room_for_decoded(settings, job.manifest, settings.sample_rate),
            )
            data = dataclasses.replace(data, refs=refs)
        feed_seconds = time.monotonic() - started - ray_seconds
        display.say(
            f"Ray started in {ray_seconds:.1f} s, feed ready in {feed_seconds:.1f} s; "
            f"{fit.slots} trial{'' if fit.slots == 1 else 's'} at once"
        )
        display.show(engine)
        trainable = tune.with_parameters(
            run_trial,
            data=data,
            run=str(folder.resolve()),
            gpus=fit.gpus,
            metric=job.metric,
            mode=job.mode,
        )
        return run_trials(
            engine,
            trainable,
            fit,
            before=lambda spec: open_trial(folder, spec),
            tick=display.tick,
        )


def _export(job: Job, folder: Path, state: str, display: Display) -> Path | None:
    """The best trial as a bundle in the run, made anew when the run went on."""
    if not job.configuration.run.export or state == "failed":
        return None
    from raudio.export.bundle import export

    bundle, new = folder / BUNDLE, folder / f".{BUNDLE}"
    shutil.rmtree(new, ignore_errors=True)
    try:
        export(folder, new)
    except RunError as error:  # no trial has finished an epoch, or a checkpoint is damaged
        display.say(f"not exported: {error}")
        return None
    shutil.rmtree(bundle, ignore_errors=True)
    return new.rename(bundle)
