"""Search spaces: what is drawn, under which conditions, and what is refused from the start."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from raudio.config import compose
from raudio.config.axes import Choice, Interval
from raudio.core.errors import ConfigError
from raudio.search import space_file as spaces
from raudio.search import space_yaml
from raudio.search.space import Space
from raudio.search.space_file import load

optuna.logging.set_verbosity(optuna.logging.ERROR)

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a space's YAML and gives its path."""

    def of(
        params: dict[str, Any],
        *conditions: tuple[dict[str, Any], dict[str, Any]],
        constraints: Any = (),
    ) -> str:
        path = tmp_path / "space.yaml"
        listed = [{"when": when, "params": inner} for when, inner in conditions]
        constraints = list(constraints) if isinstance(constraints, tuple) else constraints
        content = {"params": params, "conditions": listed, "constraints": constraints}
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return of


def draws(space: Space, count: int, sampler: Any = None) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=sampler or optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask()) for _ in range(count)]


def message(*args: str) -> str:
    with pytest.raises(ConfigError) as caught:
        spaces.resolve(args)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "default" else pytest.mark.slow)
        for name in sorted(space_yaml.names())
    ],
)
def test_every_shipped_space_draws_experiments_that_work(name: str) -> None:
    assert space_yaml.names()[name], "a space says in one line what it is about"
    _, space, overrides = spaces.resolve([f"space={name}"])
    keys = set()
    for params in draws(space, 60):
        compose.experiment_for(overrides, params)
        keys |= set(params)
    assert keys == {param.key for param in space.params}, "every param is drawn at some time"


def test_the_design_s_spaces_are_there() -> None:
    wanted = {"default", "cnn_or_crnn", "front_end", "augmentation", "optimizer"}
    assert wanted <= set(space_yaml.names())


def test_conditions_decide_what_is_drawn(write: Write) -> None:
    path = write(
        {"model": "choice(cnn, cnn10, crnn)", "training.batch_size": "choice(8, 16)"},
        ({"model": "crnn"}, {"model.rnn_layers": "choice(1, 2)"}),
        ({"model": ["cnn", "cnn10"], "training.batch_size": 8}, {"model.width": "choice(4, 5)"}),
        ({"model.rnn_layers": 2}, {"model.rnn_units": "choice(8, 16)"}),
    )
    for params in draws(load(path), 100):
        expected = {"model", "training.batch_size"}
        expected |= {"model.rnn_layers"} if params["model"] == "crnn" else set()
        if params["model"] != "crnn" and params["training.batch_size"] == 8:
            expected.add("model.width")
        expected |= {"model.rnn_units"} if params.get("model.rnn_layers") == 2 else set()
        assert set(params) == expected


def test_a_setting_of_some_variants_is_drawn_for_these_alone() -> None:
    _, space, _ = spaces.resolve(
        ["space=optimizer", "model=choice(cnn,crnn)", "model.rnn_units=choice(8,16)"]
    )
    for params in draws(space, 40):
        assert ("model.rnn_units" in params) == (params["model"] == "crnn")


def test_draws_stay_within_their_axes_and_types(write: Write) -> None:
    path = write(
        {
            "optimizer.lr": "tag(log, interval(1e-4, 1e-2))",
            "model.width": "interval(4, 8)",
            "features.n_mels": "range(40, 25, step=-5)",
            "model.dropout": "range(0.0, 0.31, step=0.1)",
            "training.clip_norm": "choice(none, 1)",
            "training.batch_size": 16,
        }
    )
    found = draws(load(path), 300)
    rates = [params["optimizer.lr"] for params in found]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    below = sum(rate < 1e-3 for rate in rates) / len(rates)
    assert abs(below - 0.5) < 0.1, "half of a log axis lies below its geometric mean"
    assert {params["model.width"] for params in found} == {4, 5, 6, 7, 8}
    assert {params["features.n_mels"] for params in found} == {40, 35, 30}
    assert {params["model.dropout"] for params in found} == {0.0, 0.1, 0.2, 0.3}
    assert {params["training.clip_norm"] for params in found} == {None, 1.0}
    assert {params["training.batch_size"] for params in found} == {16}
    assert all(type(params["model.width"]) is int for params in found)


