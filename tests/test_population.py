"""Population based training: by hand, against Tune's own quantiles, and through the engine, killed
at every record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import PopulationBasedTraining
from search_kit import (
    EPOCHS,
    METRIC,
    Clock,
    KilledError,
    Session,
    Trainer,
    curve,
    ends,
    outcome,
    possible,
)

from raudio.config.axes import Choice, Interval, Range
from raudio.config.schedulers import PBT
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.records import DONOR, JOURNAL, read_history, read_records, trial_folder
from raudio.search.population import Population, changeable
from raudio.search.scheduler import Scheduler
from raudio.search.space import Param, Space

LR = Param("optimizer.lr", Interval(1e-4, 1.0, log=True), {}, "optimizer.lr")
WIDTH = Param("model.width", Choice((8, 16)), {}, "model.width")
SPACE = Space("test", params=(WIDTH, LR))


def param(key: str, axis: Any, **when: tuple[Any, ...]) -> Param:
    return Param(key, axis, when, key)


def population(mode: str = "max", *, epochs: int = 9, grace: int = 1, **given: Any) -> Population:
    settings = {"interval": 2, **{k: v for k, v in given.items() if k in vars(PBT())}}
    others = {k: v for k, v in given.items() if k not in vars(PBT())}
    return Population(
        mode,
        epochs,
        grace,
        PBT(**settings),
        **{"trials": 8, "seed": 0, "space": SPACE, **others},
    )


# --- who copies whom ---------------------------------------------------------------------------


def test_quantiles_by_hand() -> None:
    """Eight trials at epoch 2, a quarter of them: the worst two copy one of the best two."""
    trained = population()
    ids = [f"{number:04d}" for number in range(8)]
    for number, trial in enumerate(ids):
        assert trained.report(trial, 1, 1 - number)  # no comparison there
        assert trained.report(trial, 2, number)
    assert {trained.donor(trial, ids) for trial in ids[2:]} == {None}
    assert {trained.donor(trial, ids) for trial in ids[:2]} <= set(ids[6:])
    # Of those with a checkpoint, and once: whoever went on from an epoch is not compared again.
    assert trained.donor(ids[0], ids[:7]) == ids[6]
    assert trained.donor(ids[0], ids[:6]) is None
    trained.had_turn(ids[0])
    assert trained.donor(ids[0], ids) is None


@pytest.mark.parametrize("mode", ["max", "min"])
@given(st.lists(st.floats(0, 1), min_size=4, max_size=20, unique=True), st.sampled_from([0.2, 0.5]))
def test_the_quantiles_are_those_of_tune(mode: str, values: list[float], quantile: float) -> None:
    ray = PopulationBasedTraining(
        metric="m",
        mode=mode,
        perturbation_interval=1,
        quantile_fraction=quantile,
        hyperparam_mutations={"a": [1]},
    )
    sign = -1 if mode == "min" else 1
    for number, value in enumerate(values):
        trial = SimpleNamespace(trial_id=f"{number:04d}", is_finished=lambda: False)
        ray._trial_state[Hashable(trial)] = SimpleNamespace(last_score=sign * value)
    lower, upper = ([each.trial_id for each in part] for part in ray._quantiles())
    ours = population(mode, quantile=quantile)
    ids = [f"{number:04d}" for number in range(len(values))]
    for trial, value in zip(ids, values, strict=True):
        ours.report(trial, 2, value)
    enough = len(values) >= 1 / quantile
    assert [t for t in ids if ours.donor(t, ids)] == (sorted(lower) if enough else [])
    for trial in lower if enough else []:
        assert ours.donor(trial, ids) in upper


class Hashable:
    def __init__(self, trial: SimpleNamespace) -> None:
        self.trial_id, self.is_finished = trial.trial_id, trial.is_finished


def test_equals_are_left_alone_and_few_are_not_compared() -> None:
    trained = population()
    ids = ["0000", "0001", "0002", "0003"]
    for trial in ids[:3]:
        trained.report(trial, 2, float(trial))
        assert trained.donor("0000", ids) is None  # a quarter of three is nobody
    for trial in ids:
        trained.report(trial, 4, 0.5)
    assert trained.donor("0000", ids) is None


def test_turns() -> None:
    """Who is in the middle of an interval, then who is behind; a new one is behind all."""
    trained = population(interval=3)
    assert sorted([6, 5, 3, 0, 4], key=trained.turn) == [4, 5, 0, 3, 6]


# --- what changes ------------------------------------------------------------------------------


def test_what_can_change_leaves_the_weights_and_the_schedule_alone() -> None:
    number = Interval(0.0, 0.5)
    can = [
        param("optimizer.lr", number),
        param("model.dropout", number),
        param("model.rnn_dropout", number),
        param("augment.noise.p", number),
        param("task.label_smoothing", number),
        param("training.clip_norm", number),
    ]
    cannot = [
        param("model", Choice(("cnn", "crnn"))),
        param("model.width", Choice((8, 16))),
        param("optimizer", Choice(("adamw", "sgd"))),
        param("schedule.warmup", number),
        param("features.n_mels", Range(32, 129, 32)),
        param("training.batch_size", Choice((16, 32))),
        param("seed", Choice((0, 1))),
        param("optimizer.weight_decay", Choice((0.1,))),  # one value
        param("optimizer.momentum", Choice((0.8, 0.9))),  # decides on another
        param("training.steps", number, **{"optimizer.momentum": (0.9,)}),
    ]
    assert changeable(Space("test", params=(*cannot, *can))) == can


def test_a_setting_changes_a_little_or_is_drawn_anew() -> None:
    axes = {
        "optimizer.lr": Interval(1e-4, 1e-1, log=True),
        "optimizer.weight_decay": Interval(0.0, 1.0),
        "augment.noise.p": Choice((0.0, 0.1, 0.2, 0.3)),
        "augment.gain.p": Range(0.0, 1.0, 0.25),
        "model.dropout": Choice((0.0, 0.5)),
    }
    space = Space("test", params=(*(param(k, axis) for k, axis in axes.items()), WIDTH))
    given = dict(zip(axes, (1e-2, 0.5, 0.1, 0.5, 0.5), strict=True)) | {"model.width": 16}
    near = {
        "optimizer.lr": {0.8e-2, 1.2e-2},
        "optimizer.weight_decay": {0.4, 0.6},
        "augment.noise.p": {0.0, 0.2},
        "augment.gain.p": {0.25, 0.75},
        "model.dropout": {0.0, 0.5},  # the next one, or the end
        "model.width": {16},
    }
    seen: dict[str, set[Any]] = {key: set() for key in near}
    for number in range(200):
        trained = population(space=space, resample=0.0)
        trained.report(f"{number:04d}", 2, 0.5)
        for key, value in trained.changed(f"{number:04d}", given).items():
            seen[key].add(round(value, 9))
    assert seen == near
    seen = {key: set() for key in near}
    for number in range(200):
        trained = population(space=space, resample=1.0)
        trained.report(f"{number:04d}", 2, 0.5)
        for key, value in trained.changed(f"{number:04d}", given).items():
            seen[key].add(value)
    assert seen["augment.noise.p"] == {0.0, 0.1, 0.2, 0.3}
    assert seen["augment.gain.p"] == {0.0, 0.25, 0.5, 0.75}
    assert len(seen["optimizer.lr"]) == 200
    logs = np.log10(sorted(seen["optimizer.lr"]))
    assert (logs[0] >= -4) & (logs[-1] <= -1) & (abs(np.median(logs) + 2.5) < 0.3)


@given(st.floats(1e-4, 1.0), st.integers(0, 10**6), st.floats(0, 1))
def test_a_changed_setting_stays_within_its_axis(lr: float, number: int, resample: float) -> None:
    whole = param("optimizer.k", Interval(1, 9, integer=True))
    trained = population(space=Space("test", params=(LR, whole)), resample=resample)
    trained.report(str(number), 2, 0.5)
    params = trained.changed(str(number), {"optimizer.lr": lr, "optimizer.k": 9})
    assert 1e-4 <= params["optimizer.lr"] <= 1.0
    assert params["optimizer.k"] in range(1, 10)
    assert trained.changed(str(number), {"optimizer.lr": lr, "optimizer.k": 9}) == params


# --- through the engine ------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "scheduler": "pbt",
    "sampler": "random",
    "trials": 6,
    "pbt": PBT(interval=2),
    "space": SPACE,
    "experiment_for": possible,
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def exploits(run: Path) -> list[Mapping[str, Any]]:
    return [record for record in read_records(run) if record["event"] == "exploit"]


@pytest.mark.parametrize("slots", [1, 3, 6, 9])
def test_a_population_trains_to_its_end(tmp_path: Path, clock: Clock, slots: int) -> None:
    session = Session(tmp_path, clock, **SETTINGS)
    session.drive(slots=slots)
    history = session.finish()
    assert ends(tmp_path) == {f"{number:04d}": 1 for number in range(6)}
    assert {trial.state for trial in history.trials.values()} == {"completed"}
    assert {trial.epochs for trial in history.trials.values()} == {EPOCHS}
    assert exploits(tmp_path)
    params: dict[str, Any] = {}
    for record in read_records(tmp_path):
        if record["event"] == "exploit":
            width = params[record["donor"]]["model.width"]
            assert record["params"]["model.width"] == width  # comes with the weights
            assert record["donor"] in history.trials[record["id"]].donors
        if "params" in record:
            params[record["id"]] = record["params"]
    for trial in history.trials.values():
        # On from where the donor stands, never back to where it stood itself.
        reported = [report.epoch for report in trial.reports]
        assert reported == sorted(set(reported))
        assert trial.params == params[trial.id]
    assert list(tmp_path.glob(f"trials/*/{DONOR}")) == []


def test_whoever_waits_is_compared_with_all(tmp_path: Path, clock: Clock) -> None:
    """One slot: the trials go on in turns, and the two worst of six copy, at every interval."""
    Session(tmp_path, clock, **SETTINGS).finish()
    reports = [(r["epoch"], r["id"]) for r in read_records(tmp_path) if r["event"] == "report"]
    firsts = [epoch for epoch, _ in reports[:12]]
    assert firsts == [1, 2] * 6  # all come to the first comparison before anybody goes on
    found = [record["id"] for record in exploits(tmp_path)]
    second = [r for r in read_records(tmp_path) if r["event"] == "report" and r["epoch"] == 2]
    values = {record["id"]: record["metrics"][METRIC] for record in second}
    worst = sorted(values, key=lambda name: values[name])[:2]
    assert found[:2] == sorted(worst)


def test_optuna_knows_the_first_settings_and_the_last(tmp_path: Path, clock: Clock) -> None:
    history = Session(tmp_path, clock, **SETTINGS).finish()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    study = optuna.load_study(study_name="raudio", storage=storage)
    drawn = {
        r["id"]: r["params"] for r in reversed(list(read_records(tmp_path))) if "signature" in r
    }
    for trial in study.trials:
        known = history.trials[trial.user_attrs["trial"]]
        assert trial.params == drawn[known.id]
        assert trial.user_attrs.get("params", trial.params) == known.params
        assert trial.user_attrs.get("donors", []) == list(known.donors)
    assert any(trial.donors for trial in history.trials.values())


def test_changed_settings_that_cannot_work_are_the_donor_s(tmp_path: Path, clock: Clock) -> None:
    drawn: set[float] = set()

    def only_drawn(params: Mapping[str, Any]) -> Any:
        if len(drawn) >= 6 and params["optimizer.lr"] not in drawn:
            raise ConfigError("never seen")
        drawn.add(params["optimizer.lr"])
        return params

    history = Session(tmp_path, clock, **{**SETTINGS, "experiment_for": only_drawn}).finish()
    assert exploits(tmp_path)
    assert all(record["params"]["optimizer.lr"] in drawn for record in exploits(tmp_path))
    assert {trial.state for trial in history.trials.values()} == {"completed"}


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_record_a_population_ends_as_if_nothing_had_happened(
    tmp_path: Path, clock: Clock, before: bool
) -> None:
    few = {**SETTINGS, "trials": 4, "pbt": PBT(interval=4, quantile=0.5)}
    whole = Session(tmp_path / "whole", clock, **few)
    whole.finish()
    expected, count = outcome(tmp_path / "whole"), whole.records.count
    copied = [replace_time(record) for record in exploits(tmp_path / "whole")]
    assert len(copied) > 1
    for deadline in range(2, count + 1):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=deadline, before=before, **few).finish()
        if deadline < count or before:
            Session(run, clock, **few).finish()
        assert outcome(run) == expected, f"killed at record {deadline}"
        assert [replace_time(record) for record in exploits(run)] == copied
        assert set(ends(run).values()) == {1}


def replace_time(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "time"}


@pytest.mark.slow
def test_killed_with_several_slots_a_population_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    for deadline in range(3, 60, 7):
        run = tmp_path / str(deadline)
        first = Session(run, clock, deadline=deadline, **SETTINGS)
        with pytest.raises(KilledError):
            first.drive(slots=3)
        first.records.close()
        known = {trial.id: trial.reports for trial in read_history(run).trials.values()}
        second = Session(run, clock, **SETTINGS)
        second.drive(slots=3)
        history = second.finish()
        assert ends(run) == {f"{number:04d}": 1 for number in range(6)}
        assert all(history.trials[name].reports[: len(r)] == r for name, r in known.items())


def test_the_copy_is_the_donor_s_last_checkpoint(tmp_path: Path, clock: Clock) -> None:
    session = Session(tmp_path, clock, **SETTINGS)
    while not exploits(tmp_path):
        spec = session.engine.next()
        assert spec is not None
        if found := exploits(tmp_path):
            copy = trial_folder(tmp_path, spec.id) / DONOR
            assert json.loads(copy.read_text()) == found[0]["epoch"]
            assert spec.experiment == found[0]["params"]
            assert spec.id == found[0]["id"]
            break
        trainer = Trainer(session, spec, curve)
        while trainer.step():
            pass


# --- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "space", "said"),
    [
        (Search(sampler="grid"), SPACE, "grid tries every cell as it is"),
        (Search(repeat=2), SPACE, "leave out search.repeat"),
        (Search(confirm=2), SPACE, "leave out search.repeat"),
        (Search(pbt=PBT(interval=9)), SPACE, "every 9 epochs .* never in trials of 9"),
        (Search(trials=3), SPACE, "trials=3 is too small .*quantile=0.25, which needs 4"),
        (Search(time_budget="5m"), SPACE, "needs search.trials"),
        (Search(), Space("none", params=(WIDTH,)), "nothing to change: .*optimizer"),
    ],
)
def test_what_cannot_be_a_population_is_refused(search: Search, space: Space, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Scheduler(replace(search, scheduler="pbt"), "max", 9, 1, space)


def test_it_is_on_the_command_line() -> None:
    from raudio.search.job import check

    given = ["search.scheduler=pbt", "training.epochs=9"]
    assert check(given, echo=print).configuration.search.pbt.quantile == 0.25
    with pytest.raises(ConfigError, match=r"one process, and resources\.workers=2"):
        check([*given, "resources.workers=2", "cluster.cpus=2"], echo=print)


# --- with Ray ----------------------------------------------------------------------------------


@pytest.mark.ray
def test_the_copied_weights_are_the_donor_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose rate is next to nothing keeps, to its end, the weights that it was given."""
    import torch

    from raudio import checkpoint
    from raudio.search import runner
    from raudio.search.mirror import InPlace

    given: dict[str, dict[str, Any]] = {}

    def keep(self: InPlace, source: str, target: str) -> None:
        copy(self, source, target)
        path = tmp_path / "run" / target
        given[path.parent.name] = checkpoint.load(path)

    copy = InPlace.copy
    monkeypatch.setattr(InPlace, "copy", keep)
    result = runner.search(
        "search.scheduler=pbt",
        "search.pbt.interval=1",
        "search.pbt.resample=0",
        "search.pbt.quantile=0.5",
        "search.grace=1",
        "search.sampler=random",
        "search.trials=4",
        "search.concurrency=2",
        "search.keep=4",
        "space=optimizer",
        "optimizer=adamw",
        "optimizer.lr=choice(1e-9,1e-2)",
        "optimizer.weight_decay=0",
        "schedule=constant",
        "model=cnn",
        "model.width=8",
        "model.depth=3",
        "features.n_mels=32",
        "training.epochs=3",
        "run.export=false",
        f"run.dir={tmp_path / 'run'}",
        quiet=True,
    )
    trials = result.history.trials
    assert {trial.state for trial in trials.values()} == {"completed"}
    still = [t for t in trials.values() if t.donors and t.params["optimizer.lr"] == 1e-9]
    assert still
    for trial in still:
        best = checkpoint.load(trial_folder(result.run, trial.id) / "best.pt")
        donor = given[trial.id]
        assert best["epoch"] > donor["epoch"]
        for name, weights in best["model"].items():
            if name.startswith("model.") and weights.is_floating_point() and "running" not in name:
                torch.testing.assert_close(weights, donor["model"][name], atol=1e-6, rtol=0)
