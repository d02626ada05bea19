"""The part that runs on Ray Data: decoding shards once into the object store, or as a stream.

Without torch, so that neither a search's driver nor the tasks that decode import it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raudio.audio.decode import Precision
from raudio.config.schema import Dataset
from raudio.core.errors import ConfigError
from raudio.core.storage import is_remote
from raudio.core.units import format_bytes, parse_bytes
from raudio.data import raydata
from raudio.data.clips import (
    WAVE,
    Clips,
    cut_windows,
    decode_shard,
    decode_windows,
    wave_lists,
    waves_of,
)
from raudio.data.kept import kept_shard, room_for_decoded
from raudio.data.manifest import SAMPLE_BYTES, Manifest
from raudio.data.rows import read_content
from raudio.data.sampling import EpochPlan, Epochs, Evaluation

#: The splits that a search works with; `test` is touched by `raudio evaluate` alone.
SEARCHED = ("train", "valid")

#: Share of the object store that a resident feed may fill; the rest is for what trials exchange.
STORE_SHARE = 0.8

_ITEM = "__item__"

#: (samples of each item, samples that each is to be padded to, keys, epoch) -> their new samples,
#: float32 and without what pads them. A function of a module: tasks import it where it is given.
Augmenting: TypeAlias = Callable[
    [Sequence[NDArray[Any]], NDArray[np.int64], NDArray[np.uint64], int],
    Sequence[NDArray[np.float32]],
]


def choose_feed(
    settings: Dataset, manifest: Manifest, sample_rate: int, store: int | None = None
) -> tuple[str, str]:
    """Which feed a search uses, and why.

    Args:
        settings: `feed`, `resident_budget` and `precision` decide.
        manifest: of the dataset.
        sample_rate: in Hz, that clips are decoded to.
        store: bytes that the object store of every node holds; None where it is not known yet.

    Returns:
        "resident" or "streamed", and one sentence for the user.

    Raises:
        ConfigError: `resident_budget` is not a size, or as `check_resident`.
    """
    size = manifest.decoded_bytes(sample_rate, settings.precision, SEARCHED)
    budget = parse_bytes(settings.resident_budget, "dataset.resident_budget")
    kept = room_for_decoded(settings, manifest, sample_rate)
    again = "decoded once, onto the disk" if kept else "decoded again every epoch"
    takes = f"train and valid take {format_bytes(size)} decoded"
    if settings.feed == "resident" and store is not None:
        check_resident(settings, manifest, sample_rate, store)
    if settings.feed != "auto":
        return settings.feed, f"{takes}; dataset.feed={settings.feed}"
    if store is not None and STORE_SHARE * store < size <= budget:
        room = format_bytes(STORE_SHARE * store)
        return "streamed", f"{takes}, more than memory has room for ({room}): {again}"
    limit = f"dataset.resident_budget={settings.resident_budget}"
    if size <= budget:
        return "resident", f"{takes}, within {limit}: decoded once, shared by all trials"
    return "streamed", f"{takes}, more than {limit}: {again}"


def check_resident(settings: Dataset, manifest: Manifest, sample_rate: int, store: int) -> None:
    """Refuses a resident feed that the object store cannot hold; arguments as `choose_feed`.

    Ray would move it to the disk and back, or the system end processes for lack of memory.

    Raises:
        ConfigError: it cannot.
    """
    size = manifest.decoded_bytes(sample_rate, settings.precision, SEARCHED)
    if size > STORE_SHARE * store:
        raise ConfigError(
            f"dataset.feed={settings.feed}: train and valid take {format_bytes(size)} decoded, and "
            f"Ray's object store has room for {format_bytes(STORE_SHARE * store)}; set "
            "dataset.feed=streamed, or a lower dataset.sample_rate"
        )


def held_ahead(settings: Dataset, manifest: Manifest) -> int:
    """Bytes of decoded clips that a streamed trial holds at most: the window that it shuffles, and
    as much that is decoded ahead of it.

    Args:
        settings: resolved.
        manifest: of the dataset.
    """
    assert settings.sample_rate is not None
    sizes = sorted((shard.seconds for shard in manifest.shards_of("train")), reverse=True)
    seconds = sum(sizes[: settings.shuffle_window])
    return round(2 * seconds * settings.sample_rate) * SAMPLE_BYTES[settings.precision]


# --- resident ----------------------------------------------------------------------------------


def materialise(
    manifest: Manifest,
    splits: Sequence[str] = SEARCHED,
    *,
    sample_rate: int,
    precision: Precision,
    cache_limit: int = 0,
    here: bool = False,
) -> dict[str, list[Any]]:
    """Decodes whole splits into the object store, once for all processes of the cluster.

    The blocks live as long as this process and the references do.

    Args:
        manifest: of the dataset; every node that decodes must reach its path.
        splits: which; all of them in one Ray Data execution.
        sample_rate: in Hz, to resample to.
        precision: of the samples kept.
        cache_limit: bytes that the cache on each node's disk may take; 0: it is not used.
        here: move them to this process's node: a node that holds a block is never idle, so no
            autoscaler would take it away, and one that is lost takes its blocks along.

    Returns:
        For each split the `ObjectRef`s of its decoded shards, in order: see `resident_clips`.

    Raises:
        DataError: there is no such split, or as `decode_shard`.
    """
    jobs = [(split, shard) for split in splits for shard in manifest.shards_of(split)]
    files = [
        _File(manifest.shard_path(shard), shard.sha256, shard.bytes, manifest.prefix_of(shard))
        for _, shard in jobs
    ]
    with raydata.surfacing():
        dataset = raydata.dataset(
            [{"job": number} for number in range(len(jobs))],
            _decode_file,
            files=files,
            sample_rate=sample_rate,
            precision=precision,
            cache_limit=cache_limit,
        )
        bundles = dataset.materialize().iter_internal_ref_bundles()
        blocks = [ref for bundle in bundles for ref in bundle.block_refs]
        del bundles
        if here:
            import ray

            for number, block in enumerate(blocks):
                blocks[number] = ray.put(ray.get(block))
    assert len(blocks) == len(jobs), (len(blocks), len(jobs))
    refs: dict[str, list[Any]] = {split: [] for split in splits}
    for (split, _), block in zip(jobs, blocks, strict=True):
        refs[split].append(block)
    return refs


def resident_clips(refs: Sequence[Any]) -> Clips:
    """The clips of a split that `materialise` decoded.

    The samples are views of the object store's shared memory: no process holds a copy.
    """
    import ray

    return Clips.from_tables(ray.get(list(refs)))


class _File(NamedTuple):
    """A shard as the tasks get it: path, what the manifest says of it, and `Manifest.prefix_of`."""

    path: str
    sha256: str
    size: int
    prefix: str


def _decode_file(
    batch: pa.Table,
    files: Sequence[_File],
    sample_rate: int,
    precision: Precision,
    cache_limit: int,
) -> pa.Table:
    file = files[batch["job"][0].as_py()]
    wanted: dict[str, Any] = {
        "sample_rate": sample_rate,
        "precision": precision,
        "sha256": file.sha256,
        "prefix": file.prefix,
    }
    with raydata.marking():
        if not is_remote(file.path):  # a second of work for a gigabyte, once a search
            read_content(file.path, file.sha256)
        kept = kept_shard(file.path, size=file.size, limit=cache_limit, **wanted)
        return decode_shard(file.path, **wanted) if kept is None else kept


# --- streamed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """Which items of each epoch one rank needs.

    Attributes:
        plans: of the epochs; every task gets a copy, which `token` tells from those of other
            streams.
        shard_sizes: clips of each shard.
        rank, world: of the training process.
    """

    plans: Epochs | Evaluation = field(compare=False)
    shard_sizes: tuple[int, ...] = field(compare=False)
    rank: int = 0
    world: int = 1
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def items(self, epoch: int, start: int, shard: int) -> tuple[EpochPlan, NDArray[np.int64]]:
        """An epoch's plan, and the items of one shard from batch `start` on, clip by clip."""
        plan, wanted = _wanted(self, epoch, start)
        first = sum(self.shard_sizes[:shard])
        bounds = first, first + self.shard_sizes[shard]
        low, high = np.searchsorted(plan.clips[wanted], bounds)
        return plan, wanted[low:high]


