"""The one place of this package that reads the group `tracking` of the schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from raudio.config.tracking import Tracking
from raudio.core import extras
from raudio.core.components import TRACKERS
from raudio.core.errors import ConfigError
from raudio.core.storage import absolute
from raudio.tracking.tracker import Tracker

#: What trackers need: the package, and how it is installed.
_NEEDED = {
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "'raudio[mlflow]'"),
    "tensorboard": ("tensorboard", "'raudio[tensorboard]'"),
}
_SQLITE = "sqlite:///"


def check(tracking: Tracking) -> None:
    """Whether the trackers can be had; imports none.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [
        f"tracking={name} needs {package}, which is not installed: pip install {install}"
        for name in tracking.trackers or ()
        for package, install in [_NEEDED.get(name, ("raudio", ""))]
        if not extras.installed(package)
    ]
    if missing:
        raise ConfigError("; ".join(missing))


def with_absolute_paths(tracking: Tracking) -> Tracking:
    """The same, its local folders and files absolute: a later `resume` runs in another folder."""
    uri, folder = tracking.mlflow.uri, tracking.tensorboard.dir
    if uri is not None:
        if uri.startswith(_SQLITE):
            uri = _SQLITE + absolute(uri.removeprefix(_SQLITE))
        elif "://" not in uri and not uri.startswith(("databricks", "file:")):
            uri = absolute(uri)
    return dataclasses.replace(
        tracking,
        mlflow=dataclasses.replace(tracking.mlflow, uri=uri),
        tensorboard=dataclasses.replace(
            tracking.tensorboard, dir=None if folder is None else absolute(folder)
        ),
    )


def build_tracker(name: str, settings: Mapping[str, Any]) -> Tracker:
    """The tracker called `name`.

    Raises:
        ConfigError: no tracker of that name is registered.
    """
    tracker: Tracker = TRACKERS.get(name)(**settings)
    return tracker
