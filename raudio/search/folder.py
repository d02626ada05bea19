"""What a run folder says of its search before anything has happened in it."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import raudio
from raudio.config import compose, validate
from raudio.core import machine
from raudio.core.errors import ConfigError, DataError, OutOfReachError, RunError, closest
from raudio.core.storage import write_atomic
from raudio.data.inspect import preflight
from raudio.data.manifest import Manifest
from raudio.records import (
    DATASET_JSON,
    ENVIRONMENT_JSON,
    FORMAT,
    PREFLIGHT_JSON,
    SEARCH_YAML,
    SPACE_YAML,
    check_format,
)
from raudio.search.job import Job, job_on_data
from raudio.search.points import POINTS
from raudio.search.prior import Prior
from raudio.search.space import Space
from raudio.search.space_file import load

#: Settings of a recorded search that `resume` may change: the budget, where it runs, how often
#: trials save, and where the dataset and the plugins, which have to be the same, are now.
RESUMABLE = (
    "dataset.path",
    "plugins",
    "search.trials",
    "search.time_budget",
    "search.epochs_budget",
    "search.cost_budget",
    "search.target",
    "search.patience",
    "search.confirm",
    "search.confirm_seeds",
    "search.concurrency",
    "search.keep",
    "search.max_failures",
    "training.checkpoint_every",
    "run.export",
    "run.patience",
    "cluster.address",
    "cluster.cpus",
    "cluster.lost_every",
    "tracking",
)
TRACKING = "tracking."
#: Those of `RESUMABLE` that trials' experiments are composed with; `plugins` apart.
_OF_TRIALS = ("dataset.path", "training.checkpoint_every")


def default_folder() -> str:
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder, number = Path("runs") / stamp, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stamp}-{number}"
    return str(folder)


def make_run(job: Job, folder: Path) -> None:
    """What a run says of itself, before anything has happened in it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise RunError(f"run.dir={str(folder)!r} exists already; give another folder") from error
    except OSError as error:
        raise RunError(f"run.dir={str(folder)!r} cannot be made: {error.strerror}") from error
    write_search(job, folder)
    job.prior.write(folder)
    write_atomic(folder / SPACE_YAML, yaml.safe_dump(job.space.to_mapping(), sort_keys=False))
    write_atomic(folder / DATASET_JSON, job.manifest.to_json())
    write_atomic(folder / PREFLIGHT_JSON, preflight.to_json(job.preflight))
    write_atomic(folder / ENVIRONMENT_JSON, json.dumps(_environment(), indent=2) + "\n")


def write_search(job: Job, folder: Path) -> None:
    """What `recorded_job` reads; written anew when a session changes the budget, so that the next
    one knows it."""
    recorded = {
        "format": FORMAT,
        "version": raudio.__version__,
        "overrides": list(job.overrides),
        "single": not job.space.params,
        "configuration": validate.to_mapping(job.configuration),
    }
    write_atomic(folder / SEARCH_YAML, yaml.safe_dump(recorded, sort_keys=False))


def check_changes(overrides: Sequence[str]) -> list[str]:
    """`overrides`, of settings that may change when a run goes on.

    Raises:
        ConfigError: one may not, or has several values.
    """
    plain, axes = compose.split(overrides)
    for key in (*compose.values_of(plain), *axes):
        if key not in RESUMABLE and not key.startswith(TRACKING):
            raise ConfigError(
                f"{key} cannot change when a run goes on{closest(key, RESUMABLE)}; these can: "
                f"{', '.join(RESUMABLE)}"
            )
    for key, axis in axes.items():
        raise ConfigError(f"{key}={axis} has several values; a run goes on with one")
    return plain