@lru_cache(maxsize=2)
def _wanted(share: Share, epoch: int, start: int) -> tuple[EpochPlan, NDArray[np.int64]]:
    """The plan, and a rank's items by their clips; kept, because the shards of an epoch follow each
    other in a process."""
    plan = share.plans.plan(epoch)
    items = plan.share(share.rank, share.world, start)
    return plan, items[np.argsort(plan.clips[items], kind="stable")]


class Stream(Iterator[tuple[NDArray[np.int64], Sequence[NDArray[Any]]]]):
    """The decoded items of one rank, shard after shard, epoch after epoch: one Ray Data execution.

    It decodes ahead, also into the next epoch, by about one window of shards.

    Args:
        manifest: of the dataset.
        split: of it.
        share: which items.
        sample_rate, precision: of the decoded samples.
        epochs: which epochs.
        start: batches of the first epoch to leave out.
        cpus: that Ray Data may use; a task takes one, or all of them where there are fewer.
        cache_limit: as `materialise`. With a cache, whole shards are decoded, once; without, the
            windows that an epoch needs.
        augment: what the tasks do to the items, whose samples are float32 then, whatever
            `precision` is; None: nothing.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        share: Share,
        *,
        sample_rate: int,
        precision: Precision,
        epochs: range,
        start: int = 0,
        cpus: float = 1,
        cache_limit: int = 0,
        augment: Augmenting | None = None,
    ) -> None:
        shards = manifest.shards_of(split)
        jobs = []
        for epoch in epochs:
            skip = start if epoch == epochs.start else 0
            for shard in share.plans.shards(epoch).tolist():
                if not skip or len(share.items(epoch, skip, shard)[1]):
                    jobs.append({"epoch": epoch, "start": skip, "shard": shard})
        with raydata.surfacing():
            dataset = raydata.dataset(
                jobs,
                _decode_share,
                limits=(cpus, _memory(share, epochs.start, precision, padded=augment is not None)),
                files=[
                    _File(manifest.shard_path(shard), shard.sha256, shard.bytes, "")
                    for shard in shards
                ],
                share=share,
                sample_rate=sample_rate,
                precision=precision,
                cache_limit=cache_limit,
                augment=augment,
            )
            self._bundles: Iterator[Any] | None = iter(dataset.iter_internal_ref_bundles())
        self._blocks: list[Any] = []

    def __next__(self) -> tuple[NDArray[np.int64], Sequence[NDArray[Any]]]:
        """The items of the next shard by their places in their epoch's row, and the samples of
        each: views, not to be written to. Waits for them.

        Raises:
            DataError: as `decode_windows`.
        """
        import ray

        assert self._bundles is not None, "the stream is closed"
        with raydata.surfacing():
            while not self._blocks:
                self._blocks = list(next(self._bundles).block_refs)
            table = ray.get(self._blocks.pop(0))
        return table[_ITEM].to_numpy(), waves_of(table)

    def close(self) -> None:
        """Ends the execution and gives its CPUs and memory back; also before its end."""
        # Ray Data shuts an execution down when the iterator over it goes: nothing else holds it.
        self._bundles = None
        self._blocks = []


def _decode_share(
    batch: pa.Table,
    files: Sequence[_File],
    share: Share,
    sample_rate: int,
    precision: Precision,
    cache_limit: int,
    augment: Augmenting | None,
) -> pa.Table:
    epoch, start, shard = (batch[name][0].as_py() for name in ("epoch", "start", "shard"))
    plan, items = share.items(epoch, start, shard)
    file = files[shard]
    rows = plan.clips[items] - sum(share.shard_sizes[:shard])
    windows = rows, plan.starts[items], plan.frames[items]
    wanted: dict[str, Any] = {
        "sample_rate": sample_rate,
        "precision": precision,
        "sha256": file.sha256,
    }
    with raydata.marking():
        kept = kept_shard(file.path, size=file.size, limit=cache_limit, **wanted)
        if kept is None:
            table = decode_windows(file.path, *windows, **wanted)
        else:
            table = cut_windows(kept, *windows)
        if augment is not None:
            waves = augment(waves_of(table), plan.padded(items), plan.keys[items], epoch)
            table = pa.table({WAVE: wave_lists(waves, np.float32)})
    return table.append_column(_ITEM, pa.array(items))


def _memory(share: Share, epoch: int, precision: Precision, padded: bool) -> int:
    """Bytes that may be decoded ahead: of the shards shuffled together, and of at least two. Those
    of `padded`, augmented clips are float32."""
    plan, items = _wanted(share, epoch, 0)
    ends = np.cumsum(share.shard_sizes)
    shard = np.searchsorted(ends, plan.clips[items], side="right")
    frames = plan.padded(items) if padded else plan.frames[items]
    largest = np.bincount(shard, frames, minlength=1).max()
    shards = max(2, share.plans.window or len(ends))
    return int(largest) * SAMPLE_BYTES["float32" if padded else precision] * shards
