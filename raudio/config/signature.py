"""What identifies an experiment: everything that can change its result, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raudio.config.schema import Experiment


def signature(experiment: Experiment, fingerprint: str) -> str:
    """16 hexadecimal digits, equal for experiments that train the same model on the same data.

    Where the data is, how it is fed and what resources a trial gets are left out, but for the
    number of its workers, and so are the magnitudes of augmentations that are off. Where they are
    computed counts, because a GPU rounds otherwise. A plugin counts by its content.

    Args:
        experiment: a resolved one.
        fingerprint: of its dataset's labels and shards.
    """
    settings = _settings(experiment)
    # Several round otherwise, and draw otherwise what a model draws by itself.
    settings["resources"] = {"workers": experiment.resources.workers}
    settings["plugins"] = [_digest(plugin) for plugin in experiment.plugins]
    where, chain = settings["augment"].pop("where"), settings["augment"].pop("chain")
    settings["augment"] = {
        name: values for name, values in settings["augment"].items() if values["p"] > 0
    }
    if steps := _active(chain):
        settings["augment"]["chain"] = steps
    if settings["augment"] and where != "device":
        settings["augment"]["where"] = where
    content = json.dumps([fingerprint, settings], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _settings(value: Any) -> dict[str, Any]:
    """Settings as a mapping, without those that can't change a result."""
    return {
        field.name: _settings(inner) if dataclasses.is_dataclass(inner) else inner
        for field in dataclasses.fields(value)
        for inner in [getattr(value, field.name)]
        if "meta" not in field.metadata or field.metadata["meta"].result
    }


def _active(chain: Mapping[str, Any]) -> list[Any]:
    """The steps that can change a result, as a list: their order counts, and so do their names,
    which their draws go by. A choice's member that changes nothing still takes its share."""
    return [
        [name, {**step, "of": _active(step["of"])} if "of" in step else step]
        for name, step in chain.items()
        if step.get("weight", step["p"]) > 0
    ]


def _digest(plugin: str) -> str:
    path = Path(plugin).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else plugin
