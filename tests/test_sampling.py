"""Which clips make up which batch: every sampling, mixture, crop and batching, from the index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raudio.audio.windows import plan as cover
from raudio.core.errors import ConfigError, DataError
from raudio.core.seeding import clip_keys, uniforms
from raudio.data.batches import apportioned
from raudio.data.index import Index, active_spans, draw_weights
from raudio.data.sampling import EpochPlan, Epochs, Evaluation

RATE = 100
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)
WINDOWS = st.one_of(st.none(), st.integers(1, 10))


def index(
    sizes: Sequence[int],
    frames: Sequence[int] | int = 50,
    rows: Sequence[dict[str, Any]] | None = None,
    datasets: Sequence[int] | None = None,
) -> Index:
    count = sum(sizes)
    lengths = [frames] * count if isinstance(frames, int) else frames
    return Index(
        shard_sizes=tuple(sizes),
        frames=np.array(lengths, np.int64),
        keys=clip_keys([str(clip) for clip in range(count)]),
        sample_rate=RATE,
        rows=rows or [{"label": str(clip % 3)} for clip in range(count)],
        datasets=tuple(datasets or [0] * len(sizes)),
    )


def epochs(given: Index, **arguments: Any) -> Epochs:
    return Epochs(given, **{"frames": 50, "batch_size": 4, **arguments})


def batches(plan: EpochPlan, rank: int = 0, world: int = 1) -> list[list[int]]:
    return [plan.batch(step, rank, world).tolist() for step in range(len(plan.ends))]


# --- the order ---------------------------------------------------------------------------------


@given(sizes=SIZES, window=WINDOWS, seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_an_epoch_takes_every_clip_once(
    sizes: list[int], window: int | None, seed: int, epoch: int
) -> None:
    taken = epochs(index(sizes), window=window, seed=seed, batch_size=sum(sizes) + 1).plan(epoch)
    if sum(sizes) == 1:  # a single clip is no batch
        assert taken.clips.tolist() == []
    else:
        assert sorted(taken.clips.tolist()) == list(range(sum(sizes)))
    assert np.array_equal(taken.keys, index(sizes).keys[taken.clips])


@given(sizes=st.lists(st.integers(2, 9), min_size=1), window=st.integers(1, 10))
def test_clips_are_shuffled_within_groups_of_shards(sizes: list[int], window: int) -> None:
    made = epochs(index(sizes), window=window, seed=3, batch_size=sum(sizes))
    clips, shards = made.plan(5).clips, made.shards(5)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    done = 0
    for first in range(0, len(sizes), window):
        group = shards[first : first + window]
        count = sum(sizes[shard] for shard in group)
        assert set(shard_of[clips[done : done + count]]) == set(group)
        done += count


def test_all_shards_together_is_the_widest_window() -> None:
    orders = [epochs(index([5, 2, 7]), window=w, batch_size=14).plan(1).clips for w in (None, 3, 9)]
    assert np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[0], orders[2])


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(epochs(index([20, 20]), seed=seed).plan(epoch).clips.tolist())

    assert len({order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(1, 0) == order(1, 0)


def test_every_place_is_equally_likely() -> None:
    count, made = 4000, epochs(index([3, 5]), batch_size=8)
    places = np.zeros((8, 8))
    for epoch in range(count):
        places[made.plan(epoch).clips, np.arange(8)] += 1
    # 64 cells of mean 500: beyond 5 standard deviations once in ten thousand such tests.
    assert np.abs(places - count / 8).max() < 5 * np.sqrt(count / 8)


# --- crops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", ["random", "centre", "first"])
def test_where_clips_are_cropped(crop: str) -> None:
    lengths = [20, 50, 51, 80, 500]
    given = index([5], lengths)
    plan = epochs(given, crop=crop, batch_size=5, seed=7).plan(3)
    expected = {
        "random": (uniforms(plan.keys, 1, 7, "crop", 3)[:, 0]),
        "centre": None,
        "first": None,
    }[crop]
    for item, clip in enumerate(plan.clips):
        room = max(0, lengths[clip] - 50)
        start = {"centre": room // 2, "first": 0}.get(crop)
        if start is None:
            start = int(expected[item] * (room + 1))
        assert plan.starts[item] == start
        assert plan.frames[item] == min(50, lengths[clip])
    assert plan.longest.tolist() == [50]


def test_random_crops_differ_from_epoch_to_epoch_and_not_by_the_batch_size() -> None:
    def starts(epoch: int, **arguments: Any) -> dict[int, int]:
        plan = epochs(index([12], 500), **arguments).plan(epoch)
        return dict(zip(plan.clips.tolist(), plan.starts.tolist(), strict=True))

    assert starts(0, batch_size=3) == starts(0, batch_size=6, window=1)
    assert sum(starts(1)[clip] != start for clip, start in starts(0).items()) > 9


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=2, max_size=12), frames=st.integers(1, 90))
def test_all_windows_cover_every_clip(lengths: list[int], frames: int) -> None:
    given = index([len(lengths)], lengths)
    plan = epochs(given, frames=frames, crop="all", batch_size=10_000).plan(2)
    found = sorted(
        zip(plan.clips.tolist(), plan.starts.tolist(), plan.frames.tolist(), strict=True)
    )
    expected = [
        (clip, *window) for clip, length in enumerate(lengths) for window in cover(length, frames)
    ]
    assert found == expected
    assert len(set(plan.keys.tolist())) == len(expected), "each window is augmented for itself"


def test_a_minute_in_windows_of_ten_seconds_is_six_items() -> None:
    made = epochs(index([2], 60 * RATE), frames=10 * RATE, crop="all", batch_size=6)
    assert (made.items, made.steps) == (12, 2)


# --- how often ---------------------------------------------------------------------------------


@given(
    count=st.integers(2, 30),
    items=st.integers(2, 70),
    epoch=st.integers(0, 9),
    sampling=st.sampled_from(["shuffled", "balanced", "inverse_frequency"]),
)
def test_without_replacement_whole_rounds_then_a_part(
    count: int, items: int, epoch: int, sampling: str
) -> None:
    made = epochs(index([count]), epoch_items=items, replacement=False, sampling=sampling)
    counts = made.counts(epoch)
    assert counts.sum() == items
    assert set(counts) <= {items // count, -(-items // count)}


def test_short_epochs_take_turns() -> None:
    made = epochs(index([12]), epoch_items=4)
    turns = [np.flatnonzero(made.counts(epoch)).tolist() for epoch in range(6)]
    assert sorted(turns[0] + turns[1] + turns[2]) == list(range(12))
    assert sorted(turns[3] + turns[4] + turns[5]) == list(range(12))
    assert turns[:3] != turns[3:]


def test_a_clip_that_comes_again_has_another_key_and_another_crop() -> None:
    given = index([4], 1000)
    plan = epochs(given, epoch_items=12, batch_size=12).plan(0)
    assert Counter(plan.clips.tolist()) == dict.fromkeys(range(4), 3)
    assert len(set(plan.keys.tolist())) == 12
    assert len(set(plan.starts.tolist())) > 9
    first = [plan.keys[np.flatnonzero(plan.clips == clip)[0]] for clip in range(4)]
    assert first == given.keys.tolist(), "the first time it has its own"


def drawn(made: Epochs, count: int) -> np.ndarray:
    return sum(made.counts(epoch) for epoch in range(count)) / count


def close(observed: np.ndarray, expected: np.ndarray, epochs: int) -> bool:
    """Within 5 standard deviations of means of counts that are Poisson at most."""
    return bool((np.abs(observed - expected) < 5 * np.sqrt(expected / epochs) + 1e-9).all())


def test_with_replacement_all_are_as_likely() -> None:
    made = epochs(index([10]), replacement=True)
    assert made.counts(0).max() > 1
    assert close(drawn(made, 2000), np.ones(10), 2000)


def test_balanced_draws_every_class_as_often() -> None:
    rows = [{"label": "often"}] * 90 + [{"label": "rare"}] * 9 + [{"label": "single"}]
    counts = drawn(epochs(index([100], rows=rows), sampling="balanced"), 2000)
    assert close(counts[:90], np.full(90, 100 / 3 / 90), 2000)
    assert close(counts[90:99], np.full(9, 100 / 3 / 9), 2000)
    assert close(counts[99:], np.array([100 / 3]), 2000)


def test_weighted_without_replacement_draws_the_likely_first() -> None:
    rows = [{"label": "often"}] * 98 + [{"label": "rare"}] * 2
    made = epochs(index([100], rows=rows), sampling="balanced", replacement=False, epoch_items=10)
    counts = drawn(made, 1000)
    assert made.counts(0).max() == 1
    # Efraimidis-Spirakis: of two that weigh 49 times a common one each, nearly both in every ten.
    assert counts[98:].min() > 0.95
    assert close(counts[:98], np.full(98, (10 - counts[98:].sum()) / 98), 1000)


# --- weights by hand ---------------------------------------------------------------------------


def weights(sampling: str, given: Index) -> list[float]:
    seconds = given.frames / RATE
    clips = np.arange(len(seconds))
    return draw_weights(sampling, active_spans(given), clips, 0 * seconds, seconds).tolist()


def test_inverse_frequency_by_hand_with_one_label() -> None:
    # Frames of 40 ms: clips of 2, 2 and 4 s have 50, 50 and 100.
    rows = [{"label": "a"}, {"label": "a"}, {"label": "b"}]
    given = index([3], [200, 200, 400], rows)
    assert weights("inverse_frequency", given) == pytest.approx(
        [50 * 1000 / 130, 50 * 1000 / 130, 100 * 1000 / 130]
    )


def test_inverse_frequency_by_hand_with_events() -> None:
    def event(label: str, onset: float, offset: float) -> dict[str, Any]:
        return {"label": label, "onset": onset, "offset": offset}

    rows = [
        # dog from 1 to 3 s (merged) and from 8 to the clip's end at 10 s: 4 s, 100 frames.
        {
            "label": "ignored",
            "events": [
                event("dog", 8, 12),
                event("dog", 1, 2.5),
                event("cat", 0, 2),
                event("dog", 2, 3),
            ],
        },
        {"events": [event("dog", 0, 6), event("dog", 1, 2)]},  # 150 frames, not 175
        {"events": []},
        {"labels": ["cat", "cat", "owl"], "label": "ignored"},  # 250 frames of each
    ]
    given = index([4], 1000, rows)
    dog, cat, owl = 1000 / (30 + 250), 1000 / (30 + 50 + 250), 1000 / (30 + 250)
    expected = [100 * dog + 50 * cat, 150 * dog, 0, 250 * cat + 250 * owl]
    assert weights("inverse_frequency", given) == pytest.approx(expected)
    assert weights("balanced", given) == pytest.approx([1 / 2 + 1 / 2, 1 / 2, 0, 1 / 2 + 1])


def test_windows_of_a_clip_are_drawn_by_what_is_in_them() -> None:
    rows = [{"events": [{"label": "dog", "onset": 5.0, "offset": 12.0}]}, {"label": "cat"}]
    made = epochs(
        index([2], [3000, 1000], rows),
        frames=1000,
        crop="all",
        sampling="inverse_frequency",
        epoch_items=1000,
    )
    # dog: 125 frames in the first window, 50 in the second, none in the third; 175 in all.
    expected = np.array([125 / 205, 50 / 205, 0, 250 / 280])
    assert close(drawn(made, 100), 1000 * expected / expected.sum(), 100)


def test_drawing_by_classes_needs_classes() -> None:
    with pytest.raises(DataError, match=r"dataset\.sampling=balanced .* set dataset\.sampling=sh"):
        epochs(index([3], rows=[{"label": None}] * 3), sampling="balanced")


# --- mixtures ----------------------------------------------------------------------------------


@given(total=st.integers(0, 1000), shares=st.lists(st.floats(0.01, 9), min_size=1, max_size=6))
def test_apportioned_parts_are_whole_and_within_one(total: int, shares: list[float]) -> None:
    parts = apportioned(total, np.array(shares))
    exact = total * np.array(shares) / sum(shares)
    assert parts.sum() == total
    assert (np.abs(parts - exact) < 1 + 1e-9).all()


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    share=st.floats(0.1, 0.9),
    epoch=st.integers(0, 9),
)
def test_a_mixture_has_its_proportions(
    sizes: tuple[int, int, int], share: float, epoch: int
) -> None:
    given = index(sizes, datasets=[0, 1, 0])
    counts = epochs(given, weights=[share, 1 - share]).counts(epoch)
    second = slice(sizes[0], sizes[0] + sizes[1])
    wanted = sum(sizes) * (1 - share)
    assert counts.sum() == sum(sizes)
    assert abs(counts[second].sum() - wanted) <= 1
    assert np.ptp(counts[second]) <= 1, "the smaller is cycled"
    assert np.ptp(np.delete(counts, np.arange(sizes[0], sizes[0] + sizes[1]))) <= 1


def test_a_mixture_without_weights_is_by_size() -> None:
    assert epochs(index([3, 7], datasets=[0, 1])).counts(0).tolist() == [1] * 10


def test_a_mixture_of_weighted_draws_keeps_both() -> None:
    rows = [{"label": "a"}] * 9 + [{"label": "b"}] + [{"label": "c"}] * 10
    made = epochs(index([10, 10], rows=rows, datasets=[0, 1]), weights=[3, 1], sampling="balanced")
    assert all(made.counts(epoch)[:10].sum() == 15 for epoch in range(20))
    assert close(drawn(made, 2000)[9:10], np.array([7.5]), 2000)


def test_a_dataset_without_training_clips_cannot_have_a_weight() -> None:
    with pytest.raises(ConfigError, match="dataset 2 of them has no clip"):
        epochs(index([4], datasets=[0]), weights=[0.5, 0.5])
    assert epochs(index([4], datasets=[0]), weights=[0.5, 0]).counts(0).tolist() == [1] * 4


# --- batches by count --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "batch_size", "expected"),
    [
        (96, 32, 3),
        (97, 32, 3),  # one clip is no batch: batch normalisation needs two
        (98, 32, 4),
        (1, 32, 0),
        (2, 32, 1),
        (0, 32, 0),
    ],
)
def test_steps(clips: int, batch_size: int, expected: int) -> None:
    made = epochs(index([clips]), batch_size=batch_size)
    assert made.steps == expected
    assert len(made.plan(0).ends) == expected


# --- batches by seconds ------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 200), min_size=4, max_size=80)


@given(
    lengths=LENGTHS,
    budget=st.integers(200, 2000),
    buckets=st.integers(1, 10),
    epoch=st.integers(0, 5),
)
def test_a_budget_is_kept_and_nothing_is_lost(
    lengths: list[int], budget: int, buckets: int, epoch: int
) -> None:
    given = index([len(lengths)], lengths)
    made = epochs(given, frames=60, batch_frames=budget, buckets=buckets)
    plan = made.plan(epoch)
    sizes = np.diff(plan.ends, prepend=0)
    assert len(sizes) == made.steps, "the schedules count on it"
    assert (sizes * plan.longest <= budget).all()
    assert (sizes >= 2).all()
    assert len(set(plan.clips.tolist())) == len(plan.clips) > len(lengths) - 2
    for step, items in enumerate(batches(plan)):
        assert plan.longest[step] == plan.frames[items].max()


@given(
    lengths=LENGTHS,
    sampling=st.sampled_from(["balanced", "inverse_frequency"]),
    items=st.integers(2, 150),
    epoch=st.integers(0, 5),
)
@settings(deadline=None)
def test_random_draws_make_as_many_batches_in_every_epoch(
    lengths: list[int], sampling: str, items: int, epoch: int
) -> None:
    made = epochs(
        index([len(lengths)], lengths),
        frames=60,
        crop="all",
        sampling=sampling,
        batch_frames=300,
        epoch_items=items,
    )
    plan = made.plan(epoch)
    sizes = np.diff(plan.ends, prepend=0)
    assert len(sizes) == made.steps >= 1
    assert (sizes * plan.longest <= 300).all()
    assert (sizes >= 2).all()


def test_buckets_by_hand() -> None:
    # Two buckets, up to 10 and up to 40 samples: 8 of the first or 2 of the second fill 80.
    plan = epochs(index([11], [10] * 6 + [40] * 5), batch_frames=80, buckets=2).plan(0)
    # Two pairs of long clips; 6 short ones are no 8, and come last; the fifth long one is alone.
    assert plan.longest.tolist() == [40, 40, 10]
    assert np.diff(plan.ends, prepend=0).tolist() == [2, 2, 6]
    # One short clip left makes a batch with the long one.
    plan = epochs(index([10], [10] * 9 + [40]), batch_frames=80, buckets=2).plan(0)
    assert plan.longest.tolist() == [10, 40]
    assert np.diff(plan.ends, prepend=0).tolist() == [8, 2]
    assert plan.padding == pytest.approx(30 / 160)


def test_buckets_pad_less() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 500).tolist()
    given = index([500], lengths)
    one = epochs(given, frames=400, batch_frames=4000, buckets=1).plan(0).padding
    many = epochs(given, frames=400, batch_frames=4000, buckets=8).plan(0).padding
    by_count = epochs(given, frames=400).plan(0)
    assert by_count.padding == pytest.approx(1 - sum(lengths) / (400 * 500))
    assert many < 0.1 < 0.3 < one


def test_a_budget_too_small_for_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_seconds=0\.9 holds 1 .* needs 2; .* 1$"):
        epochs(index([9]), batch_frames=90)


# --- ranks and going on ------------------------------------------------------------------------

ANY = {
    "crop": st.sampled_from(["random", "all"]),
    "sampling": st.sampled_from(["shuffled", "balanced"]),
    "epoch_items": st.one_of(st.none(), st.integers(8, 60)),
    "batch_frames": st.sampled_from([None, 300]),
}


@given(
    lengths=st.lists(st.integers(1, 200), min_size=8, max_size=40),
    batch_size=st.integers(2, 20),
    world=st.integers(1, 9),
    start=st.integers(0, 5),
    chosen=st.fixed_dictionaries(ANY),
)
@settings(deadline=None)
def test_ranks_divide_every_batch_and_any_start_is_the_tail(
    lengths: list[int], batch_size: int, world: int, start: int, chosen: dict[str, Any]
) -> None:
    made = epochs(index([len(lengths)], lengths), batch_size=batch_size, **chosen)
    plan = made.plan(1)
    start = min(start, made.steps)
    for step, whole in enumerate(batches(plan)):
        shares = [plan.batch(step, rank, world).tolist() for rank in range(world)]
        # A rank for which there is none stands in with the first.
        assert shares == [whole[rank::world] or whole[:1] for rank in range(world)]
        assert plan.size(step) == len(whole)
    for rank in range(world):
        tail = [item for batch in batches(plan, rank, world)[start:] for item in batch]
        assert plan.share(rank, world, start).tolist() == tail


@given(sizes=SIZES, world=st.integers(1, 3))
def test_an_evaluation_has_every_clip_once_and_whole(sizes: list[int], world: int) -> None:
    lengths = list(range(1, sum(sizes) + 1))
    plan = Evaluation(index(sizes, lengths)).plan(0)
    shares = [plan.share(rank, world).tolist() for rank in range(world)]
    assert sorted(clip for share in shares for clip in plan.clips[share]) == list(range(sum(sizes)))
    assert shares[0] == list(range(0, sum(sizes), world))
    assert plan.frames.tolist() == lengths
    assert not plan.starts.any()
