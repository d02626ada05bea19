"""Decorators that register a user's own components, to be chosen like those that come with raudio.

    import raudio

    @raudio.register.model("mlp", "two dense layers")
    class MLP(torch.nn.Module):
        def __init__(self, *, n_features: int, n_outputs: int, width: int = 64): ...

Put it into a Python file and name the file: `raudio search plugins=mlp.py model=mlp`. Arguments
that have a default are its settings; `raudio.config.validate.adopt` says how they are read.
"""

from __future__ import annotations

from raudio.core.components import (
    AUGMENTATIONS,
    FRONT_ENDS,
    MODELS,
    OPTIMIZERS,
    SCHEDULES,
    TASKS,
    TRACKERS,
)

augmentation = AUGMENTATIONS.register
front_end = FRONT_ENDS.register
model = MODELS.register
optimizer = OPTIMIZERS.register
schedule = SCHEDULES.register
task = TASKS.register
tracker = TRACKERS.register

__all__ = ["augmentation", "front_end", "model", "optimizer", "schedule", "task", "tracker"]
