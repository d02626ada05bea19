"""A space can sweep anything in an experiment: each kind of axis, up to the experiments."""

from __future__ import annotations

import math
from operator import attrgetter
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from raudio.config import compose
from raudio.config.schema import Experiment
from raudio.config.signature import signature
from raudio.search import space_file
from raudio.search.sampler import examples
from raudio.search.space import Space

TWO = "dataset.path=[one,two]"


def swept(space: dict[str, Any], folder: Path, *overrides: str, count: int = 20) -> list[Any]:
    """(drawn settings, their experiment) of some draws."""
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    _, found, plain = space_file.resolve([f"space={path}", *overrides])
    drawn = examples(found, count, seed=1)
    made = {
        str(each): compose.experiment_for(plain, each)
        for each in {str(d): d for d in drawn}.values()
    }
    return [(each, made[str(each)]) for each in drawn]


def settings(found: list[tuple[Any, Experiment]], key: str) -> set[Any]:
    return {attrgetter(key)(experiment) for _, experiment in found}


@pytest.mark.parametrize(
    ("key", "axis", "args", "values"),
    [
        ("features.name", "features=choice(logmel, mfcc)", (), {"logmel", "mfcc"}),
        ("features.n_mels", "features.n_mels=range(32, 129, step=48)", (), {32, 80, 128}),
        ("augment.time_mask.p", "augment.time_mask.p=choice(0.0, 0.5)", (), {0.0, 0.5}),
        ("model.name", "model=choice(cnn, cnn10, crnn)", (), {"cnn", "cnn10", "crnn"}),
        ("model.width", "model.width=choice(8, 16)", (), {8, 16}),
        ("optimizer.name", "optimizer=choice(adamw, sgd)", (), {"adamw", "sgd"}),
        ("schedule.name", "schedule=choice(cosine, constant)", (), {"cosine", "constant"}),
        ("schedule.warmup", "schedule.warmup=choice(0.0, 0.1)", (), {0.0, 0.1}),
        ("training.batch_size", "training.batch_size=choice(16, 64)", (), {16, 64}),
        ("training.clip_norm", "training.clip_norm=choice(1.0, none)", (), {1.0, None}),
        ("task.label_smoothing", "task.label_smoothing=choice(0.0, 0.1)", (), {0.0, 0.1}),
        ("dataset.clip_seconds", "dataset.clip_seconds=choice(0.5, 1.0)", (), {0.5, 1.0}),
        (
            "dataset.weights",
            "dataset.weights=choice([1,1],[1,3])",
            (TWO,),
            {(1.0, 1.0), (1.0, 3.0)},
        ),
        ("seed", "seed=choice(0, 1, 2)", (), {0, 1, 2}),
    ],
)
def test_every_part_of_an_experiment(
    tmp_path: Path, key: str, axis: str, args: tuple[str, ...], values: set[Any]
) -> None:
    """Each value is another experiment."""
    name, _, written = axis.partition("=")
    found = swept({"params": {name: written}}, tmp_path, *args)
    assert settings(found, key) == values
    assert len({signature(experiment, "") for _, experiment in found}) == len(values)


def test_kinds_of_numbers(tmp_path: Path) -> None:
    found = swept(
        {
            "params": {
                "optimizer.lr": "tag(log, interval(1e-5, 1e-1))",
                "optimizer.weight_decay": "interval(0.0, 0.2)",
                "model.width": "int(interval(8, 64))",
                "training.batch_size": "int(tag(log, interval(8, 128)))",
                "model.dropout": "range(0.0, 0.51, step=0.25)",
                "features.n_mels": "range(32, 129, step=32)",
                "seed": "interval(0, 1000)",
            }
        },
        tmp_path,
        count=100,
    )
    rates = [math.log10(experiment.optimizer.lr) for _, experiment in found]
    assert sum(rate < -3 for rate in rates) == pytest.approx(50, abs=18)  # in the logarithm
    decays = [experiment.optimizer.weight_decay for _, experiment in found]
    assert sum(decay < 0.1 for decay in decays) == pytest.approx(50, abs=18)
    batches = [experiment.training.batch_size for _, experiment in found]
    assert sum(batch < 32 for batch in batches) == pytest.approx(50, abs=18)
    for whole in ("model.width", "training.batch_size", "features.n_mels", "seed"):
        assert {type(value) for value in settings(found, whole)} == {int}
    assert settings(found, "model.dropout") == {0.0, 0.25, 0.5}
    assert settings(found, "features.n_mels") == {32, 64, 96, 128}
    assert min(settings(found, "model.width")) >= 8
    assert max(settings(found, "model.width")) <= 64


def test_fixed_values_of_a_file_are_every_trial_s(tmp_path: Path) -> None:
    fixed = {"model": "crnn", "optimizer.lr": 0.02, "training.clip_norm": None, "seed": 7}
    found = swept({"params": {**fixed, "model.width": "choice(8, 16)"}}, tmp_path)
    assert settings(found, "model.name") == {"crnn"}
    assert settings(found, "optimizer.lr") == {0.02}
    assert settings(found, "training.clip_norm") == {None}
    assert settings(found, "seed") == {7}
    assert settings(found, "model.width") == {8, 16}
    assert all(params.items() >= fixed.items() for params, _ in found)


def test_conditions_within_conditions(tmp_path: Path) -> None:
    """Each level is drawn where the one above it allows it; elsewhere it has its default."""
    space = {
        "params": {"model": "choice(cnn, crnn)", "optimizer": "choice(adamw, sgd)"},
        "conditions": [
            {"when": {"model": "crnn"}, "params": {"model.rnn_layers": "choice(1, 2)"}},
            {"when": {"model.rnn_layers": 2}, "params": {"training.batch_size": "choice(16, 32)"}},
            {
                "when": {"training.batch_size": 16, "optimizer": "sgd"},
                "params": {"model.dropout": "choice(0.1, 0.3)"},
            },
            {"when": {"model.dropout": 0.3}, "params": {"seed": "choice(1, 2)"}},
        ],
    }
    found = swept(space, tmp_path, count=300)
    default = compose.experiment_for([], {"model": "crnn"})
    for params, experiment in found:
        deep = params["model"] == "crnn"
        assert ("model.rnn_layers" in params) == deep
        deep &= params.get("model.rnn_layers") == 2
        assert ("training.batch_size" in params) == deep
        deep &= params.get("training.batch_size") == 16 and params["optimizer"] == "sgd"
        assert ("model.dropout" in params) == deep
        deep &= params.get("model.dropout") == 0.3
        assert ("seed" in params) == deep
        assert experiment.seed == params.get("seed", default.seed)
        assert experiment.optimizer.name == params["optimizer"]
    assert settings(found, "seed") == {0, 1, 2}


def test_optuna_knows_each_kind_as_what_it_is() -> None:
    axes = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "model.width=range(8,33,step=8)",
            "model=choice(cnn,crnn)", "seed=int(interval(0,9))"]  # fmt: skip
    space: Space = space_file.resolve(["space=default", *axes])[1]
    known = space.distributions()
    rate, width, seed = known["optimizer.lr"], known["model.width"], known["seed"]
    assert rate == optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
    assert width == optuna.distributions.IntDistribution(8, 32, step=8)
    assert seed == optuna.distributions.IntDistribution(0, 9)
    assert known["model"] == optuna.distributions.CategoricalDistribution(("cnn", "crnn"))
