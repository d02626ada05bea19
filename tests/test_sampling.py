"""Which clips make up which batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raudio.data.sampling import batch_share, epoch_order, epoch_share, shard_order, steps

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)
WINDOWS = st.one_of(st.none(), st.integers(1, 10))


@given(sizes=SIZES, window=WINDOWS, seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_an_epoch_takes_every_clip_once(
    sizes: list[int], window: int | None, seed: int, epoch: int
) -> None:
    order = epoch_order(sizes, seed=seed, epoch=epoch, window=window)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(sizes)))


@given(sizes=SIZES, window=st.integers(1, 10), epoch=st.integers(0, 99))
def test_clips_are_shuffled_within_groups_of_shards(
    sizes: list[int], window: int, epoch: int
) -> None:
    order = epoch_order(sizes, seed=3, epoch=epoch, window=window)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    shards = shard_order(len(sizes), seed=3, epoch=epoch)
    done = 0
    for first in range(0, len(sizes), window):
        group = shards[first : first + window]
        count = sum(sizes[shard] for shard in group)
        assert set(shard_of[order[done : done + count]]) == set(group)
        done += count


def test_all_shards_together_is_the_widest_window() -> None:
    sizes = [5, 2, 7]
    widest = epoch_order(sizes, seed=0, epoch=1, window=3)
    assert np.array_equal(epoch_order(sizes, seed=0, epoch=1, window=None), widest)
    assert np.array_equal(epoch_order(sizes, seed=0, epoch=1, window=9), widest)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    sizes = [20, 20, 20]
    orders = {
        (seed, epoch): epoch_order(sizes, seed=seed, epoch=epoch, window=2).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert epoch_order(sizes, seed=1, epoch=0, window=2).tolist() == orders[1, 0]


def test_every_place_is_equally_likely() -> None:
    sizes, epochs = [3, 5], 4000
    places = np.zeros((8, 8))
    for epoch in range(epochs):
        places[epoch_order(sizes, seed=0, epoch=epoch), np.arange(8)] += 1
    # 64 cells of mean 500: beyond 5 standard deviations once in ten thousand such tests.
    assert np.abs(places - epochs / 8).max() < 5 * np.sqrt(epochs / 8)


@pytest.mark.parametrize(
    ("clips", "batch_size", "world", "expected"),
    [
        (96, 32, 1, 3),
        (97, 32, 1, 3),  # one clip is no batch: batch normalisation needs two
        (98, 32, 1, 4),
        (98, 32, 4, 3),  # and every rank needs one
        (100, 32, 4, 4),
        (1, 32, 1, 0),
        (2, 32, 1, 1),
        (0, 32, 1, 0),
    ],
)
def test_steps(clips: int, batch_size: int, world: int, expected: int) -> None:
    assert steps(clips, batch_size, world) == expected


@given(clips=st.integers(4, 60), batch_size=st.integers(4, 20), world=st.integers(1, 4))
def test_the_ranks_divide_each_batch(clips: int, batch_size: int, world: int) -> None:
    order = np.random.default_rng(0).permutation(clips)
    for step in range(steps(clips, batch_size, world)):
        whole = order[step * batch_size : (step + 1) * batch_size]
        shares = [batch_share(order, batch_size, step, rank, world) for rank in range(world)]
        for rank, share in enumerate(shares):
            assert share.tolist() == whole.tolist()[rank::world]
            assert len(share) >= 1
        assert sorted(np.concatenate(shares)) == sorted(whole)


@given(
    clips=st.integers(0, 60),
    batch_size=st.integers(4, 20),
    world=st.integers(1, 4),
    start=st.integers(0, 5),
)
def test_a_ranks_epoch_is_its_batches_in_a_row(
    clips: int, batch_size: int, world: int, start: int
) -> None:
    order = np.random.default_rng(0).permutation(clips)
    for rank in range(world):
        batches = [
            batch_share(order, batch_size, step, rank, world)
            for step in range(start, steps(clips, batch_size, world))
        ]
        row = epoch_share(order, batch_size, rank, world, start=start)
        assert row.tolist() == [clip for batch in batches for clip in batch.tolist()]
