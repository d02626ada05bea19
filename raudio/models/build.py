"""From settings to a model: the one place of this package that reads them."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from torch import nn

from raudio.core.components import MODELS


def build_model(settings: Any, *, n_features: int, n_outputs: int) -> nn.Module:
    """The model that `settings`, one of the schema's variants of `model`, describes.

    Args:
        settings: its field `name` is looked up in the registry, the others are its arguments.
        n_features: features a frame that the front end gives.
        n_outputs: logits a clip that the task asks for.
    """
    arguments = dataclasses.asdict(settings)
    build = MODELS.get(arguments.pop("name"))
    return cast(nn.Module, build(n_features=n_features, n_outputs=n_outputs, **arguments))
