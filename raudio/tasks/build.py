"""The one place of this package that reads the schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from raudio.core.components import TASKS


def build_task(
    settings: Any, *, labels: Sequence[str], class_counts: Mapping[str, int] | None = None
) -> Any:
    """The task that `settings` (group `task` of the schema) describes.

    Args:
        settings: one of the group's settings classes.
        labels: the dataset's labels, in the order of the scores.
        class_counts: training clips of each label; None where nothing is trained.

    Raises:
        ConfigError: no task of that name is registered.
        DataError: the labels cannot work for it.
    """
    arguments = dataclasses.asdict(settings)
    return TASKS.get(arguments.pop("name"))(labels, class_counts, **arguments)
