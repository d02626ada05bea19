"""From plain mappings to checked settings, and back.

Every mapping (a command line's, a run's `experiment.yaml`, a bundle's `experiment.json`) passes
here before anything starts. All problems are found first and told in one message, each with its
setting, the value, what is allowed and the closest match.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

import yaml

from raudio.config import chain, samplers, schedulers, schema
from raudio.config.axes import text
from raudio.config.meta import Meta, group
from raudio.config.schema import Configuration, Experiment
from raudio.config.setting import Setting, check_ranges, settings_in, type_hints, unwrap
from raudio.core.components import TRACKERS
from raudio.core.errors import ConfigError, closest, unknown
from raudio.core.registry import Registry, load_plugins
from raudio.core.secrets import has_credentials
from raudio.core.storage import check_uri
from raudio.core.units import parse_bytes, parse_interval, parse_seconds

T = TypeVar("T", Experiment, Configuration)

#: Registries that name a component in a message, by the group of settings that chooses it.
_KINDS = {"features": "front end"}


# --- what there is to set ------------------------------------------------------------------------


def groups() -> Mapping[str, type | None]:
    """The sections of a configuration: name -> settings class, None where there are variants."""
    return _groups(schema.Augment, schema.Tracking)


@cache
def _groups(*grown: type) -> Mapping[str, type | None]:  # a plugin's component makes other classes
    found: dict[str, type | None] = {}
    for owner in (Experiment, Configuration):
        hints = typing.get_type_hints(owner)
        for field in dataclasses.fields(owner):
            hint = hints[field.name]
            if field.name in schema.VARIANTS:
                found[field.name] = None
            elif dataclasses.is_dataclass(hint) and field.name != "experiment":
                found[field.name] = typing.cast(type, hint)
    return found


def settings_class(section: str, variant: str | None = None) -> type:
    """The dataclass of a section; `variant` names which, where there are several.

    Raises:
        ConfigError: no variant is called so.
    """
    single = groups()[section]
    if single is not None:
        return single
    variants = schema.VARIANTS[section]
    if variant not in variants:
        raise ConfigError(
            f"{section}={text(variant)}: {unknown(_kind(section), str(variant), variants)}"
        )
    return variants[variant]


def settings(variants: Mapping[str, str]) -> dict[str, Setting]:
    """Every setting there is, by dotted key, when the groups with variants are `variants`.

    Groups that `variants` leaves out give none.
    """
    found = dict(settings_in(Experiment, ""))
    found["space"] = Setting(
        "space", str, False, "default", Meta("search space: a name of search_spaces/ or a path")
    )
    for section in groups():
        if section not in schema.VARIANTS or section in variants:
            cls = settings_class(section, variants.get(section))
            found.update(settings_in(cls, f"{section}."))
    return found


def unknown_setting(key: str, value: Any, variants: Mapping[str, str]) -> str:
    """One sentence for a key that names no setting: the closest, or what there is in its group."""
    shown = f"{key}={text(value)}"
    section, _, rest = key.partition(".")
    if not rest and section in groups():
        example = next(iter(settings_in(settings_class(section), f"{section}.")))
        return (
            f"{shown}: {section!r} is a group of settings; set one of them, such as {example}=..."
        )
    if rest == "name" and section in schema.VARIANTS:
        return f"{shown}: choose the {_kind(section)} by its group: {section}={text(value)}"
    known = settings(variants)
    elsewhere: dict[str, list[str]] = {}
    for name, cls in schema.VARIANTS.get(section, {}).items():
        for other in settings_in(cls, f"{section}."):
            elsewhere.setdefault(other, []).append(f"{section}={name}")
    if key in elsewhere:
        return (
            f"{shown}: {section}={variants.get(section)} has no setting {rest!r}; "
            f"it belongs to {' or '.join(elsewhere[key])}"
        )
    inside = [other for other in known if other.startswith(f"{section}.")]
    beside = f"{key.rpartition('.')[0]}."  # of one augmentation, where it is one
    inside = [other for other in inside if other.startswith(beside)] or inside
    if rest and inside:
        near = difflib.get_close_matches(key, [*inside, *elsewhere], n=1, cutoff=0.5)
        if near and near[0] not in inside:
            owners = " or ".join(elsewhere[near[0]])
            return f"{shown}: unknown setting {key!r} (closest: {near[0]!r} of {owners})"
        return f"{shown}: {unknown('setting', key, inside)}"
    same_end = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    match = f" (closest: {same_end[0]!r})" if same_end else closest(key, [*known, *groups()])
    return f"{shown}: unknown setting {key!r}{match}; `raudio list settings` names all"


def _kind(section: str) -> str:
    return _KINDS.get(section, section)


# --- mappings to settings ------------------------------------------------------------------------


def experiment_from(
    mapping: Mapping[str, Any], *, plugins: bool = False, found: Sequence[str] = ()
) -> Experiment:
    """The experiment that `mapping` (section -> setting -> value) describes.

    Args:
        mapping: what `to_mapping` gave; settings left out have their defaults.
        plugins: whether to import the Python files that the setting `plugins` names. Never for a
            mapping that came with a bundle: it would run code by name from its text.
        found: problems that are known already, to be told with the others.

    Raises:
        ConfigError: unknown settings, wrong types, values out of bounds, or settings that do not
            go together; all of them in one message.
    """
    if plugins:
        use_plugins(mapping.get("plugins") or ())
    adopt()
    problems = list(found)
    experiment = _experiment(mapping, problems)
    raise_problems(problems)
    return experiment


def configuration_from(
    mapping: Mapping[str, Any], *, plugins: bool = False, found: Sequence[str] = ()
) -> Configuration:
    """The configuration that `mapping` describes; as `experiment_from`, with one key each for
    `experiment`, `space`, `search`, `run`, `tracking` and `cluster`.

    Raises:
        ConfigError: as `experiment_from`.
    """
    inner = mapping.get("experiment") or {}
    if plugins:
        use_plugins(inner.get("plugins") or ())
    adopt()
    problems = list(found)
    configuration = Configuration(
        experiment=_experiment(inner, problems),
        space=str(mapping.get("space") or "default"),
        **{
            section: _built(settings_class(section), mapping.get(section), f"{section}.", problems)
            for section in ("search", "run", "tracking", "cluster")
        },
    )
    known = [field.name for field in dataclasses.fields(Configuration)]
    problems += [
        f"{key}={text(mapping[key])}: {unknown('setting', key, known)}"
        for key in mapping
        if key not in known
    ]
    if not problems:
        _check_uris(configuration, problems)
        _check_search(configuration, problems)
        _check_tracking(configuration.tracking, problems)
    raise_problems(problems)
    return configuration


def tracking_from(mapping: Mapping[str, Any], found: Sequence[str] = ()) -> schema.Tracking:
    """The group `tracking` that `mapping` describes; as `experiment_from`."""
    problems = list(found)
    tracking: schema.Tracking = _built(schema.Tracking, mapping, "tracking.", problems)
    if not problems:
        _check_tracking(tracking, problems)
    raise_problems(problems)
    return tracking


class SettingsError(ConfigError):
    """One or more problems, told in one message; `args` holds them one by one."""

    def __str__(self) -> str:
        if len(self.args) == 1:
            return str(self.args[0])
        return f"{len(self.args)} problems:\n" + "\n".join(f"  - {each}" for each in self.args)


def raise_problems(problems: Iterable[str | ConfigError]) -> None:
    """Raises all problems, each once, as one ConfigError; none, nothing."""
    texts: dict[str, None] = {}
    for problem in problems:
        listed = problem.args if isinstance(problem, SettingsError) else (str(problem),)
        texts.update(dict.fromkeys(listed))
    if texts:
        raise SettingsError(*texts)


def _experiment(mapping: Mapping[str, Any], problems: list[str]) -> Experiment:
    values: dict[str, Any] = {}
    start = len(problems)
    known = [field.name for field in dataclasses.fields(Experiment)]
    top = settings_in(Experiment, "")
    for name in known:
        given = mapping.get(name)
        if name in schema.VARIANTS:
            variant = given.get("name") if isinstance(given, Mapping) else given
            try:
                cls = settings_class(name, variant)
            except ConfigError as error:
                problems.append(str(error))
                continue
            values[name] = _built(cls, given, f"{name}.", problems)
        elif name in top:
            values[name] = _value(top[name], mapping.get(name, top[name].default), problems)
        else:
            cls = typing.cast(type, groups()[name])
            values[name] = _built(cls, given, f"{name}.", problems)
    for key in mapping:
        if key not in known:
            problems.append(f"{key}={text(mapping[key])}: {unknown('setting', key, known)}")
    if len(problems) > start:
        return typing.cast(Experiment, None)  # the caller raises the problems
    experiment = Experiment(**values)
    check_together(experiment, problems)
    return experiment


def _built(cls: type, given: Any, prefix: str, problems: list[str]) -> Any:
    """`cls` from a mapping; a problem for each key or value that does not fit."""
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{prefix[:-1]}={text(given)}: a group of settings is wanted here")
        return None
    values: dict[str, Any] = {}
    hints = type_hints(cls)
    known = settings_in(cls, prefix)
    for field in dataclasses.fields(cls):
        name, key = field.name, f"{prefix}{field.name}"
        if key in known:
            values[name] = _value(known[key], given.get(name, field.default), problems)
        elif dataclasses.is_dataclass(hints[name]):
            inner = typing.cast(type, hints[name])
            values[name] = _built(inner, given.get(name), f"{key}.", problems)
        elif key == chain.KEY:
            values[name] = chain.checked(given.get(name), problems, installed=False)
    names = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in names:
            settable = [other for other in names if other != "name"]
            problems.append(
                f"{prefix}{name}={text(given[name])}: {unknown('setting', name, settable)}"
            )
    return cls(**values)


def _value(setting: Setting, value: Any, problems: list[str]) -> Any:
    try:
        return setting.checked(value)
    except ConfigError as error:
        problems.append(str(error))
        return setting.default


def check_together(experiment: Experiment, problems: list[str]) -> None:
    """Settings that are fine one by one and cannot go together."""
    data, features, training = experiment.dataset, experiment.features, experiment.training
    f_min, f_max = getattr(features, "f_min", 0.0), getattr(features, "f_max", None)
    if f_max is not None and f_min >= f_max:
        problems.append(f"features.f_min={f_min:g} must be below features.f_max={f_max:g} (Hz)")
    if data.sample_rate is not None:
        nyquist = data.sample_rate / 2
        for key, value in (("f_max", f_max), ("f_min", f_min)):
            if value is not None and (value > nyquist or (key == "f_min" and value == nyquist)):
                problems.append(
                    f"features.{key}={value:g} is too high for dataset.sample_rate="
                    f"{data.sample_rate}: there is nothing above half the rate; "
                    f"give at most {nyquist:g} (Hz)"
                )
    n_mfcc, n_mels = getattr(features, "n_mfcc", 0), getattr(features, "n_mels", None)
    if n_mels is not None and n_mfcc > n_mels:
        problems.append(
            f"features.n_mfcc={n_mfcc} is more than features.n_mels={n_mels}; "
            f"give at most {n_mels}, or more mel bands"
        )
    window = getattr(features, "window", 0.0)
    if data.clip_seconds is not None and data.clip_seconds < window:
        problems.append(
            f"dataset.clip_seconds={data.clip_seconds:g} is shorter than one analysis window, "
            f"features.window={window:g} (s)"
        )
    for name in schema.augmentations():
        check_ranges(f"augment.{name}", vars(getattr(experiment.augment, name)), problems)
    if experiment.augment.background.p > 0 and experiment.augment.background.source is None:
        problems.append(
            "augment.background.source is not given; augment.background.p="
            f"{experiment.augment.background.p:g} needs a folder or URI with recordings of noise"
        )
    if experiment.augment.hard_mix.p > 0 and experiment.task.name == "classification":
        problems.append(
            f"augment.hard_mix.p={experiment.augment.hard_mix.p:g} gives a clip several labels, "
            "and task=classification takes one; use augment.mixup or augment.between_class"
        )
    if training.steps is None and training.steps_per_epoch is not None:
        problems.append(
            f"training.steps_per_epoch={training.steps_per_epoch} needs training.steps, "
            "the optimizer steps in all"
        )
    elif training.steps is not None and (training.steps_per_epoch or 0) > training.steps:
        problems.append(
            f"training.steps_per_epoch={training.steps_per_epoch} is more than "
            f"training.steps={training.steps}"
        )
    _check_workers(experiment.resources.workers, problems)
    for key, parts in (
        ("training.accumulate", training.accumulate),
        ("resources.workers", experiment.resources.max_workers),
    ):
        if parts > training.batch_size:
            problems.append(
                f"{key}={parts} divides a batch of training.batch_size={training.batch_size} "
                f"clips; give at most {training.batch_size}"
            )
    metric = training.metric
    if metric is not None and not metric.startswith("valid/"):
        cost = metric.startswith("cost/")
        cure = (
            f"name it as a further one of search.objectives, or limit it: search.limits='{metric} "
            "< ...'"
            if cost
            else f"write valid/{metric.rpartition('/')[2] or 'accuracy'}"
        )
        problems.append(f"training.metric={metric} is not measured on the valid split; {cure}")
    _check_mixture(data, problems)
    _attempt(lambda: parse_bytes(data.resident_budget, "dataset.resident_budget"), problems)
    every = experiment.training.checkpoint_every
    if every is not None:
        _attempt(lambda: parse_interval(every, "training.checkpoint_every"), problems)
    memory = experiment.resources.memory
    if memory is not None:
        _attempt(lambda: parse_bytes(memory, "resources.memory"), problems)


def _check_uris(configuration: Configuration, problems: list[str]) -> None:
    """Folders and URIs that can be some; no password in one that a run would keep."""
    path = configuration.experiment.dataset.path
    paths = [path] if isinstance(path, str) else [*path]
    given = [("dataset.path", each) for each in paths] + [("run.dir", configuration.run.dir or "")]
    if configuration.run.dir == "":
        problems.append("run.dir='' is empty; give a folder or s3://BUCKET/FOLDER, or leave it out")
    for key, uri in given:
        _attempt(lambda: check_uri(uri, f"{key}="), problems)  # noqa: B023
        of_azure = uri.startswith(("abfs://", "abfss://"))  # abfs://CONTAINER@ACCOUNT/...
        if has_credentials(uri) and not of_azure:
            problems.append(
                f"{key} has a user or a password in it, which command lines, shells and runs keep; "
                "give what the store asks for in the environment of each machine, such as "
                "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )


def _check_workers(workers: int | tuple[int, ...], problems: list[str]) -> None:
    if isinstance(workers, int):
        return
    if len(workers) != 2 or workers[0] > workers[1]:
        low, high = min(workers), max(workers)
        problems.append(
            f"resources.workers={text(workers)}: a list is the fewest and the most workers of a "
            f"trial; did you mean [{low}, {high}]?"
        )


def _check_mixture(data: schema.Dataset, problems: list[str]) -> None:
    if data.weights is None:
        return
    count = len(data.path) if isinstance(data.path, tuple) else 1
    if len(data.weights) != count:
        problems.append(
            f"dataset.weights={text(data.weights)} has {len(data.weights)} shares for {count} "
            f"dataset{'' if count == 1 else 's'} in dataset.path={text(data.path)}; give one each"
        )
    elif not any(data.weights):
        problems.append(f"dataset.weights={text(data.weights)}: one of them must be above 0")


def _check_search(configuration: Configuration, problems: list[str]) -> None:
    search = configuration.search
    for name in ("time_budget", "cost_budget"):
        budget = getattr(search, name)
        if budget is not None:
            _attempt(lambda: parse_seconds(budget, f"search.{name}"), problems)  # noqa: B023
    patience, lost_every = configuration.run.patience, configuration.cluster.lost_every
    _attempt(lambda: parse_seconds(patience, "run.patience"), problems)
    if lost_every is not None:
        _attempt(lambda: parse_seconds(lost_every, "cluster.lost_every"), problems)
    check_readers(search, "sampler", samplers.READERS, problems)
    check_readers(search, "scheduler", schedulers.READERS, problems)


def check_readers(
    search: schema.Search, choice: str, readers: Mapping[str, Sequence[str]], problems: list[str]
) -> None:
    """A setting that the chosen sampler (or scheduler) does not read was meant for another."""
    chosen = getattr(search, choice)
    for name, those in readers.items():
        if chosen in those:
            continue
        for key, setting in settings_in(schema.Search, "search.").items():
            if not f"{key}.".startswith(f"search.{name}."):
                continue
            value = attrgetter(key.removeprefix("search."))(search)
            if value != setting.default:
                named = " or ".join(one for one in those if one != "auto")
                problems.append(
                    f"{key}={text(value)} is a setting of search.{choice}={named}, "
                    f"but search.{choice}={chosen}; leave it out, or choose that {choice}"
                )


def _check_tracking(tracking: schema.Tracking, problems: list[str]) -> None:
    """Whether the trackers are known, and the settings meant for them."""
    chosen = tracking.trackers or ()
    for name in chosen:
        if name not in TRACKERS:
            problems.append(
                f"tracking={text(chosen)}: {unknown('tracker', name, TRACKERS.names())}; "
                "records.jsonl is always written"
            )
    for key, setting in settings_in(schema.Tracking, "tracking.").items():
        name, value = key.split(".")[1], attrgetter(key.removeprefix("tracking."))(tracking)
        if key.count(".") == 2 and name not in chosen and value != setting.default:
            # Not the value: it may hold a secret.
            problems.append(
                f"{key} is a setting of tracking={name}, but tracking={text(tracking.trackers)}; "
                "leave it out, or add that tracker"
            )
    uri, project = tracking.mlflow.uri, tracking.wandb.project
    if uri is not None and has_credentials(uri):
        problems.append(
            "tracking.mlflow.uri has a user or a password in it, which command lines, shells and "
            "runs keep; give them as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the "
            "whole URI as MLFLOW_TRACKING_URI"
        )
    if project is not None and (len(project) > 128 or set(project) & set("/\\#?%:")):
        problems.append(
            f"tracking.wandb.project={project}: a project's name has at most 128 characters, and "
            "none of / \\ # ? % :"
        )


def _attempt(check: Callable[[], object], problems: list[str]) -> None:
    try:
        check()
    except ConfigError as error:
        problems.append(str(error))


# --- settings to mappings ------------------------------------------------------------------------


def to_mapping(settings: Any) -> dict[str, Any]:
    """Settings as plain dicts, lists, texts and numbers, ready for JSON or YAML."""
    return {
        field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def dump_yaml(settings: Any) -> str:
    """Settings as YAML, in the schema's order."""
    return yaml.safe_dump(to_mapping(settings), sort_keys=False, allow_unicode=True)