def recorded_job(folder: Path, overrides: Sequence[str]) -> Job:
    """The job of a run folder, with a changed budget."""
    plain = check_changes(overrides)
    changed = compose.values_of(plain)
    path = folder / SEARCH_YAML
    try:
        recorded = yaml.safe_load(path.read_text())
        mapping, given, single = (recorded[key] for key in ("configuration", "overrides", "single"))
        if "plugins" in changed:
            plugins = _absolute(changed.pop("plugins"))
            mapping["experiment"]["plugins"] = plugins
            given = [item for item in given if not item.startswith("plugins=")]
            given.append(compose.override("plugins", plugins))
        for key, value in changed.items():
            group, _, name = key.partition(".")
            if not key.startswith(TRACKING):
                (mapping if group in mapping else mapping["experiment"])[group][name] = value
        validate.use_plugins(mapping["experiment"].get("plugins") or ())
        tracking = [item for item in plain if _key(item).partition(".")[0] == "tracking"]
        tracked = compose.tracking(tracking, mapping.get("tracking") or {})
        mapping["tracking"] = validate.to_mapping(tracked)
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise RunError(f"{str(path)!r} is missing or damaged; this run cannot go on") from error
    if single and "search.trials" in changed:
        raise ConfigError(
            f"search.trials={changed['search.trials']}: {str(folder)!r} has nothing to search, and "
            "a further trial would be the same; `raudio search` makes a run with a space"
        )
    version = recorded.get("version", "of an earlier version")
    check_format(recorded.get("format", 1), version)
    of_trials = {_key(item): item for item in plain if _key(item) in _OF_TRIALS}
    given = [item for item in given if _key(item) not in of_trials] + list(of_trials.values())
    try:
        configuration = validate.configuration_from(mapping, plugins=True)
    except ConfigError as error:
        if version == raudio.__version__:
            raise
        raise RunError(
            f"{str(folder)!r} was made by raudio {version}, whose settings raudio "
            f"{raudio.__version__} does not take ({error}); go on with it there, or start anew"
        ) from error
    # The points are in the run's own space: where they came from may be gone.
    given = [override for override in given if not override.startswith(f"{POINTS}=")]
    try:
        space = Space("none") if single else load(str(folder / SPACE_YAML), overrides=given)
    except ConfigError as error:
        raise RunError(
            f"{str(folder / SPACE_YAML)!r} is missing or damaged; this run cannot go on: {error}"
        ) from error
    try:
        job = job_on_data(configuration, given, space, lambda text: None)
    except OutOfReachError:
        raise
    except DataError as error:
        raise DataError(
            f"{error}; if the dataset has moved: raudio resume RUN dataset.path=WHERE_IT_IS"
        ) from error
    if job.manifest.fingerprint != _manifest(folder).fingerprint:
        raise RunError(
            f"dataset {job.manifest.path!r} has changed since run {str(folder)!r} started; its "
            "trials could not be compared with new ones: start a new search"
        )
    return dataclasses.replace(job, prior=Prior.load(folder))


def _key(override: str) -> str:
    return override.partition("=")[0]


def _absolute(plugins: str | Sequence[str]) -> list[str]:
    files = [plugins] if isinstance(plugins, str) else plugins
    return [str(Path(file).expanduser().resolve()) for file in files]


def _manifest(folder: Path) -> Manifest:
    """The manifest of the dataset that the run started on."""
    try:
        return Manifest.read(str(folder))
    except DataError as error:
        raise RunError(
            f"{str(folder / DATASET_JSON)!r} is missing or damaged; this run cannot go on"
        ) from error


def _environment() -> dict[str, Any]:
    """Versions, commit and hardware; no environment variables, which may hold secrets."""
    packages = ("ray", "torch", "torchaudio", "optuna", "hydra-core", "pyarrow", "numpy")
    return {
        "raudio": raudio.__version__,
        "commit": _commit(Path(raudio.__file__).parents[1]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": machine.cpus(),
        "memory_bytes": machine.memory_bytes(),
        "gpus": machine.gpus(),
        "command": sys.argv,
    }


def _commit(clone: Path) -> str | None:
    """The commit that a clone of raudio is at; None where raudio was installed, perhaps inside
    another project's clone, or where there is no git."""
    if not (clone / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "HEAD"], capture_output=True, text=True
        )
    except OSError:
        return None
    return found.stdout.strip() or None
