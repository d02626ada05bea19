"""A search from its command line to its bundle: check everything, start Ray, run trials, export.

Whatever the user can mend is found before Ray starts and before anything is written.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import raudio
from raudio.cluster.alive import SessionError
from raudio.cluster.capacity import Capacity
from raudio.cluster.environment import address_of
from raudio.cluster.growth import Growth
from raudio.cluster.session import present_capacity, session
from raudio.cluster.signals import terminable
from raudio.config.schema import Configuration
from raudio.config.signature import signature
from raudio.core.errors import OutOfReachError, RunError
from raudio.core.storage import is_remote, join
from raudio.core.units import parse_seconds
from raudio.data import raydata
from raudio.records import (
    JOURNAL,
    RECORDS,
    TRIALS,
    ClusterRecord,
    History,
    RecordWriter,
    RunLock,
    TrialHistory,
    check_run,
    read_history,
    read_records,
)
from raudio.search.engine import Engine
from raudio.search.folder import default_folder, make_run, recorded_job, write_search
from raudio.search.job import Job, check, plan_on, scheduler_for
from raudio.search.live import Display, screen
from raudio.search.mirror import InPlace, Mirror, working_copy
from raudio.search.planner import Plan, plan
from raudio.search.replicates import Replicates
from raudio.search.resident import BudgetUsedUpError, decoded
from raudio.search.sampler import Sampler
from raudio.search.slots import Slots, gpu_share
from raudio.tracking.processes import Trackers
from raudio.training.budget import count_epochs
from raudio.training.worker import Data, Keeping

LOG = "ray.log"
BUNDLE = "bundle"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        run: the run folder; of a run in a store its working copy, in the cache.
        name: of the run, as it was given: what other commands take.
        history: all trials.
        best: the best trial; None when none has a value.
        bundle: the exported best trial; None when there is none, or `run.export=false`.
        state: completed, stopped (by the user) or failed.
        unexported: why there is no bundle, where there was to be one.
    """

    run: Path
    name: str
    history: History
    best: TrialHistory | None
    bundle: Path | None
    state: str
    unexported: str | None = None

    @property
    def bundle_name(self) -> str | None:
        """The bundle as commands take it on any machine that reaches the run; None as `bundle`."""
        if self.bundle is None:
            return None
        return join(self.name, BUNDLE) if is_remote(self.name) else str(self.bundle)


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
        run: the run, a folder, which may have been moved, or a URI.
        overrides: of the settings in `RESUMABLE`.
        quiet: shows nothing.

    Raises:
        RunError: not a run folder, or in use.
        ConfigError: an override of another setting.
    """
    if not is_remote(run):
        check_run(run)
    with terminable(), ExitStack() as closing:
        place = working_copy(run, new=False, say=_display(quiet).say)
        closing.enter_context(place)
        job = recorded_job(place.folder, overrides)
        return _run(job, place, closing, quiet=quiet, resumed=True)


def _new(overrides: Sequence[str], *, quiet: bool, single: bool) -> SearchResult:
    display = _display(quiet)
    job = check(overrides, single=single, echo=display.say)
    run = job.configuration.run.dir or default_folder()
    with terminable(), ExitStack() as closing:
        place = working_copy(run, new=True, say=display.say)
        closing.enter_context(place)
        make_run(job, place.folder)
        return _run(job, place, closing, quiet=quiet, resumed=False)


def _as_overrides(groups: Mapping[str, Any]) -> list[str]:
    found = []
    for group, value in groups.items():
        if isinstance(value, Mapping):
            found += _as_overrides({f"{group}.{name}": inner for name, inner in value.items()})
        else:
            found.append(f"{group}={'null' if value is None else value}")
    return found


# --- running -----------------------------------------------------------------------------------


def _display(quiet: bool) -> Display:
    return Display(screen(), quiet=quiet)


def _run(
    job: Job, place: InPlace | Mirror, closing: ExitStack, *, quiet: bool, resumed: bool
) -> SearchResult:
    """Runs the trials, and exports the best.

    Args:
        closing: closes what the search has open when it is at its end.
    """
    configuration, experiment, folder = job.configuration, job.experiment, place.folder
    place.patience = parse_seconds(configuration.run.patience)
    epochs = count_epochs(experiment.training)
    closing.enter_context(RunLock(folder))
    display = closing.enter_context(_display(quiet))
    trackers = closing.enter_context(
        Trackers(
            folder,
            configuration.tracking,
            plugins=experiment.plugins,
            name=place.name,
            say=display.say,
        )
    )
    past = read_records(folder) if resumed else ()
    history = read_history(folder) if resumed else History()
    if resumed:
        _check_records(folder, history)
        write_search(job, folder)
    if _minor(history.version) not in ("", _minor(raudio.__version__)):
        display.say(f"made by raudio {history.version}; going on with {raudio.__version__}")
    for note in job.notes:
        display.say(note)
    display.say(f"run {place.name}")

    def watch(record: Mapping[str, Any]) -> None:
        display.watch(record)
        trackers.look()

    with RecordWriter(folder / RECORDS) as records:
        budget = configuration.search.time_budget
        engine = Engine(
            folder,
            configuration.search,
            sampler=Sampler(
                job.space,
                configuration.search,
                tuple(job.goal.objectives.values()),
                folder / JOURNAL,
                job.prior.trials,
            ),
            scheduler=scheduler_for(job),
            replicates=Replicates(
                repeat=configuration.search.repeat,
                folds=job.folds,
                confirm=configuration.search.confirm,
                confirm_seeds=configuration.search.confirm_seeds,
            ),
            experiment_for=job.experiment_for,
            signature=lambda trained: signature(trained, job.manifest.fingerprint),
            records=records,
            history=history,
            past=past,
            answers=job.prior.answers,
            place=place,
            time_budget=None if budget is None else parse_seconds(budget),
            watch=watch,
        )
        engine.begin(raudio.__version__, job.metric, job.mode, epochs, job.goal)
        display.show(engine)

        def failed(reason: str | None) -> None:
            go_on = f"go on with it: raudio resume {place.name}"
            display.say(f"the search stopped: {reason}; {go_on}")

        def last_words(reason: str) -> None:
            """What the main thread would do, were it not waiting for a Ray that has died."""
            engine.close("failed", reason)
            failed(reason)
            closing.close()

        state: str = "failed"
        reason: str | None = "the driver was ended by an error"
        try:
            state, reason = _trials(job, place, engine, display, last_words)
        except (SessionError, OutOfReachError) as error:
            reason = str(error)
        except KeyboardInterrupt:
            state, reason = "stopped", "interrupted"
            display.say(f"interrupted; go on with it: raudio resume {place.name}")
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise
        finally:
            engine.close(state, reason)
    if state == "failed":
        failed(reason)
    bundle, unexported = None, None
    if configuration.run.export and state != "failed":
        try:
            bundle = _export(place)
        except RunError as error:  # no trial has finished an epoch, or a checkpoint is damaged
            unexported = str(error)
        except KeyboardInterrupt:
            display.say(f"interrupted; the best trial's bundle: raudio export {place.name}")
            raise
    best = engine.history.best()
    return SearchResult(folder, place.name, engine.history, best, bundle, state, unexported)


def _check_records(folder: Path, history: History) -> None:
    """Refuses a run that has lost its records: it would begin anew as if nothing had happened; and
    one whose trials cannot have folders."""
    trials = folder / TRIALS
    if trials.exists() and not trials.is_dir():
        raise RunError(
            f"{str(trials)!r} is not a folder; put the run's own back, or remove this to go on "
            "without checkpoints: trials that have not ended are then trained from the start"
        )
    if not history.sessions and any(trials.glob("*")):
        raise RunError(
            f"{str(folder / RECORDS)!r} is empty, and {str(folder / TRIALS)!r} is not: what had "
            "happened in this run is lost; restore the file, or start a new search"
        )


def _minor(version: str) -> str:
    """Versions that differ after it make the same of a run."""
    return ".".join(version.split(".")[:2])


def _trials(
    job: Job,
    place: InPlace | Mirror,
    engine: Engine,
    display: Display,
    last_words: Callable[[str], None],
) -> tuple[str, str | None]:
    """Starts Ray and the feed, and runs the engine's trials; how the search ended, and why."""
    if engine.broken:  # its driver was killed before it could say so
        return "failed", engine.broken
    if engine.exhausted:
        return "completed", engine.used_up
    configuration, experiment, folder = job.configuration, job.experiment, place.folder
    started = time.monotonic()
    distributed = experiment.resources.distributed
    with session(
        configuration.cluster,
        folder / LOG,
        dashboard=distributed,
        plugins=experiment.plugins,
        modules=("raudio.search.tune", "raudio.search.trial"),
        last_words=last_words,
        say=display.say,
    ) as capacity:
        from ray import tune

        from raudio.search.demand import Demand
        from raudio.search.trial import open_trial, run_trial
        from raudio.search.tune import SearchEnded, run_trials

        def tick() -> None:
            display.tick()
            engine.settle()
            if place.broken:
                raise SearchEnded("stopped", place.broken)

        def changed(now: Plan, text: str) -> None:
            _record_place(engine, present_capacity(configuration.cluster), now, demand.waiting)
            display.say(text)

        def waits(count: int) -> None:
            present = present_capacity(configuration.cluster)
            _record_place(engine, present, slots.plan, count)

        if capacity.growth.note:
            display.say(capacity.growth.note)
        fit = plan_on(job, capacity)
        _record_place(engine, capacity, fit)
        ray_seconds = time.monotonic() - started
        data = Data(job.manifest.anywhere(), None, capacity.has_data_nodes)
        if address_of(configuration.cluster) != "local":
            raydata.settle_here()
        if job.feed == "resident":
            try:
                data = dataclasses.replace(data, refs=decoded(job, capacity.store, engine, display))
            except BudgetUsedUpError as end:
                return "completed", str(end)
        feed_seconds = time.monotonic() - started - ray_seconds
        display.say(
            f"Ray started in {ray_seconds:.1f} s, feed ready in {feed_seconds:.1f} s; "
            f"{fit.slots} trial{'' if fit.slots == 1 else 's'} at once"
            + (f", {fit.most} when the cluster has grown" if fit.most > fit.slots else "")
        )
        trainable = tune.with_parameters(
            run_trial,
            data=data,
            keeping=_keeping(configuration, place),
            gpus=fit.gpus,
            memory=fit.memory,
            goal=job.goal,
        )
        slots = Slots(fit, partial(_plan_now, job, fit, engine, capacity.growth), changed=changed)
        demand = Demand(engine, slots, changed=waits, say=display.say)
        slots.look(now=True)  # a machine may have come to decode
        return run_trials(
            engine,
            trainable,
            slots,
            demand=demand,
            before=lambda spec: open_trial(folder, spec),
            tick=tick,
        )


