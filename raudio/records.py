"""The run folder: its layout, its records, its lock.

`records.jsonl` is the one source for status, report, resume and export: one JSON object a line,
written by the driver alone, only ever appended to. Each has `event` and `time` (Unix seconds):

| event | fields |
| --- | --- |
| search_start | version, resumed, metric, mode, objectives, limits, trials, time_budget (s), |
| | epochs_budget, cost_budget (s), target, patience, |
| | and of a trial epochs, rungs, brackets; of a configuration repeats, folds |
| cluster | where, cpus, gpus: what there is; slots (trials at once), trial_cpus, trial_gpus |
| trial_start | id, params, signature, configuration, repeat, confirms, bracket, refused, same_as |
| confirmation | configurations (ids, best first), seeds (of each), each (trials of a seed) |
| report | id, epoch, metrics, seconds (of this epoch, inside the loop), final |
| retry | id, kind, reason, seconds (wall): it failed; changed: settings it is tried again with |
| lost | id, reason: its process or machine is gone; not an end, the trial goes on elsewhere |
| exploit | id, donor, epoch (the donor's), params: it goes on from the donor's weights with these |
| trial_end | id, state, kind, reason, seconds (wall, of this session's part); costs: those known \
of a trial that never began |
| search_end | state, reason |

`History` and `TrialHistory` say what these are; `refused` counts draws that broke a constraint. A
reader ignores events and fields it doesn't know, so that later versions may add some; what an older
reader would misunderstand makes another `FORMAT`, which it refuses.

A line is written in one system call, so that a driver that is killed leaves whole records, and at
most one torn at the end, which is cut off. It reaches the disk within a second, or when the run
ends: a loss of power may cost the reports of its last second, and the epochs are trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

from raudio.config.goal import Goal, recorded_goal
from raudio.core.errors import RunError, closest
from raudio.spent import Spent

# --- layout ------------------------------------------------------------------------------------

SEARCH_YAML = "search.yaml"
EXPERIMENT_YAML = "experiment.yaml"
SPACE_YAML = "space.yaml"
ENVIRONMENT_JSON = "environment.json"
DATASET_JSON = "dataset.json"  # the dataset's manifest, as it was: the model card quotes it
PREFLIGHT_JSON = "preflight.json"  # what was found in the dataset before the search started
RECORDS = "records.jsonl"
PRIOR = "prior"  # what is known from earlier runs
#: The format of a run. Runs from before there was a number have the first.
FORMAT = 1
JOURNAL = "optuna.journal"
TRIALS = "trials"
ERROR_TXT = "error.txt"
LOCK = ".lock"
OWNER = "owner.json"  # of a run in a store: who drives it, and when it was last seen alive
#: Seconds after which a driver that does not show itself in the store is taken for dead.
OWNER_STALE = 60.0
#: A trial's two checkpoints: to go on from, and the epoch with the best value.
LAST, BEST = "last.pt", "best.pt"
#: Another trial's LAST, which a trial of a population goes on from.
DONOR = "donor.pt"

#: The ways a trial ends; until then it is RUNNING.
COMPLETED, PRUNED, FAILED, STOPPED = "completed", "pruned", "failed", "stopped"
RUNNING = "running"
#: What a run is called that neither ended nor has a driver.
INTERRUPTED = "interrupted"


def trial_id(number: int) -> str:
    """The id of the trial with this number, from 0: `0007`."""
    return f"{number:04d}"


def trial_folder(run: Path, trial: str) -> Path:
    """Where a trial keeps its experiment, checkpoints and outputs."""
    return Path(run) / TRIALS / trial


def check_run(run: str | os.PathLike[str]) -> Path:
    """`run` as a path, when it is a run folder.

    Raises:
        RunError: it does not exist or holds no records.
    """
    path = Path(run)
    if (path / RECORDS).is_file():
        return path
    near = closest(str(run), _runs_near(path))
    if not path.exists():
        raise RunError(f"no such run folder: {str(run)!r}{near}; `raudio search` makes one")
    raise RunError(
        f"{str(run)!r} is not a run folder: it holds no {RECORDS}{near}; "
        "give the folder that `raudio search` or `raudio train` wrote"
    )


def check_format(found: Any, version: Any) -> None:
    """Refuses a run whose format this raudio does not know.

    Raises:
        RunError: with the version that wrote it.
    """
    if found not in range(1, FORMAT + 1):
        raise RunError(
            f"a run of format {found!r}, made by raudio {version}; this raudio reads formats up to "
            f"{FORMAT}: install raudio {version}, or a later one"
        )


def _runs_near(path: Path) -> list[str]:
    """Run folders inside, beside and one level above `path`."""
    found = []
    for parent in (path, path.parent, path.parent.parent):
        try:
            found += [str(p.parent) for p in parent.glob(f"*/{RECORDS}")]
        except OSError:
            continue
    return found


#: Seconds after which what was written is forced to the disk, for a loss of power.
_SYNC = 1.0

# --- writing -----------------------------------------------------------------------------------


class RecordWriter:
    """Appends records to a file; a context manager.

    On opening, a last line that a killed driver left torn is cut off. Whatever cannot be written
    whole is not there at all.

    Args:
        path: the file; made with its folder when it isn't there.
        clock: what tells the time, in Unix seconds; None: the machine's.
    """

    def __init__(self, path: Path, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.time
        self._path = path
        self._synced = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        whole = sum(len(line) for line in _whole_lines(path.read_bytes()))
        os.ftruncate(self._descriptor, whole)

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Writes one line in one system call, and returns the record as a reader will see it.

        Numbers that are not finite become null: JSON has no others.

        Raises:
            RunError: the disk is full, or fails.
        """
        record: dict[str, Any] = _finite(
            {"event": event, "time": round(self._clock(), 3), **fields}
        )
        line = json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):  # the next record must not join this torn one
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if time.monotonic() - self._synced >= _SYNC:
                self._sync()
        except OSError as error:
            raise RunError(
                f"{str(self._path)!r} cannot be written: {error.strerror}; what it holds is whole: "
                "make room there, then resume the run"
            ) from error
        loaded: dict[str, Any] = json.loads(line)
        return loaded

    def close(self) -> None:
        """Closes the file, with all of it on the disk; to be called once."""
        with contextlib.suppress(OSError):  # a record that was lost has been told of
            self._sync()
        os.close(self._descriptor)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _whole_lines(content: bytes) -> list[bytes]:
    """The lines of a record file, without a last one that was never finished."""
    lines = content.splitlines(keepends=True)
    if lines and not (lines[-1].endswith(b"\n") and _parse(lines[-1]) is not None):
        lines.pop()
    return lines


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("event"), str) else None