def test_one_key_with_an_axis_in_each_branch_is_two_params_to_optuna(write: Write) -> None:
    path = write(
        {"optimizer": "choice(adam, sgd)"},
        ({"optimizer": "adam"}, {"optimizer.lr": "tag(log, interval(1e-4, 1e-3))"}),
        ({"optimizer": "sgd"}, {"optimizer.lr": "choice(0.1, 0.2)"}),
    )
    space = load(path)
    for params in draws(space, 30, optuna.samplers.TPESampler(seed=0, n_startup_trials=5)):
        assert (params["optimizer.lr"] >= 0.1) == (params["optimizer"] == "sgd")
    assert space.enqueued({"optimizer": "sgd", "optimizer.lr": 0.2}) == {
        "optimizer": "sgd",
        "optimizer.lr (optimizer=sgd)": 0.2,
    }


@pytest.mark.parametrize("name", sorted(space_yaml.names()))
def test_enqueued_settings_are_drawn_again(name: str) -> None:
    _, space, _ = spaces.resolve([f"space={name}"])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for params in draws(space, 20):
        study.enqueue_trial(space.enqueued(params))
        assert space.suggest(study.ask()) == params


def test_grid_and_size_agree_with_an_enumeration(write: Write) -> None:
    path = write(
        {"model": "choice(cnn, crnn)", "model.width": "range(4, 7)", "seed": "choice(1, 2)"},
        ({"model": "crnn"}, {"model.rnn_layers": "choice(1, 2, 3)"}),
    )
    space = load(path)
    cnn = [
        {"model": "cnn", "model.width": width, "seed": seed}
        for width, seed in itertools.product((4, 5, 6), (1, 2))
    ]
    crnn = [
        {"model": "crnn", "model.width": width, "seed": seed, "model.rnn_layers": layers}
        for width, seed, layers in itertools.product((4, 5, 6), (1, 2), (1, 2, 3))
    ]
    key = str
    assert sorted(space.grid(), key=lambda cell: key(sorted(cell.items()))) == sorted(
        cnn + crnn, key=lambda cell: key(sorted(cell.items()))
    )
    assert space.size() == len(cnn) + len(crnn) == 24


@pytest.mark.parametrize("name", ["cnn_or_crnn", "front_end"])
def test_size_is_the_number_of_cells(name: str) -> None:
    _, space, _ = spaces.resolve(
        [f"space={name}", "optimizer.lr=0.001", "model.dropout=0.1", "features.normalize=channel"]
    )
    assert space.size() == len(space.grid())


def test_a_grid_needs_steps() -> None:
    _, space, _ = spaces.resolve([])
    assert space.size() is None
    with pytest.raises(ConfigError, match=r"optimizer\.lr is tag\(log.*choice\(a, b\)"):
        space.grid()


def test_a_plain_override_takes_its_setting_out_of_the_search() -> None:
    configuration, space, overrides = spaces.resolve(
        ["space=cnn_or_crnn", "optimizer.lr=0.1", "model=crnn"]
    )
    keys = [param.key for param in space.params]
    assert "optimizer.lr" not in keys
    assert "model" not in keys
    assert keys.count("model.depth") == 1, "the branch of the other model is gone"
    assert "model.rnn_layers" in keys
    assert configuration.experiment.optimizer.lr == 0.1
    assert len(space.notes) == 2
    assert "optimizer.lr=0.1 is given" in " ".join(space.notes)
    assert compose.experiment_for(overrides, {}).model.name == "crnn"


def test_a_condition_on_what_is_given_holds_in_the_variants_that_have_it(write: Write) -> None:
    """A given setting of one searched variant has its value there, with what asks for it."""
    path = write(
        {"model": "choice(cnn, crnn)", "model.width": "choice(8, 16)"},
        ({"model": "crnn"}, {"model.rnn_layers": "choice(1, 2)"}),
        ({"model.rnn_layers": 2}, {"model.rnn_units": "choice(32, 64)"}),
        ({"model.rnn_units": 64}, {"optimizer.lr": "choice(0.01, 0.1)"}),
    )

    def cells(*given: str) -> int:
        return len(load(path, overrides=given).grid())

    assert load(path, overrides=["model.rnn_layers=2"]).describe()[2:] == [
        ("model.rnn_units", "choice(32, 64)", "model=crnn"),
        ("optimizer.lr", "choice(0.01, 0.1)", "model.rnn_units=64"),
    ]
    assert cells("model.rnn_layers=2") == 2 + 2 * (1 + 2)
    assert cells("model.rnn_layers=3") == 2 + 2
    assert cells("model.rnn_layers=2", "model=crnn") == 2 * (1 + 2)
    # each variant has the value: no condition is left
    narrow = write({"model": "choice(cnn, crnn)"}, ({"model.width": 16}, {"seed": "choice(0, 1)"}))
    assert load(narrow).describe()[1] == ("seed", "choice(0, 1)", "")


