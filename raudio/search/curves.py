"""Recorded learning curves: a table of configurations, each with its metrics and seconds by epoch.

A table is one Parquet file, which runs no code when it is opened. A row is a configuration:

| column | holds |
| --- | --- |
| params | its settings, as JSON: setting to value |
| seconds | of each epoch, inside the loop |
| valid/accuracy, ... | each metric of each epoch; null where it was not finite |

The file's metadata has, under `raudio.curves`, JSON of what belongs to all: `format` (1), `space`
(as its YAML), `overrides` (that the space was checked with), `metric`, `mode`, `warmup`, and where
it comes from: `dataset` (fingerprint), `environment` (versions, hardware, the command).
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from raudio.config.axes import Axis, Interval, Range, text
from raudio.core.errors import DataError, RunError
from raudio.core.storage import write_atomic
from raudio.data.manifest import Manifest
from raudio.records import COMPLETED, ENVIRONMENT_JSON, SEARCH_YAML, SPACE_YAML, read_history
from raudio.search.points import within
from raudio.search.space import Space
from raudio.search.space_file import load

FORMAT = 1
_KEY = b"raudio.curves"


@dataclass(frozen=True)
class Curve:
    """One configuration, trained to its end.

    Attributes:
        params: its settings, as the sampler drew them.
        metrics: of each epoch: name -> value; finite ones only.
        seconds: of each epoch, inside the loop.
    """

    params: Mapping[str, Any]
    metrics: tuple[Mapping[str, float], ...]
    seconds: tuple[float, ...]

    @property
    def epochs(self) -> int:
        """How many epochs it was trained."""
        return len(self.seconds)


@dataclass(frozen=True)
class Curves:
    """A table of learning curves.

    Attributes:
        space: that the configurations were drawn from.
        overrides: of the command line, that the space was checked with.
        metric, mode: what is optimised.
        warmup: the longest of a configuration, as a share of its length.
        source: where the curves come from: dataset and environment.
        curves: in the order in which they were recorded.
        neighbours: how many recorded curves `answer` takes the mean of.
    """

    space: Space
    overrides: tuple[str, ...]
    metric: str
    mode: str
    warmup: float
    source: Mapping[str, Any]
    curves: tuple[Curve, ...]
    neighbours: int = 1

    @property
    def epochs(self) -> int:
        """Of the longest curve."""
        return max(curve.epochs for curve in self.curves)

    def answer(self, params: Mapping[str, Any]) -> Curve:
        """What training `params` would give: the mean of the nearest recorded curves.

        One neighbour is the surrogate of Syne Tune's simulator; it gives all that lies around a
        recorded configuration the luck of that one's seed. The mean of several (scikit-learn's
        KNeighborsRegressor takes 5) is closer to what a configuration is worth.
        """
        if self.neighbours == 1:
            return self.nearest(params)[0]
        near = self.nearest(params)
        names = set.intersection(*(set(epoch) for curve in near for epoch in curve.metrics))
        return Curve(
            params,
            tuple(
                {name: fmean(metrics[name] for metrics in epoch) for name in sorted(names)}
                for epoch in zip(*(curve.metrics for curve in near), strict=True)
            ),
            tuple(map(fmean, zip(*(curve.seconds for curve in near), strict=True))),
        )

    def nearest(self, params: Mapping[str, Any]) -> list[Curve]:
        """The recorded `neighbours` that are nearest to `params`, the nearest first; of equals
        those that were recorded first.

        Those where the same settings are active come first: fewest settings that only one of the
        two has. Among them counts the squared distance over the settings of both: a number's place
        between the ends of its axis (of a logarithmic axis in the logarithm), and 0 or 1 for a
        choice.
        """
        asked = self._place(params)
        apart = np.where(self._ordered, np.square(self._places - asked), self._places != asked)
        one_sided = np.isnan(self._places) != np.isnan(asked)
        both = ~np.isnan(self._places) & ~np.isnan(asked)
        distance = np.where(both, apart, 0.0).sum(axis=1)
        # A distance is at most the number of axes, so that one setting more decides.
        order = one_sided.sum(axis=1) * (len(asked) + 1.0) + distance
        return [self.curves[i] for i in np.argsort(order, kind="stable")[: self.neighbours]]

    @cached_property
    def _ordered(self) -> np.ndarray:
        """Which axes are numbers in an order, (axes,)."""
        return np.array([isinstance(p.axis, (Interval, Range)) for p in self.space.params])

    @cached_property
    def _places(self) -> np.ndarray:
        """(curves, axes); NaN where a setting is not active."""
        return np.stack([self._place(curve.params) for curve in self.curves])

    def _place(self, params: Mapping[str, Any]) -> np.ndarray:
        active = self.space.enqueued(params)
        return np.array(
            [
                _place(param.axis, param.values, active[param.name])
                if param.name in active
                else np.nan
                for param in self.space.params
            ]
        )

    # --- files -----------------------------------------------------------------------------

    @classmethod
    def record(cls, run: Path) -> Curves:
        """The curves of a run: its completed trials. Pruned and failed ones have no whole curve,
        and what was answered from the record has none of its own.

        Raises:
            RunError: not a run of a search, damaged, or no trial has completed.
        """
        history = read_history(run)
        trials = history.trials.values()
        done = [each for each in trials if each.state == COMPLETED and each.same_as is None]
        if not done:
            raise RunError(f"run {str(run)!r} has no completed trial; there are no curves to keep")
        try:
            recorded = yaml.safe_load((run / SEARCH_YAML).read_text())
            schedule = recorded["configuration"]["experiment"]["schedule"]
            overrides = tuple(recorded["overrides"])
            environment = json.loads((run / ENVIRONMENT_JSON).read_text())
            space = _space(yaml.safe_load((run / SPACE_YAML).read_text()), overrides)
        except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
            raise RunError(f"run {str(run)!r} is damaged: {error!r}") from error
        warmups = [trial.params.get("schedule.warmup", 0.0) for trial in done]
        return cls(
            space=space,
            overrides=overrides,
            metric=history.metric,
            mode=history.mode,
            warmup=float(max(schedule.get("warmup", 0.0), *warmups)),
            source={
                "dataset": Manifest.read(str(run)).fingerprint,
                "environment": environment,
            },
            curves=tuple(
                Curve(
                    trial.params,
                    tuple(report.metrics for report in trial.reports),
                    tuple(report.seconds for report in trial.reports),
                )
                for trial in done
            ),
        )

    def write(self, path: Path) -> None:
        """Writes the table, replacing what was there."""
        names = sorted({name for curve in self.curves for epoch in curve.metrics for name in epoch})
        columns: dict[str, list[Any]] = {
            "params": [json.dumps(dict(curve.params)) for curve in self.curves],
            "seconds": [list(curve.seconds) for curve in self.curves],
        }
        for name in names:
            columns[name] = [[epoch.get(name) for epoch in c.metrics] for c in self.curves]
        about = {
            "format": FORMAT,
            "space": self.space.to_mapping(),
            "overrides": self.overrides,
            "metric": self.metric,
            "mode": self.mode,
            "warmup": self.warmup,
            **self.source,
        }
        types = {
            name: pa.string() if name == "params" else pa.list_(pa.float64()) for name in columns
        }
        schema = pa.schema(types.items(), metadata={_KEY: json.dumps(about)})
        content = io.BytesIO()
        pq.write_table(pa.table(columns, schema), content, compression="zstd")
        write_atomic(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> Curves:
        """Reads a table.

        Raises:
            DataError: not a table of curves, or of a format that this version does not know.
        """
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[_KEY])
            if about.pop("format") != FORMAT:
                raise ValueError("its format is not known to this version of raudio")
            rows = table.to_pylist()
            found = cls(
                space=_space(about.pop("space"), about["overrides"]),
                overrides=tuple(about.pop("overrides")),
                metric=about.pop("metric"),
                mode=about.pop("mode"),
                warmup=about.pop("warmup"),
                source=about,
                curves=tuple(_curve(row) for row in rows),
            )
            found._check()
        except FileNotFoundError as error:
            raise DataError(f"{str(path)!r} does not exist") from error
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{str(path)!r} is not a table of learning curves: {said}; "
                "`raudio curves RUN --out FILE` writes one"
            ) from error
        return found

    def _check(self) -> None:
        """Whether searches can be replayed on it.

        Raises:
            ValueError: they cannot.
        """
        if not self.curves:
            raise ValueError("it has no row")
        if self.mode not in ("max", "min") or not 0 <= self.warmup <= 1:
            raise ValueError(f"its mode is {self.mode!r} and its warm-up {self.warmup!r}")
        for number, curve in enumerate(self.curves, start=1):
            if not 0 < len(curve.seconds) == len(curve.metrics):
                raise ValueError(f"row {number} has not as many seconds as values")
            if not all(0 <= seconds < math.inf for seconds in curve.seconds):
                raise ValueError(f"row {number} has seconds that are no time")
            if not any(self.metric in epoch for epoch in curve.metrics):
                raise ValueError(f"row {number} has no value of {self.metric!r}")
            for param in self.space.params:
                if self.space.active(param, curve.params):
                    within(param, curve.params[param.key])


def _curve(row: dict[str, Any]) -> Curve:
    params, seconds = json.loads(row.pop("params")), row.pop("seconds")
    params = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items()}
    epochs = zip(*row.values(), strict=True)
    return Curve(
        params,
        tuple({k: v for k, v in zip(row, epoch, strict=True) if v is not None} for epoch in epochs),
        tuple(seconds),
    )


def _space(mapping: Mapping[str, Any], overrides: Sequence[str]) -> Space:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SPACE_YAML
        path.write_text(yaml.safe_dump(dict(mapping), sort_keys=False))
        return replace(load(str(path), overrides=overrides), name="of the curves")


def _place(axis: Axis, values: Sequence[Any], value: Any) -> float:
    """A number's place between the ends of its axis, 0 to 1; the index of a choice's value."""
    if isinstance(axis, Interval):
        low, high, here = axis.low, axis.high, float(value)
        if axis.log:
            low, high, here = np.log(low), np.log(high), np.log(here)
    elif isinstance(axis, Range):
        low, high, here = min(values), max(values), float(value)
    else:
        return float([text(each) for each in values].index(text(value)))
    return float((here - low) / (high - low)) if high > low else 0.0
