"""How long a trial trains: in epochs or in steps, as one pair of numbers. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from raudio.config.schema import Training
from raudio.core.errors import DataError


@dataclass(frozen=True)
class Budget:
    """A trial's length.

    Attributes:
        steps: optimizer steps in all.
        epoch_steps: steps of an epoch, after each of which there is a validation and a report; the
            last epoch has fewer where they don't divide `steps`.
        pass_steps: steps of one pass over the training split.
    """

    steps: int
    epoch_steps: int
    pass_steps: int

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return -(-self.steps // self.epoch_steps)

    @property
    def passes(self) -> int:
        """Passes over the training split, the last perhaps not whole."""
        return -(-self.steps // self.pass_steps)


def count_epochs(training: Training) -> int:
    """Epochs, and so reports, of a trial that is not stopped early."""
    if training.steps is None:
        return training.epochs
    return -(-training.steps // _steps_per_epoch(training.steps, training))


def budget(training: Training, pass_steps: int) -> Budget:
    """The length that `training` asks for.

    Args:
        training: the settings.
        pass_steps: optimizer steps of one pass over the training split.

    Raises:
        DataError: the training split is too small to make a batch.
    """
    if pass_steps < 1:
        raise DataError(
            "the training split is too small to make one batch (at least two clips, and one for "
            "each worker): add clips, or lower resources.workers"
        )
    if training.steps is None:
        return Budget(training.epochs * pass_steps, pass_steps, pass_steps)
    return Budget(training.steps, _steps_per_epoch(training.steps, training), pass_steps)


def _steps_per_epoch(steps: int, training: Training) -> int:
    return training.steps_per_epoch or -(-steps // 10)