# --- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportRecord:
    """One epoch of a trial: its metrics (finite ones only) and its seconds inside the loop."""

    epoch: int
    metrics: dict[str, float]
    seconds: float
    final: bool


@dataclass
class TrialHistory:
    """What the records tell of one trial.

    Attributes:
        id: `0000` and so on, also the name of its folder.
        params: what the sampler drew: setting to value.
        signature: of its experiment; empty when it was not recorded.
        bracket: whose rungs it is compared at, from 0.
        configuration: id of the first trial with its params; where each is trained once, its own.
        repeat: which of its configuration's trials it is, from 0, those that confirm included.
        confirms: the configuration, of a trial that confirms it after the search; else None.
        same_as: the trial that had completed its experiment already, and whose reports it has;
            `RUN/ID` where that is an earlier run's.
        state: running, completed, pruned, failed or stopped.
        kind: of a failure (error, non-finite loss, out of memory, bad data, disk full;
            configuration: settings that can't work together; crash: its process died again and
            again), or None.
        reason: why it ended so, one line, or None.
        reports: one an epoch, in the order of the epochs.
        donors: trials whose weights it took over, in their order.
        changed: settings that it was given to be tried again: see `search.failures`.
        lost: how often its process or machine was lost.
    """

    id: str
    params: dict[str, Any] = field(default_factory=dict)
    signature: str = ""
    bracket: int = 0
    configuration: str = ""
    repeat: int = 0
    confirms: str | None = None
    same_as: str | None = None
    state: str = RUNNING
    kind: str | None = None
    reason: str | None = None
    reports: list[ReportRecord] = field(default_factory=list)
    changed: dict[str, Any] = field(default_factory=dict)
    donors: list[str] = field(default_factory=list)
    lost: int = 0
    _settled: float = field(default=0.0, repr=False)
    _open: float = field(default=0.0, repr=False)
    _ended_in: int = field(default=0, repr=False)
    _known_costs: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def seconds(self) -> float:
        """Wall seconds of its parts that ended; of one that did not, those inside the loop."""
        return self._settled + self._open

    @property
    def epochs(self) -> int:
        """Epochs reported so far: the number of the last."""
        return self.reports[-1].epoch if self.reports else 0

    @property
    def costs(self) -> dict[str, float]:
        """Its costs so far, or those that were known before it could begin."""
        if not self.reports:
            return self._known_costs
        last = self.reports[-1].metrics
        return {name: value for name, value in last.items() if name.startswith("cost/")}

    @property
    def loop_seconds(self) -> float:
        """Seconds inside the training loop, over all epochs."""
        return sum(report.seconds for report in self.reports)

    def value(self, metric: str, mode: str) -> float | None:
        """The best value of `metric` over its epochs; None when none has it."""
        best = self.best_report(metric, mode)
        return None if best is None else best.metrics[metric]

    def best_metrics(self, metric: str, mode: str) -> dict[str, float]:
        """All metrics of the epoch with the best value of `metric`; empty when none has it."""
        best = self.best_report(metric, mode)
        return {} if best is None else dict(best.metrics)

    def best_report(self, metric: str, mode: str) -> ReportRecord | None:
        """The epoch with the best value of `metric`, the first of equals."""
        having = [report for report in self.reports if metric in report.metrics]
        if not having:
            return None
        choose = min if mode == "min" else max
        return choose(having, key=lambda report: report.metrics[metric])

    def _apply(self, record: Mapping[str, Any], session: int) -> None:
        event = record["event"]
        if event == "trial_start":
            self.params = dict(record.get("params") or {})
            self.signature = record.get("signature") or ""
            self.bracket = record.get("bracket") or 0
            self.configuration = record.get("configuration") or self.id
            self.repeat = record.get("repeat") or 0
            self.confirms = record.get("confirms")
            self.same_as = record.get("same_as")
            self._run()
        elif event == "report":
            # A stopped trial that reports in a later session goes on; a report that was on its way
            # when the trial was stopped does not wake it.
            if self.state == STOPPED and self._ended_in < session:
                self._run()
            metrics = {k: float(v) for k, v in record["metrics"].items() if v is not None}
            seconds = float(record.get("seconds") or 0.0)
            new = ReportRecord(record["epoch"], metrics, seconds, bool(record.get("final")))
            if new.epoch <= self.epochs:
                # Going on from a checkpoint may report an epoch again: the last report counts.
                others = [known for known in self.reports if known.epoch != new.epoch]
                self.reports = sorted([*others, new], key=lambda report: report.epoch)
            else:
                self.reports.append(new)
            if self.state == RUNNING:
                self._open += seconds
        elif event == "lost":
            self.lost += 1
        elif event == "exploit":
            self.params = dict(record["params"])
            self.donors.append(record["donor"])
        elif event == "retry":
            self.changed = dict(record["changed"])
            self._open = 0.0
            self._settled += float(record.get("seconds") or 0.0)
        elif event == "trial_end":
            self.state = record["state"]
            self.kind, self.reason = record.get("kind"), record.get("reason")
            self._known_costs = dict(record.get("costs") or {})
            self._open, self._ended_in = 0.0, session
            self._settled += float(record.get("seconds") or 0.0)

    def _run(self) -> None:
        self.state, self.kind, self.reason = RUNNING, None, None

    def _settle(self) -> None:
        """A new session starts: what an ended driver left open is settled as far as it is known."""
        self._settled, self._open = self._settled + self._open, 0.0


