"""The sampler against Optuna's own journal: draws, states, and a study rebuilt from records."""

from __future__ import annotations

import math
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import scipy
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raudio.config.axes import Choice, Interval, Range
from raudio.config.expressions import parse
from raudio.config.samplers import CMAES, GP, NSGA, QMC, SAMPLERS, TPE
from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.search.draws import draws
from raudio.search.sampler import Sampler, examples
from raudio.search.samplers import check, notes
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
#: Trials that TPE draws at random before it has enough to model.
STARTUP_TRIALS = Search().tpe.startup
GRID = Space("grid", params=(SPACE.params[0], SPACE.params[2], SPACE.params[3]))

GP_IS_SLOW = pytest.param("gp", marks=pytest.mark.slow)
KINDS = [*(kind for kind in SAMPLERS if kind != "gp"), GP_IS_SLOW]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's journal syncs every line to the disk, which takes most of the time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def sampler(path: Path, space: Space = SPACE, mode: str = "max", **settings: Any) -> Sampler:
    return Sampler(space, Search(**settings), mode, path)


def stored(path: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of a journal, read by Optuna alone."""
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name="raudio", storage=storage).trials


def value_of(params: dict[str, Any]) -> float:
    """A result for the sampler to learn from."""
    return -abs(params["optimizer.lr"] - 0.01) + 0.1 * (params["model"] == "cnn")


def state_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What CMA-ES and the genetic samplers keep with a trial."""
    kept = trial.system_attrs
    found = {key: kept[key] for key in kept if key.endswith(":generation")}
    parts = [kept[key] for key in sorted(kept) if key.startswith("cma:optimizer:")]
    if parts:
        optimizer = pickle.loads(bytes.fromhex("".join(parts)))
        found["mean"] = optimizer._mean.tolist()
        found["spread"] = (optimizer._sigma * optimizer._C).tolist()
    return found


def drive(
    draw: Sampler, count: int, drawn_one: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """`count` trials in turn: completed, pruned, failed, completed, ..."""
    drawn = []
    for index in range(count):
        name = str(index)
        params = draw.ask(name)
        drawn_one()
        drawn.append(params)
        for epoch in (1, 2):
            draw.report(name, epoch, value_of(params) / (3 - epoch))
        state = ("completed", "pruned", "failed", "completed")[index % 4]
        draw.tell(name, state, value_of(params) if state == "completed" else None, {})
    return drawn


def quick(kind: str) -> dict[str, Any]:
    """Settings of a sampler with which it is past its random trials, or first generation, soon."""
    return {
        "cmaes": {"cmaes": CMAES(population=4)},
        "gp": {"gp": GP(startup=3)},
        "nsga2": {"nsga": NSGA(population=4)},
        "nsga3": {"nsga": NSGA(population=4)},
        "tpe": {"tpe": TPE(startup=4)},
    }.get(kind, {}) | {"sampler": kind}


@pytest.mark.parametrize("kind", ["tpe", "random", "qmc", "cmaes", "nsga2", "nsga3"])
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
    assert models[STARTUP_TRIALS:].count("cnn") <= 10  # chance would draw 16


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


def test_quasi_random_points_fill_the_space_as_a_sobol_sequence_does(tmp_path: Path) -> None:
    """The first 2^m points: one in each of 2^m equal parts of each setting's range, branches that
    are seldom taken included; by chance, a part has one with probability 0.38 or so."""
    draw = sampler(tmp_path / "a", sampler="qmc")
    drawn = [draw.ask(str(index)) for index in range(32)]
    parts = [int((math.log10(params["optimizer.lr"]) + 4) / 3 * 32) for params in drawn]
    assert sorted(parts) == list(range(32))
    assert Counter(params["model"] for params in drawn) == {"cnn": 16, "crnn": 16}
    assert set(Counter(params["features.n_mels"] for params in drawn).values()) == {8}
    # All pairs are balanced, too: a quarter of the trials is in each quarter of two settings.
    halves = Counter(
        (params["model"], part < 16) for params, part in zip(drawn, parts, strict=True)
    )
    assert set(halves.values()) == {8}


def test_quasi_random_points_are_scipys(tmp_path: Path) -> None:
    both = (SPACE.params[1], Param("x", Interval(0.0, 1.0), {}, "x"))
    settings = Search(sampler="qmc", qmc=QMC(sequence="halton", scramble=False))
    draw = Sampler(Space("two", params=both), settings, "max", tmp_path / "a")
    expected = scipy.stats.qmc.Halton(2, scramble=False).random(6)
    for index, (first, second) in enumerate(expected):
        params = draw.ask(str(index))
        assert math.log10(params["optimizer.lr"]) == pytest.approx(-4 + 3 * first)
        assert params["x"] == pytest.approx(second)


@pytest.mark.parametrize("kind", ["cmaes", GP_IS_SLOW, "nsga2"])
def test_learns(tmp_path: Path, kind: str) -> None:
    """On a bowl, later trials are far better than the first ones, which are random."""
    keys = ("x", "y")
    space = Space("bowl", params=tuple(Param(k, Interval(-1.0, 1.0), {}, k) for k in keys))
    draw = Sampler(space, Search(**quick(kind)), "min", tmp_path / "a")
    values = []
    for index in range(10 if kind == "gp" else 60):
        params = draw.ask(str(index))
        values.append((params["x"] - 0.5) ** 2 + (params["y"] + 0.2) ** 2)
        draw.tell(str(index), "completed", values[-1], {})
    # By chance, one in 32 is so near.
    assert min(values[3:] if kind == "gp" else values[-6:]) < 0.04
    assert np.median(values[-6:]) < np.median(values[:6])


@pytest.mark.parametrize("kind", ["qmc", "cmaes", "nsga2", "tpe"])
def test_optuna_makes_no_noise(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Conditional settings, failed trials: what cannot take them falls back without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drive(sampler(tmp_path / "a", **quick(kind)), 12)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_notes_say_what_is_drawn_by_itself() -> None:
    (note,) = notes(Search(sampler="cmaes"), SPACE)
    assert note.endswith("model (a choice); model.rnn_layers (when model=crnn)")
    apart, pruned = notes(Search(sampler="gp"), SPACE)
    assert apart.endswith(": model.rnn_layers (when model=crnn)")
    assert "completed trials alone" in pruned
    assert not notes(Search(sampler="gp", scheduler="none"), Space("x", params=SPACE.params[:2]))
    assert not notes(Search(), SPACE)
    assert not notes(Search(sampler="qmc"), SPACE)
    branches = Param("model.rnn_layers", Choice((1, 3)), {"model": ("cnn",)}, "other")
    both, _ = notes(Search(sampler="gp"), replace(SPACE, params=(*SPACE.params, branches)))
    assert both.endswith(": model.rnn_layers (when model=crnn, or when model=cnn)")


@pytest.mark.parametrize(
    ("settings", "key", "trials"),
    [
        ({}, "search.tpe.startup=8", 8),
        ({"sampler": "gp"}, "search.gp.startup=10", 10),
        ({"sampler": "nsga2"}, "search.nsga.population=20", 20),
        ({"sampler": "nsga3", "nsga": NSGA(population=5)}, "search.nsga.population=5", 5),
    ],
)
def test_a_search_too_short_to_learn_is_told_of(
    settings: dict[str, Any], key: str, trials: int
) -> None:
    few = [note for note in notes(Search(**settings, trials=trials), SPACE) if "at random" in note]
    assert f"{key} trials on: with search.trials={trials} all are drawn at random" in few[-1]
    assert not any(key in note for note in notes(Search(**settings, trials=trials + 1), SPACE))
    assert not any(key in note for note in notes(Search(**settings, time_budget="1h"), SPACE))


def test_more_trials_than_there_are_are_told_of() -> None:
    (note,) = notes(Search(trials=13, sampler="random"), GRID)
    assert note.startswith("the space has 12 different trials, search.trials=13: what is drawn")
    assert not notes(Search(trials=12, sampler="random"), GRID)
    assert not notes(Search(trials=13, sampler="grid"), GRID)


def test_cmaes_needs_a_number_that_every_trial_has() -> None:
    check(Search(sampler="cmaes"), SPACE)
    conditional = Param("optimizer.lr", Interval(0.1, 1.0), {"model": ("crnn",)}, "optimizer.lr")
    words = Space("words", params=(SPACE.params[0], conditional))
    with pytest.raises(ConfigError, match=r"search\.sampler=cmaes .* space words has none"):
        check(Search(sampler="cmaes"), words)
    check(Search(sampler="gp"), words)


@pytest.mark.parametrize("kind", KINDS)
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

    settings = quick(kind)
    whole = sampler(tmp_path / "whole", space, **settings)
    expected = []
    for number in range(12):
        expected.append(whole.ask(str(number)))
        play(whole, number, expected[-1])

    # The records' settings, through the JSON that they are kept in.
    rebuilt = sampler(tmp_path / "rebuilt", space, **settings)
    for number in range(known):
        ended = number % 3 == 1 or number % 5 != 4
        assert rebuilt.ask(str(number), expected[number], ended=ended) == expected[number]
        play(rebuilt, number, expected[number])
    drawn = []
    for number in range(known, 12):
        drawn.append(rebuilt.ask(str(number)))
        play(rebuilt, number, drawn[-1])
    assert drawn == expected[known:]
    # What the samplers keep in the study is the same as well.
    kept = [list(map(state_of, stored(tmp_path / name))) for name in ("whole", "rebuilt")]
    assert kept[0] == kept[1]
    assert any(kept[0]) == (kind in ("cmaes", "nsga2", "nsga3"))


class Everything(optuna.storages.InMemoryStorage):  # type: ignore[misc]
    """Optuna's own memory, of which TPE sees the trials that ended last, the best, and those that
    run: nothing is ever let go."""

    def __init__(self, window: int | None, best: int) -> None:
        super().__init__()
        self.window, self.best = window, best
        self.ended: list[int] = []

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        if state in (TrialState.COMPLETE, TrialState.PRUNED):
            self.ended.append(trial_id)
        return bool(super().set_trial_state_values(trial_id, state, values))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Any = None
    ) -> list[optuna.trial.FrozenTrial]:
        found: list[optuna.trial.FrozenTrial] = super().get_all_trials(study_id, deepcopy, states)
        if self.window is None:
            return found
        whole = [super(Everything, self).get_trial(number) for number in self.ended]
        complete = [trial for trial in whole if trial.state == TrialState.COMPLETE]
        best = sorted(complete, key=lambda trial: (trial.value, trial.number))[-self.best :]
        seen = {*self.ended[-self.window :], *(trial.number for trial in best)}
        return [t for t in found if t.number in seen or not t.state.is_finished()]


@pytest.mark.parametrize("kind", [*KINDS, "tpe of two objectives"])
def test_what_is_let_go_changes_no_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Against a study that keeps all trials, with some of them running at once."""
    window, best, count = 10, 4, 10 if kind == "gp" else 45
    monkeypatch.setattr("raudio.search.journal.BEST", best)
    kind, _, several = kind.partition(" of ")
    settings = Search(**{**quick(kind), "trials": None})
    settings = replace(settings, tpe=replace(settings.tpe, startup=4, window=window))
    modes = ["max", "min"] if several else ["max"]
    space = GRID if kind == "grid" else SPACE
    count = min(count, len(space.grid())) if kind == "grid" else count

    def draws(name: str) -> tuple[list[dict[str, Any]], int]:
        draw = Sampler(space, settings, modes, tmp_path / name)
        drawn: list[dict[str, Any]] = []
        running: list[int] = []
        for number in range(count):
            drawn.append(draw.ask(str(number)))
            running.append(number)
            draw.report(str(number), 1, drawn[-1].get("optimizer.lr", 0.0))
            if len(running) < 4:
                continue
            ended = running.pop(number * 7 % 4)
            values = [value_of({"optimizer.lr": 0.0, **drawn[ended]})] * len(modes)
            state = ("completed", "pruned", "completed", "failed")[ended % 4]
            told = None if state != "completed" else values if several else values[0]
            draw.tell(str(ended), state, told, {})
        return drawn, len(draw._study.get_trials())

    ours, seen = draws("ours")
    windowed = kind == "tpe" and not several
    with monkeypatch.context() as patch:
        patch.setattr(
            "raudio.search.sampler.Journal",
            lambda *_: Everything(window if windowed else None, best),
        )
        expected, _ = draws("theirs")
    assert ours == expected
    blind = kind in ("random", "qmc", "grid")
    running, recent = 3, 1 if blind else window
    assert seen <= running + recent + best + 1 if blind or windowed else seen == count


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


# --- constraints ---------------------------------------------------------------------------------


def constrained(*texts: str, space: Space = SPACE) -> Space:
    names = {param.key: None if param.key == "model" else () for param in SPACE.params}
    return replace(space, constraints=tuple(parse(text, names) for text in texts))


HARD = constrained("lr * n_mels < 2", "model=crnn requires n_mels > 64")


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_what_is_drawn_meets_the_constraints(tmp_path: Path, kind: str) -> None:
    drawn = drive(sampler(tmp_path / "a", HARD, sampler=kind), 16)
    assert all(HARD.allows(params) for params in drawn)
    assert {params["model"] for params in drawn} == {"cnn", "crnn"}
    trials = stored(tmp_path / "a")
    refused = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert refused
    assert not any(HARD.allows(trial.params) for trial in refused)
    assert [trial.params for trial in trials if trial.state != TrialState.FAIL] == drawn


@pytest.mark.parametrize("kind", ["tpe", "qmc"])
def test_a_study_rebuilt_from_what_was_taken_draws_the_same(tmp_path: Path, kind: str) -> None:
    """TPE never looks at a refused draw; a sequence must have passed its place."""
    count = STARTUP_TRIALS + 8
    refused = []
    whole = sampler(tmp_path / "whole", HARD, sampler=kind, seed=5)
    expected = drive(whole, count, lambda: refused.append(whole.refused))
    assert any(refused)
    rebuilt = sampler(tmp_path / "rebuilt", HARD, sampler=kind, seed=5)
    for index, params in enumerate(expected):
        name = str(index)
        if index < count - 4:
            assert rebuilt.ask(name, params, refused=refused[index]) == params
        else:
            assert rebuilt.ask(name) == params
        for epoch in (1, 2):
            rebuilt.report(name, epoch, value_of(params) / (3 - epoch))
        state = ("completed", "pruned", "failed", "completed")[index % 4]
        rebuilt.tell(name, state, value_of(params) if state == "completed" else None, {})


def test_a_grid_gives_the_allowed_cells(tmp_path: Path) -> None:
    space = constrained("model=crnn requires n_mels > 64", space=GRID)
    draw = sampler(tmp_path / "journal", space, sampler="grid")
    assert draw.limit == 4 + 4
    assert all(space.allows(draw.ask(str(index))) for index in range(8))


def test_examples_meet_the_constraints_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(HARD.allows(params) for params in examples(HARD, 5, 0))
    nothing = constrained("lr > 0", "n_mels < 32")
    monkeypatch.setattr("raudio.search.draws.MOST_DRAWS", 12)
    with pytest.raises(ConfigError, match="nothing of 12 draws: 'n_mels < 32' holds in none"):
        examples(nothing, 1, 0)
    with pytest.raises(ConfigError, match="nothing of 12 draws: 'n_mels < 32' holds in none"):
        sampler(tmp_path / "a", nothing, sampler="random").ask("0")


@pytest.mark.parametrize("kind", ["tpe", "qmc"])
def test_one_draw_in_two_thousand_is_found_each_time(tmp_path: Path, kind: str) -> None:
    """A thousand draws of Optuna's would find one for two trials in five, and take seconds."""
    rare = constrained("optimizer.lr < 1.007e-4", "model=cnn")
    draw = sampler(tmp_path / "journal", rare, sampler=kind)
    found = [draw.ask(str(index)) for index in range(4)]
    assert all(rare.allows(params) for params in found)
    assert len({params["optimizer.lr"] for params in found}) == 4
    rebuilt = sampler(tmp_path / "rebuilt", rare, sampler=kind)
    for index in range(3):
        assert rebuilt.ask(str(index), found[index], refused=10) == found[index]
    assert rebuilt.ask("3") == found[3]


@pytest.mark.slow
def test_draws_without_a_study_are_as_random_as_optuna_s() -> None:
    """Each axis of a space has the distribution that Optuna's random sampler draws."""
    space = Space(
        "axes",
        params=tuple(
            Param(key, axis, {}, key)
            for key, axis in {
                "choice": Choice((1, 5, 2)),
                "range": Range(10, 2, -3),
                "tenths": Range(0.0, 0.5, 0.1),
                "whole": Interval(1, 6, integer=True),
                "log": Interval(1e-4, 1.0, log=True),
                "whole log": Interval(1, 40, log=True, integer=True),
                "number": Interval(-1.0, 2.0),
            }.items()
        ),
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    theirs = [space.suggest(study.ask()) for _ in range(1000)]
    ours = list(islice(draws(space, np.random.default_rng(0)), 1000))
    for param in space.params:
        one, other = ([drawn[param.key] for drawn in drawns] for drawns in (ours, theirs))
        assert {type(value) for value in one} == {type(value) for value in other}
        if param.values:
            assert set(one) == set(param.values)
        assert scipy.stats.ks_2samp(one, other).pvalue > 0.001, param.key
