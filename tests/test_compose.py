"""A command line becomes a configuration, or one message with all that is wrong with it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from raudio.config import augment, compose, schema
from raudio.config.axes import Choice, Interval, Range
from raudio.core.errors import ConfigError


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose.compose(overrides)
    return str(caught.value)


def test_no_overrides_give_the_schema_s_defaults() -> None:
    experiment = compose.compose([]).experiment
    assert experiment == schema.Experiment(
        dataset=schema.Dataset(),
        features=schema.LogMel(),
        augment=schema.Augment(),
        model=schema.CNN(),
        task=schema.Classification(),
        optimizer=schema.AdamW(),
        schedule=schema.Cosine(),
        training=schema.Training(),
        resources=schema.Resources(),
    )


def test_variant_presets_and_values() -> None:
    configuration = compose.compose(
        [
            "model.rnn_layers=2",  # before its group: the order does not matter
            "model=crnn",
            "augment=light",
            "augment.mixup.p=0.2",
            "search.time_budget=90",
            "training.clip_norm=none",
            "optimizer.lr=1",
        ]
    )
    experiment = configuration.experiment
    assert experiment.model == schema.CRNN(rnn_layers=2)
    assert (experiment.augment.gain.p, experiment.augment.mixup.p) == (0.5, 0.2)
    assert experiment.augment.noise == augment.Noise()
    assert configuration.search.time_budget == "90"
    assert experiment.training.clip_norm is None
    assert isinstance(experiment.optimizer.lr, float)


def test_the_last_override_of_a_key_wins() -> None:
    experiment = compose.compose(["seed=1", "model=crnn", "seed=2", "model=cnn10"]).experiment
    assert (experiment.seed, experiment.model.name) == (2, "cnn10")


@pytest.mark.parametrize(
    "path",
    [
        "/a b/c",
        "a=b,c:d",
        "2024",
        "007",
        "1e5",
        "true",
        "null",
        "(x) [1] {2}",
        "a'b",
        "C:\\x\\y",
        "ünï/ß",
        "s3://bucket/key",
        "a#b%c&d!",
        "choice(a, b)",
    ],
)
def test_paths_are_taken_as_typed(path: str) -> None:
    configuration = compose.compose([f"dataset.path={path}", f"run.dir=/r/{path}"])
    assert configuration.experiment.dataset.path == path
    assert configuration.run.dir == f"/r/{path}"
    assert compose.split([f"dataset.path={path}"]) == ([f"dataset.path={path}"], {})


def test_quotes_home_and_interpolation_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/d")
    for given, expected in {
        "'a b'": "a b",
        "~/x": "/home/me/x",
        "${oc.env:DATA}/x": "/d/x",
    }.items():
        assert compose.compose([f"dataset.path={given}"]).experiment.dataset.path == expected
    assert compose.compose(["dataset.labels=none"]).experiment.dataset.labels is None


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optimizer.lrr=1", ["optimizer.lrr=1", "closest: 'optimizer.lr'", "weight_decay"]),
        ("model=cnn1", ["model=cnn1", "unknown model", "closest: 'cnn10'", "cnn, cnn10, crnn"]),
        ("augment=lihgt", ["augment=lihgt", "closest: 'light'", "strong"]),
        ("search.trials=0", ["search.trials=0", "whole number of at least 1"]),
        ("training.epochs=abc", ["training.epochs=abc", "whole number", "epochs"]),
        ("training.epochs=1.5", ["training.epochs=1.5", "whole number"]),
        ("training.epochs=true", ["training.epochs=true", "whole number"]),
        ("training.epochs=null", ["training.epochs=none", "whole number"]),
        ("training.epochs=", ["training.epochs=", "whole number"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan", "above 0 and at most 100"]),
        ("dataset.crop=centr", ["dataset.crop=centr", "random, centre", "closest: 'centre'"]),
        ("search.sampler=tpee", ["search.sampler=tpee", "closest: 'tpe'", "qmc, grid"]),
        ("model.rnn_layers=2", ["model=cnn has no setting 'rnn_layers'", "model=crnn"]),
        ("model.rnn_layer=2", ["closest: 'model.rnn_layers' of model=crnn"]),
        ("model.name=cnn", ["model=cnn"]),
        ("lr=3", ["unknown setting 'lr'", "closest: 'optimizer.lr'"]),
        ("dataset=data/fsdd", ["dataset=data/fsdd", "dataset.path=..."]),
        ("trials", ["KEY=VALUE"]),
        ("search.sead=1", ["closest: 'search.seed'); there are 45"]),
        ("+model.x=1", ["+model.x=1", "write model.x=1"]),
        ("~model", ["KEY=VALUE"]),
        ("model@x=cnn", ["model@x"]),
        ("optimizer.lr=choice(1,2)", ["optimizer.lr=choice(1,2)", "one value"]),
        ("model=choice(cnn,crnn)", ["model=choice(cnn,crnn)", "one value"]),
        ("optimizer.lr=chioce(1,2)", ["'chioce'", "closest: 'choice'", "interval(low, high)"]),
        (
            "resources.workers=(1,3)",
            ["cannot be read", "a list is written resources.workers=[1,3]"],
        ),
        ("optimizer.lr=choice(1,2", ["cannot be read", "choice(a, b)"]),
        ("dataset.path=${oc.env:NOT_THERE}", ["NOT_THERE"]),
        ("plugins=nowhere.py", ["nowhere.py"]),
        ("search.time_budget=5x", ["search.time_budget='5x'", "90s, 5m"]),
    ],
)
def test_one_message_names_the_thing_its_value_and_the_cure(
    override: str, parts: list[str]
) -> None:
    text = message(override)
    assert all(part in text for part in parts), text
    assert "\n" not in text
    assert len(text) < 400


def test_all_problems_are_in_one_message() -> None:
    text = message("optimizer.lrr=1", "model=cnn1", "search.trials=0", "training.epochs=abc")
    assert text.startswith("4 problems:\n")
    for part in ("optimizer.lrr=1", "model=cnn1", "search.trials=0", "training.epochs=abc"):
        assert text.count(part) == 1


def test_axes_of_a_command_line() -> None:
    overrides, axes = compose.split(
        [
            "model=choice(cnn,crnn)",
            "training.batch_size=16,32",
            "optimizer.lr=tag(log,interval(1e-4,1e-2))",
            "features.n_mels=range(32,129,step=32)",
            "model.width=int(interval(4,8))",
            "seed=2",
        ]
    )
    assert overrides == ["seed=2"]
    assert axes == {
        "model": Choice(("cnn", "crnn")),
        "training.batch_size": Choice((16, 32)),
        "optimizer.lr": Interval(1e-4, 1e-2, log=True),
        "features.n_mels": Range(32, 129, 32),
        "model.width": Interval(4, 8, integer=True),
    }


@pytest.mark.parametrize(
    "axis",
    [
        Choice(("a", "b c", "it's", "1", "true", None, 1, 0.5, True)),
        Interval(1e-5, 0.1, log=True),
        Interval(1, 8, integer=True),
        Range(0.0, 1.0, 0.25),
        Range(5, 0, -2),
    ],
)
def test_an_axis_prints_as_what_is_read_again(axis: Choice | Interval | Range) -> None:
    again = compose.parse_axis("x", str(axis))
    if isinstance(axis, Choice):  # the grammar has no null in a choice: settings read "none" so
        axis = Choice(tuple("none" if value is None else value for value in axis.values))
    assert again == axis


def test_range_counts_as_python_and_in_decimals() -> None:
    for arguments in [(32, 129, 32), (0, 10, 3), (0, 9, 3), (5, 0, -2), (5, 0, 1), (1, 2)]:
        assert Range(*arguments).values() == tuple(range(*arguments))
    assert Range(0, 0.4, 0.1).values() == (0.0, 0.1, 0.2, 0.3)
    assert Range(0, 5, 0).values() == ()


def test_experiment_for_is_compose_with_the_trial_s_settings_on_top() -> None:
    overrides = ["optimizer.weight_decay=0.1", "model.rnn_layers=2", "optimizer.momentum=0.5"]
    params = {"model": "crnn", "optimizer": "sgd", "optimizer.lr": 0.5}
    experiment = compose.experiment_for(overrides, params)
    assert experiment.model == schema.CRNN(rnn_layers=2)
    assert experiment.optimizer == schema.SGD(lr=0.5, weight_decay=0.1, momentum=0.5)
    assert compose.compose(overrides, params).experiment == experiment
    # settings that only another variant of a searched group has are left out
    other = compose.experiment_for(overrides, {"model": "cnn", "optimizer": "adam"})
    assert other.model == schema.CNN()
    assert other.optimizer == schema.Adam(weight_decay=0.1)


def test_experiment_for_refuses_what_no_variant_has() -> None:
    with pytest.raises(ConfigError, match=r"model\.rnn_layer=2.*closest"):
        compose.experiment_for(["model.rnn_layer=2"], {"model": "crnn"})
    with pytest.raises(ConfigError, match=r"optimizer\.lrr"):
        compose.experiment_for([], {"optimizer.lrr": 1})


def test_composed_settings_are_not_shared_between_calls() -> None:
    compose.experiment_for([], {"model.width": 8})
    assert compose.experiment_for([], {}).model.width == schema.CNN().width


def test_steps_of_a_chain_are_written_like_any_setting_in_any_order() -> None:
    overrides = [
        "augment.chain.level.p=0.5",
        "augment.chain.level.kind=gain",
        "augment=light",
        "augment.chain.level.p=0.25",
    ]
    augment = compose.compose(overrides).experiment.augment
    assert augment.gain.p == 0.5, "of augment=light"
    assert augment.chain == {"level": {"kind": "gain", "p": 0.25, "max_db": 6.0}}
    params = {"augment.chain.level.max_db": 3, "augment.chain.more.kind": "shift"}
    chain = compose.experiment_for(overrides, params).augment.chain
    assert chain["level"]["max_db"] == 3.0
    assert chain["more"] == {"kind": "shift", "p": 1.0, "max_share": 0.1}
    assert compose.compose([]).experiment.augment.chain == {}


def test_a_chain_s_paths_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDS", "/data/musan")
    step = "{kind: audiomentations.AddShortNoises, sounds_path: '${oc.env:SOUNDS}'}"
    chain = compose.compose([f"augment.chain.bed={step}"]).experiment.augment.chain
    assert chain["bed"]["sounds_path"] == "/data/musan"
    monkeypatch.setenv("SOUNDS", "here/street")
    chain = compose.compose([f"augment.chain.bed={step}"]).experiment.augment.chain
    assert chain["bed"]["sounds_path"] == str(Path.cwd() / "here/street")


def test_experiment_for_is_quick() -> None:
    params = {"model": "crnn", "optimizer.lr": 0.01}
    compose.experiment_for([], params)
    start = time.process_time()
    for _ in range(20):
        compose.experiment_for([], params)
    assert (time.process_time() - start) / 20 < 0.03


def test_inside_another_hydra_application(tmp_path: Path) -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    (tmp_path / "theirs.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose.compose(["schedule=onecycle", "augment=strong"])
        assert hydra_compose("theirs").x == 1


PLUGIN = '''
from typing import Annotated, Literal

import raudio
from raudio.config.meta import Meta


@raudio.register.model("mlp", "two dense layers")
def mlp(*, n_features: int, n_outputs: int, width: Annotated[int, Meta("units", min=1)] = 64,
        activation: Literal["relu", "gelu"] = "relu", bias: bool = True):
    ...


@raudio.register.augmentation("hum", "mains hum")
class Hum:
    def __init__(self, *, p: float = 0.0, level: float | None = None) -> None: ...


@raudio.register.optimizer("lion")
def lion(params, *, lr: float = 1e-4):
    """Evolved sign momentum."""
'''


def test_a_plugin_s_components_can_be_chosen_and_set(tmp_path: Path) -> None:
    """In a process of its own: what a plugin registers stays."""
    plugin = tmp_path / "my plugin.py"
    plugin.write_text(PLUGIN)
    code = """
