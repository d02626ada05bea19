"""Earlier runs: what the sampler learns from them, what they answer, and that they may go."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from search_kit import EPOCHS, METRIC, SPACE, Clock, KilledError, Session, outcome, possible

from raudio.config.axes import Choice, Interval
from raudio.config.expressions import parse
from raudio.config.goal import Goal
from raudio.config.samplers import CMAES, GP, LEARNING, SAMPLERS, TPE
from raudio.config.schema import Search
from raudio.core.errors import ConfigError, RunError
from raudio.data.manifest import Manifest
from raudio.records import (
    BEST,
    DATASET_JSON,
    EXPERIMENT_YAML,
    JOURNAL,
    SEARCH_YAML,
    History,
    read_history,
    read_records,
    trial_folder,
)
from raudio.search import prior
from raudio.search.prior import Prior, PriorTrial
from raudio.search.sampler import Sampler
from raudio.search.space import Param, Space

GOAL = Goal({METRIC: "max"})
DATA = Manifest("", ("a", "b"), {}, (), "", {}, {}, 0, 0, 0, 0, "", "", {})
FOUR = replace(
    SPACE,
    params=(
        replace(SPACE.params[0], axis=Choice((8, 16))),
        replace(SPACE.params[1], axis=Choice((0.01, 0.1))),
    ),
)
REUSE: dict[str, Any] = {
    "space": FOUR, "trials": 6, "scheduler": "none", "experiment_for": possible
}  # fmt: skip


def finished(run: Path, overrides: tuple[str, ...] = (), **settings: Any) -> Path:
    """A run that has ended, with all that is asked of an earlier one."""
    history = Session(run, Clock(), **settings).finish()
    (run / SEARCH_YAML).write_text(yaml.safe_dump({"overrides": list(overrides)}))
    (run / DATASET_JSON).write_text(DATA.to_json())
    for name in history.trials:
        folder = trial_folder(run, name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EXPERIMENT_YAML).write_text(name)
    return run


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Completed, pruned and failed trials of `SPACE`."""
    return finished(tmp_path_factory.mktemp("earlier") / "run", trials=20)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four experiments of `FOUR`, all completed, two with their checkpoints."""
    return finished(tmp_path_factory.mktemp("four") / "run", **{**REUSE, "sampler": "grid"})


def known(
    run: Path, space: Space = SPACE, goal: Goal = GOAL, data: Manifest = DATA, **settings: Any
) -> Prior:
    search = Search(prior=(str(run),), **settings)
    return prior.read(search, space, goal, data.fingerprint, EPOCHS)


def stored(journal: Path) -> list[dict[str, Any]]:
    """What Optuna finds in a journal."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return [
        {
            "state": trial.state,
            "values": trial.values,
            "params": trial.params,
            "reports": trial.intermediate_values,
            "constraints": trial.constraints,
            "distributions": trial.distributions,
        }
        for trial in optuna.load_study(study_name="raudio", storage=storage).trials
    ]


# --- what the sampler knows ----------------------------------------------------------------------


def test_optuna_is_told_what_it_was_told_then(tmp_path: Path, earlier: Path) -> None:
    found = known(earlier)
    Sampler(SPACE, Search(), "max", tmp_path / "journal", found.trials)
    expected = stored(earlier / JOURNAL)
    assert stored(tmp_path / "journal") == expected
    assert {each["state"] for each in expected} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert any(each["constraints"] for each in expected)
    assert found.notes == (f"search.prior={earlier}: the sampler knows 20 of its 20 ended trials",)


BOWL = Space("bowl", params=tuple(Param(k, Interval(-1.0, 1.0), {}, k) for k in ("x", "y")))


def bowl(params: Any) -> float:
    return float((params["x"] - 0.5) ** 2 + (params["y"] + 0.2) ** 2)


def ended(name: str, params: dict[str, Any], value: float) -> PriorTrial:
    return PriorTrial(name, params, "completed", (value,), {}, {})


@pytest.mark.parametrize("kind", LEARNING)
def test_the_first_draws_are_informed(tmp_path: Path, kind: str) -> None:
    teacher = Sampler(BOWL, Search(sampler="random"), "min", tmp_path / "random")
    drawn = [teacher.ask(str(number)) for number in range(30)]
    taught = [ended(f"run/{n}", params, bowl(params)) for n, params in enumerate(drawn)]
    settings = Search(sampler=kind, gp=GP(startup=3), tpe=TPE(startup=8), seed=1)
    values = {}
    count = 1 if kind == "gp" else 6  # a Gaussian process takes its time
    for name, trials in (("informed", taught), ("alone", [])):
        draw = Sampler(BOWL, settings, "min", tmp_path / name, trials)
        asked = [draw.ask(str(number)) for number in range(count)]
        values[name] = median(map(bowl, asked))
    assert values["informed"] < values["alone"] / 3, values


