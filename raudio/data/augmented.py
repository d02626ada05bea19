"""Wave augmentations in the tasks of a streamed feed (`augment.where=stream`), on CPU.

Tasks import this module, and with it torch, only when they are given `augmented`.

Shapes: I items of a shard, T samples that an item is padded to.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raudio.audio.augment import Examples
from raudio.audio.build import Augmenter, build_augmenter
from raudio.audio.decode import from_precision
from raudio.audio.windows import Pad, filled
from raudio.config.validate import experiment_from

#: Items augmented together: what is in memory at once.
_ITEMS = 32


def augmented(
    waves: Sequence[NDArray[Any]],
    frames: NDArray[np.int64],
    keys: NDArray[np.uint64],
    epoch: int,
    experiment: str,
) -> list[NDArray[np.float32]]:
    """What the wave augmentations of an experiment make of the items, each by itself: what they
    make of them on the batch's device, but for rounding.

    Args:
        waves: samples of each item, int16 or float32.
        frames: (I,) T of each item.
        keys: (I,) that their draws are addressed by.
        epoch: of the plan that the items are from.
        experiment: resolved, as JSON.

    Returns:
        The samples of each item that are the clip's, at most T; full scale at 1.

    Raises:
        ConfigError, DataError: as `build_augmenter`.
    """
    augmenter, pad = _augmenter(experiment)
    found: dict[int, NDArray[np.float32]] = {}
    for size in np.unique(frames).tolist():
        members = np.flatnonzero(frames == size)
        for part in np.split(members, range(_ITEMS, len(members), _ITEMS)):
            data, lengths = filled([waves[item] for item in part], size, pad)
            examples = Examples(
                torch.from_numpy(from_precision(data)),
                torch.from_numpy(lengths),
                torch.zeros(len(part)),  # a clip's target does not change with its wave
            )
            examples = augmenter.wave(examples, keys[part], epoch)
            items = zip(part, examples.data.numpy(), examples.lengths.tolist(), strict=True)
            found |= {int(item): wave[:length] for item, wave, length in items}
    return [found[item] for item in range(len(waves))]


@lru_cache(maxsize=1)
def _augmenter(text: str) -> tuple[Augmenter, Pad]:
    """What an experiment says of augmenting; kept, because tasks of a trial follow each other."""
    experiment = experiment_from(json.loads(text), plugins=True)
    data = experiment.dataset
    assert data.sample_rate is not None, "the experiment is not resolved"
    augmenter = build_augmenter(
        experiment.augment, sample_rate=data.sample_rate, seed=experiment.seed
    )
    return augmenter, data.pad  # type: ignore[return-value]
