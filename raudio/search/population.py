"""Population based training: the worst trials go on from the best ones, with settings nearby.

Jaderberg et al., "Population Based Training of Neural Networks", 2017. All trials of a search are
the population. At every interval, a trial of the bottom quantile takes over a donor's weights,
optimizer and place in the training, and the donor's settings, some of them changed.

Trials are compared at equal epochs: one that stands at an epoch, with all values that are known of
that epoch. Where there are fewer slots than trials they take turns, the one that is behind first,
so each is compared with the whole population; where all train at once, nobody waits for anybody,
and a fast one is compared with those that were faster.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from raudio.config.axes import Interval
from raudio.config.schedulers import PBT
from raudio.core import seeding
from raudio.core.errors import ConfigError
from raudio.search.space import Param, Space

#: What a setting with an interval is multiplied by, as in the paper.
_FACTORS = (0.8, 1.2)

#: Settings that may change within a trial: the weights keep their shapes, and the schedule its
#: length. What else is searched comes from the donor along with the weights.
_CHANGEABLE = ("optimizer.", "augment.", "task.label_smoothing", "training.clip_norm")


def changeable(space: Space) -> list[Param]:
    """The searched settings that a copy of a trial may have otherwise than its donor.

    Not those that conditions ask for: other settings would come and go with them.
    """
    deciding = {key for param in space.params for key in param.when}
    return [
        param
        for param in space.params
        if (
            param.key.startswith(_CHANGEABLE)
            or (param.key.startswith("model.") and "dropout" in param.key)
        )
        and len(param.values) != 1
        and param.key not in deciding
    ]


class Population:
    """Which trial copies which, and what it changes.

    Args:
        mode: "max" or "min".
        epochs: of a trial.
        grace: epochs before a trial can copy.
        settings: `search.pbt`.
        trials: in the population; None: not known.
        seed: of the draws of donors and settings.
        space: what is searched.

    Raises:
        ConfigError: nobody could ever copy, or nothing could change.
    """

    def __init__(
        self,
        mode: str,
        epochs: int,
        grace: int,
        settings: PBT,
        *,
        trials: int | None,
        seed: int,
        space: Space,
    ) -> None:
        self._sign = -1.0 if mode == "min" else 1.0
        self._epochs = epochs
        self._grace = grace
        self._settings = settings
        self._interval = settings.interval or math.ceil(epochs / 9)
        self._seed = seed
        self._space = space
        self._params = changeable(space)
        self._least = math.ceil(1 / settings.quantile)
        self._values: dict[int, dict[str, float]] = {}  # by epoch: what trials were worth there
        self._at: dict[str, int] = {}  # the last epoch of each trial
        self._decided: dict[str, int] = {}  # the epoch at which each trial last had its turn
        self._check(trials)

    def _check(self, trials: int | None) -> None:
        if not any(map(self.compares, range(1, self._epochs))):
            raise ConfigError(
                f"search.scheduler=pbt compares trials every {self._interval} epochs from epoch "
                f"{self._grace} on, which is never in trials of {self._epochs}; "
                "lower search.pbt.interval or search.grace, or train longer"
            )
        if trials is None:
            raise ConfigError(
                "search.scheduler=pbt needs search.trials: they are the population, which is "
                "trained as a whole"
            )
        if trials < self._least:
            raise ConfigError(
                f"search.trials={trials} is too small a population for search.pbt.quantile="
                f"{self._settings.quantile:g}, which needs {self._least}"
            )
        if not self._params:
            raise ConfigError(
                "search.scheduler=pbt has nothing to change: no searched setting can change while "
                "a trial trains; search one of optimizer.*, augment.*, model.dropout, "
                "task.label_smoothing or training.clip_norm, or search.scheduler=asha"
            )

    def compares(self, epoch: int) -> bool:
        """Whether trials that have reported `epoch` are compared before they go on."""
        return epoch % self._interval == 0 and self._grace <= epoch < self._epochs

    def report(self, trial: str, epoch: int, value: float) -> bool:
        """Takes a value; nobody is ever stopped."""
        self._at[trial] = epoch
        if self.compares(epoch):
            self._values.setdefault(epoch, {})[trial] = self._sign * value
        return True

    def turn(self, epoch: int) -> tuple[int, int]:
        """The place of a trial that stands at `epoch` (0: a new one) among those that wait: who
        was in the middle of an interval comes first, then who is behind."""
        return int(epoch == 0 or self.compares(epoch)), epoch

    def had_turn(self, trial: str) -> None:
        """A trial goes on from where it stands: it is not compared there again."""
        self._decided[trial] = self._at.get(trial, 0)

    def donor(self, trial: str, others: Collection[str]) -> str | None:
        """Whom a trial is to copy before it goes on; None: nobody.

        Args:
            trial: stands at an epoch.
            others: trials with a checkpoint of that epoch or a later one.
        """
        epoch = self._at.get(trial, 0)
        values = self._values.get(epoch, {})
        if trial not in values or self._decided.get(trial) == epoch or len(values) < self._least:
            return None
        ranked = sorted(values, key=lambda name: (values[name], name))
        count = min(math.ceil(len(ranked) * self._settings.quantile), len(ranked) // 2)
        best = [
            name
            for name in ranked[-count:]
            if name in others and values[name] > values[trial]  # equals are left alone
        ]
        if trial not in ranked[:count] or not best:
            return None
        return best[int(self._draw("donor", trial, epoch).integers(len(best)))]

    def changed(self, trial: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """A donor's settings with those changed that a copy may have otherwise; none, where the
        space's constraints forbid the change."""
        draw = self._draw("changed", trial, self._at[trial])
        found = dict(params) | {
            param.key: _changed(param, params[param.key], self._settings.resample, draw)
            for param in self._params
            if param.key in params
            and all(params.get(key) in values for key, values in param.when.items())
        }
        return found if self._space.allows(found) else dict(params)

    def _draw(self, what: str, trial: str, epoch: int) -> np.random.Generator:
        return seeding.generator(self._seed, "pbt", what, trial, epoch)


def _changed(param: Param, value: Any, resample: float, draw: np.random.Generator) -> Any:
    """A value near `value`, or, with probability `resample`, any that the axis has."""
    anew = draw.random() < resample
    side = int(draw.integers(2))
    if not isinstance(param.axis, Interval):
        values = param.values
        if anew or value not in values:
            return values[int(draw.integers(len(values)))]
        return values[min(max(values.index(value) + (-1, 1)[side], 0), len(values) - 1)]
    axis = param.axis
    if anew and axis.log:
        found = math.exp(draw.uniform(math.log(axis.low), math.log(axis.high)))
    elif anew:
        found = draw.uniform(axis.low, axis.high)
    else:
        found = value * _FACTORS[side]
    found = min(max(found, axis.low), axis.high)
    return round(found) if axis.integer else float(found)