def _keeping(configuration: Configuration, place: InPlace | Mirror) -> Keeping:
    lost_every = configuration.cluster.lost_every
    return Keeping(
        place.name if is_remote(place.name) else str(place.folder.resolve()),
        patience=parse_seconds(configuration.run.patience),
        lost_every=None if lost_every is None else parse_seconds(lost_every),
        noticed=address_of(configuration.cluster) != "local",  # nobody takes this machine away
    )


def _record_place(engine: Engine, capacity: Capacity, fit: Plan, waiting: int = 0) -> None:
    engine.placed(
        ClusterRecord(
            capacity.where,
            cpus=capacity.cpus,
            gpus=capacity.gpus,
            slots=fit.slots,
            trial_cpus=fit.max_workers * fit.cpus + fit.data_cpus,
            trial_gpus=fit.max_workers * fit.gpus,
            waiting=waiting,
        )
    )


def _plan_now(job: Job, first: Plan, engine: Engine, growth: Growth) -> Plan:
    """The plan for the nodes that are there now, and may come; on the device that the
    first trial had.

    More trials at once than now fit is no error then: as many as fit are run.
    """
    search, resources = job.configuration.search, job.experiment.resources
    if resources.gpus is None:
        resources = dataclasses.replace(resources, gpus=1.0 if first.gpus else 0.0)
    fitting = partial(
        plan,
        present_capacity(job.configuration.cluster, growth),
        resources,
        feed=job.feed,
        held=job.held,
        folds=max(1, len(job.folds)),
        gpu_share=gpu_share(engine.history.trials.values()) if resources.share_gpus else None,
    )
    found = fitting(dataclasses.replace(search, concurrency=None))
    wanted = search.concurrency
    return fitting(search) if wanted is not None and wanted < found.most else found


def _export(place: InPlace | Mirror) -> Path:
    """The best trial as a bundle in the run, made anew when the run went on.

    Raises:
        RunError: there is nothing to export, or the store of the run fails.
    """
    from raudio.export.make import export

    bundle, new = place.folder / BUNDLE, place.folder / f".{BUNDLE}"
    shutil.rmtree(new, ignore_errors=True)
    try:
        place.send()  # the records, which say what is the best
    except OSError as error:
        raise RunError(f"run {place.name!r} cannot be written: {error}") from error
    export(place.name, new)
    shutil.rmtree(bundle, ignore_errors=True)
    return new.rename(bundle)
