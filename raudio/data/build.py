"""From settings to feeds: what of raudio.data reads the schema for a training process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from raudio.audio.build import build_augmenter
from raudio.config.schema import Experiment
from raudio.config.validate import to_mapping
from raudio.core.units import parse_bytes
from raudio.data.augmented import augmented
from raudio.data.cache import content_key
from raudio.data.feeds import Encode, Feed, ResidentFeed, StreamedFeed
from raudio.data.index import Index
from raudio.data.kept import room_for_decoded
from raudio.data.manifest import Manifest
from raudio.data.pipeline import SEARCHED, resident_clips
from raudio.data.sampling import Epochs


def build_epochs(experiment: Experiment, index: Index) -> Epochs:
    """The epochs of a training: the same, however many of its workers are there.

    Args:
        experiment: resolved: with a sample rate, a clip length and a shuffle window.
        index: of the training split.

    Raises:
        ConfigError, DataError: as `Epochs`.
    """
    data, training = experiment.dataset, experiment.training
    seconds = training.batch_seconds
    return Epochs(
        index,
        frames=window_frames(experiment),
        crop=data.crop,  # type: ignore[arg-type]
        sampling=data.sampling,  # type: ignore[arg-type]
        replacement=data.replacement,
        epoch_items=data.epoch_clips,
        weights=data.weights,
        window=data.shuffle_window,
        batch_size=training.batch_size,
        batch_frames=None if seconds is None else int(seconds * index.sample_rate),
        buckets=data.buckets,
        seed=experiment.seed,
    )


def build_feeds(
    manifest: Manifest,
    experiment: Experiment,
    *,
    encode: Encode,
    refs: Mapping[str, Sequence[Any]] | None = None,
    rank: int = 0,
    world: int = 1,
    passes: Callable[[int], int] = lambda steps: 1,
    cpus: float = 1,
) -> dict[str, Feed]:
    """The feeds of a trial: "train" and "valid".

    Args:
        manifest: of the dataset.
        experiment: resolved: with a sample rate, a clip length and a shuffle window.
        encode: from a clip's row to its target.
        refs: what `materialise` gave, for resident feeds; None: streamed ones.
        rank, world: of this training process.
        passes: from the batches of an epoch to the epochs that one streamed execution spans.
        cpus: that decode for this process's streamed training feed.

    Raises:
        ConfigError, DataError: as `Epochs`.
    """
    settings = experiment.dataset
    assert settings.sample_rate is not None
    common: dict[str, Any] = {
        "encode": encode,
        "frames": window_frames(experiment),
        "pad": settings.pad,
        "rank": rank,
        "world": world,
    }
    augment = None
    if experiment.augment.where == "stream" and refs is None:
        augmenter = build_augmenter(
            experiment.augment, sample_rate=settings.sample_rate, seed=experiment.seed
        )
        if augmenter.augments_waves:
            augment = partial(augmented, experiment=json.dumps(to_mapping(experiment)))
    feeds: dict[str, Feed] = {}
    for split in SEARCHED:
        clips = None if refs is None else resident_clips(refs[split])
        index = (
            Index.read(manifest, split, settings.sample_rate)
            if clips is None
            else Index.of(clips, manifest, split, settings.sample_rate)
        )
        epochs = build_epochs(experiment, index) if split == "train" else None
        if clips is not None:
            feeds[split] = ResidentFeed(
                clips,
                epochs=epochs,
                content=content_key(
                    shards=[shard.sha256 for shard in manifest.shards_of(split)],
                    sample_rate=settings.sample_rate,
                    precision=settings.precision,
                ),
                cache_limit=parse_bytes(settings.cache_limit, "dataset.cache_limit"),
                **common,
            )
        else:
            feeds[split] = StreamedFeed(
                manifest,
                split,
                index,
                precision=settings.precision,  # type: ignore[arg-type]
                epochs=epochs,
                passes=passes(epochs.steps) if epochs else 1,
                cpus=cpus,
                cache_limit=room_for_decoded(settings, manifest, settings.sample_rate),
                augment=augment if epochs else None,
                **common,
            )
    return feeds


def window_frames(experiment: Experiment) -> int:
    """Samples of the longest window that a model is given."""
    settings = experiment.dataset
    assert settings.sample_rate is not None
    assert settings.clip_seconds is not None
    return max(1, round(settings.clip_seconds * settings.sample_rate))