@pytest.mark.parametrize("nothing", ["null", "none"])
def test_nothing_is_a_value_too(nothing: str) -> None:
    _, space, _ = spaces.resolve(["space=optimizer", f"training.clip_norm={nothing}"])
    assert "training.clip_norm" not in [param.key for param in space.params]


def test_an_axis_of_the_command_line_replaces_the_file_s() -> None:
    _, space, _ = spaces.resolve(["space=cnn_or_crnn", "model=choice(cnn,cnn10)", "seed=1,2"])
    axes = {param.key: param.axis for param in space.params}
    assert axes["model"] == Choice(("cnn", "cnn10"))
    assert axes["seed"] == Choice((1, 2))
    assert "model.rnn_layers" not in axes


def test_the_base_configuration_has_the_first_choice_of_each_group() -> None:
    configuration, _, _ = spaces.resolve(["model=choice(crnn,cnn)", "model.rnn_layers=3"])
    assert configuration.experiment.model.name == "crnn"
    assert configuration.experiment.model.rnn_layers == 3


@pytest.mark.parametrize(
    "args",
    [
        ("space=cnn_or_crnn",),
        ("space=optimizer", "optimizer=sgd"),
        ("space=front_end", "model=choice(cnn,crnn)", "model.rnn_layers=choice(1,2)"),
        ("space=augmentation", "optimizer.lr=tag(log,interval(1e-5,1))"),
    ],
)
def test_a_run_s_copy_of_the_space_is_the_same_space(args: tuple[str, ...], tmp_path: Path) -> None:
    _, space, overrides = spaces.resolve(args)
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space.to_mapping(), sort_keys=False))
    again = load(str(path), {}, overrides)
    assert sorted(again.params, key=str) == sorted(space.params, key=str)
    assert draws(again, 10) == draws(space, 10)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("space=cnn_or_crn", ["space=cnn_or_crn", "closest: 'cnn_or_crnn'", "path"]),
        ("space=./nowhere.yaml", ["space=./nowhere.yaml", "no such file"]),
        ("optimizer.lrr=choice(1,2)", ["optimizer.lrr", "closest: 'optimizer.lr'"]),
        ("model.rnn_layer=1,2", ["model.rnn_layer", "closest: 'model.rnn_layers'"]),
        ("optimizer.nesterov=choice(true,false)", ["nesterov", "optimizer=sgd"]),
        ("model=choice(cnn,crnm)", ["model=crnm", "closest: 'crnn'"]),
        ("model=range(1,3)", ["model=range(1, 3)", "choice(cnn, cnn10, crnn)"]),
        ("optimizer.lr=interval(2,1)", ["optimizer.lr=interval(2, 1)", "empty"]),
        ("optimizer.lr=interval(1,1)", ["optimizer.lr=interval(1, 1)", "empty"]),
        ("optimizer.lr=tag(log,interval(-1,1))", ["optimizer.lr=-1", "above 0"]),
        ("features.f_min=tag(log,interval(0,10))", ["features.f_min", "logarithm", "above 0"]),
        ("optimizer.lr=interval(1,1000)", ["optimizer.lr=1000", "at most 100"]),
        ("model.width=range(8,4)", ["model.width=range(8, 4)", "empty"]),
        ("model.width=range(8,20,step=0.5)", ["model.width", "whole number"]),
        ("model.width=interval(1.5,8)", ["model.width=1.5", "whole number"]),
        ("training.batch_size=choice(16,16)", ["training.batch_size", "16 twice"]),
        ("training.batch_size=choice(0,16)", ["training.batch_size=0", "at least 1"]),
        ("training.batch_size=choice()", ["training.batch_size=choice()", "empty"]),
        ("features.normalize=interval(0,1)", ["features.normalize", "one of none, channel"]),
        ("model.pooling=choice(mean,maxx)", ["model.pooling=maxx", "closest: 'max'"]),
        ("training.epochs=choice(1,2)", ["training.epochs", "same budget"]),
        ("dataset.sample_rate=8000,16000", ["dataset.sample_rate", "decoded once"]),
        ("search.trials=1,2", ["search.trials", "not to a trial"]),
        ("optimizer.lr=tag(lg,interval(1,2))", ["optimizer.lr", "'lg'", "log"]),
        ("model.dropout=interval(0,0.5,3)", ["model.dropout=interval(0,0.5,3)"]),
        ("seed=range(0,100000000)", ["seed=range(0, 100000000)", "100000000 values"]),
    ],
)
def test_bad_axes_are_told_in_one_message(argument: str, parts: list[str]) -> None:
    text = message(argument)
    assert all(part in text for part in parts), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("params", "conditions", "parts"),
    [
        (
            {"model": "choice(cnn, crnn)"},
            [({"model": "crn"}, {"seed": "1,2"})],
            ["model=crn never", "closest: 'crnn'"],
        ),
        ({}, [({"model": "crnx"}, {"seed": "1,2"})], ["model=crnx never", "closest: 'crnn'"]),
        ({}, [({"modle": "cnn"}, {"seed": "1,2"})], ["modle"]),
        (
            {"model": "choice(cnn, crnn)"},
            [({"model": "cnn"}, {"model.rnn_layers": "1,2"})],
            ["model=cnn has no setting 'rnn_layers'", "model=crnn"],
        ),
        (
            {"optimizer.lr": "interval(0.1, 1)"},
            [({"optimizer.lr": 1}, {"seed": "1,2"})],
            ["no single value"],
        ),
        (
            {"model.width": "choice(4, 8)"},
            [({"training.batch_size": 32}, {"model.width": "choice(16, 32)"})],
            ["model.width has two axes"],
        ),
        ({}, [({"model": "cnn"}, {"optimizer": "choice(adam, sgd)"})], ["optimizer", "in params"]),
        ({"optimizer.lr": [0.1, 0.2]}, [], ["optimizer.lr=[0.1, 0.2]", "choice(a, b)"]),
    ],
)  # fmt: skip
def test_bad_spaces_are_told_with_their_place(
    write: Write,
    params: dict[str, Any],
    conditions: list[tuple[dict[str, Any], dict[str, Any]]],
    parts: list[str],
) -> None:
    text = message(f"space={write(params, *conditions)}")
    assert "space.yaml" in text
    assert "\n" not in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("parms: {seed: '1,2'}", "closest: 'params'"),
        ("[1]", "params"),
        ("", "params"),
        ("params: : x", "YAML"),
        ("params: {seed: '1,2'}\nparams: {}", "'params' is given twice, at line 2"),
        ("params: {seed: choice(1, 2)}", "seed=choice(1: a bracket is not closed; within { } YAML"),
        ("params: [1]", "map settings to axes"),
        ("params: {seed: '1,2'}\nconditions: [{if: 1}]", "`when:` and `params:`"),
        ("params: {seed: '1,2'}\nconditions: {when: 1}", "a list"),
    ],
)
def test_files_that_are_no_spaces(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content)
    text = message(f"space={path}")
    assert "odd.yaml" in text
    assert part in text


