"""Known-good points: the first trials have them, what they lack is drawn, and all is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from search_kit import EPOCHS, METRIC, Clock, KilledError, Session, possible

from raudio.config.schema import Search
from raudio.core.errors import ConfigError
from raudio.records import read_history
from raudio.search import space_file
from raudio.search.job import check
from raudio.search.points import first
from raudio.search.sampler import Sampler, check_points
from raudio.search.space import Space

TEXT = {
    "params": {
        "model": "choice(cnn, crnn)",
        "optimizer.lr": "tag(log, interval(1e-4, 1e-1))",
        "model.dropout": "range(0.0, 0.41, step=0.1)",
        "model.width": "choice(8, 16)",
    },
    "conditions": [{"when": {"model": "crnn"}, "params": {"model.rnn_layers": "choice(1, 2)"}}],
}


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(TEXT))
    return str(file)


def loaded(path: str, *overrides: str) -> Space:
    return space_file.resolve([f"space={path}", *overrides])[1]


def asked(space: Space, folder: Path, count: int, **settings: Any) -> list[dict[str, Any]]:
    draw = Sampler(space, Search(**settings), "max", folder / "journal")
    return [draw.ask(str(number)) for number in range(count)]


@pytest.mark.parametrize("kind", ["tpe", "random", "qmc"])
def test_the_first_trials_have_the_points_and_what_they_lack_is_drawn(
    tmp_path: Path, path: str, kind: str
) -> None:
    points = "search.points=['model=crnn optimizer.lr=3e-3 model.rnn_layers=2', 'model.width=16']"
    drawn = asked(loaded(path, points), tmp_path, 6, sampler=kind)
    assert drawn[0].items() >= {
        "model": "crnn", "optimizer.lr": 0.003, "model.rnn_layers": 2
    }.items()  # fmt: skip
    assert drawn[1]["model.width"] == 16
    assert set(drawn[0]) == {*TEXT["params"], "model.rnn_layers"}
    assert len({params["optimizer.lr"] for params in drawn}) == 6


def test_a_file_holds_several_and_values_get_their_settings_type(path: str, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("- {optimizer.lr: 1e-3, model.dropout: 0.3}\n- {model: cnn, model.width: 8}\n")
    space = loaded(path, f"search.points={file}")
    assert space.points == (
        {"optimizer.lr": 0.001, "model.dropout": 0.3},  # YAML reads 1e-3 as a text
        {"model": "cnn", "model.width": 8},
    )
    copy = tmp_path / "copy.yaml"  # a run's own, where the file is gone
    copy.write_text(yaml.safe_dump(space.to_mapping(), sort_keys=False))
    file.unlink()
    assert space_file.load(str(copy)).points == space.points


def test_the_best_trial_of_a_run_may_be_named(path: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Session(run, Clock(), trials=3, experiment_for=possible).finish()
    best = read_history(run).best()
    assert best is not None
    wide = space_file.load(path)  # the run's space is of optimizer.lr and model.width
    width = f"model.width=choice({best.params['model.width']},7)"
    space = loaded(path, width, "optimizer.lr=interval(0.00001,1)", f"search.points={run}")
    assert space.points == (best.params,)
    assert set(best.params) < {param.key for param in wide.params}


@pytest.mark.parametrize(
    ("point", "parts"),
    [
        ("optimizer.lr=0.5", ["optimizer.lr=0.5 is outside tag(log"]),
        ("model=cnn10", ["model=cnn10 is outside choice(cnn, crnn)"]),
        ("model.dropout=0.15", ["model.dropout=0.15 is outside range"]),
        ("model.dropout=high", ["model.dropout=high", "number"]),
        ("model.rnn_layers=1", ["drawn only when model=crnn"]),
        ("model=cnn model.rnn_layers=1", ["drawn only when model=crnn"]),
        ("model.widht=8", ["model.widht=8 is not searched (closest: 'model.width')"]),
        ("training.batch_size=16", ["training.batch_size=16 is not searched", "for all trials"]),
        ("model=choice(cnn,crnn)", ["several values"]),
        ("'model=cnn", ["no closing quotation"]),
        ("nowhere.yaml", ["search.points=nowhere.yaml", "no readable YAML"]),
    ],
)
def test_points_that_the_space_does_not_hold(path: str, point: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, f"search.points={point}" if point[0] != "'" else f'search.points=["{point}"]')
    assert "search.points" in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_files_that_hold_no_points(path: str, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    for content in ("model: cnn", "[1, 2]", "]"):
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"list of mappings|readable"):
            loaded(path, f"search.points={file}")
    odd = {**TEXT, "points": {"model": "cnn"}}
    file.write_text(yaml.safe_dump(odd))
    with pytest.raises(ConfigError, match="points must be a list of mappings"):
        loaded(str(file))


def test_a_whole_point_that_breaks_a_constraint_is_refused(path: str) -> None:
    whole = "model=cnn optimizer.lr=0.01 model.dropout=0.1 model.width=16"
    constraint = "search.constraints=model=cnn requires model.width < 16"
    with pytest.raises(ConfigError, match=r"breaks .model=cnn requires model\.width < 16"):
        loaded(path, constraint, f"search.points={whole}")
    assert loaded(path, constraint, "search.points=model=cnn").points == ({"model": "cnn"},)


def test_an_open_point_that_no_draw_can_complete_is_refused_before_the_start(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raudio.search.draws.MOST_DRAWS", 1000)
    constraint = "search.constraints=model=cnn requires model.width < 8"
    point = "search.points=['model=crnn', 'model=cnn optimizer.lr=0.01']"
    said = r"point model=cnn optimizer\.lr=0\.01: .* leave nothing of 1000 draws: .* holds in none"
    with pytest.raises(ConfigError, match=said):
        check([f"space={path}", constraint, point], echo=lambda text: None)
    seldom = "search.constraints=model=cnn requires optimizer.lr < 0.0002"  # one draw in ten
    space = loaded(path, seldom, "search.points=model=cnn")
    check_points(space, 0)
    assert space.points == ({"model": "cnn"},)


def test_a_point_that_no_cell_of_a_grid_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raudio.search.draws.MOST_DRAWS", 100)
    cells = tmp_path / "cells.yaml"
    params = {"model": "choice(cnn, crnn)", "model.width": "choice(4, 8)", "seed": "choice(0, 1)"}
    given = {"params": params, "constraints": ["model=crnn requires model.width = 4"]}
    cells.write_text(yaml.safe_dump(given))
    grid = [f"space={cells}", "search.sampler=grid"]
    with pytest.raises(ConfigError, match=r"point model=crnn model\.width=8: .* leave nothing"):
        check([*grid, "search.points=model=crnn model.width=8"], echo=lambda text: None)
    check([*grid, "search.points=model=crnn"], echo=lambda text: None)


def test_a_grid_begins_with_the_cells_that_agree(path: str, tmp_path: Path) -> None:
    space = loaded(path, "optimizer.lr=0.01", "search.points=['model.width=16', 'model=crnn']")
    cells = asked(space, tmp_path, len(space.grid()), sampler="grid")
    assert cells[0]["model.width"] == 16
    assert cells[1]["model"] == "crnn"
    assert sorted(cells, key=str) == sorted(space.grid(), key=str)
    assert first(space.grid(), []) == space.grid()


@pytest.mark.slow
def test_points_survive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    from dataclasses import replace

    from search_kit import SPACE

    points = ({"model.width": 16, "optimizer.lr": 0.5}, {"optimizer.lr": 0.25}, {"model.width": 8})
    settings = {
        "space": replace(SPACE, points=points),
        "trials": 6,
        "scheduler": "none",
        "experiment_for": possible,
    }
    whole = [t.params for t in Session(tmp_path / "a", clock, **settings).finish().trials.values()]
    assert all(
        point.items() <= params.items() for point, params in zip(points, whole, strict=False)
    )
    for deadline in (2, 3, EPOCHS + 3, EPOCHS + 4, 3 * EPOCHS):
        run = tmp_path / str(deadline)
        with pytest.raises(KilledError):
            Session(run, clock, deadline=deadline, **settings).finish()
        trials = Session(run, clock, **settings).finish().trials
        assert [trial.params for trial in trials.values()] == whole
        assert all(trial.value(METRIC, "max") is not None for trial in trials.values())


def test_a_point_that_is_no_text_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"written as a text: \"model=crnn"):
        loaded(path, "search.points=[{model.width:16}]")
