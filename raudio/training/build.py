"""The one place of this package that reads the groups `optimizer` and `schedule` of the schema."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from raudio.core.components import OPTIMIZERS, SCHEDULES
from raudio.training.optim import parameter_groups
from raudio.training.schedules import Schedule


def build_optimizer(settings: Any, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `settings` describes, over the model's trainable parameters.

    The model must be on its device already.

    Raises:
        ConfigError: no optimizer of that name is registered.
    """
    arguments = dataclasses.asdict(settings)
    make = OPTIMIZERS.get(arguments.pop("name"))
    optimizer: torch.optim.Optimizer = make(parameter_groups(model), **arguments)
    return optimizer


def build_schedule(settings: Any) -> Schedule:
    """The schedule that `settings` describes.

    Raises:
        ConfigError: no schedule of that name is registered.
    """
    arguments = dataclasses.asdict(settings)
    schedule: Schedule = SCHEDULES.get(arguments.pop("name"))(**arguments)
    return schedule