import sys
from raudio.config import compose, validate
from raudio.config.signature import signature
from raudio.core.errors import ConfigError
plugin = f"plugins={sys.argv[1]}"
e = compose.compose([plugin, "model=mlp", "model.width=8", "model.activation=gelu",
                     "augment.hum.p=0.5", "augment=light", "optimizer=lion"]).experiment
assert (e.model.name, e.model.width, e.model.activation, e.model.bias) == ("mlp", 8, "gelu", True)
assert (e.augment.hum.p, e.augment.hum.level, e.augment.gain.p) == (0.5, None, 0.5)
assert e.optimizer.lr == 1e-4 and e.plugins == (sys.argv[1],)
assert validate.experiment_from(validate.to_mapping(e)) == e
before = signature(e, "")
open(sys.argv[1], "a").write("# changed")
assert signature(e, "") != before
for wrong in ("model.width=0", "model.activation=tanh", "model.n_features=3"):
    try:
        compose.compose([plugin, "model=mlp", wrong])
    except ConfigError as error:
        print(error)
    else:
        raise SystemExit(f"{wrong} passed")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(plugin)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "model.width=0: must be a whole number of at least 1 (units)" in lines[0]
    assert "closest" not in lines[1]
    assert "relu, gelu" in lines[1]
    assert "n_features" in lines[2]


def test_local_sources_of_augmentations_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's process runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    given = [
        "augment.background.source=my noises",
        "augment.reverb.source=s3://bucket/rooms",
        "dataset.path=data",
    ]
    found = compose.with_absolute_paths(given)
    assert found[1:] == given[1:]
    experiment = compose.compose(found).experiment
    assert experiment.augment.background.source == str(tmp_path / "my noises")
    assert experiment.augment.reverb.source == "s3://bucket/rooms"
    for kept in ("augment.reverb.source=none", "augment.reverb.source=choice(a,b)"):
        assert compose.with_absolute_paths([kept]) == [kept]


def test_absolute_paths_leave_the_rest_as_it_was_typed() -> None:
    """What is no override stays none, so that the message says so."""
    assert compose.with_absolute_paths(["trials", "a=", "seed=1"]) == ["trials", "a=", "seed=1"]


def test_one_limit_needs_no_brackets() -> None:
    assert compose.compose(["search.limits=params < 1e5"]).search.limits == ("params < 1e5",)
    assert compose.compose(['search.limits=["a < 1", "b < 2"]']).search.limits == ("a < 1", "b < 2")