@dataclass(frozen=True)
class ClusterRecord:
    """What a session runs on.

    Attributes:
        where: "this machine", "the cluster at HOST:PORT".
        cpus, gpus: in all.
        slots: trials at once.
        trial_cpus, trial_gpus: that each takes.
    """

    where: str
    cpus: float
    gpus: float
    slots: int
    trial_cpus: float
    trial_gpus: float


@dataclass(frozen=True)
class BudgetRecord:
    """What a search may use; None: no limit.

    Attributes:
        trials: configurations in all; where each is trained once, trials.
        seconds: wall time over all sessions.
        epochs: over all trials.
        cost: seconds of device time.
        target: the value that ends it.
        patience: ended trials without progress.
    """

    trials: int | None = None
    seconds: float | None = None
    epochs: int | None = None
    cost: float | None = None
    target: float | None = None
    patience: int | None = None


@dataclass
class Configuration:
    """What the sampler drew once, and the trials that train it: each with a seed, or a fold, of its
    own.

    Attributes:
        id: of its first trial.
        trials: of the search, by `repeat`.
        confirming: trained anew after the search.
    """

    id: str
    trials: list[TrialHistory] = field(default_factory=list)
    confirming: list[TrialHistory] = field(default_factory=list)

    @property
    def state(self) -> str:
        """Failed or pruned where one of its trials is, completed where all so far are; else
        running."""
        states = {trial.state for trial in self.trials}
        return next((s for s in (FAILED, PRUNED) if s in states), "") or (
            COMPLETED if states == {COMPLETED} else RUNNING
        )

    @property
    def counted(self) -> list[TrialHistory]:
        """The trials that have ended and not failed; before one has, those that there are."""
        ended = [trial for trial in self.trials if trial.state in (COMPLETED, PRUNED)]
        return ended or [trial for trial in self.trials if trial.state != FAILED]

    def values(self, metric: str, mode: str) -> list[float]:
        """The value of each trial that counts."""
        values = [trial.value(metric, mode) for trial in self.counted]
        return [value for value in values if value is not None]

    def value(self, metric: str, mode: str) -> float | None:
        """The mean of `values`; None where there is none."""
        values = self.values(metric, mode)
        return fmean(values) if values else None

    def confirmed(self, metric: str, mode: str, each: int) -> list[float]:
        """The value of each confirming seed: the mean over its `each` trials, all completed."""
        seeds: dict[int, list[float]] = {}
        for trial in self.confirming:
            value = trial.value(metric, mode)
            if trial.state == COMPLETED and value is not None:
                seeds.setdefault(trial.repeat // each, []).append(value)
        return [fmean(values) for values in seeds.values() if len(values) == each]


@dataclass(frozen=True)
class ConfirmationRecord:
    """Which configurations are trained anew after the search.

    Attributes:
        configurations: their ids, as the search ranked them.
        seeds: of each.
        each: trials of a seed: one, or one a fold.
    """

    configurations: tuple[str, ...]
    seeds: int
    each: int


@dataclass
class History:
    """What the records tell of a run. `apply` folds in one record after the other.

    Attributes:
        metric: what is optimised, such as `valid/accuracy`; empty before the first search_start.
        mode: `max` or `min`.
        goal: all that is optimised, the metric first, and the limits.
        trials: by id, in the order in which they started.
        configurations: by id, in the order in which they were drawn.
        repeats: trials of each configuration.
        folds: of the dataset, that its trials take turns on; empty: the splits as they are.
        confirmation: of the newest end of the search; None where none was asked for, or it has not
            come to it.
        state: running, completed, stopped, failed, or interrupted (neither ended nor alive).
        reason: why it ended, or None.
        budget: what it may use.
        spent: what it has used of that.
        epochs: of a trial that nothing stops, or None where they were not recorded.
        cluster: what the newest session runs on; None until its Ray has started.
        rungs: epochs at which trials are compared, ascending; empty where there are none.
        brackets: the rungs of each bracket; a trial is compared at those of its own.
        version: of raudio, which wrote the newest part.
        sessions: how often it was started or resumed.
        seconds: wall time of all sessions, without the pauses between them.
        time: of the last record, in Unix seconds.
    """

    metric: str = ""
    mode: str = "max"
    goal: Goal = field(default_factory=lambda: Goal({}))
    trials: dict[str, TrialHistory] = field(default_factory=dict)
    configurations: dict[str, Configuration] = field(default_factory=dict)
    repeats: int = 1
    folds: tuple[int, ...] = ()
    confirmation: ConfirmationRecord | None = None
    state: str = INTERRUPTED
    reason: str | None = None
    budget: BudgetRecord = field(default_factory=BudgetRecord)
    spent: Spent = field(default_factory=Spent)
    epochs: int | None = None
    cluster: ClusterRecord | None = None
    rungs: tuple[int, ...] = ()
    brackets: tuple[tuple[int, ...], ...] = ()
    version: str = ""
    sessions: int = 0
    seconds: float = 0.0
    time: float = field(default=0.0, repr=False)

    def apply(self, record: Mapping[str, Any]) -> None:
        """Folds in one record, as `RecordWriter.append` returns it."""
        event, now = record["event"], float(record["time"])
        if event == "search_start":
            check_format(record.get("format", 1), record.get("version"))
            self.sessions += 1
            self.metric, self.mode = record["metric"], record["mode"]
            self.goal = recorded_goal(record)
            self.version = record.get("version") or ""
            self.budget = BudgetRecord(
                trials=record.get("trials"),
                seconds=record.get("time_budget"),
                epochs=record.get("epochs_budget"),
                cost=record.get("cost_budget"),
                target=record.get("target"),
                patience=record.get("patience"),
            )
            self.epochs, self.cluster = record.get("epochs"), None
            self.rungs = tuple(record.get("rungs") or ())
            # Before there were several, the rungs were those of the only bracket.
            self.brackets = tuple(map(tuple, record.get("brackets") or (self.rungs,)))
            self.repeats = record.get("repeats") or 1
            self.folds = tuple(record.get("folds") or ())
            self.state, self.reason = RUNNING, None
            for trial in self.trials.values():
                trial._settle()
        else:
            self.seconds += max(0.0, now - self.time)
        self.time = now
        self.spent.note(record)
        if event == "search_end":
            self.state, self.reason = record["state"], record.get("reason")
        elif event == "cluster":
            fields = dataclasses.fields(ClusterRecord)
            self.cluster = ClusterRecord(**{field.name: record[field.name] for field in fields})
        elif event == "confirmation":
            self.confirmation = ConfirmationRecord(
                tuple(record["configurations"]), record["seeds"], record["each"]
            )
        if "id" in record:
            if record["id"] not in self.trials:
                self._add(record)
            self.trials[record["id"]]._apply(record, self.sessions)

    def _add(self, record: Mapping[str, Any]) -> None:
        trial = self.trials[record["id"]] = TrialHistory(record["id"])
        name = record.get("configuration") or trial.id
        if name not in self.configurations:
            self.configurations[name] = Configuration(name)
        own = self.configurations[name]
        (own.confirming if record.get("confirms") else own.trials).append(trial)

    @property
    def replicated(self) -> bool:
        """Whether a configuration has several trials, or the best are confirmed."""
        return self.repeats > 1 or self.confirmation is not None

    def settled(self, configuration: Configuration) -> bool:
        """Whether the search has seen enough of a configuration: all of its trials have completed,
        or one was pruned or has failed."""
        completed = sum(trial.state == COMPLETED for trial in configuration.trials)
        return configuration.state in (PRUNED, FAILED) or completed >= self.repeats

    def elapsed(self) -> float:
        """Wall seconds of all sessions; while it runs, up to now."""
        return self.seconds + (max(0.0, time.time() - self.time) if self.state == RUNNING else 0.0)

    def measures(self, configuration: Configuration) -> dict[str, float]:
        """What a configuration is judged by: the metrics of a trial's best epoch, and all that it
        cost; their means where there are several trials."""
        found: dict[str, list[float]] = {}
        for trial in configuration.counted:
            measured = {**trial.best_metrics(self.metric, self.mode), **trial.costs}
            for name, value in measured.items():
                found.setdefault(name, []).append(value)
        return {name: fmean(values) for name, values in found.items()}

    def broken_limits(self, trial: TrialHistory) -> list[str]:
        """The limits that a trial's configuration does not keep."""
        if not self.goal.limits:
            return []
        return self.goal.broken(self.measures(self.configurations[trial.configuration]))

    def best(self) -> TrialHistory | None:
        """The best trial so far: the best repeat of the best configuration; None when no trial that
        has not failed has a value and keeps the limits."""
        ranked = self.ranked()
        if not ranked or ranked[0].state == FAILED or self.broken_limits(ranked[0]):
            return None
        return None if ranked[0].value(self.metric, self.mode) is None else ranked[0]

    def ranked(self, trials: Iterable[TrialHistory] | None = None) -> list[TrialHistory]:
        """All trials, or some: by their configuration's place, then by their own value, the failed
        ones last.

        Configurations that a whole confirmation is about come first, by what it found. Then those
        whose trials are all completed, by their mean; then others that have a value, by theirs;
        then those that break a limit.
        """
        chosen = list(self.trials.values() if trials is None else trials)
        confirmed = self.confirmed()
        places = {
            name: self._place(self.configurations[name], confirmed)
            for name in {trial.configuration for trial in chosen}
        }
        sign = 1.0 if self.mode == "min" else -1.0

        def order(trial: TrialHistory) -> tuple[Any, ...]:
            value = trial.value(self.metric, self.mode)
            own = 2 if trial.state == FAILED else 1 if value is None else 0
            place = places[trial.configuration]
            search = trial.configuration in confirmed and trial.confirms is None
            return *place, search, own, 0.0 if value is None else sign * value, trial.id

        return sorted(chosen, key=order)

    def ranked_configurations(self) -> list[Configuration]:
        """Those that have a value and have not failed, as the search alone ranks them."""
        places = {name: self._place(each, {}) for name, each in self.configurations.items()}
        names = [name for name, (place, *_) in places.items() if place <= 2]
        return [self.configurations[name] for name in sorted(names, key=places.__getitem__)]

    def confirmed(self) -> dict[str, float]:
        """What a confirmation found of each configuration, the mean over its seeds; empty before
        all of its trials have ended."""
        record = self.confirmation
        if record is None:
            return {}
        found = {}
        for name in record.configurations:
            configuration = self.configurations[name]
            ended = [t for t in configuration.confirming if t.state in (COMPLETED, FAILED)]
            if len(ended) < record.seeds * record.each:
                return {}
            if values := configuration.confirmed(self.metric, self.mode, record.each):
                found[name] = fmean(values)
        return found

    def _place(
        self, configuration: Configuration, confirmed: Mapping[str, float]
    ) -> tuple[int, float, str]:
        """What configurations are sorted by."""
        sign = 1.0 if self.mode == "min" else -1.0
        if configuration.id in confirmed:
            return 0, sign * confirmed[configuration.id], configuration.id
        value = configuration.value(self.metric, self.mode)
        if configuration.state == FAILED:
            return 5, 0.0, configuration.id
        if value is None:
            return 4, 0.0, configuration.id
        if self.broken_limits(configuration.trials[0]):
            return 3, sign * value, configuration.id
        completed = sum(trial.state == COMPLETED for trial in configuration.trials)
        whole = self.repeats == 1 or completed >= self.repeats
        return 1 if whole else 2, sign * value, configuration.id

    def front(self) -> dict[str, tuple[float, ...]]:
        """The Pareto front of the completed configurations that keep the limits: their ids, the
        best in the first objective first, and the values of their objectives."""
        values = {}
        for name, configuration in self.configurations.items():
            measures = self.measures(configuration) if configuration.state == COMPLETED else {}
            found = self.goal.values(measures)
            if found is not None and not self.goal.broken(measures):
                values[name] = found
        return {name: values[name] for name in self.goal.front(values)}


class RecordReader:
    """Reads the records of a run as they grow.

    Args:
        run: the run folder.

    Attributes:
        history: what the records read so far tell.

    Raises:
        RunError: not a run folder.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._folder = check_run(run)
        self._bytes = self._lines = 0
        self.history = History()

    def read(self) -> Iterator[dict[str, Any]]:
        """The records since the last time, each after `history` has taken it in.

        A last line that is not whole is left for the next time: it is being written, or its driver
        was killed.

        Raises:
            RunError: a line before the last is damaged.
        """
        alive = is_locked(self._folder)  # asked first: who ends meanwhile has written its end
        path = self._folder / RECORDS
        with path.open("rb") as file:
            file.seek(self._bytes)
            lines = _whole_lines(file.read())
        for line in lines:
            self._bytes += len(line)
            self._lines += 1
            record = _parse(line)
            if record is None:
                raise RunError(
                    f"{str(path)!r} is damaged: line {self._lines} is not a record; "
                    "restore the file, or remove that line"
                )
            try:
                self.history.apply(record)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise RunError(
                    f"{str(path)!r} is damaged: line {self._lines} "
                    f"({record['event']}) cannot be understood: {error!r}"
                ) from error
            yield record
        if self.history.state in (RUNNING, INTERRUPTED):  # it has not ended since it last started
            self.history.state = RUNNING if alive else INTERRUPTED


def read_records(run: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a run, in the order in which they were written.

    Raises:
        RunError: not a run folder, or its records are damaged.
    """
    return RecordReader(run).read()


def read_history(run: str | os.PathLike[str]) -> History:
    """What the records of a run tell so far; also while it runs.

    Raises:
        RunError: not a run folder, or its records are damaged.
    """
    reader = RecordReader(run)
    for _ in reader.read():
        pass
    return reader.history


# --- lock --------------------------------------------------------------------------------------


class RunLock:
    """Held by the driver of a run while it lives; the kernel lets go of it when the driver dies.

    A context manager. The lock is `flock` on `.lock` in the run, whose descriptor no started
    program inherits, so that Ray's processes, which may outlive a killed driver, do not hold it.

    Args:
        run: the run folder; made when it isn't there.
    """

    def __init__(self, run: Path) -> None:
        self.run = Path(run)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """Takes the lock.

        Raises:
            RunError: another driver holds it.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        # `is_locked` of another process takes a shared lock for a moment: not a driver, so wait.
        for patience in (0.05, 0.1, 0.2, 0.0):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(patience)
        else:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise RunError(
                f"run folder {str(self.run)!r} is in use by another raudio process"
                f"{f' ({holder})' if holder else ''}; wait for it, or stop it first"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None


def owner_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the driver that OWNER tells of has lately shown that it lives."""
    seen = owner.get("time")
    return isinstance(seen, int | float) and time.time() - seen < OWNER_STALE


def is_locked(run: str | os.PathLike[str]) -> bool:
    """Whether a driver holds the run, or, of a copy of a run in a store, held it when copied."""
    with contextlib.suppress(OSError, ValueError):
        owner = json.loads((Path(run) / OWNER).read_bytes())
        if isinstance(owner, dict) and owner_alive(owner):
            return True
    try:
        descriptor = os.open(Path(run) / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
