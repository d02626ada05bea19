"""The part that runs on Ray Data: decoding shards once into the object store, or as a stream.

Without torch, so that neither a search's driver nor the tasks that decode import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raudio.audio.decode import Precision
from raudio.config.schema import Dataset
from raudio.core.units import format_bytes, parse_bytes
from raudio.data import raydata
from raudio.data.clips import Clips, decode_shard
from raudio.data.manifest import Manifest, Shard
from raudio.data.sampling import epoch_order, epoch_share, shard_order

#: The splits that a search works with; `test` is touched by `raudio evaluate` alone.
SEARCHED = ("train", "valid")

_POSITION = "__position__"


def choose_feed(settings: Dataset, manifest: Manifest, sample_rate: int) -> tuple[str, str]:
    """Which feed a search uses, and why.

    Args:
        settings: `feed`, `resident_budget` and `precision` decide.
        manifest: of the dataset.
        sample_rate: in Hz, that clips are decoded to.

    Returns:
        "resident" or "streamed", and one sentence for the user.

    Raises:
        ConfigError: `resident_budget` is not a size.
    """
    size = manifest.decoded_bytes(sample_rate, settings.precision, SEARCHED)
    budget = parse_bytes(settings.resident_budget, "dataset.resident_budget")
    takes = f"train and valid take {format_bytes(size)} decoded"
    if settings.feed != "auto":
        return settings.feed, f"{takes}; dataset.feed={settings.feed}"
    limit = f"dataset.resident_budget={settings.resident_budget}"
    if size <= budget:
        return "resident", f"{takes}, within {limit}: decoded once, shared by all trials"
    return "streamed", f"{takes}, more than {limit}: decoded again every epoch"


# --- resident ----------------------------------------------------------------------------------


def materialise(
    manifest: Manifest,
    splits: Sequence[str] = SEARCHED,
    *,
    sample_rate: int,
    precision: Precision,
) -> dict[str, list[Any]]:
    """Decodes whole splits into the object store, once for all processes of the cluster.

    The blocks live as long as this process and the references do.

    Args:
        manifest: of the dataset; every node that decodes must reach its path.
        splits: which; all of them in one Ray Data execution.
        sample_rate: in Hz, to resample to.
        precision: of the samples kept.

    Returns:
        For each split the `ObjectRef`s of its decoded shards, in order: see `resident_clips`.

    Raises:
        DataError: there is no such split, or as `decode_shard`.
    """
    jobs = [(split, shard) for split in splits for shard in manifest.shards_of(split)]
    files = [(manifest.shard_path(shard), shard.sha256) for _, shard in jobs]
    with raydata.surfacing():
        dataset = raydata.dataset(
            [{"job": number} for number in range(len(jobs))],
            _decode_file,
            files=files,
            sample_rate=sample_rate,
            precision=precision,
        )
        bundles = dataset.materialize().iter_internal_ref_bundles()
        blocks = [ref for bundle in bundles for ref in bundle.block_refs]
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


def _decode_file(
    batch: pa.Table, files: Sequence[tuple[str, str]], sample_rate: int, precision: Precision
) -> pa.Table:
    path, sha256 = files[batch["job"][0].as_py()]
    with raydata.marking():
        return decode_shard(path, sample_rate=sample_rate, precision=precision, sha256=sha256)


# --- streamed ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """Which clips of a split one rank needs: decided by its batches, or all, for an evaluation.

    Attributes:
        shard_sizes: clips of each shard.
        rank, world: of the training process.
        seed, window, batch_size: of the training, see `raudio.data.sampling`; `batch_size` None:
            an evaluation, in which rank r has the clips r, r + w, r + 2w, ... of the split.
    """

    shard_sizes: tuple[int, ...]
    rank: int = 0
    world: int = 1
    seed: int = 0
    window: int | None = None
    batch_size: int | None = None

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The order of all ranks' clips in an epoch."""
        return epoch_order(self.shard_sizes, seed=self.seed, epoch=epoch, window=self.window)

    def shards(self, epoch: int) -> NDArray[np.int64]:
        """The order in which the epoch needs the shards."""
        if self.batch_size is None:
            return np.arange(len(self.shard_sizes))
        return shard_order(len(self.shard_sizes), seed=self.seed, epoch=epoch)

    def positions(self, shard: int, epoch: int, start: int = 0) -> NDArray[np.int64]:
        """Which clips of a shard this rank needs in an epoch, from batch `start` on; ascending."""
        wanted = _wanted(self, epoch, start)
        first = sum(self.shard_sizes[:shard])
        low, high = np.searchsorted(wanted, [first, first + self.shard_sizes[shard]])
        return wanted[low:high]


