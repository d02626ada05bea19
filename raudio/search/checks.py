"""What settings, files and data of a search must be for each other, beyond the type of each.

Each refuses what does not fit, with what the user is to change.
"""

from __future__ import annotations

from pathlib import Path

from raudio.config import chain
from raudio.config.adapters import is_adapter
from raudio.config.schema import Augment, Configuration, Experiment, Search
from raudio.core.errors import ConfigError, DataError, RunError
from raudio.core.storage import exists, is_remote, join
from raudio.data.clips import stored_tables
from raudio.data.manifest import Manifest
from raudio.records import RECORDS
from raudio.search.planner import trials_in_all
from raudio.search.scheduler import check_population
from raudio.search.space import Space

#: Augmentations that take recordings from a `source`.
_WITH_SOURCE = ("background", "reverb")


def check_folder(configuration: Configuration) -> None:
    """Refuses a run's folder that is in use."""
    folder = configuration.run.dir
    if folder is None:
        return
    try:
        there = exists(join(folder, RECORDS) if is_remote(folder) else Path(folder))
    except OSError as error:
        raise RunError(f"run.dir={folder!r}: the store cannot be read: {error}") from error
    if there:
        raise RunError(
            f"run.dir={folder!r} exists already; give another folder, or go on with that run: "
            f"raudio resume {folder}"
        )


def check_replicates(search: Search) -> None:
    """Refuses what cannot be repeated or confirmed."""
    check_population(search)
    ends = (search.epochs_budget, search.cost_budget, search.patience, trials_in_all(search))
    if search.confirm and all(end is None for end in ends):
        raise ConfigError(
            f"search.confirm={search.confirm} begins when all configurations are trained, and "
            "search.time_budget alone sets no number of them: it would end the confirmation, too; "
            "set search.trials"
        )


def check_folds(experiment: Experiment, space: Space) -> None:
    """Refuses a fold of one's own where each takes its turn."""
    if any(param.key == "dataset.fold" for param in space.params):
        raise ConfigError(
            "search.folds=true gives every configuration each fold in turn; take dataset.fold out "
            "of the space"
        )
    if experiment.dataset.fold is not None:
        raise ConfigError(
            f"dataset.fold={experiment.dataset.fold}: search.folds=true gives every configuration "
            "each fold in turn; leave one of them out"
        )


def check_augment(augment: Augment, sample_rate: int) -> None:
    """Whether augmentations find their recordings, which trials read, and libraries take their
    settings. What is imported imports torch, which takes the driver seconds: only where needed."""
    own = {
        f"augment.{kind}": {"kind": kind, **vars(getattr(augment, kind))} for kind in _WITH_SOURCE
    }
    for name, step in {**own, **dict(chain.steps(augment.chain))}.items():
        kind = step["kind"]
        if kind in _WITH_SOURCE and step["source"] is not None:
            from raudio.audio.augment.sounds import sound_files

            sound_files(step["source"], name=name)
        elif is_adapter(kind):
            from raudio.audio.adapters import build_adapter

            for key in chain.PATHS:
                if step.get(key) is not None and not Path(step[key]).exists():
                    raise ConfigError(
                        f"{name}.{key}={step[key]!r} does not exist; give a folder or file of audio"
                    )
            given = {key: value for key, value in step.items() if key not in ("kind", "weight")}
            try:
                build_adapter(kind, given, sample_rate)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error


def check_data(manifest: Manifest) -> None:
    """Refuses what has nothing to train on, to compare on, or to tell apart."""
    for split in ("train", "valid"):
        if split not in manifest.splits or not manifest.splits[split].clips:
            raise DataError(
                f"dataset {manifest.path!r} has no clips in split {split!r}; a search trains on "
                "train and compares on valid: prepare it again with both"
            )
    if len(manifest.labels) < 2:
        raise DataError(
            f"dataset {manifest.path!r} has {len(manifest.labels)} class "
            f"({', '.join(manifest.labels)}); there is nothing to tell apart: add another"
        )


def check_target(experiment: Experiment, manifest: Manifest) -> None:
    """Whether every clip has what the task learns; a task that names no column checks by itself."""
    column = getattr(experiment.task, "TARGET", None)
    if column is None:
        return
    for table in stored_tables(manifest):
        if not table[column].null_count:
            continue
        has = "several labels a clip" if "labels" in table.column_names else "events"
        raise ConfigError(
            f"task={experiment.task.name} needs one label a clip, and dataset {manifest.path!r} "
            f"has {has}: prepare it from a table that gives each clip one label"
        )
