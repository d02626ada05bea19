"""raudio among the contenders: the one module here that calls its feeds and augmentations.

As its training has it: the settings are checked as of a command line; the driver, which imports no
torch, starts Ray and decodes into the object store; the consumers are processes of Ray that make
the trial's feeds, augment and compute the features. Two consumers are two trials side by side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import session_memory

from raudio.cluster.session import session
from raudio.config.schema import Cluster, Experiment
from raudio.data.manifest import Manifest
from raudio.data.pipeline import materialise
from raudio.search.job import check
from throughput.contenders import Contender
from throughput.measure import AHEAD, Batches, Consumed, Job, consume
from throughput.recipe import BATCH, MAX_DB, MAX_ROLL, MAX_SNR, MIN_SNR

if TYPE_CHECKING:
    from torch import Tensor

CORES = 2
_SETTLE = 2.0  # seconds for Ray's first workers to come up


def run(job: Job, contender: Contender) -> tuple[list[Consumed], int]:
    """What the consumers measured, and the bytes that Ray takes by itself (0 if unwatched)."""
    import ray

    checked = check(_overrides(job, contender), single=True, echo=lambda line: None)
    assert checked.feed == contender.trial, f"raudio chose the {checked.feed} feed"
    settings = checked.experiment.dataset
    streamed = checked.feed == "streamed"
    # A streamed trial decodes on as many CPUs as it computes on.
    cpus = CORES / contender.consumers / 2 if streamed else 1
    with session(Cluster(cpus=CORES), Path(job.out).with_suffix(".ray.log")):
        alone = _memory_alone() if job.watched else 0
        refs: Any = None
        if not streamed:
            refs = materialise(
                checked.manifest,
                sample_rate=job.sample_rate,
                precision=settings.precision,  # type: ignore[arg-type]
            )
        opened = partial(
            trial, experiment=checked.experiment, manifest=checked.manifest, refs=refs, cpus=cpus
        )
        consumer = ray.remote(num_cpus=cpus, max_retries=0)(consume)
        running = [consumer.remote(opened, job) for _ in range(contender.consumers)]
        return ray.get(running), alone


def _memory_alone() -> int:
    """Bytes of all processes before there are data, once Ray's first workers are up."""
    time.sleep(_SETTLE)
    return session_memory(os.getsid(0))


def _overrides(job: Job, contender: Contender) -> list[str]:
    """The settings of a command line that trains on the job's data."""
    feed = [f"dataset.feed={contender.trial}"]
    if job.budget is not None:
        feed = ["dataset.feed=auto", f"dataset.resident_budget={job.budget}"]
    return [
        f"dataset.path={job.dataset}",
        f"dataset.sample_rate={job.sample_rate}",
        f"dataset.clip_seconds={job.clip_seconds}",
        *feed,
        "features=logmel",
        "features.normalize=none",
        "augment.gain.p=1",
        f"augment.gain.max_db={MAX_DB}",
        "augment.noise.p=1",
        f"augment.noise.min_snr={MIN_SNR}",
        f"augment.noise.max_snr={MAX_SNR}",
        "augment.roll.p=1",
        f"augment.roll.max_share={MAX_ROLL}",
        f"training.batch_size={BATCH}",
        f"training.epochs={job.epochs}",
    ]


@contextmanager
def trial(
    job: Job, seed: int, *, experiment: Experiment, manifest: Manifest, refs: Any, cpus: float
) -> Iterator[Batches]:
    """A trial's feeds in this process, and what the training loop does with a batch first."""
    import torch

    from raudio.audio.augment import Examples
    from raudio.audio.build import build_augmenter, build_front_end
    from raudio.data.build import build_feeds

    torch.set_num_threads(1)
    feeds = build_feeds(
        manifest,
        replace(experiment, seed=seed),
        encode=lambda row: manifest.labels.index(row["label"]),
        refs=refs,
        passes=lambda steps: job.epochs + AHEAD,
        cpus=cpus,
    )
    augmenter = build_augmenter(experiment.augment, sample_rate=job.sample_rate, seed=seed)
    front_end = build_front_end(experiment.features, job.sample_rate)

    def batches(epoch: int) -> Iterator[Tensor]:
        for batch in feeds["train"].epoch(epoch):
            examples = Examples(batch.inputs, batch.lengths, batch.targets)
            examples = augmenter.wave(examples, batch.keys, epoch)
            features, _ = front_end(examples.data, examples.lengths)
            yield features

    try:
        yield batches
    finally:
        for feed in feeds.values():
            feed.close()