@lru_cache(maxsize=4)
def _wanted(share: Share, epoch: int, start: int) -> NDArray[np.int64]:
    """Ascending positions; kept, because the shards of an epoch follow each other in a process."""
    if share.batch_size is None:
        return np.arange(share.rank, sum(share.shard_sizes), share.world)
    order = share.order(epoch)
    return np.sort(epoch_share(order, share.batch_size, share.rank, share.world, start=start))


class Stream(Iterator[tuple[Clips, NDArray[np.int64]]]):
    """The decoded clips of one rank, shard after shard, epoch after epoch: one Ray Data execution.

    It decodes ahead, also into the next epoch, by about one window of shards.

    Args:
        manifest: of the dataset.
        split: of it.
        share: which clips.
        sample_rate, precision: of the decoded samples.
        epochs: which epochs.
        start: batches of the first epoch to leave out.
        cpus: that Ray Data may use; a task takes one, or all of them where there are fewer.
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
    ) -> None:
        shards = manifest.shards_of(split)
        jobs = []
        for epoch in epochs:
            skip = start if epoch == epochs.start else 0
            for shard in share.shards(epoch).tolist():
                if not skip or len(share.positions(shard, epoch, skip)):
                    jobs.append({"epoch": epoch, "start": skip, "shard": shard})
        with raydata.surfacing():
            dataset = raydata.dataset(
                jobs,
                _decode_share,
                limits=(cpus, _memory(shards, share, sample_rate, precision)),
                files=[(manifest.shard_path(shard), shard.sha256) for shard in shards],
                share=share,
                sample_rate=sample_rate,
                precision=precision,
            )
            self._bundles: Iterator[Any] | None = iter(dataset.iter_internal_ref_bundles())
        self._blocks: list[Any] = []

    def __next__(self) -> tuple[Clips, NDArray[np.int64]]:
        """The clips of the next shard, and their positions in the split; waits for them.

        Raises:
            DataError: as `decode_shard`.
        """
        import ray

        assert self._bundles is not None, "the stream is closed"
        with raydata.surfacing():
            while not self._blocks:
                self._blocks = list(next(self._bundles).block_refs)
            table = ray.get(self._blocks.pop(0))
        positions = table[_POSITION].to_numpy()
        return Clips.from_tables([table.drop_columns([_POSITION])]), positions

    def close(self) -> None:
        """Ends the execution and gives its CPUs and memory back; also before its end."""
        # Ray Data shuts an execution down when the iterator over it goes: nothing else holds it.
        self._bundles = None
        self._blocks = []


def _decode_share(
    batch: pa.Table,
    files: Sequence[tuple[str, str]],
    share: Share,
    sample_rate: int,
    precision: Precision,
) -> pa.Table:
    epoch, start, shard = (batch[name][0].as_py() for name in ("epoch", "start", "shard"))
    positions = share.positions(shard, epoch, start)
    path, sha256 = files[shard]
    with raydata.marking():
        table = decode_shard(
            path,
            sample_rate=sample_rate,
            precision=precision,
            sha256=sha256,
            rows=positions - sum(share.shard_sizes[:shard]),
        )
    return table.append_column(_POSITION, pa.array(positions))


def _memory(shards: Sequence[Shard], share: Share, sample_rate: int, precision: Precision) -> int:
    """Bytes that may be decoded ahead: the shards that are shuffled together, and at least two."""
    width = {"int16": 2, "float32": 4}[precision]
    largest = max(shard.seconds for shard in shards) * sample_rate * width / share.world
    return round(largest * max(2, share.window or len(shards)))
