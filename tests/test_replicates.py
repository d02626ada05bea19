"""Several trials a configuration, and the confirmation of the best, on the engine of test_engine:
learning curves in place of training, no Ray.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from search_kit import (
    ENDED,
    EPOCHS,
    METRIC,
    Clock,
    KilledError,
    Session,
    after_the_first_session,
    ends,
    outcome,
)

from raudio.config import compose
from raudio.config.axes import Choice
from raudio.config.schema import Dataset, Search
from raudio.core.errors import ConfigError
from raudio.records import BEST, JOURNAL, LAST, read_history, trial_folder
from raudio.search.job import check
from raudio.search.replicates import Replicates, notes
from raudio.search.space import Param, Space


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in test_engine."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@dataclass(frozen=True)
class Made:
    """An experiment, as far as replicates change it."""

    params: Mapping[str, Any]
    seed: int = 7
    dataset: Dataset = field(default_factory=Dataset)


def made(params: Mapping[str, Any]) -> Any:
    return Made(params)


def noisy(params: Mapping[str, Any]) -> list[float]:
    """A curve whose end depends on the seed: those of one configuration differ by about 0.03."""
    level = 0.9 - 0.2 * abs(math.log10(params["optimizer.lr"]) + 2)
    seed = [int(params["optimizer.lr"] * 1e9), params["repeat"]]
    shift = np.random.default_rng(seed).normal(0, 0.03)
    return [float(level * (1 - math.exp(-(e + 1) / 2)) + shift) for e in range(EPOCHS)]


def search(run: Path, clock: Clock, **settings: Any) -> Session:
    return Session(run, clock, **{"experiment_for": made, "sampler": "random", **settings})


def finished(run: Path, clock: Clock, slots: int = 1, **settings: Any) -> Session:
    session = search(run, clock, **settings)
    end(session, slots)
    session.records.close()
    return session


def end(session: Session, slots: int = 1) -> None:
    session.drive(slots, values=noisy)
    session.engine.close("completed", None)


def study(run: Path) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(run / JOURNAL)))
    return optuna.load_study(study_name="raudio", storage=storage).trials


# --- which trials ------------------------------------------------------------------------------


def test_folds_take_turns_and_each_turn_has_the_next_seed() -> None:
    replicates = Replicates(repeat=2, folds=(1, 2, 4))
    trained = [replicates.experiment(made({}), number) for number in range(9)]
    assert replicates.trials == 6
    assert [(each.seed, each.dataset.fold) for each in trained] == [
        (7, 1), (7, 2), (7, 4), (8, 1), (8, 2), (8, 4), (9, 1), (9, 2), (9, 4),
    ]  # fmt: skip


def test_one_trial_a_configuration_is_the_experiment_itself() -> None:
    experiment = made({"a": 1})
    assert Replicates().experiment(experiment, 0) is experiment
    seeds = [Replicates(repeat=3).experiment(experiment, n) for n in range(3)]
    assert seeds == [dataclasses.replace(experiment, seed=7 + n) for n in range(3)]


@pytest.mark.parametrize(("slots", "settings"), [(1, {}), (3, {}), (3, {"folds": (0, 3)})])
def test_a_configuration_has_all_its_trials_or_ends_with_the_first_that_does(
    tmp_path: Path, clock: Clock, slots: int, settings: dict[str, Any]
) -> None:
    repeat = 4 // (1 + bool(settings))
    session = finished(tmp_path, clock, slots, trials=24, repeat=repeat, **settings)
    history = read_history(tmp_path)
    assert len(history.configurations) == 24  # what search.trials counts
    assert history.repeats == 4
    assert ends(tmp_path) == dict.fromkeys(history.trials, 1)
    for configuration in history.configurations.values():
        trials = configuration.trials
        assert [trial.repeat for trial in trials] == list(range(len(trials)))
        assert all(trial.params == trials[0].params for trial in trials)
        assert not configuration.confirming
        states = [trial.state for trial in trials]
        if configuration.state == "completed":
            assert states == ["completed"] * 4
        else:
            assert states == ["pruned"]
    assert len({c.state for c in history.configurations.values()}) == 2
    assert session.engine.exhausted


def test_the_first_trial_alone_is_compared_with_others(tmp_path: Path, clock: Clock) -> None:
    """Fold 3 is much harder than fold 0: its trials would all be pruned among those of fold 0."""

    def by_fold(params: Mapping[str, Any]) -> list[float]:
        return [value * (0.1 if params["repeat"] % 2 else 1) for value in noisy(params)]

    session = search(tmp_path, clock, trials=12, folds=(0, 3))
    session.drive(values=by_fold)
    alone = search(tmp_path / "alone", clock, trials=12, experiment_for=made)
    alone.drive(values=by_fold)
    configurations = session.engine.history.configurations
    first = [(c.trials[0].state, c.trials[0].reports) for c in configurations.values()]
    assert first == [(t.state, t.reports) for t in alone.engine.history.trials.values()]
    assert session.engine.scheduler.rungs() == alone.engine.scheduler.rungs()
    assert [len(c.trials) for c in configurations.values()] == [
        2 if state == "completed" else 1 for state, _ in first
    ]


# --- what a configuration is worth -------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max", "min"])
def test_optuna_has_one_trial_a_configuration_with_the_mean_of_its_trials(
    tmp_path: Path, clock: Clock, mode: str
) -> None:
    finished(tmp_path, clock, 2, trials=10, repeat=3, mode=mode)
    history = read_history(tmp_path)
    trials = study(tmp_path)
    assert [t.user_attrs["trial"] for t in trials] == list(history.configurations)
    best = max if mode == "max" else min
    for known, configuration in zip(trials, history.configurations.values(), strict=True):
        curves = [[r.metrics[METRIC] for r in t.reports] for t in configuration.trials]
        values = [best(curve) for curve in curves]
        assert known.intermediate_values == dict(enumerate(curves[0], start=1))
        assert known.user_attrs["values"] == values
        assert known.user_attrs["mean"] == pytest.approx(statistics.mean(values))
        if len(values) > 1:
            assert known.user_attrs["deviation"] == pytest.approx(statistics.stdev(values))
        else:
            assert "deviation" not in known.user_attrs
        if configuration.state == "completed":
            assert known.state == TrialState.COMPLETE
            assert known.value == pytest.approx(statistics.mean(values))
        else:
            assert known.state == TrialState.PRUNED
        assert known.user_attrs["epochs"] == sum(map(len, curves))


def test_whole_configurations_come_first_by_their_mean_and_the_best_trial_is_their_best(
    tmp_path: Path, clock: Clock
) -> None:
    finished(tmp_path, clock, trials=8, repeat=3, keep=2, scheduler="none")
    history = read_history(tmp_path)
    whole = [c for c in history.configurations.values() if c.state == "completed"]
    assert len(whole) > 2

    def mean(configuration: Any) -> float:
        return statistics.mean(t.value(METRIC, "max") for t in configuration.trials)

    whole.sort(key=mean, reverse=True)
    order = list(dict.fromkeys(trial.configuration for trial in history.ranked()))
    assert order[: len(whole)] == [configuration.id for configuration in whole]
    best = history.best()
    assert best is not None
    assert best is max(whole[0].trials, key=lambda t: t.value(METRIC, "max"))
    # The disk holds the best trial of each of the best `keep`, and nothing else.
    kept = {max(c.trials, key=lambda t: t.value(METRIC, "max")).id for c in whole[:2]}
    assert {path.parent.name for path in tmp_path.glob("trials/*/*.pt")} == kept
    assert not list(tmp_path.glob(f"trials/*/{LAST}"))


def test_a_lucky_seed_alone_is_not_the_best(tmp_path: Path, clock: Clock) -> None:
    """A configuration that has one value so far comes after one that has them all."""
    session = search(tmp_path, clock, trials=2, repeat=2, scheduler="none")
    engine = session.engine
    for value in (0.5, 0.6, 0.9):
        spec = engine.next()
        assert spec is not None
        engine.report(spec.id, EPOCHS, {METRIC: value}, 1.0, True)
    assert [trial.id for trial in engine.history.ranked()] == ["0001", "0000", "0002"]
    spec = engine.next()
    assert spec is not None
    engine.report(spec.id, EPOCHS, {METRIC: 0.4}, 1.0, True)
    assert engine.history.best() is engine.history.trials["0002"]  # mean 0.65


def test_a_configuration_with_a_trial_that_failed_has_failed(tmp_path: Path, clock: Clock) -> None:
    session = search(tmp_path, clock, trials=2, repeat=3, scheduler="none")
    engine = session.engine
    first = engine.next()
    assert first is not None
    engine.report(first.id, EPOCHS, {METRIC: 0.9}, 1.0, True)
    second = engine.next()
    assert second is not None
    engine.fail(second.id, "non-finite loss", "the loss is nan at step 7")
    assert engine.history.configurations[first.id].state == "failed"
    third = engine.next()
    assert third is not None
    assert engine.history.trials[third.id].configuration == third.id
    engine.report(third.id, 1, {METRIC: 0.1}, 1.0, False)
    assert engine.history.best() is engine.history.trials[third.id]
    (known, _) = study(tmp_path)
    assert known.state == TrialState.PRUNED
    assert known.user_attrs["state"] == "failed"


# --- confirmation ------------------------------------------------------------------------------

CONFIRMED = {"trials": 9, "repeat": 2, "confirm": 2, "confirm_seeds": 3, "seed": 2}


@pytest.mark.parametrize(("slots", "folds"), [(1, ()), (3, ()), (2, (1, 2))])
def test_the_best_are_trained_anew_whole_with_fresh_seeds(
    tmp_path: Path, clock: Clock, slots: int, folds: tuple[int, ...]
) -> None:
    session = finished(tmp_path, clock, slots, **{**CONFIRMED, "folds": folds})
    history = read_history(tmp_path)
    each = max(1, len(folds))
    assert history.confirmation is not None
    means = {
        c.id: (len(c.trials), statistics.mean(t.value(METRIC, "max") or 0 for t in c.trials))
        for c in history.configurations.values()
    }
    chosen = sorted(means, key=means.__getitem__, reverse=True)[:2]  # whole ones, then pruned ones
    assert list(history.confirmation.configurations) == chosen
    for name in chosen:
        configuration = history.configurations[name]
        trials = configuration.confirming
        assert [t.repeat for t in trials] == list(range(2 * each, 5 * each))
        assert {(t.state, t.epochs, t.confirms) for t in trials} == {("completed", EPOCHS, name)}
        values = [t.value(METRIC, "max") or 0.0 for t in trials]
        seeds = [statistics.mean(values[n : n + each]) for n in range(0, 3 * each, each)]
        assert configuration.confirmed(METRIC, "max", each) == pytest.approx(seeds)
        assert history.confirmed()[name] == pytest.approx(statistics.mean(values))
    others = [c for c in history.configurations.values() if c.id not in chosen]
    assert not any(c.confirming for c in others)
    winner = max(chosen, key=lambda name: history.confirmed()[name])
    best = history.best()
    assert best is not None
    confirming = history.configurations[winner].confirming
    assert best is max(confirming, key=lambda t: t.value(METRIC, "max") or 0)
    assert (trial_folder(tmp_path, best.id) / BEST).exists()
    assert not list(tmp_path.glob(f"trials/*/{LAST}"))
    assert len(study(tmp_path)) == 9  # the sampler knows nothing of it
    assert session.engine.exhausted
    assert search(tmp_path, clock, **{**CONFIRMED, "folds": folds}).engine.exhausted


def test_what_was_drawn_twice_is_confirmed_once(tmp_path: Path, clock: Clock) -> None:
    """It would be compared with itself, and the next best with nothing."""
    few = Space(
        "few",
        params=(
            Param("model.width", Choice((8, 16)), {}, "model.width"),
            Param("optimizer.lr", Choice((0.01, 0.02)), {}, "optimizer.lr"),
        ),
    )
    finished(tmp_path, clock, **{**CONFIRMED, "space": few, "confirm": 3, "sampler": "random"})
    history = read_history(tmp_path)
    drawn = [str(each.trials[0].params) for each in history.configurations.values()]
    assert len(set(drawn)) < len(drawn) == 9
    assert history.confirmation is not None
    chosen = [history.configurations[name] for name in history.confirmation.configurations]
    assert len({str(each.trials[0].params) for each in chosen}) == len(chosen) == 3


def test_the_confirmed_take_turns(tmp_path: Path, clock: Clock) -> None:
    finished(tmp_path, clock, **CONFIRMED)
    history = read_history(tmp_path)
    assert history.confirmation is not None
    order = [t.confirms for t in history.trials.values() if t.confirms]
    assert order == list(history.confirmation.configurations) * 3


def test_what_is_confirmed_later_or_with_more_seeds_keeps_what_there_is(
    tmp_path: Path, clock: Clock
) -> None:
    finished(tmp_path, clock, **{**CONFIRMED, "confirm": 0})
    assert read_history(tmp_path).confirmation is None
    finished(tmp_path, clock, **{**CONFIRMED, "confirm_seeds": 2})
    before = {t.id: t.reports for t in read_history(tmp_path).trials.values()}
    finished(tmp_path, clock, **{**CONFIRMED, "confirm_seeds": 3})
    history = read_history(tmp_path)
    assert {t.id: t.reports for t in history.trials.values() if t.id in before} == before
    assert len(history.trials) == len(before) + 2
    whole = finished(tmp_path / "whole", clock, **CONFIRMED).engine.history
    assert history.confirmed() == whole.confirmed()


def test_time_that_ends_in_the_confirmation_stops_it_and_it_goes_on(
    tmp_path: Path, clock: Clock
) -> None:
    whole = finished(tmp_path / "whole", clock, **CONFIRMED)
    searched = next(
        n for n, t in enumerate(whole.engine.history.trials.values()) if t.confirms is not None
    )
    epochs = sum(t.epochs for t in list(whole.engine.history.trials.values())[:searched])
    run = tmp_path / "stopped"
    first = search(run, clock, time_budget=epochs + 14.0, **CONFIRMED)
    first.drive(values=noisy)
    assert (first.engine.used_up or "").startswith("time budget")
    first.engine.close("completed", "time budget")
    first.records.close()
    history = read_history(run)
    assert [t.state for t in history.trials.values() if t.confirms] == ["completed", "stopped"]
    assert history.confirmed() == {}  # one of them alone decides nothing
    best = history.best()
    assert best is not None
    assert best.configuration == history.confirmation.configurations[0]  # type: ignore[union-attr]
    finished(run, clock, time_budget=1e9, **CONFIRMED)
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    "budget", [{"epochs_budget": 30}, {"cost_budget": "30s"}, {"target": 0.5}, {"patience": 4}]
)
def test_a_budget_ends_the_search_and_what_is_best_is_confirmed(
    tmp_path: Path, clock: Clock, budget: dict[str, Any]
) -> None:
    settings = {**CONFIRMED, "trials": 50, "confirm": 1, **budget}
    finished(tmp_path, clock, **settings)
    history = read_history(tmp_path)
    assert len(history.configurations) < 50
    assert len(history.confirmed()) == 1
    assert {trial.state for trial in history.trials.values()} <= set(ENDED)
    assert search(tmp_path, clock, **settings).engine.exhausted


# --- interruptions -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("before", "folds"), [(True, ()), (False, (1, 2))])
def test_killed_at_every_record_it_ends_as_if_nothing_had_happened(
    tmp_path: Path, clock: Clock, before: bool, folds: tuple[int, ...]
) -> None:
    repeat = 1 if folds else 2
    settings = {"trials": 4, "repeat": repeat, "confirm": 2, "confirm_seeds": 2, "folds": folds}
    whole = finished(tmp_path / "whole", clock, **settings)
    expected, count = result(tmp_path / "whole"), whole.records.count
    assert {state for _, state, *_ in expected["ranked"]} == {"completed", "pruned"}
    events = Counter(record["event"] for record in whole.seen)
    assert events["confirmation"] == 1
    # Every record that is not one report among many; and of those some.
    deadlines = [
        number
        for number, record in enumerate(whole.seen, start=1)
        if number > 1 and (record["event"] != "report" or record["epoch"] in (2, EPOCHS))
    ]
    for deadline in deadlines:
        run = tmp_path / str(deadline)
        session = search(run, clock, deadline=deadline, before=before, **settings)
        with pytest.raises(KilledError):
            end(session)
        session.records.close()
        if deadline == count and not before:
            continue
        done = ends(run)
        finished(run, clock, **settings)
        assert result(run) == expected, f"killed at record {deadline}"
        assert set(ends(run).values()) == {1}
        started = [r["id"] for r in after_the_first_session(run) if r["event"] == "trial_start"]
        assert not set(started) & set(done), "a finished trial ran again"


def result(run: Path) -> dict[str, Any]:
    history = read_history(run)
    found = outcome(run)
    found["configurations"] = {
        name: [[(t.id, t.repeat, t.signature) for t in part] for part in (c.trials, c.confirming)]
        for name, c in history.configurations.items()
    }
    found["confirmation"] = (history.confirmation, history.confirmed())
    found["attributes"] = [
        {key: t.user_attrs.get(key) for key in ("trial", "mean", "deviation", "values", "state")}
        for t in study(run)
    ]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("slots", [2, 3])
def test_killed_with_several_slots_nothing_is_lost_and_nothing_runs_twice(
    tmp_path: Path, clock: Clock, slots: int
) -> None:
    for deadline in range(4, 90, 21):
        run = tmp_path / str(deadline)
        first = search(run, clock, deadline=deadline, **CONFIRMED)
        with pytest.raises(KilledError):
            first.drive(slots, values=noisy)
        first.records.close()
        known = {trial.id: trial.reports for trial in read_history(run).trials.values()}
        done = set(ends(run))
        finished(run, clock, slots, **CONFIRMED)
        history = read_history(run)
        assert all(history.trials[name].reports[: len(r)] == r for name, r in known.items())
        again = {r["id"] for r in after_the_first_session(run) if r["event"] == "trial_start"}
        assert not again & done
        assert len(history.configurations) == 9
        assert all(trial.state in ENDED for trial in history.trials.values())
        assert len(history.confirmed()) == 2
        numbers = [[t.repeat for t in c.trials] for c in history.configurations.values()]
        assert all(found == list(range(len(found))) for found in numbers)


# --- what is said and refused ------------------------------------------------------------------


def test_notes_say_what_a_configuration_costs() -> None:
    assert notes(Search(), ()) == ()
    (said,) = notes(Search(repeat=2), (0, 1, 2))
    assert said.startswith("a configuration is 6 trials (search.repeat=2, 3 folds)")
    (said,) = notes(Search(confirm=2, confirm_seeds=4), ())
    assert said == "the best 2 are then trained anew, 4 trials each, to confirm them"
    (said,) = notes(Search(confirm=2, trials=1), ())
    assert said == "the best one is then trained anew, 3 trials each, to confirm it"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.confirm=2", "search.time_budget=1m"], r"search.confirm=2 .* set search.trials"),
        (["search.folds=true"], r"has no folds outside its test split.*--folds K"),
        (["dataset.fold=choice(0,1)"], r"has no folds outside its test split"),
    ],
)
def test_what_cannot_be_replicated_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises((ConfigError, Exception), match=message):
        check(overrides, echo=lambda text: None)


def test_all_settings_have_their_bounds() -> None:
    for wrong in ("search.repeat=0", "search.confirm=-1", "search.confirm_seeds=1"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0]):
            compose.compose([wrong])
    assert all(itertools.starmap(hasattr, ((Search(), n) for n in ("repeat", "folds", "confirm"))))
