"""The floors: the kernels in bare loops over what lies in memory."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from throughput.clips import training_audio
from throughput.kernels import INT16, kernels
from throughput.measure import Batches, Job
from throughput.recipe import BATCH


@contextmanager
def encoded(job: Job, seed: int) -> Iterator[Batches]:
    """Over the files' bytes: decodes everything in every epoch."""
    clips, compute = _bytes(job.dataset), kernels(job.shape)
    random = np.random.default_rng(seed)

    def batches(epoch: int) -> Iterator[Tensor]:
        order = random.permutation(len(clips)).tolist()
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield compute.features([compute.load(clips[clip]) for clip in chosen])

    yield batches


@contextmanager
def cached(job: Job, seed: int) -> Iterator[Batches]:
    """Over decoded int16 samples: decodes nothing."""
    clips, compute = _samples(job), kernels(job.shape)
    random = np.random.default_rng(seed)

    def batches(epoch: int) -> Iterator[Tensor]:
        order = random.permutation(len(clips)).tolist()
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            yield compute.features([compute.crop(clips[clip]) for clip in chosen])

    yield batches


@functools.cache
def _bytes(dataset: str) -> list[bytes]:
    return [clip.audio for clip in training_audio(dataset)]


@functools.cache
def _samples(job: Job) -> list[NDArray[np.int16]]:
    compute = kernels(job.shape)
    waves = (compute.decode(clip.audio) for clip in training_audio(job.dataset))
    return [np.rint(np.clip(wave, -1, 1) * INT16).astype(np.int16) for wave in waves]
