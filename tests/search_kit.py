"""A search for tests: the engine with learning curves in place of training, a clock that tests
turn, and no Ray.

`Trainer` stands for a trial's process: it keeps its epoch in `last.pt`, goes on from there, and
reports what its checkpoint holds again when it does. A driver that is killed is a record writer
that raises after, or before, the record in question.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raudio.config.axes import Choice, Interval
from raudio.config.goal import Goal
from raudio.config.schema import Search
from raudio.core import storage
from raudio.core.errors import ConfigError
from raudio.core.storage import join
from raudio.records import (
    BEST,
    DONOR,
    JOURNAL,
    LAST,
    RECORDS,
    TRIALS,
    History,
    RecordWriter,
    read_history,
    read_records,
)
from raudio.search.engine import Engine, TrialSpec
from raudio.search.mirror import InPlace, Mirror
from raudio.search.prior import Prior
from raudio.search.replicates import Replicates
from raudio.search.sampler import Sampler
from raudio.search.scheduler import Scheduler
from raudio.search.space import Param, Space

METRIC = "valid/accuracy"
EPOCHS = 9
SPACE = Space(
    "test",
    params=(
        Param("model.width", Choice((8, 16, 99)), {}, "model.width"),
        Param("optimizer.lr", Interval(1e-4, 1.0, log=True), {}, "optimizer.lr"),
    ),
)
ENDED = ("completed", "pruned", "failed")


class KilledError(Exception):
    """The driver is gone."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Writer(RecordWriter):
    """Dies at a record: after it is on the disk, or just before."""

    def __init__(self, path: Path, deadline: float = math.inf, before: bool = False) -> None:
        super().__init__(path)
        self.deadline, self.before, self.count = deadline, before, 0

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        self.count += 1
        if self.before and self.count >= self.deadline:
            raise KilledError
        record = super().append(event, **fields)
        if self.count >= self.deadline:
            raise KilledError
        return record


def curve(params: Mapping[str, Any]) -> list[float]:
    """A trial's accuracy by epoch: best around lr 0.01, with a wobble of its own."""
    distance = abs(math.log10(params["optimizer.lr"]) + 2)
    level = 0.9 - 0.2 * distance + 0.02 * (params["model.width"] == 16)
    wobble = np.random.default_rng(int(params["optimizer.lr"] * 1e9)).normal(0, 0.005, EPOCHS)
    return [float(level * (1 - math.exp(-(e + 1) / 2)) + wobble[e]) for e in range(EPOCHS)]


def impossible(params: Mapping[str, Any]) -> Any:
    if params["model.width"] == 99:
        raise ConfigError("model.width=99 does not go with features.n_mels=8")
    return params


def possible(params: Mapping[str, Any]) -> Any:
    return params


class Session:
    """One driver on a run folder, from opening it to its end or death."""

    def __init__(
        self,
        run: Path,
        clock: Clock,
        *,
        deadline: float = math.inf,
        before: bool = False,
        time_budget: float | None = None,
        experiment_for: Any = impossible,
        mode: str = "max",
        goal: Goal | None = None,
        space: Space = SPACE,
        folds: Sequence[int] = (),
        prior: Prior | None = None,
        place: InPlace | Mirror | None = None,
        **settings: Any,
    ) -> None:
        self.run, self.clock, self.mode, self.goal = run, clock, mode, goal
        self.place = place or InPlace(str(run), run)
        modes = mode if goal is None else tuple(goal.objectives.values())
        prior = prior or Prior()
        search = Search(**{"trials": 12, "keep": 2, "seed": 1, **settings})
        resumed = (run / RECORDS).exists()
        past = list(read_records(run)) if resumed else []
        history = read_history(run) if resumed else History()
        self.records = Writer(run / RECORDS, deadline, before)
        self.seen: list[Mapping[str, Any]] = []
        self.engine = Engine(
            run,
            search,
            sampler=Sampler(space, search, modes, run / JOURNAL, prior.trials),
            scheduler=Scheduler(search, mode, EPOCHS, 1, space),
            replicates=Replicates(
                repeat=search.repeat,
                folds=folds,
                confirm=search.confirm,
                confirm_seeds=search.confirm_seeds,
            ),
            experiment_for=experiment_for,
            signature=lambda experiment: repr(experiment),
            records=self.records,
            history=history,
            past=past,
            answers=prior.answers,
            time_budget=time_budget,
            watch=self.seen.append,
            place=self.place,
            clock=clock,
        )
        self.engine.begin("0", METRIC, mode, goal=goal)
        self.trainers: dict[str, Trainer] = {}

    def drive(self, slots: int = 1, steps: float = math.inf, values: Any = curve) -> None:
        """Trains on `slots` until there is nothing left, or for some steps."""
        while steps > 0:
            while len(self.trainers) < slots and (spec := self.engine.next()) is not None:
                self.trainers[spec.id] = Trainer(self, spec, values)
            if not self.trainers or self.engine.broken or self.engine.used_up:
                return
            name = next(iter(self.trainers))
            trainer = self.trainers.pop(name)
            if trainer.step():
                self.trainers[name] = trainer  # behind the others
            steps -= 1

    def finish(self) -> History:
        self.drive()
        self.engine.close("completed", None)
        self.records.close()
        return read_history(self.run)