def test_a_folder_is_no_space(tmp_path: Path) -> None:
    assert "is a folder; give a YAML file in it" in message(f"space={tmp_path}")


def test_problems_of_overrides_and_space_are_in_one_message() -> None:
    text = message("optimizer.lrr=1", "search.trials=0", "model=choice(cnn,x)", "seed=choice(-1,2)")
    assert text.startswith("4 problems:")
    for part in ("optimizer.lrr=1", "search.trials=0", "model=x", "seed=-1"):
        assert part in text


def test_axes_from_python() -> None:
    space = load("optimizer", {"model.dropout": Interval(0.0, 0.5)})
    assert any(param.key == "model.dropout" for param in space.params)
    assert not math.isnan(draws(space, 1)[0]["model.dropout"])


CHAIN = (
    "augment.chain.level.kind=gain",
    "augment.chain.dirt={kind: choice, of: {hiss: {kind: noise}, late: {kind: shift}}}",
)


def test_settings_of_a_chain_s_steps_are_axes() -> None:
    _, space, overrides = spaces.resolve(
        [
            *CHAIN,
            "space=optimizer",
            "augment.chain.dirt.of.hiss.weight=interval(0,3)",
            "augment.chain.level.p=choice(0,0.5)",
            "augment.chain.level.max_db=range(3,13,step=3)",
        ]
    )
    seen = set()
    for params in draws(space, 40):
        chain = compose.experiment_for(overrides, params).augment.chain
        assert list(chain) == ["level", "dirt"]
        assert chain["dirt"]["of"]["hiss"]["weight"] == params["augment.chain.dirt.of.hiss.weight"]
        assert 0 <= chain["dirt"]["of"]["hiss"]["weight"] <= 3
        seen.add((chain["level"]["p"], chain["level"]["max_db"]))
    assert seen == set(itertools.product((0.0, 0.5), (3.0, 6.0, 9.0, 12.0)))


