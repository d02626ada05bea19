"""How the schema declares a setting: a dataclass field with its meaning, unit and bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Meta:
    """What is known of a setting besides its type and default.

    Attributes:
        help: its meaning, one sentence.
        unit: of the value, empty when it has none.
        min, max: inclusive bounds.
        above, below: exclusive bounds.
        choices: the values allowed, empty for any.
        result: whether it can change a trial's result (and so belongs to the signature).
    """

    help: str
    unit: str = ""
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    result: bool = True


def setting(default: Any, help: str, **meta: Any) -> Any:
    """A dataclass field with its `Meta`."""
    return dataclasses.field(default=default, metadata={"meta": Meta(help, **meta)})


def group(default: Any, help: str) -> Any:
    """A dataclass field that holds further settings."""
    return dataclasses.field(default_factory=default, metadata={"meta": Meta(help)})
