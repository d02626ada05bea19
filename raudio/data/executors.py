"""Who makes the shards: threads of this process, or Ray Data on all cores or a cluster."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from raudio.core import machine
from raudio.data import raydata
from raudio.data.shards import Plan, Work, make

T = TypeVar("T")

#: Of so many bytes of recordings, starting Ray takes less time than it saves.
LARGE = 256 * 10**6
# Results are numbers: what may wait for the one who counts them need not be limited.
_RESULT_BYTES = 10**9


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where and how widely shards are made. The result does not depend on it.

    Attributes:
        workers: shards at a time; None is one a CPU, of this machine or of Ray's cluster.
        session: opens the Ray session to work on; None: only one that this process already has.
        ray_from: bytes of recordings from which Ray does the work; below, threads do.
    """

    workers: int | None = None
    session: Callable[[], AbstractContextManager[Any]] | None = None
    ray_from: int = LARGE

    def run(self, work: Work[T], plans: Sequence[Plan[T]], total_bytes: int) -> Iterator[int]:
        """Makes the shards, in any order; gives each one's number of clips when it is there.

        Raises:
            DataError: of the first shard that cannot be made. No further one is begun.
        """
        if not plans:
            return
        if total_bytes >= self.ray_from and (self.session or _ray_runs()):
            with (self.session or nullcontext)():
                yield from _by_ray(work, plans, self.workers)
        else:
            yield from _by_threads(work, plans, self.workers or machine.cpus())


def _ray_runs() -> bool:
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def _by_threads(work: Work[T], plans: Sequence[Plan[T]], workers: int) -> Iterator[int]:
    # The codecs release Python's lock.
    with ThreadPoolExecutor(workers) as pool:
        try:
            for future in as_completed([pool.submit(make, work, plan) for plan in plans]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _by_ray(work: Work[T], plans: Sequence[Plan[T]], workers: int | None) -> Iterator[int]:
    with raydata.surfacing():
        results = raydata.dataset(
            [{"plan": pickle.dumps(plan)} for plan in plans],
            _make_planned,
            limits=None if workers is None else (workers, _RESULT_BYTES),
            work_of_all=work,
        )
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch["clips"].to_pylist()


def _make_planned(batch: pa.Table, work_of_all: Work[Any]) -> pa.Table:
    with raydata.marking():
        counts = [make(work_of_all, pickle.loads(each)) for each in batch["plan"].to_pylist()]
    return pa.table({"clips": counts})