def test_a_space_may_hold_a_whole_chain_with_conditions(write: Write, tmp_path: Path) -> None:
    path = write(
        {
            "augment.chain.level.kind": "gain",
            "augment.chain.level.p": "choice(0, 0.5)",
            "augment.chain.bed.kind": "audiomentations.AddBackgroundNoise",
            "augment.chain.bed.sounds_path": "choice(/data/street, /data/office)",
            "augment.chain.bed.min_snr_db": "interval(-3, 3)",
        },
        ({"augment.chain.level.p": 0.5}, {"augment.chain.level.max_db": "interval(3, 12)"}),
    )
    configuration, space, overrides = spaces.resolve([f"space={path}"])
    assert configuration.experiment.augment.chain["bed"]["sounds_path"] == "/data/street"
    for params in draws(space, 30):
        chain = compose.experiment_for(overrides, params).augment.chain
        assert ("augment.chain.level.max_db" in params) == (chain["level"]["p"] == 0.5)
        assert chain["bed"]["sounds_path"] in ("/data/street", "/data/office")
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(space.to_mapping(), sort_keys=False))
    assert draws(load(str(copy)), 10) == draws(space, 10)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("augment.chain.level.kind=choice(gain,shift)", ["level.kind", "search their weights"]),
        ("augment.chain.level.max_bd=choice(1,2)", ["max_bd", "closest: 'max_db'"]),
        ("augment.chain.level.max_db=interval(0,99)", ["max_db=99", "from 0 to 60"]),
        ("augment.chain.level.p=choice(0,2)", ["augment.chain.level.p=2", "from 0 to 1"]),
        ("augment.chain.level.weight=choice(1,2)", ["weight", "unknown setting"]),
        ("augment.chain.lvel.p=choice(0,1)", ["no step 'augment.chain.lvel'"]),
        ("augment.chain.dirt.of.hiss.min_snr=choice(5,a)", ["min_snr=a", "a number"]),
    ],
)
def test_axes_that_no_step_of_the_chain_has(argument: str, parts: list[str]) -> None:
    text = message(*CHAIN, argument)
    assert all(part in text for part in parts), text
    assert "\n" not in text


# --- constraints ---------------------------------------------------------------------------------

TWO = {"model": "choice(cnn, crnn)", "model.width": "choice(8, 16, 32)"}
LAYERS = ({"model": "crnn"}, {"model.rnn_layers": "choice(1, 2, 3)"})


def test_cells_that_break_a_constraint_are_no_cells(write: Write) -> None:
    space = load(
        write(
            {**TWO, "training.batch_size": "choice(16, 64)"},
            LAYERS,
            constraints=(
                "model=crnn requires rnn_layers*model.width <= 32",
                "training.batch_size * model.width <= 1024",
            ),
        )
    )
    widths, sizes = (8, 16, 32), (16, 64)
    fits = [(w, b) for w, b in itertools.product(widths, sizes) if w * b <= 1024]
    cnn = [("cnn", w, b, None) for w, b in fits]
    crnn = [("crnn", w, b, n) for w, b in fits for n in (1, 2, 3) if n * w <= 32]
    cells = [
        (c["model"], c["model.width"], c["training.batch_size"], c.get("model.rnn_layers"))
        for c in space.grid()
    ]
    assert sorted(cells, key=str) == sorted(cnn + crnn, key=str)
    assert space.size() == len(cells)
    assert space.cells() == 6 + 18


def test_settings_that_are_not_searched_take_part_with_their_value(write: Write) -> None:
    path = write(TWO, constraints=("training.batch_size * model.width <= 512",))
    assert {cell["model.width"] for cell in load(path).grid()} == {8, 16}  # batches of 32
    _, space, _ = spaces.resolve([f"space={path}", "training.batch_size=16"])
    assert {cell["model.width"] for cell in space.grid()} == {8, 16, 32}


