"""What identifies an experiment: everything that can change its result, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from raudio.config.schema import Experiment


def signature(experiment: Experiment, fingerprint: str) -> str:
    """16 hexadecimal digits, equal for experiments that train the same model on the same data.

    Where the data is, how it is fed and what resources a trial gets are left out, but for the
    number of its workers, and so are the magnitudes of augmentations that are off. A plugin counts
    by its content.

    Args:
        experiment: a resolved one.
        fingerprint: of its dataset's labels and shards.
    """
    settings = _settings(experiment)
    # Batch normalisation looks at a worker's own share of a batch.
    settings["resources"] = {"workers": experiment.resources.workers}
    settings["plugins"] = [_digest(plugin) for plugin in experiment.plugins]
    settings["augment"] = {
        name: values for name, values in settings["augment"].items() if values["p"] > 0
    }
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


def _digest(plugin: str) -> str:
    path = Path(plugin).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else plugin