def test_cmaes_learns_although_all_good_trials_took_one_branch(tmp_path: Path) -> None:
    branch = Param("branch", Choice(("a", "b")), {}, "branch")
    deep = Param("depth", Interval(0.0, 1.0), {"branch": ("a",)}, "depth")
    space = replace(BOWL, params=(branch, *BOWL.params, deep))
    one = {"branch": "a", "x": 0.5, "y": -0.2, "depth": 0.3}
    trials = [ended(f"run/{n}", {**one, "x": 0.5 + n / 100}, n / 10) for n in range(12)]
    draw = Sampler(space, Search(sampler="cmaes"), "min", tmp_path / "journal", trials)
    asked = []
    for number in range(12):
        asked.append(draw.ask(str(number)))
        draw.tell(str(number), "completed", bowl(asked[-1]), {})
    assert {params["branch"] for params in asked} == {"a", "b"}
    assert median(map(bowl, asked)) < 0.1


def test_the_best_are_seen_however_many_there_are(tmp_path: Path) -> None:
    """TPE models a window of trials: the first of 400 are long gone, but for the best of them."""
    trials = [ended(f"run/{n}", {"x": n / 400, "y": 0.0}, float(n)) for n in range(400)]
    settings = Search(tpe=TPE(window=100))
    draw = Sampler(BOWL, settings, "min", tmp_path / "journal", trials)
    seen = [trial.user_attrs["prior"] for trial in draw._study.trials]
    assert seen == [f"run/{n}" for n in (*range(100), *range(300, 400))]
    assert draw.ask("0")["x"] < 0.4


def test_trials_that_fit_are_taken_and_the_others_counted(earlier: Path) -> None:
    trials = read_history(earlier).trials.values()
    names = {"model.width": (), "optimizer.lr": ()}
    space = replace(
        SPACE,
        params=(
            replace(SPACE.params[0], axis=Choice((8, 16))),
            replace(SPACE.params[1], axis=Interval(1e-3, 1.0, log=True)),
        ),
        constraints=(parse("model.width=16 requires lr < 0.1", names),),
    )
    found = known(earlier, space)
    inside = [t for t in trials if t.params["model.width"] < 99 and t.params["optimizer.lr"] > 1e-3]
    allowed = [t for t in inside if t.params["model.width"] == 8 or t.params["optimizer.lr"] < 0.1]
    assert [t.trial for t in found.trials] == [f"{earlier}/{t.id}" for t in allowed]
    wide = sum(t.params["model.width"] == 99 for t in trials)
    slow = 20 - wide - len(inside)
    (note,) = found.notes
    assert f"knows {len(allowed)} of its 20 ended trials" in note
    assert f"{wide + slow} are outside this space: " in note
    assert f"model.width ({wide})" in note
    assert f"optimizer.lr ({slow})" in note
    assert f"{len(inside) - len(allowed)} break its constraints" in note
    assert 0 < len(allowed) < len(inside) < 20 - wide < 20


def test_what_is_not_searched_here_is_named(earlier: Path) -> None:
    found = known(earlier, replace(SPACE, params=SPACE.params[1:]))
    assert {tuple(trial.params) for trial in found.trials} == {("optimizer.lr",)}
    assert found.notes[0].endswith("; not searched here, and left aside: model.width")


def test_what_was_fixed_there_has_the_value_that_it_had(tmp_path: Path) -> None:
    run = tmp_path / "run"
    lr = replace(SPACE, params=(SPACE.params[1],))
    session = Session(run, Clock(), space=lr, trials=2, experiment_for=possible)
    session.drive(values=lambda params: [0.5] * EPOCHS)
    session.engine.close("completed", None)
    session.records.close()
    (run / SEARCH_YAML).write_text(yaml.safe_dump({"overrides": ["model=crnn", "model.width=16"]}))
    (run / DATASET_JSON).write_text(DATA.to_json())
    model = Param("model", Choice(("cnn", "crnn")), {}, "model")
    layers = Param("model.rnn_layers", Choice((1, 2)), {"model": ("crnn",)}, "model.rnn_layers")
    found = known(run, replace(SPACE, params=(model, *SPACE.params, layers)))
    for trial in found.trials:
        assert (trial.params["model"], trial.params["model.width"]) == ("crnn", 16)
        assert trial.params["model.rnn_layers"] in (1, 2)
    assert len(found.trials) == 2
    cnn = replace(model, axis=Choice(("cnn", "cnn10")))
    assert "outside this space: model (2)" in known(run, replace(SPACE, params=(cnn,))).notes[0]


def test_other_data_and_other_lengths_are_told_of(earlier: Path) -> None:
    other = replace(DATA, labels=("a", "c"))
    found = known(earlier, data=other)
    assert "on another dataset" in found.notes[1]
    assert not found.answers
    search = Search(prior=(str(earlier),))
    assert len(known(earlier).trials) == len(found.trials) == 20
    read = prior.read(search, SPACE, GOAL, DATA.fingerprint, 3)
    assert not read.notes[1:]  # these records do not say how long a trial was
    found = prior.read(Search(prior=(str(earlier), f"{earlier}/")), SPACE, GOAL, "", 3)
    assert len(found.trials) == 20  # named twice