def load_yaml(content: str, kind: type[T], *, where: str = "", plugins: bool = False) -> T:
    """What `dump_yaml` wrote, checked.

    Args:
        content: the YAML text.
        kind: `Experiment` or `Configuration`.
        where: the file's name, for messages.
        plugins: as in `experiment_from`.

    Raises:
        ConfigError: no YAML mapping, or as `experiment_from`.
    """
    prefix = f"{where}: " if where else ""
    try:
        mapping = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{prefix}not readable as YAML: {error}") from error
    if not isinstance(mapping, dict):
        raise ConfigError(f"{prefix}holds no settings, but {type(mapping).__name__}")
    build: Callable[..., Any] = experiment_from if kind is Experiment else configuration_from
    try:
        return typing.cast(T, build(mapping, plugins=plugins))
    except ConfigError as error:
        if not where:
            raise
        raise ConfigError(f"{prefix}{error}") from error


# --- plugins -------------------------------------------------------------------------------------


def use_plugins(paths: Iterable[str]) -> None:
    """Imports plugin files and makes their components choosable and settable.

    Raises:
        ConfigError: a file does not exist, or a component's settings cannot be told from its
            signature.
    """
    load_plugins([paths] if isinstance(paths, str) else paths)
    adopt()


def adopt() -> None:
    """Adds every registered component that the schema does not know yet to the schema.

    Its settings are its keyword arguments that have a default; arguments without one (`n_features`,
    `labels`, ...) are given by raudio. An annotation `Annotated[float, Meta(...)]` adds a help
    text, bounds or choices, and `Literal["a", "b"]` choices.

    Raises:
        ConfigError: an argument's type is none that a setting can have.
    """
    for section, registry in schema.REGISTRIES.items():
        if section in schema.VARIANTS:
            for name in registry.names():
                if name not in schema.VARIANTS[section]:
                    schema.VARIANTS[section][name] = _settings_of(registry, name)
            continue
        owner = {"augment": "Augment", "tracking": "Tracking"}[section]
        known = getattr(schema, owner)
        present = {field.name for field in dataclasses.fields(known)}
        added = [
            (name, cls, group(cls, registry.about(name)))
            for name in registry.names()
            if name not in present
            for cls in [_settings_of(registry, name)]
        ]
        if added:
            bases = (known,)
            grown = dataclasses.make_dataclass(owner, added, bases=bases, frozen=True, kw_only=True)
            setattr(schema, owner, grown)


