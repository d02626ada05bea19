"""The sampler against Optuna's own journal: draws, states, and a study rebuilt from records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raudio.config.axes import Choice, Interval, Range
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.search.sampler import STARTUP_TRIALS, Sampler
from raudio.search.space import Param, Space

SPACE = Space(
    "test",
    params=(
        Param("model", Choice(("cnn", "crnn")), {}, "model"),
        Param("optimizer.lr", Interval(1e-4, 1e-1, log=True, integer=False), {}, "optimizer.lr"),
        Param("features.n_mels", Range(32, 129, 32), {}, "features.n_mels"),
        Param("model.rnn_layers", Choice((1, 2)), {"model": ("crnn",)}, "model.rnn_layers"),
    ),
)
GRID = Space("grid", params=(SPACE.params[0], SPACE.params[2], SPACE.params[3]))


def sampler(path: Path, space: Space = SPACE, mode: str = "max", **settings: Any) -> Sampler:
    return Sampler(space, Search(**settings), mode, path)


def stored(path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of a journal, read by Optuna alone."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="raudio", storage=storage).trials


def value_of(params: dict[str, Any]) -> float:
    """A result for the sampler to learn from."""
    return -abs(params["optimizer.lr"] - 0.01) + 0.1 * (params["model"] == "cnn")


def drive(draw: Sampler, count: int) -> list[dict[str, Any]]:
    """`count` trials in turn: completed, pruned, failed, completed, ..."""
    drawn = []
    for index in range(count):
        name = str(index)
        params = draw.ask(name)
        drawn.append(params)
        for epoch in (1, 2):
            draw.report(name, epoch, value_of(params) / (3 - epoch))
        state = ("completed", "pruned", "failed", "completed")[index % 4]
        draw.tell(name, state, value_of(params) if state == "completed" else None, {})
    return drawn


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_draws_repeat_by_seed_and_differ_by_number(tmp_path: Path, kind: str) -> None:
    count = STARTUP_TRIALS + 8
    first = drive(sampler(tmp_path / "a", sampler=kind, seed=3), count)
    assert drive(sampler(tmp_path / "b", sampler=kind, seed=3), count) == first
    assert drive(sampler(tmp_path / "c", sampler=kind, seed=4), count) != first
    assert len({params["optimizer.lr"] for params in first}) == count


def test_random_draws_do_not_depend_on_what_became_of_the_others(tmp_path: Path) -> None:
    told = drive(sampler(tmp_path / "a", sampler="random"), 6)
    untold = sampler(tmp_path / "b", sampler="random")
    assert [untold.ask(str(index)) for index in range(6)] == told


def test_tpe_learns(tmp_path: Path) -> None:
    """Where one model is always better, TPE draws it far more often than chance."""
    drawn = drive(sampler(tmp_path / "a"), 40)
    late = Counter(params["model"] for params in drawn[STARTUP_TRIALS:])
    assert late["cnn"] > 2 * late["crnn"]


def test_tpe_keeps_away_from_what_fails(tmp_path: Path) -> None:
    """Optuna learns nothing from trials that FAILed, and would go there for ever."""
    draw = sampler(tmp_path / "a", seed=2)
    models = []
    for index in range(40):
        name = str(index)
        params = draw.ask(name)
        models.append(params["model"])
        if params["model"] == "cnn":
            draw.tell(name, "failed", None, {})
        else:
            draw.tell(name, "completed", -abs(params["optimizer.lr"] - 0.01), {})
    assert models[:STARTUP_TRIALS].count("cnn") >= 2  # it did meet the failures
    assert models[STARTUP_TRIALS:].count("cnn") <= 6


def test_settings_of_a_branch_are_drawn_on_that_branch_alone(tmp_path: Path) -> None:
    for params in drive(sampler(tmp_path / "a"), 24):
        assert ("model.rnn_layers" in params) == (params["model"] == "crnn")
        assert 1e-4 <= params["optimizer.lr"] <= 1e-1
        assert params["features.n_mels"] in (32, 64, 96, 128)


def test_optuna_learns_how_each_trial_ended(tmp_path: Path) -> None:
    draw = sampler(tmp_path / "journal")
    for index in range(4):
        draw.ask(str(index))
    draw.report("0", 1, 0.2)
    draw.report("0", 2, 0.5)
    draw.tell("0", "completed", 0.5, {"epochs": 2})
    draw.report("1", 1, 0.3)
    draw.tell("1", "pruned", 0.3, {"reason": "worse"})
    draw.tell("2", "failed", None, {})
    done, pruned, failed, running = stored(tmp_path / "journal")
    assert (done.state, done.value) == (TrialState.COMPLETE, 0.5)
    assert done.intermediate_values == {1: 0.2, 2: 0.5}
    assert done.user_attrs == {"trial": "0", "epochs": 2}
    # Pruned, not complete at the value it was stopped at: TPE would mix fidelities.
    assert pruned.state == TrialState.PRUNED
    assert pruned.intermediate_values == {1: 0.3}
    assert pruned.user_attrs == {"trial": "1", "reason": "worse"}
    # Infeasible, without a value: see test_tpe_keeps_away_from_what_fails.
    assert (failed.state, failed.value) == (TrialState.PRUNED, None)
    assert failed.constraints == {"failed": 1.0}
    assert not done.constraints
    assert not pruned.constraints
    assert running.state == TrialState.RUNNING


@pytest.mark.parametrize(
    ("mode", "direction"),
    [("max", optuna.study.StudyDirection.MAXIMIZE), ("min", optuna.study.StudyDirection.MINIMIZE)],
)
def test_direction(tmp_path: Path, mode: str, direction: optuna.study.StudyDirection) -> None:
    sampler(tmp_path / "journal", mode=mode)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
    assert optuna.load_study(study_name="raudio", storage=storage).direction == direction


def test_journal_holds_what_was_drawn(tmp_path: Path) -> None:
    drawn = drive(sampler(tmp_path / "journal"), 12)
    assert [trial.params for trial in stored(tmp_path / "journal")] == drawn


def test_grid_gives_every_cell_once(tmp_path: Path) -> None:
    draw = sampler(tmp_path / "journal", GRID, sampler="grid")
    # cnn: 4 mel counts; crnn: 4 mel counts with 1 or 2 layers.
    assert draw.limit == 12
    cells = [draw.ask(str(index)) for index in range(12)]
    expected = [{"model": "cnn", "features.n_mels": mels} for mels in (32, 64, 96, 128)] + [
        {"model": "crnn", "features.n_mels": mels, "model.rnn_layers": layers}
        for mels in (32, 64, 96, 128)
        for layers in (1, 2)
    ]
    as_set = [tuple(sorted(params.items())) for params in cells]
    assert sorted(as_set) == sorted(tuple(sorted(cell.items())) for cell in expected)


def test_a_grid_needs_steps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"grid needs steps, but optimizer\.lr"):
        sampler(tmp_path / "journal", sampler="grid")
    assert sampler(tmp_path / "journal").limit is None


@pytest.mark.parametrize("kind", ["tpe", "random", "grid"])
@pytest.mark.parametrize("known", [1, 7, 11])
def test_a_rebuilt_study_draws_what_the_uninterrupted_one_would_have(
    tmp_path: Path, kind: str, known: int
) -> None:
    space = GRID if kind == "grid" else SPACE

    def play(draw: Sampler, number: int, params: dict[str, Any]) -> None:
        value = params["features.n_mels"] / 128 + params.get("optimizer.lr", 0.0)
        draw.report(str(number), 1, value / 2)
        if number % 3 == 1:
            draw.tell(str(number), "pruned", None, {})
        elif number % 5 != 4:
            draw.report(str(number), 2, value)
            draw.tell(str(number), "completed", value, {})
        # else: it goes on running

    whole = sampler(tmp_path / "whole", space, sampler=kind)
    expected = []
    for number in range(12):
        expected.append(whole.ask(str(number)))
        play(whole, number, expected[-1])

    # The records' settings, through the JSON that they are kept in.
    rebuilt = sampler(tmp_path / "rebuilt", space, sampler=kind)
    for number in range(known):
        assert rebuilt.ask(str(number), expected[number]) == expected[number]
        play(rebuilt, number, expected[number])
    drawn = []
    for number in range(known, 12):
        drawn.append(rebuilt.ask(str(number)))
        play(rebuilt, number, drawn[-1])
    assert drawn == expected[known:]


def test_a_rebuilt_study_replaces_the_journal(tmp_path: Path) -> None:
    drive(sampler(tmp_path / "journal"), 5)
    drive(sampler(tmp_path / "journal"), 2)
    assert len(stored(tmp_path / "journal")) == 2


def test_params_with_one_value_survive_a_rebuild(tmp_path: Path) -> None:
    """A choice of one is not drawn by Optuna, but it is a setting of the trial."""
    width = Param("model.width", Choice((8,)), {}, "model.width")
    space = Space("one", params=(width, SPACE.params[1]))
    first = sampler(tmp_path / "a", space).ask("0")
    assert first["model.width"] == 8
    assert sampler(tmp_path / "b", space).ask("0", first) == first
