"""Reads a dataset's index, runs the checks, and sums up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raudio.core.errors import DataError
from raudio.core.units import Hertz, Seconds
from raudio.data import rows
from raudio.data.clips import stored_tables
from raudio.data.inspect import labels, shortcuts, sound, splits
from raudio.data.inspect.labels import ClassCount
from raudio.data.inspect.problem import ERROR, WARNING, Check, Look, Problem, of_names, ranked
from raudio.data.inspect.splits import Repeated
from raudio.data.manifest import Manifest, Skipped, SplitInfo
from raudio.data.resolve import clip_length

#: Every check; of problems that weigh the same, the first comes first.
CHECKS: tuple[Check, ...] = (
    splits.missing_splits,
    labels.untrained_classes,
    splits.leaked_recordings,
    splits.leaked_groups,
    splits.repeated_recordings,
    shortcuts.shortcuts,
    labels.unlabelled,
    labels.similar_names,
    labels.unbalanced_classes,
    labels.unmeasured_classes,
    labels.odd_events,
    sound.silent,
    sound.level,
    sound.noise,
    sound.rates,
    sound.lengths,
    sound.left_out,
    sound.unmeasured,
)
#: Bars of the histogram of lengths.
BINS = 12

_COLUMNS = pa.schema(
    [
        *((name, type_) for name, type_ in rows.COLUMNS if name != "audio"),
        ("labels", pa.list_(pa.string())),
        ("events", rows.EVENTS),
    ]
)


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        dataset, source, licence: path, and what the manifest says.
        fingerprint: see `Manifest.fingerprint`.
        clips, seconds, bytes, shards: in all.
        labels: every class.
        splits: in numbers.
        classes: clips, seconds and events of each class, the most frequent first.
        imbalance: clips of train's largest class by those of its smallest.
        sample_rates, channels: Hz and count to clips.
        sample_rate, resampled: the rate in Hz that a search takes, and the clips of another.
        durations: min, median, p95 and max of the clips' seconds.
        histogram: `edges` in seconds, one more than `counts` of clips; even steps of the logarithm
            when the longest clip has twenty times the shortest.
        clip_seconds: length of clip that a search takes, or was asked for.
        padded, cut: shares of the clips that are shorter, and longer, than that.
        padding: share of padding in what a model is given.
        measures: 5 %, 50 % and 95 % quantiles over the clips of `level` (dB of full scale), `dc`,
            `silence`, `snr` (dB, an estimate), `speech` (an estimate) and `bandwidth` (Hz); see
            `raudio.data.facts`. One that is not known of any clip is missing.
        speech: share of the clips that seem to be speech; an estimate.
        silent: clips below -60 dB of full scale.
        clipped: clips with several samples at full scale.
        duplicates: recordings that are in more than one split; silent ones are not compared.
        straddling: groups that are in more than one split.
        skipped: files left out when it was prepared.
        problems: what is wrong, the worst first.
        errors, warnings: the problems of that severity in a sentence each.
    """

    dataset: str
    source: str
    licence: str
    fingerprint: str
    clips: int
    seconds: Seconds
    bytes: int
    shards: int
    labels: list[str]
    splits: dict[str, SplitInfo]
    classes: dict[str, ClassCount]
    imbalance: float
    sample_rates: dict[int, int]
    channels: dict[int, int]
    sample_rate: Hertz
    resampled: int
    durations: dict[str, Seconds]
    histogram: dict[str, list[float]]
    clip_seconds: Seconds
    padded: float
    cut: float
    padding: float
    measures: dict[str, dict[str, float]]
    speech: float
    silent: list[str]
    clipped: list[str]
    duplicates: list[Repeated]
    straddling: list[Repeated]
    skipped: list[Skipped]
    problems: list[Problem]

    @property
    def errors(self) -> list[str]:
        """The errors."""
        return [str(problem) for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[str]:
        """The warnings."""
        return [str(problem) for problem in self.problems if problem.severity == WARNING]

    def to_mapping(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {**dataclasses.asdict(self), "errors": self.errors, "warnings": self.warnings}


def inspect(
    manifest: Manifest,
    *,
    sample_rate: Hertz | None = None,
    clip_seconds: Seconds | None = None,
    verify: bool = True,
) -> Inspection:
    """Reads a dataset's index, and lists what it holds and what is wrong with it.

    Args:
        manifest: of the dataset.
        sample_rate: that the clips would be resampled to; None is what a search takes.
        clip_seconds: length that the clips would be padded and cut to; None is what a search takes.
        verify: read every shard whole and compare its hash with the manifest's.
    """
    damaged: list[str] = []
    missing = 0
    table = _COLUMNS.empty_table()
    try:
        table = pa.concat_tables(map(_completed, stored_tables(manifest)))
    except DataError as error:
        damaged.append(str(error))
        missing = manifest.clips
    for shard in manifest.shards if verify else ():
        try:
            rows.read_content(manifest.shard_path(shard), shard.sha256)
        except DataError as error:
            damaged.append(str(error))
            missing = min(manifest.clips, missing + shard.clips)
    look = Look(
        manifest,
        table,
        sample_rate or manifest.sample_rate,
        clip_seconds or clip_length(manifest),
    )
    seconds = look.seconds
    return Inspection(
        dataset=manifest.path,
        source=manifest.source,
        licence=manifest.licence,
        fingerprint=manifest.fingerprint,
        clips=manifest.clips,
        seconds=round(manifest.seconds, 3),
        bytes=sum(shard.bytes for shard in manifest.shards),
        shards=len(manifest.shards),
        labels=list(manifest.labels),
        splits=manifest.splits,
        classes=labels.class_counts(look),
        imbalance=labels.imbalance(look),
        sample_rates=manifest.sample_rates,
        channels=manifest.channels,
        sample_rate=look.sample_rate,
        resampled=manifest.clips - manifest.sample_rates.get(int(look.sample_rate), 0),
        durations={
            "min": manifest.seconds_min,
            "median": manifest.seconds_median,
            "p95": manifest.seconds_p95,
            "max": manifest.seconds_max,
        },
        histogram=_histogram(seconds),
        clip_seconds=look.clip_seconds,
        padded=_mean(seconds < look.clip_seconds),
        cut=_mean(seconds > look.clip_seconds),
        padding=_mean(np.maximum(0, 1 - seconds / look.clip_seconds)),
        measures=_measures(look),
        speech=_mean(look.values("speech") >= sound.SPEECH),
        silent=look.ids[look.silent].tolist(),
        clipped=look.ids[look.values("clipped") >= sound.CLIPPED_SAMPLES].tolist(),
        duplicates=splits.duplicates(look),
        straddling=splits.straddling(look),
        skipped=list(manifest.skipped),
        problems=ranked(
            [*_damaged(damaged, missing), *(p for check in CHECKS for p in check(look))]
        ),
    )


def _completed(table: pa.Table) -> pa.Table:
    """The index with exactly `_COLUMNS`: those that the dataset lacks are null."""
    empty = {name: pa.nulls(len(table), _COLUMNS.field(name).type) for name in _COLUMNS.names}
    known = {name: table[name] for name in table.column_names if name in empty}
    return pa.table({**empty, **known}).cast(_COLUMNS)


def _damaged(reasons: Sequence[str], clips: int) -> list[Problem]:
    if not reasons:
        return []
    return [
        of_names(
            ERROR,
            "damaged-shard",
            f"{len(reasons)} of the dataset's files cannot be used",
            reasons,
            "training stops there",
            "copy the dataset again, or prepare it again",
            count=clips,
        )
    ]


def _histogram(seconds: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, list[float]]:
    if not len(seconds):
        return {"edges": [], "counts": []}
    low, high = float(seconds.min()), float(seconds.max())
    space = np.geomspace if high > 20 * low else np.linspace
    edges = space(low, high, BINS + 1) if high > low else np.array([low, high])
    edges[0], edges[-1] = low, high  # a logarithm rounds
    counts, _ = np.histogram(seconds, edges)
    return {"edges": np.round(edges, 4).tolist(), "counts": counts.tolist()}


def _measures(look: Look) -> dict[str, dict[str, float]]:
    with np.errstate(divide="ignore"):
        level = 20 * np.log10(look.values("rms"))
    columns = ("dc", "silence", "snr", "speech", "bandwidth")
    known = {"level": level, **{name: look.values(name) for name in columns}}
    found = {}
    for name, values in known.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            low, median, high = np.quantile(finite, (0.05, 0.5, 0.95)).tolist()
            found[name] = {"p5": round(low, 5), "median": round(median, 5), "p95": round(high, 5)}
    return found


def _mean(values: Any) -> float:
    return round(float(np.mean(values)), 5) if len(values) else 0.0