def _settings_of(registry: Registry, name: str) -> type:
    """A settings class made from a component's signature."""
    component = registry.get(name)
    where = f"{registry.kind} {name!r}"
    hints = typing.get_type_hints(
        component.__init__ if isinstance(component, type) else component,  # type: ignore[misc]
        include_extras=True,
    )
    fields: list[Any] = []
    if registry.kind not in ("augmentation", "tracker"):  # they are on beside others
        fields.append(("name", str, dataclasses.field(default=name)))
    for parameter in inspect.signature(component).parameters.values():
        if parameter.default is inspect.Parameter.empty:
            continue
        hint, meta = hints.get(parameter.name, type(parameter.default)), Meta("")
        if typing.get_origin(hint) is typing.Annotated:
            hint, *extras = typing.get_args(hint)
            meta = next((extra for extra in extras if isinstance(extra, Meta)), meta)
        if typing.get_origin(hint) is typing.Literal:
            hint, meta = str, dataclasses.replace(meta, choices=typing.get_args(hint))
        if unwrap(hint)[0] not in (int, float, bool, str):
            raise ConfigError(
                f"{where}: argument {parameter.name!r} is of type {hint}; a setting is an int, "
                "float, bool or str, or one of them or None"
            )
        default = parameter.default
        fields.append(
            (parameter.name, hint, dataclasses.field(default=default, metadata={"meta": meta}))
        )
    if registry.kind == "augmentation" and "p" not in [field[0] for field in fields]:
        raise ConfigError(
            f"{where}: give it an argument `p: float = 0.0`, its probability; 0 must switch it off"
        )
    title = "".join(part.capitalize() for part in name.split("_"))
    return dataclasses.make_dataclass(title, fields, frozen=True, kw_only=True)