def test_each_variant_has_its_own_value_of_a_setting_that_is_not_searched(write: Write) -> None:
    """rnn_layers is 1 unless set, and only a crnn has any."""
    path = write(TWO, constraints=("rnn_layers > 1 and model.width > 8",))
    _, space, _ = spaces.resolve([f"space={path}"])
    assert {(cell["model"], cell["model.width"]) for cell in space.grid()} == {
        ("cnn", 16), ("cnn", 32)
    }  # fmt: skip
    _, space, _ = spaces.resolve([f"space={path}", "model.rnn_layers=2"])
    assert {cell["model"] for cell in space.grid()} == {"cnn", "crnn"}


def test_a_setting_searched_on_one_branch_has_its_value_on_the_other(write: Write) -> None:
    path = write(
        {"training.batch_size": "choice(16, 32)"},
        ({"training.batch_size": 16}, {"model.width": "choice(4, 8, 64)"}),
        constraints=("model.width in (4, 16)",),
    )
    _, space, _ = spaces.resolve([f"space={path}", "model.width=16"])
    assert space.grid() == [{"training.batch_size": 16}, {"training.batch_size": 32}]
    default = load(path)
    assert {"training.batch_size": 16, "model.width": 4} in default.grid()
    width = compose.compose([]).experiment.model.width
    assert default.allows({"training.batch_size": 32}) == (width in (4, 16))


def test_constraints_of_the_command_line_are_added_and_kept(write: Write, tmp_path: Path) -> None:
    path = write(TWO, LAYERS, constraints=("model.width < 32",))
    for given in (
        "search.constraints=model=crnn requires rnn_layers = 1",
        "search.constraints=['model=crnn requires rnn_layers = 1', \"model.width < 32\"]",
    ):
        configuration, space, overrides = spaces.resolve([f"space={path}", given])
        assert [str(each) for each in space.constraints] == [
            "model.width < 32",
            "model=crnn requires rnn_layers = 1",
        ]
        assert len(space.grid()) == 4
        assert "model=crnn requires rnn_layers = 1" in configuration.search.constraints
        copy = tmp_path / "copy.yaml"
        copy.write_text(yaml.safe_dump(space.to_mapping(), sort_keys=False))
        again = load(str(copy), {}, overrides)
        assert (again.constraints, again.fixed) == (space.constraints, space.fixed)


@pytest.mark.parametrize(
    ("constraint", "parts"),
    [
        ("model.rnn_layer = 1", ["unknown setting", "closest: 'model.rnn_layers'", "character 1"]),
        ("model = crn", ["model is never crn", "closest: 'crnn'"]),
        ("model.pooling = maxx", ["model.pooling is never maxx", "closest: 'max'"]),
        ("search.trials > 3", ["unknown setting 'search.trials'"]),
        ("optimizer.lr", ["no condition"]),
        (["a"], ["[a]", "as a text"]),
    ],
)
def test_constraints_that_cannot_be_read(write: Write, constraint: Any, parts: list[str]) -> None:
    text = message(f"space={write(TWO, constraints=(constraint,))}")
    assert "space.yaml, constraints: " in text
    assert all(part in text for part in parts), text
    if isinstance(constraint, str):
        text = message(f"search.constraints={constraint}")
        assert text.startswith(f"search.constraints: '{constraint}': "), text


def test_constraints_that_leave_nothing_are_refused(write: Write) -> None:
    never = ("model.width > 4", "model.width < 8")
    with pytest.raises(ConfigError, match=r"nothing of 6 cells: 'model\.width < 8' holds in none"):
        load(write(TWO, constraints=never)).grid()
    together = ("model.width > 8", "model.width < 16")
    with pytest.raises(ConfigError, match=r"nothing of 6 cells: none meets them all"):
        load(write(TWO, constraints=together)).grid()


def test_settings_of_a_chain_s_steps_can_be_constrained() -> None:
    _, space, _ = spaces.resolve(
        [
            *CHAIN,
            "space=optimizer",
            "augment.chain.level.max_db=range(3,13,step=3)",
            "search.constraints=augment.chain.level.max_db * 2 < 13",
        ]
    )
    assert space.allows({"augment.chain.level.max_db": 6.0})
    assert not space.allows({"augment.chain.level.max_db": 9.0})
