"""The peers, each as its documentation has it: two workers, which also make the features.

Shapes: B clips of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from throughput.clips import training_shards
from throughput.kernels import kernels
from throughput.measure import AHEAD, Batches, Job
from throughput.recipe import BATCH, Shape

WORKERS = 2
#: Samples that a stream is shuffled among, as in WebDataset's documentation.
SHUFFLED = 1000


def _features(waves: Sequence[NDArray[np.float32]], shape: Shape) -> Tensor:
    return kernels(shape).features(waves)


def _load(audio: bytes | str, shape: Shape) -> NDArray[np.float32]:
    return kernels(shape).load(audio)


def _paths(job: Job) -> list[str]:
    return sorted(map(str, Path(job.files).iterdir()))


# --- torch ---------------------------------------------------------------------------------------


class Files(torch.utils.data.Dataset[NDArray[np.float32]]):
    """A map-style dataset of audio files: item to crop."""

    def __init__(self, paths: Sequence[str], shape: Shape) -> None:
        self._paths, self._shape = paths, shape

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, item: int) -> NDArray[np.float32]:
        return _load(self._paths[item], self._shape)


@contextmanager
def dataloader(job: Job, seed: int) -> Iterator[Batches]:
    """torch's DataLoader over files."""
    yield _loaded(Files(_paths(job), job.shape), partial(_features, shape=job.shape), seed)


def _loaded(dataset: Any, collate: Any, seed: int) -> Batches:
    """The batches of a map-style dataset."""
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
    )
    return lambda epoch: iter(loader)


# --- Hugging Face --------------------------------------------------------------------------------


@contextmanager
def datasets(job: Job, seed: int) -> Iterator[Batches]:
    """Hugging Face `datasets`: the Audio feature's paths, decoded in a transform."""
    from datasets import Audio, Dataset

    data = Dataset.from_dict({"audio": _paths(job)}).cast_column("audio", Audio(decode=False))
    data = data.with_transform(partial(_transform, shape=job.shape))
    yield _loaded(data, partial(_collate, shape=job.shape), seed)


def _transform(rows: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    return {"wave": [_load(audio["path"], shape) for audio in rows["audio"]]}


def _collate(rows: Sequence[Mapping[str, Any]], shape: Shape) -> Tensor:
    return _features([row["wave"] for row in rows], shape)


# --- WebDataset ----------------------------------------------------------------------------------


@contextmanager
def webdataset(job: Job, seed: int) -> Iterator[Batches]:
    """WebDataset over tars: shards and a buffer of encoded clips are shuffled."""
    import webdataset as wds

    urls = _paths(job)
    data = (
        wds.WebDataset(urls, shardshuffle=len(urls), seed=seed)
        .shuffle(SHUFFLED)
        .map(partial(_load_sample, shape=job.shape))
        .batched(BATCH, collation_fn=partial(_features, shape=job.shape))
    )
    loader = wds.WebLoader(data, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    yield lambda epoch: iter(loader)


def _load_sample(sample: Mapping[str, Any], shape: Shape) -> NDArray[np.float32]:
    return _load(sample["audio"], shape)


# --- lhotse --------------------------------------------------------------------------------------


class Cuts(torch.utils.data.Dataset[Tensor]):
    """What lhotse calls a dataset: a batch of cuts to a batch of features."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def __getitem__(self, cuts: Any) -> Tensor:
        # The encoded bytes instead of `load_audio`, so that the decoder is everybody's.
        audio = [cut.recording.sources[0].source for cut in cuts]
        return _features([_load(each, self._shape) for each in audio], self._shape)


@contextmanager
def lhotse(job: Job, seed: int) -> Iterator[Batches]:
    """lhotse over Shar: the sampler works in the workers, among whom the shards are split."""
    from lhotse import CutSet
    from lhotse.dataset import DynamicCutSampler
    from lhotse.dataset.iterable_dataset import IterableDatasetWrapper

    cuts = CutSet.from_shar(
        in_dir=job.files, split_for_dataloading=True, shuffle_shards=True, seed=seed
    )
    sampler = DynamicCutSampler(cuts, max_cuts=BATCH, shuffle=True, seed=seed)
    data = IterableDatasetWrapper(Cuts(job.shape), sampler, auto_increment_epoch=True)
    loader = DataLoader(data, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    yield lambda epoch: iter(loader)


# --- Ray Data ------------------------------------------------------------------------------------

#: Rows of features that Ray Data shuffles among in the consumer.
_LOCAL_SHUFFLE = 256


@contextmanager
def ray_data(job: Job, seed: int) -> Iterator[Batches]:
    """Ray Data as documented: the pipeline runs again in each epoch."""
    import ray.data

    _start_ray()
    rows = ray.data.read_parquet(training_shards(job.dataset), columns=["audio"], shuffle="files")
    made = rows.map_batches(_ray_batch, batch_size=BATCH, fn_kwargs={"shape": job.shape})
    yield lambda epoch: _ray_batches(made)


@contextmanager
def ray_data_once(job: Job, seed: int) -> Iterator[Batches]:
    """Ray Data in one execution, whose items are the shards of all epochs, one after the other."""
    import ray.data

    _start_ray()
    random = np.random.default_rng(seed)
    paths = training_shards(job.dataset)
    items = [path for _ in range(job.epochs + AHEAD) for path in random.permutation(paths).tolist()]
    made = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _ray_shard, batch_size=1, fn_kwargs={"shape": job.shape}
    )
    all_batches = _ray_batches(made)
    taken = 0

    def batches(epoch: int) -> Iterator[Tensor]:
        """As many as hold an epoch's clips; one may hold clips of two epochs."""
        nonlocal taken
        for features in all_batches:
            taken += len(features)
            yield features
            if taken >= (epoch + 1) * job.clips:
                return

    yield batches
    all_batches.close()


def _ray_batch(batch: Mapping[str, Any], shape: Shape) -> dict[str, NDArray[np.float32]]:
    return {"features": _features([_load(audio, shape) for audio in batch["audio"]], shape).numpy()}


def _ray_shard(batch: Mapping[str, Any], shape: Shape) -> Iterator[dict[str, NDArray[np.float32]]]:
    for path in batch["item"]:
        for rows in pq.ParquetFile(path).iter_batches(BATCH, columns=["audio"]):
            yield _ray_batch({"audio": rows["audio"].to_pylist()}, shape)


def _ray_batches(made: Any) -> Iterator[Tensor]:
    for batch in made.iter_torch_batches(
        batch_size=BATCH, local_shuffle_buffer_size=_LOCAL_SHUFFLE
    ):
        yield batch["features"]


def _start_ray() -> None:
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=WORKERS,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
