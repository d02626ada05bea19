"""Mappings become settings, or one message; settings become mappings again."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
import re
from typing import Any

import pytest

from raudio.config import compose, schema, validate
from raudio.config.setting import Setting
from raudio.core.errors import ConfigError


def mapping(**changes: Any) -> dict[str, Any]:
    """A valid experiment's mapping; `section__setting=value` changes a setting."""
    found = validate.to_mapping(compose.compose([]).experiment)
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = found
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return found


def every_leaf() -> list[Setting]:
    found = {}
    for section, variants in schema.VARIANTS.items():
        for name in variants:
            known = validate.settings({section: name})
            found |= {(key, name if key.startswith(section) else ""): s for key, s in known.items()}
    return list(found.values())


@pytest.mark.parametrize("setting", every_leaf(), ids=lambda setting: setting.key)
def test_every_default_is_allowed_and_every_bound_is_kept(setting: Setting) -> None:
    assert setting.checked(setting.default) == setting.default
    meta = setting.meta
    assert meta.help
    if setting.kind not in (int, float) or setting.several != "no":
        return
    for bound, outside in ((meta.min, -1), (meta.max, 1)):
        if bound is not None:
            assert setting.checked(bound) == bound
            with pytest.raises(ConfigError, match=setting.key):
                setting.checked(bound + outside)
    for bound in (meta.above, meta.below):
        if bound is not None:
            with pytest.raises(ConfigError, match=setting.key):
                setting.checked(bound)


def test_round_trips_through_mapping_json_and_yaml() -> None:
    configuration = compose.compose(
        ["model=crnn", "augment=strong", "optimizer.lr=1e-5", "dataset.path=2024", "run.dir=ü x"]
    )
    experiment = configuration.experiment
    again = json.loads(json.dumps(validate.to_mapping(experiment)))
    assert validate.experiment_from(again) == experiment
    text = validate.dump_yaml(experiment)
    assert validate.load_yaml(text, schema.Experiment) == experiment
    text = validate.dump_yaml(configuration)
    assert validate.load_yaml(text, schema.Configuration) == configuration


def test_numbers_take_the_setting_s_type() -> None:
    experiment = validate.experiment_from(
        mapping(optimizer__lr=1, training__epochs=3.0, resources__cpus=2)
    )
    assert repr(experiment.optimizer.lr) == "1.0"
    assert repr(experiment.training.epochs) == "3"
    assert repr(experiment.resources.cpus) == "2.0"


def test_settings_left_out_have_their_defaults() -> None:
    short = {section: {"name": name} for section, name in compose_variants().items()}
    assert validate.experiment_from(short) == compose.compose([]).experiment


def compose_variants() -> dict[str, str]:
    experiment = compose.compose([]).experiment
    return {section: getattr(experiment, section).name for section in schema.VARIANTS}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"modle": {}}, ["modle", "closest: 'model'"]),
        ({"model__widht": 3}, ["model.widht=3", "closest: 'width'"]),
        ({"augment__noise__snr": 3}, ["augment.noise.snr=3", "min_snr"]),
        ({"augment__chain": 3}, ["augment.chain=3", "steps are wanted"]),
        ({"augment__chain": {"x": {"p": 1}}}, ["augment.chain.x", "needs a kind"]),
        (
            {"augment__chain": {"x": {"kind": "gain", "max_bd": 3}}},
            ["augment.chain.x.max_bd=3", "closest: 'max_db'"],
        ),
        ({"augment__nois": {}}, ["augment.nois", "closest: 'noise'"]),
        ({"model__name": "cnn11"}, ["model=cnn11", "closest: 'cnn1"]),
        ({"model": 3}, ["model=3", "cnn, cnn10, crnn"]),
        ({"dataset": 3}, ["dataset=3", "group of settings"]),
        ({"plugins": 3}, ["plugins=3", "list of texts"]),
        ({"features__f_min": 3000.0, "features__f_max": 2000.0}, ["features.f_min=3000", "2000"]),
        (
            {"features__f_max": 9000.0, "dataset__sample_rate": 16000},
            ["features.f_max=9000", "dataset.sample_rate=16000", "at most 8000"],
        ),
        (
            {"augment__noise__min_snr": 30.0, "augment__noise__max_snr": 20.0},
            ["augment.noise.min_snr=30", "augment.noise.max_snr=20"],
        ),
        (
            {"augment__speed__min_factor": 1.2},
            ["augment.speed.min_factor=1.2", "augment.speed.max_factor=1.1"],
        ),
        (
            {"augment__background__p": 0.5},
            ["augment.background.source", "augment.background.p=0.5"],
        ),
        ({"augment__hard_mix__p": 0.5}, ["augment.hard_mix.p=0.5", "augment.mixup"]),
        ({"dataset__clip_seconds": 0.01}, ["dataset.clip_seconds=0.01", "features.window=0.025"]),
        ({"training__steps_per_epoch": 5}, ["training.steps_per_epoch=5", "training.steps"]),
        (
            {"training__steps": 4, "training__steps_per_epoch": 5},
            ["training.steps_per_epoch=5", "training.steps=4"],
        ),
        ({"training__accumulate": 64}, ["training.accumulate=64", "training.batch_size=32"]),
        ({"resources__workers": 64}, ["resources.workers=64", "training.batch_size=32"]),
        ({"resources__workers": [1, 64]}, ["resources.workers=64", "training.batch_size=32"]),
        ({"resources__workers": [3, 1]}, ["resources.workers=[3, 1]", "mean [1, 3]?"]),
        ({"resources__workers": [0, 2]}, ["resources.workers=[0, 2]", "of at least 1"]),
        ({"resources__workers": [1, 2, 3]}, ["resources.workers=[1, 2, 3]", "mean [1, 3]?"]),
        ({"training__metric": "train/loss"}, ["training.metric=train/loss", "valid/loss"]),
        ({"dataset__resident_budget": "2XB"}, ["dataset.resident_budget='2XB'", "2GB"]),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate.experiment_from(mapping(**changes))
    text = str(caught.value)
    assert "\n" not in text, text
    assert all(part in text for part in parts), text