class Trainer:
    """A trial's process."""

    def __init__(self, session: Session, spec: TrialSpec, values: Any) -> None:
        self.session, self.id = session, spec.id
        self.folder = join(session.place.name, TRIALS, spec.id)
        trial = session.engine.history.trials[spec.id]
        self.values = values({**trial.params, "repeat": trial.repeat})
        # A search with a goal of its own knows of costs, too.
        width = trial.params.get("model.width", 0)
        self.costs = {"cost/params": 1000.0 * width} if session.goal else {}
        last, donor = join(self.folder, LAST), join(self.folder, DONOR)
        self.copied = storage.exists(donor)
        if self.copied:
            storage.write_atomic(last, storage.read_bytes(donor))
            storage.remove(donor)
        self.epoch = json.loads(storage.read_bytes(last)) if storage.exists(last) else 0
        self.repeat = self.epoch > 0

    def step(self) -> bool:
        """An epoch and its report, or those of the checkpoint again; whether it goes on."""
        goal = self.session.goal
        if goal is not None and not self.epoch and goal.broken(self.costs):
            self.session.engine.exclude(self.id, "over the limit", self.costs)
            return False
        if not self.repeat:
            self.epoch += 1
            self.session.clock.now += 1
            sign = -1 if self.session.mode == "min" else 1
            so_far = [sign * value for value in self.values[: self.epoch]]
            if so_far[-1] == max(so_far):
                storage.write_atomic(join(self.folder, BEST), json.dumps(self.epoch))
            storage.write_atomic(join(self.folder, LAST), json.dumps(self.epoch))
        first = self.repeat and not self.copied
        goes_on = True
        for epoch in range(1 if first else self.epoch, self.epoch + 1):
            metrics = {METRIC: self.values[epoch - 1], **self.costs}
            goes_on = self.session.engine.report(self.id, epoch, metrics, 1.0, epoch == EPOCHS)
        self.repeat = False
        return goes_on


def outcome(run: Path) -> dict[str, Any]:
    """All that a search leaves behind and that must not depend on interruptions."""
    history = read_history(run)
    storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
    study = optuna.load_study(study_name="raudio", storage=storage)
    one = len(study.directions) == 1
    return {
        "state": history.state,
        "ranked": [
            (t.id, t.state, t.kind, t.reason, t.value(METRIC, history.mode), t.epochs, t.params)
            for t in history.ranked()
        ],
        "reports": {t.id: t.reports for t in history.trials.values()},
        "study": [
            (
                t.state,
                t.values[0] if t.values and one else t.values,
                t.params,
                t.intermediate_values,
            )
            for t in study.trials
        ],
        "files": files(run),
    }


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.glob("trials/*/*.pt"))


def ends(run: Path) -> Counter[str]:
    """How often each trial has ended for good."""
    return Counter(
        record["id"]
        for record in read_records(run)
        if record["event"] == "trial_end" and record["state"] in ENDED
    )


def after_the_first_session(run: Path) -> list[Mapping[str, Any]]:
    """The records of all sessions but the first."""
    records = list(read_records(run))
    starts = [n for n, record in enumerate(records) if record["event"] == "search_start"]
    return records[starts[1] :] if len(starts) > 1 else []