@pytest.mark.parametrize("kind", sorted({*SAMPLERS} - {*LEARNING}))
def test_samplers_that_learn_nothing_are_refused(earlier: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"search.prior: search.sampler={kind} does not learn"):
        known(earlier, sampler=kind)


def test_what_cannot_be_used_is_refused(tmp_path: Path, earlier: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"optimised valid/accuracy \(max\), this search valid/f1"
    ):
        known(earlier, goal=Goal({"valid/f1": "max"}))
    with pytest.raises(ConfigError, match=r"with search\.prior the first step comes"):
        known(earlier, sampler="cmaes", cmaes=CMAES(sigma=0.2))
    with pytest.raises(RunError, match=r"search.prior=.*nowhere: no such run folder"):
        known(tmp_path / "nowhere")
    copy = shutil.copytree(earlier, tmp_path / "copy")
    (copy / SEARCH_YAML).unlink()
    with pytest.raises(RunError, match=r"search\.yaml is missing or damaged"):
        known(copy)
    assert known(earlier).trials
    assert prior.read(Search(sampler="grid"), SPACE, GOAL, "", 1) == Prior()


# --- what it answers -----------------------------------------------------------------------------


def kept(run: Path) -> set[str]:
    return {path.parent.name for path in run.glob(f"trials/*/{BEST}")}


def test_what_an_earlier_run_completed_is_not_trained_again(tmp_path: Path, four: Path) -> None:
    found = known(four, FOUR)
    assert {answer.trial for answer in found.answers.values()} == {
        f"{four}/{name}" for name in kept(four)
    }
    assert len(found.answers) == 2  # search.keep: the others have lost their checkpoints
    run = tmp_path / "run"
    session = Session(run, Clock(), prior=found, epochs_budget=2 * EPOCHS + 1, **REUSE)
    history = session.finish()
    then = read_history(four)
    answered = [trial for trial in history.trials.values() if f"{four}/" in str(trial.same_as)]
    assert answered
    for trial in answered:
        first = then.trials[str(trial.same_as)[-4:]]
        assert trial.params == first.params
        assert [r.metrics for r in trial.reports] == [r.metrics for r in first.reports]
        assert trial.loop_seconds == 0.0
        assert trial.reason == f"the same experiment as trial {trial.same_as}"
    # The best one is whole: its checkpoint and its experiment are in this run.
    best = history.best()
    assert best is not None
    assert best.same_as in {f"{four}/{name}" for name in kept(four)}
    name = str(best.same_as)[-4:]
    for file in (BEST, EXPERIMENT_YAML):
        there = (trial_folder(four, name) / file).read_bytes()
        assert (trial_folder(run, best.id) / file).read_bytes() == there
    # A second one of the same is answered by this run's own.
    again = [t for t in history.trials.values() if t.params == best.params][1:]
    assert {trial.same_as for trial in again} <= {best.id}


def test_unless_asked(tmp_path: Path, four: Path) -> None:
    found = known(four, FOUR, reuse=False)
    assert len(found.trials) == 4
    assert not found.answers


def test_a_run_goes_on_alike_when_those_it_learnt_from_are_gone(
    tmp_path: Path, four: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    settings = {**REUSE, "trials": 8}

    def session(run: Path, given: Prior, **more: Any) -> Session:
        return Session(run, clock, prior=given, **settings, **more)

    written = tmp_path / "whole"
    known(four, FOUR).write(written)
    whole = session(written, Prior.load(written))
    whole.finish()
    expected = outcome(written)
    for deadline in range(2, whole.records.count, 8):
        run = tmp_path / str(deadline)
        gone = shutil.copytree(four, tmp_path / "gone" / "run")
        shutil.copytree(written / "prior", run / "prior")
        with pytest.raises(KilledError):
            session(run, Prior.load(run), deadline=deadline).finish()
        shutil.rmtree(gone)
        session(run, Prior.load(run)).finish()
        assert outcome(run) == expected, deadline
        ids = [r["id"] for r in read_records(run) if r["event"] == "trial_end"]
        assert sorted(ids) == sorted(set(ids))


def test_the_copy_is_what_was_read(tmp_path: Path, earlier: Path, four: Path) -> None:
    for number, found in enumerate((known(earlier), known(four, FOUR), Prior())):
        run = tmp_path / str(number)
        run.mkdir()
        found.write(run)
        loaded = Prior.load(run)
        assert loaded.trials == found.trials
        assert [(k, a.trial, a.reports) for k, a in loaded.answers.items()] == [
            (k, a.trial, a.reports) for k, a in found.answers.items()
        ]
    (tmp_path / "0" / "prior" / "trials.json").write_text("{")
    with pytest.raises(RunError, match="is damaged; this run cannot go on"):
        Prior.load(tmp_path / "0")


def test_earlier_trials_are_none_of_this_run(tmp_path: Path, earlier: Path) -> None:
    session = Session(tmp_path, Clock(), prior=known(earlier), trials=3, patience=2)
    history: History = session.finish()
    assert list(history.trials) == ["0000", "0001", "0002"][: len(history.trials)]
    assert all(math.isfinite(trial.seconds) for trial in history.ranked())