def test_more_coefficients_than_bands() -> None:
    with pytest.raises(ConfigError, match=r"features\.n_mfcc=40 .* features\.n_mels=20"):
        compose.compose(["features=mfcc", "features.n_mels=20"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["search.nsga.population=8"],
            "search.nsga.population=8 is a setting of search.sampler=nsga2 or nsga3, but "
            "search.sampler=tpe; leave it out, or choose that sampler",
        ),
        (["search.sampler=tpee"], "closest: 'tpe'"),
        (["search.sampler=cmaes", "search.cmaes.sigm=0.2"], "closest: 'search.cmaes.sigma'"),
        (["search.sampler=cmaes", "search.cmaes.population=3"], "at least 4"),
    ],
)
def test_settings_of_samplers_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose.compose(given)


def test_settings_of_the_chosen_sampler_and_defaults_of_others_are_fine() -> None:
    given = ["search.sampler=nsga3", "search.nsga.population=8", "search.tpe.startup=8"]
    assert compose.compose(given).search.nsga.population == 8


def test_problems_are_told_once_and_survive_pickling() -> None:
    with pytest.raises(ConfigError) as caught:
        validate.raise_problems(["a", "b", "a"])
    assert str(caught.value) == "2 problems:\n  - a\n  - b"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    validate.raise_problems([])


def test_reading_a_mapping_runs_no_plugin(tmp_path: Any) -> None:
    plugin = tmp_path / "evil.py"
    plugin.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    validate.experiment_from(mapping(plugins=[str(plugin)]))
    assert not (tmp_path / "ran").exists()
    validate.experiment_from(mapping(plugins=[str(plugin)]), plugins=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["[1]", "x: [", "3"])
def test_files_that_hold_no_settings(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^e\.yaml: "):
        validate.load_yaml(text, schema.Experiment, where="e.yaml")


def test_every_component_has_settings_of_its_name() -> None:
    for section, variants in schema.VARIANTS.items():
        registry = schema.REGISTRIES[section]
        assert set(variants) == set(registry.names())
        assert all(cls().name == name for name, cls in variants.items())
    assert set(schema.augmentations()) == set(schema.REGISTRIES["augment"].names())
    named = {field.name for field in dataclasses.fields(schema.Tracking)} - {"trackers", "clips"}
    assert named == set(schema.REGISTRIES["tracking"].names())


COMPONENTS = [
    *((section, name) for section, found in schema.VARIANTS.items() for name in found),
    *(("augment", name) for name in schema.augmentations()),
    *(("tracking", name) for name in schema.REGISTRIES["tracking"].names()),
]


@pytest.mark.parametrize(("section", "name"), COMPONENTS)
def test_components_take_exactly_the_settings_of_the_schema(section: str, name: str) -> None:
    """Their keyword arguments with a default: the same names, and the same defaults."""
    component = schema.REGISTRIES[section].get(name)
    taken = {
        parameter.name: parameter.default
        for parameter in inspect.signature(component).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
    }
    whole = {"augment": schema.Augment(), "tracking": schema.Tracking()}.get(section)
    settings = None if whole is None else getattr(whole, name)
    settings = settings or schema.VARIANTS[section][name]()
    assert taken == {key: v for key, v in dataclasses.asdict(settings).items() if key != "name"}
