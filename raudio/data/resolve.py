"""Settings that are decided from the data: what `None` stands for in `dataset`."""

from __future__ import annotations

import dataclasses
import math

from raudio.config import validate
from raudio.config.schema import Experiment
from raudio.core.errors import ConfigError
from raudio.core.units import Seconds
from raudio.data.batches import LEAST
from raudio.data.manifest import Manifest
from raudio.data.pipeline import choose_feed

#: Shards that a streamed feed shuffles together when `dataset.shuffle_window` doesn't say.
STREAMED_WINDOW = 4
#: Longest clip that a model is given when `dataset.clip_seconds` doesn't say.
LONGEST_CLIP: Seconds = 10.0


def resolve(experiment: Experiment, manifest: Manifest, store: int | None = None) -> Experiment:
    """`experiment` with its sample rate, clip length and shuffle window decided; what was set
    stays.

    Args:
        experiment: validated.
        manifest: of its dataset. The sample rate becomes the one that most clips have; the clip
            length `clip_length`; the window of a streamed feed `STREAMED_WINDOW`. (None, all, is a
            resident one's; which feed it is changes a result by the window alone.)
        store: as in `choose_feed`.

    Raises:
        ConfigError: as `choose_feed`, `training.batch_seconds` is too little for a batch, or a
            setting does not go with the sample rate or the clip length.
    """
    settings = experiment.dataset
    sample_rate, clip_seconds = settings.sample_rate, settings.clip_seconds
    if sample_rate is None:
        sample_rate = manifest.sample_rate
    if clip_seconds is None:
        clip_seconds = clip_length(manifest)
    window = settings.shuffle_window
    _check_batch_seconds(experiment, min(clip_seconds, manifest.seconds_max))
    if window is None and choose_feed(settings, manifest, sample_rate, store)[0] == "streamed":
        window = STREAMED_WINDOW
    resolved = dataclasses.replace(
        settings, sample_rate=sample_rate, clip_seconds=clip_seconds, shuffle_window=window
    )
    experiment = dataclasses.replace(experiment, dataset=resolved)
    problems: list[str] = []
    validate.check_together(experiment, problems)  # with what the data has decided
    validate.raise_problems(problems)
    return experiment


def clip_length(manifest: Manifest) -> Seconds:
    """The clips' 95th percentile, rounded up to a millisecond, at most `LONGEST_CLIP`."""
    return min(LONGEST_CLIP, math.ceil(manifest.seconds_p95 * 1000) / 1000)


def _check_batch_seconds(experiment: Experiment, longest: Seconds) -> None:
    """Refuses a budget that does not hold a batch of the longest clips."""
    seconds = experiment.training.batch_seconds
    if seconds is not None and seconds < LEAST * longest:
        raise ConfigError(
            f"training.batch_seconds={seconds:g} is less than a batch of {LEAST} of the longest "
            f"clips takes; give at least {math.ceil(1000 * LEAST * longest) / 1000:g}, or a "
            "shorter dataset.clip_seconds"
        )
